# Whose account the service takes, and from whom packages come: before anything is installed. Sourced by run.

install_package() { inside apt-get --yes --quiet install "$@" 2>&1; }
absent() { missing /usr/bin/tombolo && ! inside dpkg --status tombolo 2>/dev/null | grep -q '^Status: .* installed$'; }
missing() { ! inside test -e "$1"; }
# refuses_to_install WORDS: the installation fails, says these words, and leaves nothing.
refuses_to_install() {
    local output
    output=$(install_package "/mnt/$first") && { echo "it installed"; return 1; }
    [[ $output = *"$1"* && $output = *"usermod --login NEW-NAME tombolo"* ]] || { echo "$output"; return 1; }
    absent
}

step "accounts"
inside useradd --create-home --shell /bin/bash tombolo
check "an account tombolo of a person is not taken over: nothing is installed, the way out is named" \
    refuses_to_install "the user tombolo exists, with the uid"
inside usermod --login tom tombolo
inside groupmod --new-name tom tombolo
inside groupadd --gid 1234 tombolo
check "neither is a group of people" refuses_to_install "the group tombolo exists, with the gid 1234"
inside groupdel tombolo
inside useradd --system --shell /bin/bash tombolo
check "neither is a system account with a login shell" refuses_to_install "with the login shell /bin/bash"
inside userdel tombolo

step "the repository"
# What Debian's own sources say is out of reach here.
inside sh -c 'rm -f /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources'
check "the package of the key installs" install_package /mnt/apt/tombolo-archive-keyring.deb
inside cp /mnt/apt/tombolo.sources /etc/apt/sources.list.d/
apt_update() { inside apt-get --quiet --error-on=any update 2>&1; }
index=$layer/share/apt/dists/stable
# refuses_lists WORDS: apt-get update fails and says these words.
refuses_lists() {
    local output
    output=$(apt_update) && { echo "it accepts them: $output"; return 1; }
    [[ $output =~ $1 ]] || { echo "$output"; return 1; }
}
cp -a "$index" "$layer/index"
find "$index" -name 'Packages*' -type f -exec sh -c 'rm "$1"; echo changed >"$1"' sh {} \;
find "$index" -path '*by-hash*' -type f -exec sh -c 'echo changed >"$1"' sh {} \;
check "changed package lists are refused" refuses_lists 'Hash Sum mismatch|unexpected size'
rm -rf "$index"
cp -a "$layer/index" "$index"
for name in InRelease Release.gpg; do
    rm "$index/$name"
    options=(--clearsign)
    [ "$name" = InRelease ] || options=(--armor --detach-sign)
    gpg --quiet --batch --yes --local-user stranger@tombolo.example "${options[@]}" --output "$index/$name" "$index/Release"
done
check "lists signed by another key are refused" refuses_lists 'NO_PUBKEY|Missing key|not signed'
rm -rf "$index"
cp -a "$layer/index" "$index"
check "the signed lists are accepted" apt_update
