# What docs/boards.md says of unattended-upgrades, before an upgrade that waits in the repository. Sourced by trial.sh, on the
# release whose tree has unattended-upgrades.

# The block of that document which names the origin.
documented() { sed -n '/^```/,/^```/p' "$top/docs/boards.md" | sed '/^```/d' | grep -E '^(APT::Periodic|Unattended-Upgrade::Origins)'; }

step "unattended-upgrades"
check "docs/boards.md has its three lines" equal "$(documented | wc -l)" 3
documented | inside tee /etc/apt/apt.conf.d/60tombolo >/dev/null
inside apt-get --quiet update >/dev/null
check "by the origin in them it takes the newer package from the repository" \
    says "Packages that will be upgraded: tombolo" 'unattended-upgrade --dry-run --debug'
check "and allows it by that origin" grep -q 'origin=Tombolo,codename=stable,label=Tombolo' "$work/said"
inside rm /etc/apt/apt.conf.d/60tombolo
check "without them it does not" sh -c '! "$@" 2>&1 | grep "will be upgraded: tombolo"' sh \
    nsenter --target "$leader" --all unattended-upgrade --dry-run --debug
