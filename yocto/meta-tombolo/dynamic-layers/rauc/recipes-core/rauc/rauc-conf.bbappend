FILESEXTRAPATHS:prepend := "${THISDIR}/files:"

# "uboot", "grub", "barebox", "efi" or "custom", as the board's boot loader is; RAUC's [system] bootloader.
TOMBOLO_RAUC_BOOTLOADER ??= "uboot"
# What a bundle must name to be installed here; also [update] compatible.
TOMBOLO_COMPATIBLE ??= "tombolo-${MACHINE}"

do_install:append() {
    sed -i -e 's,@COMPATIBLE@,${TOMBOLO_COMPATIBLE},' -e 's,@BOOTLOADER@,${TOMBOLO_RAUC_BOOTLOADER},' \
        ${D}${nonarch_libdir}/rauc/system.conf
}
