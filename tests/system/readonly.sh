# A gateway of an image: what the system is made of is read-only, no tombolo.toml, the state on a partition of its own, and what
# the maker settles in /usr/lib/tombolo/conf.d, as meta-tombolo makes it. Sourced by scenario.sh, before the purge.

step "a read-only /etc and /usr"
inside systemctl stop tombolo.service
inside sh -c 'mkdir -p /data /kept && mv /etc/tombolo/tombolo.toml /etc/tombolo/conf.d /kept/ && mkdir /etc/tombolo/conf.d &&
    rm -rf /etc/systemd/system/tombolo.service.d && mount -t tmpfs none /data'
layer_files=$top/yocto/meta-tombolo/recipes-connectivity/tombolo-vendor-conf/files
inside tee /usr/lib/tombolo/conf.d/10-vendor.toml >/dev/null <<'TOML'
[paths]
state-dir = "/data/tombolo"
[role.test.uplink.telemetry]
path = "t/#"
TOML
inside mkdir -p /usr/lib/systemd/system/tombolo.service.d
sed 's,@STATE_DIR@,/data/tombolo,' "$layer_files/10-data.conf" |
    inside tee /usr/lib/systemd/system/tombolo.service.d/10-data.conf >/dev/null
sed 's,@STATE_DIR@,/data/tombolo,' "$layer_files/tombolo-data.conf" |
    inside tee /usr/lib/tmpfiles.d/tombolo-data.conf >/dev/null
inside systemctl daemon-reload
# Left over from the tests before, which is not what an image has.
inside sh -c 'rm -f /etc/tombolo/*.toml'
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=ca -keyout "$work/ro.key" 2>/dev/null |
    inside tee /root/ca.pem >/dev/null
inside chmod 600 /root/ca.pem
# Not all of it: other programs of the machine have files open for writing.
for folder in /etc /usr; do
    inside mount --bind "$folder" "$folder"
    inside mount -o remount,bind,ro "$folder"
done
check "they cannot be written" inside sh -c '! touch /etc/tombolo/x 2>/dev/null && ! touch /usr/x 2>/dev/null'
check "what is made at boot is there, and nothing is complained of" equal \
    "$(inside systemd-tmpfiles --create tombolo.conf tombolo-data.conf 2>&1)" ""
check "with the maker's settings alone it starts" inside systemctl start tombolo.service
check "and is active" eventually 10 is_active
check "init writes below the state directory, and says why" \
    says 'wrote /data/tombolo/conf.d/10-site.toml, below the state directory because /etc/tombolo/conf.d' \
    'tombolo init --url mqtts://broker.example.com --ca-file /root/ca.pem'
check "what the service cannot read is copied there" grep -q 'to /data/tombolo/secrets/ca.pem' "$work/said"
check "for the service alone" equal \
    "$(for path in conf.d conf.d/10-site.toml secrets secrets/ca.pem; do mode "/data/tombolo/$path"; done | sort -u | tr '\n' ' ')" \
    "600 tombolo:tombolo 700 tombolo:tombolo "
check "a reload takes it up" inside systemctl reload tombolo.service
check "the status names the broker" says 'broker.example.com' 'tombolo status; true'
check "a device is added" inside tombolo device add door-9 --role test --psk text:another-key-for-the-test
reading=$(beside timeout 20 coap-client-openssl -v 6 -B 10 -m post -u door-9 -k another-key-for-the-test -e hello \
    coaps://127.0.0.1:5684/t/env 2>&1) || true
check "and acknowledged" matches "$reading" '2\.04'
check "check has nothing against the configuration" inside sh -c '! tombolo check --offline | grep -E "^(fail|warn) .*configuration"'
inside systemctl restart tombolo.service
check "after a restart it has all that" equal \
    "$(is_active && queued) $(json device show door-9 | grep -c '"door-9"') $(json config show upstream.url | grep -c broker.example.com)" "1 1 1"

inside systemctl stop tombolo.service
inside umount --lazy /etc /usr
inside sh -c 'umount /data; rm -r /data /usr/lib/systemd/system/tombolo.service.d /usr/lib/tmpfiles.d/tombolo-data.conf \
    /usr/lib/tombolo/conf.d/10-vendor.toml; rmdir /etc/tombolo/conf.d; mv /kept/* /etc/tombolo/; rmdir /kept; systemctl daemon-reload'
