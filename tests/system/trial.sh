# The first hours of a new user: only what README.md says and what the program prints. Sourced by run.

# The commands of README's section on the first ten minutes, as they stand there; the broker's name leads to one started
# here, and the device's line is run as printed.
readme() { sed -n "/^## $1/,/^## /p" "$top/README.md" | sed -n '/^```/,/^```/p' | sed 's/ *#.*//' | grep -- "$2"; }
mapfile -t commands < <(readme 'The first ten minutes' '^tombolo ' | head -n 5)
is_active() { [ "$(inside systemctl show --value --property ActiveState tombolo.service)" = active ]; }
# says WORDS COMMAND: the command, given as one line, succeeds and prints the words. What it printed is in $work/said.
says() {
    local words=$1 status=0
    inside sh -c "$2" >"$work/said" 2>&1 || status=$?
    [ "$status" = 0 ] || echo "it ends with status $status"
    grep -qF -- "$words" "$work/said" || { status=1; echo "it does not say: $words"; }
    cat "$work/said"
    return "$status"
}
# fails PATTERN COMMAND: the command, given as one line, fails and prints a line that matches.
fails() {
    ! inside sh -c "$2" >"$work/said" 2>&1 || { echo "it succeeds"; cat "$work/said"; return 1; }
    grep -qE -- "$1" "$work/said" || { echo "no line matches: $1"; cat "$work/said"; return 1; }
}
# The answer to one reading by the command that `device add` printed.
pasted() { beside timeout 20 sh -c "$line" 2>&1; }
acknowledged() { pasted >"$work/pasted"; grep ' c:2\.04 ' "$work/pasted"; }
refused_for_space() { pasted >"$work/pasted"; grep ' c:5\.03 ' "$work/pasted"; }
received() { grep -q "$1" "$work/received"; }
published() { grep -q "Received PUBLISH .*$1" "$work/mosquitto.log"; }
status_is_fine() { ! inside tombolo status | grep -q 'no space left'; }

step "a broker"
pki=$work/pki
rm -rf "$pki"
mkdir -p "$pki"
{
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=The broker's CA" \
        -keyout "$pki/ca.key" -out "$pki/ca.pem"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=broker.example.com \
        -keyout "$pki/broker.key" -out "$pki/broker.csr"
    echo 'subjectAltName = DNS:broker.example.com' >"$pki/extensions"
    openssl x509 -req -in "$pki/broker.csr" -CA "$pki/ca.pem" -CAkey "$pki/ca.key" -CAcreateserial -days 30 \
        -extfile "$pki/extensions" -out "$pki/broker.pem"
} >"$work/openssl.log" 2>&1
cat >"$pki/mosquitto.conf" <<END
user root
max_inflight_messages 1000
allow_anonymous true
log_dest stdout
log_type all
listener 8883 127.0.0.1
certfile $pki/broker.pem
keyfile $pki/broker.key
listener 1884 127.0.0.1
END
# Programs of this machine in that one's network, each a child of this shell.
start_broker() {
    nsenter --target "$leader" --net -- stdbuf -oL mosquitto -c "$pki/mosquitto.conf" >"$work/mosquitto.log" 2>&1 &
    broker=$!
    eventually 10 beside mosquitto_pub -h 127.0.0.1 -p 1884 -t started -m '' 2>/dev/null
}
observe() {
    : >"$work/received"
    nsenter --target "$leader" --net -- mosquitto_sub -h 127.0.0.1 -p 1884 -t 'tombolo/#' -v >"$work/received" 2>&1 &
    observer=$!
}
start_broker
observe
inside sh -c 'echo 127.0.0.1 broker.example.com >>/etc/hosts'

step "README: installing, and five commands"
check "README's commands install it from the repository" \
    inside sh -c "apt-get --quiet update && DEBIAN_FRONTEND=noninteractive $(readme Installing '^apt-get.* tombolo$' | tail -n 1 | sed 's/apt-get install/apt-get --yes install/')"
