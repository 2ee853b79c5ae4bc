# An owner's day with the package, on a machine that just booted. Sourced by run.

property() { inside systemctl show --value --property "$1" tombolo.service; }
is_active() { [ "$(property ActiveState)" = active ]; }
process() { property MainPID; }
clock_process() { inside systemctl show --value --property MainPID tombolo-clock.service; }
clock_runs_anew() { [ "$(clock_process)" != "$1" ] && [ "$(clock_process)" != 0 ]; }
clock_state() { inside cut --delimiter ' ' --fields 1 /run/tombolo-clock/state; }
unread() { json clock | python3 -c 'import json, sys; print(json.load(sys.stdin)["unread"])'; }
# Whether the service runs under another process id than the one given.
runs_anew() { is_active && [ "$(process)" != "$1" ] && [ "$(process)" != 0 ]; }
mode() { inside stat --format '%a %U:%G' "$1"; }
journal() { inside journalctl --quiet --no-pager --unit tombolo.service "$@"; }
logged() { [ -n "$(journal "$@")" ]; }
drop_in() {
    inside mkdir -p /etc/systemd/system/tombolo.service.d
    inside tee /etc/systemd/system/tombolo.service.d/test.conf >/dev/null
    inside systemctl daemon-reload
}
json() { inside tombolo --json "$@"; }
queued() { json queue | python3 -c 'import json, sys; print(sum(l["records"] for l in json.load(sys.stdin)["lanes"].values()))'; }
# send PATH: one reading of door-7 over DTLS; prints what the device sees.
send() {
    beside timeout 20 coap-client-openssl -v 6 -B 10 -m post -u door-7 -k "$psk" -e hello \
        "coaps://127.0.0.1:5684/$1" 2>&1
}

step "install"
check "the package installs" inside apt-get --yes --quiet install "/mnt/$first"
check "it is running, which means it said READY" eventually 10 is_active
check "it says in STATUS how it is" matches "$(property StatusText)" .
check "it starts with the machine" inside systemctl --quiet is-enabled tombolo.service
check "the unit passes systemd-analyze verify" \
    equal "$(inside systemd-analyze verify --man=no tombolo.service 2>&1)" ""
tpm_example=/usr/share/doc/tombolo/examples/tpm.conf
tpm_drop_in=/etc/systemd/system/tombolo.service.d/tpm.conf
check "so it does with the drop-in for a TPM" equal "$(inside sh -c \
    'install -D -m 0644 "$1" "$2" && systemd-analyze verify --man=no tombolo.service; rm "$2"' sh "$tpm_example" "$tpm_drop_in" 2>&1)" ""
check "the shipped watchdog is 3 minutes" equal "$(property WatchdogUSec)" 3min
check "journald keeps at most 1,000 lines of it in 30 s, times a factor of its own" equal \
    "$(property LogRateLimitIntervalUSec) $(property LogRateLimitBurst)" "30s 1000"
check "it runs as the user tombolo" \
    equal "$(inside stat --format %U "/proc/$(process)")" tombolo
check "the user is in the group of serial ports" matches " $(inside id --name --groups tombolo) " " dialout "
check "the templates of Modbus devices are where it looks for them" \
    inside test -s /usr/share/tombolo/modbus/eastron-sdm120.toml
check "the state is the daemon's alone" equal "$(mode /var/lib/tombolo)" "750 tombolo:tombolo"
check "the runtime directory is the daemon's" equal "$(mode /run/tombolo)" "750 tombolo:tombolo"
check "the secrets are root's to write, the daemon's to read" equal "$(mode /etc/tombolo/secrets)" "2750 root:tombolo"
check "it has no capability, no new privileges, and a system call filter" equal \
    "$(inside sed -n -E 's/^(CapEff|CapBnd|NoNewPrivs|Seccomp):\s*/\1=/p' "/proc/$(process)/status" | tr '\n' ' ')" \
    "CapEff=0000000000000000 CapBnd=0000000000000000 NoNewPrivs=1 Seccomp=2 "
check "its clock service has the kernel's answer" eventually 10 matches_now '^(un)?synchronised$' clock_state
check "which the daemon, which may not ask, takes" equal "$(unread)" None
check "it cannot write outside its state" \
    inside sh -c 'nsenter --target "$1" --mount -- sh -c "! touch /etc/tombolo/x /usr/x /home/x 2>/dev/null"' sh "$(process)"
check "what it says is in the journal under its name" logged SYSLOG_IDENTIFIER=tombolo

step "a device"
inside tee /etc/tombolo/conf.d/50-test.toml >/dev/null <<'TOML'
[role.test.uplink.telemetry]
path = "t/#"
TOML
old=$(process)
check "reload succeeds" inside systemctl reload tombolo.service
check "and is not a restart" equal "$(process)" "$old"
psk=a-key-for-the-system-test
check "a device is added to the running daemon" inside tombolo device add door-7 --role test --psk "text:$psk"
reading=$(send t/env) || true
check "its reading is acknowledged over DTLS" matches "$reading" '2\.04'
refused=$(send forbidden) || true
check "what no rule allows is refused" matches "$refused" '4\.03'
check "journalctl DEVICE=door-7 finds what was said about it" eventually 5 logged DEVICE=door-7
check "the reading waits for the broker" equal "$(queued)" 1

step "trouble"
old=$(process)
inside kill -KILL "$old"
check "killed, it is started again" eventually 20 runs_anew "$old"
check "and still has the reading" equal "$(queued)" 1

