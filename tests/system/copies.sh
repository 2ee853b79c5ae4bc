# A card that is copied, and a card that is replaced. Sourced by scenario.sh, before the purge.

step "a copied card"
check "the unit for it runs before the daemon at each boot" inside sh -c 'systemctl --quiet is-enabled tombolo-firstboot.service &&
    systemctl show --value --property Before tombolo-firstboot.service | grep -q tombolo.service'
before=$(gateway_id)
check "no card is marked under a running gateway" inside sh -c '! tombolo firstboot --mark'
inside systemctl stop tombolo.service
check "a card is marked before it is copied" inside tombolo firstboot --mark
check "the daemon does not start on the copy" inside sh -c '! systemctl restart tombolo.service'
check "and says why" eventually 5 logged --grep 'says that this card is a copy'
check "its unit makes an identity" inside systemctl restart tombolo-firstboot.service
check "then the daemon starts by itself" eventually 20 is_active
check "with an id of its own" test "$(gateway_id)" != "$before"
check "and none of the readings of the other" equal "$(queued)" 0
after=$(gateway_id)
inside systemctl restart tombolo-firstboot.service tombolo.service
check "once" equal "$(gateway_id)" "$after"

step "a new card in the place of the old"
check "the backup of another gateway is refused" inside sh -c '! tombolo restore /root/gateway.tar'
inside systemctl stop tombolo.service
check "unless its id is to be taken" inside tombolo restore /root/gateway.tar --take-id
inside systemctl start tombolo.service
check "then it runs as that gateway" equal "$(is_active && gateway_id)" "$before"
check "with its devices" equal "$(json device show door-7 | grep -c '"door-7"')" 1
check "and the owners that the daemon needs" equal "$(mode /var/lib/tombolo/devices/door-7.toml)" "600 tombolo:tombolo"
