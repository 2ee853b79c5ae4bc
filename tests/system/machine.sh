# A Debian machine with a real systemd, in a container. Sourced by run, inside its own mount namespace.

# The mirror that apt itself uses here, so that no other host is needed.
apt_mirror() {
    local codename
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Identifier: Packages' |
        awk -v codename="$codename" '$2 == codename { print $1; exit }'
}

# make_root CODENAME DIRECTORY: a minimal Debian with systemd; kept for the next run that needs the same packages.
make_root() {
    local codename=$1 directory=$2 mirror packages=systemd,systemd-sysv,dbus,procps,ca-certificates
    # With one release: it brings Python.
    [ "$codename" != bookworm ] || packages+=,unattended-upgrades
    [ "$(cat "$directory/.complete" 2>/dev/null)" != "$packages" ] || return 0
    mirror=$(apt_mirror)
    [ -n "$mirror" ] || die "apt knows no Debian mirror of this release; see /etc/apt/sources.list.d"
    local proxy=
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    step "debootstrap $codename, about a minute"
    rm -rf "$directory"
    ${proxy:+env http_proxy="$proxy"} debootstrap --variant=minbase \
        --include="$packages" "$codename" "$directory" "$mirror" \
        >"$work/debootstrap-$codename.log" 2>&1 || { tail -20 "$work/debootstrap-$codename.log"; die "debootstrap failed"; }
    rm -rf "$directory"/var/cache/apt/archives/*.deb "$directory"/var/lib/apt/lists/*
    echo "$packages" >"$directory/.complete"
}

# boot DIRECTORY: starts it on a copy-on-write layer in memory. Sets $leader, its process 1 as seen from here.
boot() {
    layer=$work/layer
    # systemd-nspawn wants a /run of its own and one cgroup2 hierarchy, whatever this machine has.
    mount -t tmpfs -o mode=0755 tmpfs /run
    ! mountpoint -q /sys/fs/cgroup || umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    cgroup=/sys/fs/cgroup/tombolo-test-$$
    mkdir "$cgroup"
    mkdir -p "$layer"
    mount -t tmpfs tmpfs "$layer"
    mkdir "$layer"/{upper,work,root,share}
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
    cp -r "$shared"/deb/*.deb "$shared/release/apt" "$layer/share/"
    (
        echo $BASHPID >"$cgroup/cgroup.procs"
        # A container may not ask the kernel about its clock unless that is said.
        exec systemd-nspawn --quiet --register=no --keep-unit --private-network --boot --console=read-only \
            --system-call-filter="adjtimex clock_adjtime" \
            --machine=tombolo-test --bind-ro="$layer/share:/mnt" --directory="$layer/root"
    ) </dev/null >"$work/console.log" 2>&1 &
    nspawn=$!
    trap shut_down EXIT
    eventually 10 leader_is_there || die "the machine does not start: $(cat "$work/console.log")"
    eventually 180 is_booted || die "the machine does not boot, it is $(inside systemctl is-system-running 2>&1 || true):
$(inside systemctl list-jobs --no-pager 2>&1 || true)
$(tail -20 "$work/console.log")"
    nsenter --target "$leader" --net ip link set lo up
}

# The first child of systemd-nspawn only prepares the mounts and ends; the leader is process 1 in a PID namespace of its own.
leader_is_there() {
    local child
    for child in $(cat "/proc/$nspawn/task/$nspawn/children"); do
        leader=$child
        awk '$1 == "NSpid:" { found = NF > 2 && $NF == 1 } END { exit !found }' "/proc/$child/status" 2>/dev/null && return
    done
    return 1
}

is_booted() {
    case $(inside systemctl is-system-running 2>/dev/null) in
        running | degraded) return 0 ;;
        *) return 1 ;;
    esac
}

# inside COMMAND…: on the machine, as root.
inside() { nsenter --target "$leader" --all -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive "$@"; }
# beside COMMAND…: a program of this machine in that one's network.
beside() { nsenter --target "$leader" --net -- "$@"; }

shut_down() {
    [ -z "${broker:-}" ] || kill "$broker" "$observer" 2>/dev/null || true
    [ -n "${nspawn:-}" ] || return 0
    if [ -n "${keep:-}" ] && [ "${failed:-0}" != 0 ]; then
        read -r -p "machine kept; enter it with: nsenter --target $leader --all    Enter ends it. " _ </dev/tty
    fi
    kill "$nspawn" 2>/dev/null || true
    local limit=$((SECONDS + 20))
    while kill -0 "$nspawn" 2>/dev/null && [ $SECONDS -lt $limit ]; do read -r -t 0.1 <> <(:) || true; done
    kill -KILL "$nspawn" 2>/dev/null || true
    wait "$nspawn" 2>/dev/null || true
    nspawn=
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
}
