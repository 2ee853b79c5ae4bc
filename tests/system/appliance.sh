# What a gateway does through years: restarts without a closed port, a stage that hangs, a backup. Sourced by scenario.sh
# while the package runs.

gateway_id() { inside cat /var/lib/tombolo/gateway-id; }
kept() { property NFileDescriptorStore; }
# Runs a program of this folder in the machine's network.
ask() { beside timeout 60 python3 "$here/ask.py" "$@"; }
# between_processes COMMAND…: restarts the service, and runs the command while no process of it is there. The command's
# last argument is a file that it removes; the next process waits for that.
between_processes() {
    local flag=$layer/share/between restart status=0
    inside sh -c 'exec systemctl restart tombolo.service' &
    restart=$!
    eventually 20 inside test -e /run/tombolo/between || { echo "it does not stop"; status=1; }
    : >"$flag"
    [ "$status" != 0 ] || equal "$(process)" 0 || status=1
    "$@" "$flag" || status=1
    inside rm -f /run/tombolo/between
    rm -f "$flag"
    wait "$restart" || status=1
    return "$status"
}

step "a restart without a closed port"
inside tee /etc/tombolo/conf.d/75-plain.toml >/dev/null <<'TOML'
[coap]
insecure-listen = ["127.0.0.1:5683"]
insecure-device = "lab"
[device.lab]
role = "test"
[mqtt]
insecure-listen = ["127.0.0.1:1883"]
TOML
drop_in <<'UNIT'
[Service]
ExecStartPre=/bin/sh -c 'touch /run/tombolo/between; while [ -e /run/tombolo/between ] && [ -e /run/tombolo/wait ]; do sleep 0.1; done; rm -f /run/tombolo/between'
UNIT
inside systemctl restart tombolo.service
check "systemd keeps each of its listening sockets" eventually 5 sh -c '[ "$("$@")" = 3 ]' sh \
    nsenter --target "$leader" --all systemctl show --value --property NFileDescriptorStore tombolo.service
check "plain CoAP answers" ask ping 5683
check "and so does MQTT" ask connect 1883
inside sh -c 'touch /run/tombolo/wait'
asked_between() {
    ask "$1" "$2" "$3" &
    local asked=$!
    eventually 10 test ! -e "$3"
    inside rm -f /run/tombolo/wait
    wait "$asked"
}
check "a datagram sent while no process is there is answered by the next" between_processes asked_between ping 5683
inside sh -c 'touch /run/tombolo/wait'
check "a connection made while no process is there is served by the next" between_processes asked_between connect 1883
check "the log says that the socket was inherited" logged INHERITED=true
reading=$(send t/restart) || true
check "a device is served after it" matches "$reading" '2\.04'
old=$(process)
inside kill -KILL "$old"
check "killed, it is started again" eventually 20 runs_anew "$old"
check "with the same sockets" equal "$(kept)" 3
inside sed -i s/5683/5693/ /etc/tombolo/conf.d/75-plain.toml
inside systemctl restart tombolo.service
check "another address in the configuration is listened on" ask ping 5693
check "and the one before is closed" ask closed 5683
check "in systemd's store, too" equal "$(kept)" 3
inside sed -i '/mqtt/,$d' /etc/tombolo/conf.d/75-plain.toml
inside systemctl reload tombolo.service
check "a listener that a reload removes is closed at once" sh -c '! "$@"' sh \
    nsenter --target "$leader" --net timeout 60 python3 "$here/ask.py" connect 1883
check "in systemd's store, too" equal "$(kept)" 2
inside systemctl stop tombolo.service
check "stopped, it leaves no port open" ask closed 5693
inside rm /etc/tombolo/conf.d/75-plain.toml
inside systemctl start tombolo.service
check "and starts again" is_active

step "a stage that hangs"
cc -shared -fPIC -O1 -o "$layer/share/hang.so" "$here/hang.c" -ldl
drop_in <<'UNIT'
[Service]
WatchdogSec=6
Environment=LD_PRELOAD=/mnt/hang.so
UNIT
inside systemctl restart tombolo.service
inside touch /var/lib/tombolo/hang
old=$(process)
since=$(date '+%Y-%m-%d %H:%M:%S')
send t/hang >/dev/null 2>&1 &
hanging=$!
check "while the disk hangs the rest goes on" inside sh -c 'sleep 1; timeout 5 tombolo status >/dev/null'
check "a journal that hangs has the watchdog kill the daemon" eventually 40 logged --since "$since" --grep "Watchdog timeout"
inside rm -f /var/lib/tombolo/hang
wait "$hanging" || true
check "and it is started again" eventually 40 runs_anew "$old"
drop_in </dev/null
inside systemctl restart tombolo.service

step "a backup"
check "a backup is made beside the running daemon" inside tombolo backup /root/gateway.tar
check "for root alone" equal "$(mode /root/gateway.tar)" "600 root:root"
id=$(gateway_id)
inside tombolo device add door-8 --role test --psk text:another-key-for-the-test >/dev/null
check "it is restored while the daemon runs" inside tombolo restore /root/gateway.tar
check "which has its devices again, and no other" sh -c '"$@" | grep -q door-7 && ! "$@" | grep -q door-8' sh \
    nsenter --target "$leader" --all tombolo --json device list
check "what was there before is kept for root alone" inside sh -c \
    '[ "$(stat --format "%a %U" /var/lib/tombolo/before-restore-*.tar)" = "600 root" ]'
check "and check has nothing against that" inside sh -c '! tombolo check --offline | grep before-restore'
inside setpriv --reuid=tombolo --regid=tombolo --clear-groups ln -s /etc/shadow /var/lib/tombolo/devices/evil.toml
check "a link of the daemon's user is not followed" inside sh -c \
    '! tombolo backup /root/evil.tar 2>/tmp/said && grep -q "evil.toml.*symbolic link" /tmp/said && [ ! -e /root/evil.tar ]'
inside rm /var/lib/tombolo/devices/evil.toml
check "secrets have the owners they had" equal "$(mode /etc/tombolo/secrets/upstream-password)" "640 root:tombolo"
check "and the id is the same" equal "$(gateway_id)" "$id"
