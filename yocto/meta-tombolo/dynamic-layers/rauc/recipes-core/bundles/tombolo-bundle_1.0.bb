SUMMARY = "RAUC bundle of tombolo-image, installed by the update backend rauc"
DESCRIPTION = "The root file system of tombolo-image, signed, in the verity format."
HOMEPAGE = "https://tombolo.example"
BUGTRACKER = "https://tombolo.example/issues"
SECTION = "network"
CVE_PRODUCT = ""
LICENSE = "MIT"

inherit bundle

RAUC_BUNDLE_FORMAT = "verity"
RAUC_BUNDLE_COMPATIBLE = "${TOMBOLO_COMPATIBLE}"
TOMBOLO_COMPATIBLE ??= "tombolo-${MACHINE}"
# What os-release calls IMAGE_VERSION, so that the gateway knows what is newer.
RAUC_BUNDLE_VERSION ?= "${DISTRO_VERSION}"
RAUC_BUNDLE_SLOTS = "rootfs"
RAUC_SLOT_rootfs = "tombolo-image"
RAUC_SLOT_rootfs[fstype] = "ext4"

# Set RAUC_KEY_FILE and RAUC_CERT_FILE, whole paths, in the configuration of the build; the key of
# a product does not lie in a layer.