check "the service runs" eventually 10 is_active
check "in the version that was released" equal "$(inside dpkg-query --show --showformat '${Version}' tombolo)" "$version"
check "README has five commands" equal "${#commands[@]}" 5
inside tee /etc/tombolo/broker-ca.pem >/dev/null <"$pki/ca.pem"
next_step='tombolo check'
for number in 0 1 2 3; do
    command=${commands[number]}
    following=$(echo "${commands[number + 1]}" | cut -d ' ' -f 1,2)
    # `reload` has nothing to add.
    [ "$number" != 2 ] || following=
    check "$command: succeeds and names what comes next: ${following:-nothing}" says "$following" "$command"
    [ "$number" != 1 ] || check "no finding of it is a failure" sh -c '! grep "^fail" "$1"' sh "$work/said"
done
line=$(sed -n 's/^  *\(coap-client.*\)/\1/p' "$work/said" | head -n 1)
program=${line%% *}
check "the line to try it names a program of the package it names" \
    sh -c 'dpkg --listfiles libcoap3-bin | grep -q "/$1$"' sh "$program"
inside sh -c "exec timeout 30 ${commands[4]}" >"$work/tail" 2>&1 &
tail=$!
eventually 10 inside sh -c 'pgrep --full "^tombolo tail" >/dev/null'
check "pasted, it is acknowledged" acknowledged
check "the broker has the reading" eventually 10 received 'door-7/up/t/temperature 21.5'
check "tail shows it" eventually 10 grep -q 'door-7.*t/temperature' "$work/tail"
check "check, with all this, finds no failure" says '' 'tombolo check'
kill "$tail" 2>/dev/null

step "an outage, a restart"
kill "$broker" "$observer"
wait "$broker" "$observer" 2>/dev/null
check "without the broker it is acknowledged all the same" acknowledged
check "check fails, since nothing is published" fails '^fail +upstream' 'tombolo check'
inside systemctl restart tombolo.service
check "a restart keeps it: the queue has the record" says '"records":1' 'tombolo --json queue'
start_broker
check "with the broker back, the reading arrives" eventually 60 published 'door-7/up/t/temperature'
observe

step "a full disk"
inside systemctl stop tombolo.service
inside sh -c 'mkdir /tmp/kept && cp -a /var/lib/tombolo/. /tmp/kept/ &&
    mount -t tmpfs -o "size=300m,mode=750,uid=$(id -u tombolo),gid=$(id -g tombolo)" tmpfs /var/lib/tombolo &&
    cp -a /tmp/kept/. /var/lib/tombolo/ && rm -rf /var/lib/tombolo/journal'
inside sh -c 'cat /dev/zero >/var/lib/tombolo/filler 2>/dev/null'
inside systemctl start tombolo.service
check "it starts on a full disk" eventually 10 is_active
check "a reading is refused as 5.03" eventually 20 refused_for_space
check "status names it" says 'no space left' 'tombolo status'
check "check fails and names it" fails '^fail.*(disk|space|room)' 'tombolo check'
inside rm /var/lib/tombolo/filler
check "with space again, it is acknowledged" eventually 30 acknowledged
check "and status no longer names it" eventually 10 status_is_fine
check "nor does check" eventually 30 says '' 'tombolo check'
inside systemctl stop tombolo.service
inside sh -c 'umount /var/lib/tombolo; rm -rf /tmp/kept'
inside systemctl start tombolo.service

# What a package finds of another version: a lane that is full, readings that wait. Every one that was acknowledged arrives.
lane() { inside tombolo --json queue | python3 -c 'import json, sys; print(json.load(sys.stdin)["lanes"]["normal"]["records"])'; }
# all_arrived FILE: each number in it came to the broker as "fill NUMBER".
all_arrived() {
    sed -n 's/.* fill \([0-9]*\) x*$/\1/p' "$work/received" | sort -u >"$work/arrived"
    [ -z "$(sort -u "$1" | comm -23 - "$work/arrived")" ]
}
# The broker again, with an observer that misses nothing: the gateway goes on when that has subscribed.
observes() { beside mosquitto_pub -h 127.0.0.1 -p 1884 -t tombolo/observed -m yes; received 'tombolo/observed yes'; }
resume_broker() {
    inside systemctl kill --signal=STOP tombolo.service
    start_broker
    observe
    eventually 10 observes
    inside systemctl kill --signal=CONT tombolo.service
}
stop_broker() { kill "$broker" "$observer"; wait "$broker" "$observer" 2>/dev/null; }