echo 'this is not TOML' | inside tee /etc/tombolo/conf.d/60-broken.toml >/dev/null
old=$(process)
check "a reload of a configuration that does not parse fails" inside sh -c '! systemctl reload tombolo.service'
check "and is named in the status" inside sh -c 'tombolo status | grep -q "the last reload was refused.*60-broken.toml"'
check "a configuration that does not parse leaves the running one in force" equal "$(process)" "$old"
check "and is named in the log" eventually 5 logged --grep 60-broken.toml
inside systemctl restart tombolo.service 2>/dev/null || true
check "a start with it ends with status 78" equal "$(property ExecMainStatus)" 78
check "which is not tried over and over" equal "$(property ActiveState)" failed
inside rm /etc/tombolo/conf.d/60-broken.toml
inside systemctl start tombolo.service
check "mended, it starts" is_active

inside systemctl stop tombolo-clock.service
inside systemctl mask --quiet tombolo-clock.service
check "without the clock service, it says so" matches "$(unread)" "tombolo-clock.service, which asks it for the daemon, does not run"
check "and what helps" says 'systemctl status tombolo-clock' 'tombolo clock'
check "so does the status" says 'the kernel cannot be asked whether it is synchronised' 'tombolo status'
inside systemctl restart tombolo.service
check "and it starts all the same" is_active
inside systemctl unmask --quiet tombolo-clock.service
inside mkdir -p /etc/systemd/system/tombolo-clock.service.d
printf '[Service]\nWatchdogSec=12\n' | inside tee /etc/systemd/system/tombolo-clock.service.d/test.conf >/dev/null
inside systemctl daemon-reload
inside systemctl restart tombolo.service
check "with it again, it has the kernel's answer" eventually 10 matches_now '^None$' unread
old=$(clock_process)
inside kill -STOP "$old"
check "a clock service that hangs is killed and started again" eventually 40 clock_runs_anew "$old"
inside systemctl stop tombolo.service
check "it ends with the daemon" eventually 10 matches_now '^0$' clock_process
inside systemctl start tombolo.service
check "and begins with it" eventually 10 clock_runs_anew 0

drop_in <<'UNIT'
[Service]
WatchdogSec=6
LoadCredential=upstream-password:/etc/tombolo/secrets/upstream-password
UNIT
echo secret | inside tee /etc/tombolo/secrets/upstream-password >/dev/null
inside chmod 640 /etc/tombolo/secrets/upstream-password
inside tee /etc/tombolo/conf.d/70-credential.toml >/dev/null <<'TOML'
[upstream]
url = "mqtt://127.0.0.1:18830"
insecure = true
username = "gw"
password-file = "credential:upstream-password"
TOML
rm -f "$work/given"
# A broker that looks at the first message alone: CONNECT.
beside timeout 30 python3 -c 'import socket, sys
connection, _ = socket.create_server(("127.0.0.1", 18830)).accept()
connection.settimeout(20)
sys.exit(b"secret" not in connection.recv(4096))' && : >"$work/given" &
inside systemctl restart tombolo.service
old=$(process)
check "a secret may come as a systemd credential" \
    equal "$(inside cat "/proc/$old/root/run/credentials/tombolo.service/upstream-password")" secret
check "a new secret gets the daemon's group" equal "$(mode /etc/tombolo/secrets/upstream-password)" "640 root:tombolo"
check "check says that it takes effect with a restart alone" \
    says 'is the systemd credential "upstream-password"; a new value takes effect with systemctl restart' 'tombolo check --offline'
inside touch /etc/tombolo/secrets/upstream-password
check "and that its file is newer than what the service has" \
    says 'is newer than the credential "upstream-password"' 'tombolo check --offline'
check "the broker is given it" eventually 20 test -e "$work/given"
check "left alone, the watchdog is content" sh -c 'sleep 8'
check "as the same process shows" equal "$(process)" "$old"
inside kill -STOP "$old"
check "a daemon that hangs is killed and started again" eventually 40 runs_anew "$old"
check "by the watchdog" logged --grep "Watchdog timeout"
inside rm /etc/tombolo/conf.d/70-credential.toml
before=$SECONDS
inside systemctl stop tombolo.service
check "it stops within 5 seconds" test $((SECONDS - before)) -le 5
inside systemctl start tombolo.service

. "$here/appliance.sh"

step "upgrade"
waiting=$(queued)
echo '# A line of the owner.' | inside tee -a /etc/tombolo/tombolo.toml >/dev/null
old=$(process) old_clock=$(clock_process)
check "the successor installs" inside dpkg --install --force-confdef --force-confold "/mnt/$second"
check "it is running, as a new process" eventually 10 runs_anew "$old"
check "so is the clock service" eventually 10 clock_runs_anew "$old_clock"
check "the owner's line is still there" inside grep -q 'A line of the owner' /etc/tombolo/tombolo.toml
check "the packaged file lies beside it" inside grep -q 'the next version added' /etc/tombolo/tombolo.toml.dpkg-dist
check "the device and its reading are still there" equal "$(queued) $(json device show door-7 | grep -c '"door-7"')" "$waiting 1"

step "remove and purge"
check "it is removed" inside dpkg --remove tombolo
check "nothing runs" equal "$(inside pgrep --exact tombolo)" ""
check "the state stays" inside test -d /var/lib/tombolo/journal
check "the configuration stays" inside test -e /etc/tombolo/tombolo.toml
check "it can come back" inside dpkg --install "/mnt/$second"
check "with what it had" equal "$(queued)" "$waiting"
. "$here/copies.sh"
. "$here/readonly.sh"
check "it is purged" inside dpkg --purge tombolo
check "its state is gone" missing /var/lib/tombolo
check "its configuration is gone" missing /etc/tombolo/tombolo.toml
check "what its owner put there stays" inside test -e /etc/tombolo/secrets/upstream-password
check "the user stays, so that its number is not handed on" inside id tombolo

if [ "$failed" != 0 ]; then
    step "the journal, because a check failed"
    inside journalctl --quiet --no-pager --unit tombolo.service | tail -60
fi
