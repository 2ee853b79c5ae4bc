# Builds the package and its successor, and holds them against lintian. Sourced by run.

rm -rf "$work/deb" "$work/next"
version=$(dpkg-parsechangelog --file "$top/packaging/deb/debian/changelog" --show-field Version)
next=$version+next
check "the package builds" "$top/packaging/deb/build" --binary "$binary" --out "$work/deb"

# The successor brings a changed tombolo.toml, so that an upgrade has something to decide.
mkdir -p "$work/next/tests"
cp -r "$top"/{Cargo.toml,Cargo.lock,src,packaging,systemd,config,docs,README.md,SECURITY.md,CHANGELOG.md,deny.toml} "$work/next/"
# A member of the workspace, without which cargo reads no manifest.
cp -r "$top/tests/support" "$work/next/tests/"
echo '# A line that the next version added.' >>"$work/next/config/tombolo.toml"
check "its successor builds" "$work/next/packaging/deb/build" --binary "$binary" --out "$work/deb" --version "$next"
architecture=$(dpkg --print-architecture)
first=tombolo_${version}_$architecture.deb
second=tombolo_${next}_$architecture.deb

check "lintian finds nothing" lintian --allow-root --fail-on error,warning --info "$work/deb/$first"
check "every man page is clean" sh -c '
    for page in "$@"; do
        faults=$(man --warnings -l "$page" 2>&1 >/dev/null)
        [ -z "$faults" ] || { echo "$page: $faults"; exit 1; }
    done' sh "$top"/packaging/man/*
check "the bash completion parses" bash -n "$top/packaging/completions/bash/tombolo"
check "the unit's exposure is at most 1.8" \
    systemd-analyze security --offline=true --no-pager --threshold=18 "$top/systemd/tombolo.service"
