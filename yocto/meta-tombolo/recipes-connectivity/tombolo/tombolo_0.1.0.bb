SUMMARY = "Gateway from CoAP/DTLS, serial and Modbus devices to one MQTT broker"
DESCRIPTION = "Bridges CoAP/DTLS sensor networks, serial devices and Modbus units to one upstream \
               MQTT broker over TLS. What it has acknowledged to a device reaches the broker."
HOMEPAGE = "https://tombolo.example"
BUGTRACKER = "https://tombolo.example/issues"
SECTION = "network"
CVE_PRODUCT = "tombolo"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "\
    file://LICENSE-MIT;md5=95369e19fb40f96877758a20b92401d2 \
    file://LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57 \
"

# Where the source is had from; a mirror or a clone on this machine by setting it in local.conf, e.g.
# "git:///home/me/tombolo;protocol=file".
TOMBOLO_GIT ?= "git://git.tombolo.example/tombolo.git;protocol=https"
# destsuffix: the default of ${S} is then right for releases before and after UNPACKDIR.
SRC_URI = "${TOMBOLO_GIT};branch=main;destsuffix=${BP}"

# All crates of Cargo.lock; written by yocto/crates.
require ${BPN}-crates.inc

SRC_URI += "file://run-ptest"

# The commit of this version. tests/yocto looks into it.
SRCREV = "58396a7da3ce9b754168a17082a4f54426b4c1ce"

# Cargo's own features, so that the default set of Cargo.toml does not count.
CARGO_BUILD_FLAGS += "--no-default-features --bin tombolo"
PACKAGECONFIG ??= "modbus mqtt update"
# The demo, with its broker and its simulated sensors; it brings dimpl, modbus and mqtt.
PACKAGECONFIG[demo] = "--features demo"
# The second DTLS engine (DTLS 1.3).
PACKAGECONFIG[dimpl] = "--features dimpl"
# Modbus masters.
PACKAGECONFIG[modbus] = "--features modbus"
# The listener for local MQTT clients.
PACKAGECONFIG[mqtt] = "--features mqtt"
# Firmware update checks by TUF.
PACKAGECONFIG[update] = "--features update"
# Keys in a PKCS #11 token.
PACKAGECONFIG[pkcs11] = "--features pkcs11"

# Relative relocations in RELR: 0.4 MB less. A GNU ld that does not know them for the processor ignores the option.
RUSTFLAGS:append:libc-glibc = " -C link-arg=-Wl,-z,pack-relative-relocs"
# "s" optimises for size: 4 MB less, and 10 to 30 % more CPU time per reading over DTLS.
TOMBOLO_OPT_LEVEL ?= "3"
export CARGO_PROFILE_RELEASE_OPT_LEVEL = "${TOMBOLO_OPT_LEVEL}"

SYSTEMD_SERVICE:${PN} = "\
    tombolo.service tombolo-firstboot.service tombolo-update.path tombolo-update.service tombolo-health.service \
"

USERADD_PACKAGES = "${PN}"
USERADD_PARAM:${PN} = "\
    --system --user-group --groups dialout --no-create-home \
    --home-dir ${localstatedir}/lib/tombolo --shell ${base_sbindir}/nologin tombolo \
"

inherit cargo systemd useradd bash-completion ptest features_check
REQUIRED_DISTRO_FEATURES = "systemd"

# An image has no /etc/tombolo/tombolo.toml: vendor settings are drop-ins below /usr/lib/tombolo/conf.d
# (recipe tombolo-vendor-conf), so that /etc belongs to the owner of the board, or can be read-only.
do_install:append() {
    install -D -m 0644 ${S}/config/tombolo.toml ${D}${docdir}/tombolo/tombolo.toml
    install -d ${D}${sysconfdir}/tombolo/conf.d ${D}${nonarch_libdir}/tombolo/conf.d
    # As tombolo.tmpfiles would make it, which cannot where /etc is read-only.
    install -d -m 2750 ${D}${sysconfdir}/tombolo/secrets
    chgrp tombolo ${D}${sysconfdir}/tombolo/secrets
    install -d ${D}${datadir}/tombolo/modbus
    install -m 0644 ${S}/config/examples/modbus/*.toml ${D}${datadir}/tombolo/modbus/
    install -d ${D}${systemd_system_unitdir}
    for unit in tombolo tombolo-clock tombolo-firstboot tombolo-update tombolo-health; do
        install -m 0644 ${S}/systemd/$unit.service ${D}${systemd_system_unitdir}/$unit.service
    done
    install -m 0644 ${S}/systemd/tombolo-update.path ${D}${systemd_system_unitdir}/tombolo-update.path
    install -D -m 0644 ${S}/systemd/tombolo.tmpfiles ${D}${nonarch_libdir}/tmpfiles.d/tombolo.conf
    install -D -m 0644 ${S}/packaging/man/tombolo.1 ${D}${mandir}/man1/tombolo.1
    install -D -m 0644 ${S}/packaging/man/tombolo.toml.5 ${D}${mandir}/man5/tombolo.toml.5
    install -D -m 0644 ${S}/packaging/completions/bash/tombolo \
        ${D}${datadir}/bash-completion/completions/tombolo
}

do_install_ptest() {
    install -d ${D}${PTEST_PATH}/examples
    cp -r ${S}/config/examples/. ${D}${PTEST_PATH}/examples/
    install -m 0644 ${S}/config/tombolo.toml ${D}${PTEST_PATH}/tombolo.toml
}

# Started by tombolo.service alone, so it is not enabled.
FILES:${PN} += "${systemd_system_unitdir}/tombolo-clock.service"
FILES:${PN} += "${nonarch_libdir}/tmpfiles.d ${nonarch_libdir}/tombolo"

RDEPENDS:${PN} = "ca-certificates"
RDEPENDS:${PN}-ptest += "${PN}"
RRECOMMENDS:${PN} = "tombolo-vendor-conf"
