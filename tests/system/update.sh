# A newer package, installed and judged without anybody: by the units of the package, from the signed repository. Sourced
# by run, between the trial's upgrade and its end: the successor runs, the broker of the trial is there.

updated() { equal "$(inside dpkg-query --show --showformat '${Version}' tombolo)" "$1"; }
installation() { inside sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p" /var/lib/tombolo-update/installation.json; }
phase() { equal "$(installation phase)" "$1"; }
offer() {
    "$top/packaging/apt-repository" --out "$layer/share/apt" --key release@tombolo.example "$@" &&
        inside apt-get --quiet update >/dev/null && inside sh -c 'exec timeout 60 tombolo update check'
}
dpkg_state() { inside dpkg-query --show --showformat '${db:Status-Eflag} ${db:Status-Status}' tombolo; }
is_whole() { [ "$(dpkg_state)" = "ok installed" ]; }
# as_tombolo COMMAND…: as the daemon's user.
as_tombolo() { inside setpriv --reuid=tombolo --regid=tombolo --clear-groups "$@"; }
fails_as_tombolo() { ! as_tombolo "$@" 2>"$work/said" || { echo "it succeeds"; return 1; }; }
update_is_idle() { [ "$(inside systemctl show --value --property ActiveState tombolo-update.service)" = inactive ]; }
taken() { [ "$(inside systemctl show --value --property ExecMainStartTimestampMonotonic tombolo-update.service)" != 0 ]; }

step "an update, installed by itself"
check "the path unit waits for requests" inside systemctl --quiet is-active tombolo-update.path
inside mkdir -p /etc/systemd/system/tombolo-health.service.d
inside tee /etc/systemd/system/tombolo-health.service.d/quick.conf >/dev/null <<'UNIT'
[Service]
ExecStart=
ExecStart=/usr/bin/tombolo health --wait 40s --steady 2s
UNIT
inside systemctl daemon-reload
inside tee /etc/tombolo/conf.d/60-update.toml >/dev/null <<'TOML'
[update]
backend = "apt"
TOML
inside systemctl reload tombolo.service
check "a newer version is found" offer "$shared/later/$third"
check "it is installed in the window" eventually 40 updated "$newest"
check "it is judged, works, reached the broker, and is confirmed" eventually 30 phase confirmed
check "the daemon's user cannot change what root recorded" fails_as_tombolo \
    sh -c 'echo "{}" >/var/lib/tombolo-update/installation.json'
check "nor install" fails_as_tombolo tombolo update apply

step "an installation that a power cut left half done"
inside sed -i 's/"phase":"confirmed"/"phase":"installing"/; s/"is_proven":true/"is_proven":false/' /var/lib/tombolo-update/installation.json
inside sed -i '/^Package: tombolo$/,/^$/s/^Status: .*/Status: install reinstreq half-installed/' /var/lib/dpkg/status
inside rm /usr/lib/systemd/system/tombolo-update.path
check "dpkg has it half installed" equal "$(dpkg_state)" "reinstreq half-installed"
inside systemctl restart --no-block tombolo-health.service
check "the next start completes it" eventually 40 is_whole
check "with its files" inside test -e /usr/lib/systemd/system/tombolo-update.path
check "in the version that was wanted" updated "$newest"
check "it is judged again, and confirmed" eventually 30 phase confirmed

step "what the daemon's user puts in the way"
as_tombolo sh -c 'cd /var/lib/tombolo/update && rm -f request image history.json* floor && ln -s /etc/shadow image &&
    ln -s /etc/shadow history.json && ln -s /etc/shadow request'
as_tombolo sh -c 'rm /var/lib/tombolo/update/request && echo "install evil" >/var/lib/tombolo/update/request'
check "a request of its own is taken" eventually 10 taken
check "and ends" eventually 20 update_is_idle
check "with nothing installed" updated "$newest"
as_tombolo sh -c 'mkdir -p /var/lib/tombolo/conf.d && printf "[update]\nbackend = \"exec\"\n" >/var/lib/tombolo/conf.d/99-evil.toml &&
    mkdir /var/lib/tombolo/bin && printf "#!/bin/sh\ntouch /root/evil\n" >/var/lib/tombolo/bin/update-backend'
inside systemctl start tombolo-update.service
check "its settings count for nothing" missing /root/evil
as_tombolo sh -c 'rm -rf /var/lib/tombolo/conf.d/99-evil.toml /var/lib/tombolo/bin /var/lib/tombolo/update/image \
    /var/lib/tombolo/update/history.json'
inside chown tombolo /etc/tombolo/conf.d/60-update.toml
inside systemctl start tombolo-update.service 2>/dev/null || true
check "settings that it could write are refused by their name" \
    sh -c '"$@" | grep -q "60-update.toml.*belongs to the user"' sh nsenter --target "$leader" --all journalctl --quiet --no-pager --unit tombolo-update.service
inside chown root /etc/tombolo/conf.d/60-update.toml

step "a version that does not work"
kill "$broker" "$observer"
wait "$broker" "$observer" 2>/dev/null
check "it is offered" offer "$shared/later/$broken"
check "it is installed, and does not work" eventually 40 updated "$breaks"
check "it is rolled back by itself" eventually 40 updated "$newest"
check "and said why" eventually 10 phase failed
check "the service runs" eventually 10 is_active
check "a failure is counted" says "failed itself" 'tombolo update history'

step "no broker"
check "without the broker a reading is acknowledged" eventually 10 acknowledged
inside systemctl start --no-block tombolo-health.service
check "no broker at the boot is no roll-back" eventually 20 inside systemctl --quiet is-active tombolo-health.service
check "the same version is installed" updated "$newest"
start_broker
check "with the broker back, the reading of the version before arrives" eventually 60 published 'door-7/up/t/temperature'
observe
inside rm -r /etc/systemd/system/tombolo-health.service.d /etc/tombolo/conf.d/60-update.toml
inside systemctl daemon-reload
