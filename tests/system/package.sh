# Builds the package and its successor, and holds them against lintian. Sourced by run.

rm -rf "$work/deb" "$work/later" "$work/again" "$work/next" "$work/release" "$work/released" "$work/tree" "$work/gnupg"
version=$(dpkg-parsechangelog --file "$top/packaging/deb/debian/changelog" --show-field Version)
next=$version+next
architecture=$(dpkg --print-architecture)
first=tombolo_${version}_$architecture.deb
second=tombolo_${next}_$architecture.deb
# What is installed by itself: one that works, and one that does not.
newest=$version+next2 breaks=$version+next3
third=tombolo_${newest}_$architecture.deb
broken=tombolo_${breaks}_$architecture.deb
if [ -n "$from" ]; then
    mkdir -p "$work/deb"
    check "the package is there" cp "$from/$first" "$work/deb/"
    # The successor is packed from the same program.
    dpkg-deb --extract "$work/deb/$first" "$work/tree"
    binary=$work/tree/usr/bin/tombolo
else
    check "the package builds" "$top/packaging/deb/build" --binary "$binary" --out "$work/deb" --level 1
    check "packed again, it has the same bytes" sh -c '"$1" --binary "$2" --out "$3" --level 1 && cmp "$3/$5" "$4/$5"' sh \
        "$top/packaging/deb/build" "$binary" "$work/again" "$work/deb" "$first"
    dpkg-deb --extract "$work/deb/$first" "$work/tree"
fi
check "it ships every document that its documents, man pages and configuration refer to" \
    "$top/tests/documented" links "$work/tree"
check "it holds for every Debian 12 and names no folder of the machine it was built on" \
    "$top/packaging/deb/verify" ${from:+--released} "$work/deb/$first"

# The successor brings a changed tombolo.toml, so that an upgrade has something to decide.
mkdir -p "$work/next/tests"
cp -r "$top"/{Cargo.toml,Cargo.lock,src,packaging,systemd,config,docs,deny.toml} "$work/next/"
cp "$top"/*.md "$work/next/"
# A member of the workspace, without which cargo reads no manifest.
cp -r "$top/tests/support" "$work/next/tests/"
echo '# A line that the next version added.' >>"$work/next/config/tombolo.toml"
check "its successor builds" "$work/next/packaging/deb/build" --binary "$binary" --out "$work/deb" --level 1 --version "$next"

# repack VERSION COMMAND: the successor as another version, changed by a command in its tree.
repack() {
    local tree=$work/repack
    rm -rf "$tree"
    dpkg-deb --raw-extract "$work/deb/$second" "$tree" && sed -i "s/^Version: .*/Version: $1/" "$tree/DEBIAN/control" &&
        (cd "$tree" && sh -c "$2") && mkdir -p "$work/later" && dpkg-deb --root-owner-group -Znone --build "$tree" "$work/later" >/dev/null
}
check "one is made that is newer" repack "$newest" true
check "and one that does not work: its daemon ends at once" repack "$breaks" \
    'cp usr/bin/tombolo usr/bin/tombolo.real && printf "#!/bin/sh\n[ \"\$1\" != run ] || exit 1\nexec /usr/bin/tombolo.real \"\$@\"\n" >usr/bin/tombolo'

check "lintian finds nothing" lintian --allow-root --fail-on error,warning --info "$work/deb/$first"
check "every man page is clean" sh -c '
    for page in "$@"; do
        faults=$(man --warnings -l "$page" 2>&1 >/dev/null)
        [ -z "$faults" ] || { echo "$page: $faults"; exit 1; }
    done' sh "$top"/packaging/man/*
check "the bash completion parses" bash -n "$top/packaging/completions/bash/tombolo"
check "the unit's exposure is at most 1.3" \
    systemd-analyze security --offline=true --no-pager --threshold=13 "$top/systemd/tombolo.service"
check "the exposure of tombolo-clock.service is at most 0.5" \
    systemd-analyze security --offline=true --no-pager --threshold=5 "$top/systemd/tombolo-clock.service"
check "the exposure of tombolo-firstboot.service is at most 0.5" \
    systemd-analyze security --offline=true --no-pager --threshold=5 "$top/systemd/tombolo-firstboot.service"
# dpkg needs nearly all that root may; with RAUC, two lines of a drop-in close the rest.
for unit in update health; do
    check "the exposure of tombolo-$unit.service is at most 6.9" \
        systemd-analyze security --offline=true --no-pager --threshold=69 "$top/systemd/tombolo-$unit.service"
done
mkdir -p "$work/units"
cat "$top/systemd/tombolo-update.service" "$top/systemd/update-rauc.conf" >"$work/units/tombolo-update.service"
check "and with the drop-in for RAUC at most 2.3" \
    systemd-analyze security --offline=true --no-pager --threshold=23 "$work/units/tombolo-update.service"

# A release of the package, signed by a key made for this run, and one signed by another.
export GNUPGHOME=$work/gnupg
mkdir -m 700 "$GNUPGHOME"
for name in release stranger; do
    gpg --quiet --batch --passphrase '' --quick-generate-key "$name@tombolo.example" ed25519 sign never
done
# Of the first alone: its successor comes into the repository later, as an upgrade.
mkdir -p "$work/released"
cp "$work/deb/$first" "$work/released/"
check "a release is made of it, with a bill of materials, checksums and a repository" "$top/packaging/release" \
    --from "$work/released" --key release@tombolo.example --url file:/mnt/apt --out "$work/release"
check "its checksums are signed, and right" sh -c 'cd "$1" && gpg --quiet --verify SHA256SUMS.asc SHA256SUMS &&
    sha256sum --check --quiet SHA256SUMS' sh "$work/release"
check "a bill of materials without a hash is refused" sh -c 'sed "0,/\"content\": \".*\"/s//\"content\": \"\"/" "$1"/*.cdx.json \
    >"$2" && ! "$3" --check "$2"' sh "$work/release" "$work/bill" "$top/packaging/sbom"
check "lintian finds nothing in the package of the key" lintian --allow-root --fail-on error,warning --info \
    "$work"/release/tombolo-archive-keyring_*.deb
