SUMMARY = "What the maker of an image settles for Tombolo"
DESCRIPTION = "The drop-in /usr/lib/tombolo/conf.d/10-vendor.toml and, for state on a data partition, \
               the drop-in of the unit. A .bbappend replaces 10-vendor.toml by the product's own."
HOMEPAGE = "https://tombolo.example"
BUGTRACKER = "https://tombolo.example/issues"
CVE_PRODUCT = ""
SECTION = "network"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "file://${COREBASE}/meta/COPYING.MIT;md5=3da9cfbcb788c80a0384361b4de20420"

SRC_URI = "\
    file://10-vendor.toml \
    file://10-data.conf \
    file://10-data-health.conf \
    file://10-data-path.conf \
    file://10-data-update.conf \
    file://tombolo-data.conf \
"

# The folder for the state on a partition of its own, e.g. "/data/tombolo"; "" = /var/lib/tombolo.
TOMBOLO_STATE_DIR ??= ""

inherit allarch

INHIBIT_DEFAULT_DEPS = "1"
do_configure[noexec] = "1"
do_compile[noexec] = "1"

# UNPACKDIR since styhead, before it WORKDIR.
TOMBOLO_UNPACKED = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"

do_install() {
    install -D -m 0644 ${TOMBOLO_UNPACKED}/10-vendor.toml \
        ${D}${nonarch_libdir}/tombolo/conf.d/10-vendor.toml
    if [ -n "${TOMBOLO_STATE_DIR}" ]; then
        printf '\n[paths]\nstate-dir = "%s"\n' "${TOMBOLO_STATE_DIR}" \
            >> ${D}${nonarch_libdir}/tombolo/conf.d/10-vendor.toml
        for unit in tombolo tombolo-firstboot; do
            install -D -m 0644 ${TOMBOLO_UNPACKED}/10-data.conf \
                ${D}${systemd_system_unitdir}/$unit.service.d/10-data.conf
        done
        for unit in update health; do
            install -D -m 0644 ${TOMBOLO_UNPACKED}/10-data-$unit.conf \
                ${D}${systemd_system_unitdir}/tombolo-$unit.service.d/10-data.conf
        done
        install -D -m 0644 ${TOMBOLO_UNPACKED}/10-data-path.conf \
            ${D}${systemd_system_unitdir}/tombolo-update.path.d/10-data.conf
        install -D -m 0644 ${TOMBOLO_UNPACKED}/tombolo-data.conf \
            ${D}${nonarch_libdir}/tmpfiles.d/tombolo-data.conf
        sed -i -e 's,@STATE_DIR@,${TOMBOLO_STATE_DIR},g' \
            ${D}${systemd_system_unitdir}/*.d/10-data.conf \
            ${D}${nonarch_libdir}/tmpfiles.d/tombolo-data.conf
    fi
}

FILES:${PN} += "\
    ${nonarch_libdir}/tombolo \
    ${nonarch_libdir}/tmpfiles.d \
    ${systemd_system_unitdir}/*.d \
"