step "an upgrade with a full lane, from the repository"
stop_broker
inside tee /etc/tombolo/conf.d/55-full.toml >/dev/null <<'TOML'
[coap]
insecure-listen = ["127.0.0.1:5683"]
insecure-device = "lab"
[device.lab]
role = "lab"
[role.lab]
quota = { messages = 100000, bytes = "1GiB", per = "1min", burst = 1000 }
[role.lab.uplink.fill]
path = "t/fill"
[lane.normal]
max-bytes = "1MiB"
device-share = 100
TOML
# With segments of the size that goes with such a lane: one that is there already keeps its own, and is filled first.
inside systemctl stop tombolo.service
inside rm -r /var/lib/tombolo/journal
inside systemctl start tombolo.service
check "the lane fills, then a reading is refused as 5.03" beside timeout 60 python3 "$here/ask.py" fill 5683 "$work/filled" 0
full=$(lane)
check "some hundred were acknowledged" test "$(wc -l <"$work/filled")" -gt 300
"$top/packaging/apt-repository" --out "$layer/share/apt" --key release@tombolo.example "$shared/deb/$second"
# shellcheck source=unattended.sh
[ "$release" != bookworm ] || . "$here/unattended.sh"
check "apt-get upgrade finds the next version" inside sh -c 'apt-get --quiet update && apt-get --yes --quiet upgrade'
check "it is installed" equal "$(inside dpkg-query --show --showformat '${Version}' tombolo)" "$next"
check "and runs" eventually 10 is_active
check "with every record of the lane" equal "$(lane)" "$full"
check "which is as full as before: a reading is refused soon" beside timeout 60 python3 "$here/ask.py" fill 5683 "$work/more" 20000
check "after a few" test "$(wc -l <"$work/more")" -lt 50
cat "$work/more" >>"$work/filled"
resume_broker
check "with the broker back, all that was acknowledged arrives" eventually 60 all_arrived "$work/filled"
check "the device is still known, and acknowledged" eventually 20 acknowledged

step "a downgrade by the owner"
stop_broker
check "without the broker the newer version takes readings" beside timeout 60 python3 "$here/ask.py" fill 5683 "$work/filled" 0
full=$(lane)
# As the owner would: a file of the older package.
check "the older package is installed over it" inside apt-get --yes --quiet --allow-downgrades install "/mnt/$first"
check "it is the older version" equal "$(inside dpkg-query --show --showformat '${Version}' tombolo)" "$version"
check "and runs" eventually 10 is_active
check "with every record of the newer" equal "$(lane)" "$full"
resume_broker
check "with the broker back, they arrive" eventually 60 all_arrived "$work/filled"
check "check finds no failure" eventually 20 says '' 'tombolo check'
inside rm /etc/tombolo/conf.d/55-full.toml
check "apt-get upgrade installs the newer again" inside sh -c 'apt-get --yes --quiet upgrade'
check "which runs" eventually 10 is_active
check "with the lane's size of before, and the device, acknowledged" eventually 10 acknowledged

step "a start without any network"
stop_broker
beside ip link set lo down
inside mv /etc/resolv.conf /etc/resolv.conf.kept 2>/dev/null
check "it starts" inside systemctl restart tombolo.service
check "and is active" is_active
check "the status names the uplink, which is not connected" says 'not connected' 'tombolo status; true'
before=$(lane)
inside sh -c 'timeout 5 tombolo device test door-7 --path t/temperature >/dev/null 2>&1'
check "a reading is stored" equal "$(lane)" "$((before + 1))"
beside ip link set lo up
inside mv /etc/resolv.conf.kept /etc/resolv.conf 2>/dev/null
check "with the network a device is acknowledged, without a restart" eventually 20 acknowledged
resume_broker
check "and the readings arrive" eventually 60 published 'door-7/up/t/temperature'

# With one release: it takes most of a minute.
# shellcheck source=update.sh
[ "$release" != bookworm ] || . "$here/update.sh"

step "the end of the trial"
check "it is purged" inside apt-get --yes --quiet purge tombolo tombolo-archive-keyring
check "its state is gone" missing /var/lib/tombolo
check "what the owner copied there stays" inside test -e /etc/tombolo/broker-ca.pem
inside rm -rf /etc/tombolo
kill "$broker" "$observer" 2>/dev/null
wait "$broker" "$observer" 2>/dev/null
broker=
