SUMMARY = "Example of a gateway image with two slots and a data partition"
DESCRIPTION = "Tombolo in a read-only root file system in two slots, its state on /data."
HOMEPAGE = "https://tombolo.example"
BUGTRACKER = "https://tombolo.example/issues"
SECTION = "network"
CVE_PRODUCT = ""
LICENSE = "MIT"

inherit core-image

# read-only-rootfs: a slot is what was built, and stays it. What changes lies on /data, which e2fsck has to
# check before the mount (docs/boards.md).
IMAGE_FEATURES += "read-only-rootfs"
IMAGE_INSTALL = "\
    packagegroup-core-boot \
    tombolo \
    tombolo-vendor-conf \
    ca-certificates \
    e2fsprogs-e2fsck \
    ${@bb.utils.contains('BBFILE_COLLECTIONS', 'rauc', 'rauc', '', d)} \
"

# /etc/tombolo is in the image and read-only: `tombolo init` writes below the state directory.
IMAGE_FSTYPES += "ext4 wic.zst wic.bmap"
WKS_FILE = "${TOMBOLO_LAYERDIR}/files/wic/tombolo-ab.wks.in"
WKS_FILE_DEPENDS:append = " e2fsprogs-native dosfstools-native mtools-native"
# Room in a slot for later versions, in KiB.
IMAGE_ROOTFS_EXTRA_SPACE = "65536"

# The first slot's size in wic, in MiB; both slots are equal.
TOMBOLO_SLOT_SIZE ?= "512"
TOMBOLO_DATA_SIZE ?= "512"
WICVARS:append = " TOMBOLO_SLOT_SIZE TOMBOLO_DATA_SIZE"

add_data_partition() {
    install -d ${IMAGE_ROOTFS}/data
    printf '%s\n' 'LABEL=data /data ext4 defaults,noatime,commit=30,nofail,x-systemd.growfs 0 2' \
        >> ${IMAGE_ROOTFS}${sysconfdir}/fstab
}
ROOTFS_POSTPROCESS_COMMAND += "add_data_partition"
