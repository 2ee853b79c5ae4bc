SUMMARY = "Gateway from CoAP/DTLS, serial and Modbus devices to one MQTT broker"
DESCRIPTION = "Ties sensors that speak CoAP over DTLS to one upstream MQTT broker over TLS, and loses nothing it has acknowledged."
HOMEPAGE = "https://tombolo.example"
BUGTRACKER = "https://tombolo.example/issues"
SECTION = "network"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE-MIT;md5=95369e19fb40f96877758a20b92401d2 \
                    file://LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57"
CVE_PRODUCT = "tombolo"

require ${BPN}-crates.inc

inherit cargo cargo-update-recipe-crates externalsrc systemd useradd

EXTERNALSRC = "${@os.path.realpath(d.getVar('THISDIR') + '/../../../..')}"

SYSTEMD_SERVICE:${PN} = "tombolo.service"

USERADD_PACKAGES = "${PN}"
USERADD_PARAM:${PN} = "--system --user-group --groups dialout --no-create-home \
                       --home-dir ${localstatedir}/lib/tombolo --shell ${base_sbindir}/nologin tombolo"

do_install:append() {
    install -D -m 0644 ${S}/config/tombolo.toml ${D}${sysconfdir}/tombolo/tombolo.toml
    install -d ${D}${sysconfdir}/tombolo/conf.d ${D}${sysconfdir}/tombolo/modbus
    install -d ${D}${datadir}/tombolo/modbus
    install -m 0644 ${S}/config/examples/modbus/*.toml ${D}${datadir}/tombolo/modbus/
    install -D -m 0644 ${S}/systemd/tombolo.service ${D}${systemd_system_unitdir}/tombolo.service
    install -D -m 0644 ${S}/systemd/tombolo.tmpfiles ${D}${nonarch_libdir}/tmpfiles.d/tombolo.conf
}

CONFFILES:${PN} += "${sysconfdir}/tombolo/tombolo.toml"
FILES:${PN} += "${nonarch_libdir}/tmpfiles.d ${datadir}/tombolo"

RDEPENDS:${PN} += "ca-certificates procps"
