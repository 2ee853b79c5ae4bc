//! What a reload changes in who may connect, devices and their keys, for the audit lines of the
//! log.
//!
//! It compares what was known with what is, so it does not matter by which command or file the
//! change came. No key is in it: a key is named by its kind, and a public one by its hash.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Known;
use super::certificate::{format_key_hash, parse_key_hash};
use crate::gate::settings::Device;
use crate::message::Name;

/// What the name of a public key for tokens begins with.
pub const TOKEN_KEY: &str = "jwt:";

/// Why a device is disabled that nobody has switched off.
pub const FAULT: &str = "a fault in its configuration";

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// A device is new.
    Added,
    /// A device is gone.
    Removed,
    /// A device may connect again.
    Enabled,
    /// A device may not connect any more.
    Disabled,
    /// It has another role.
    Role,
    /// It is behind another device, or behind none.
    Parent,
    /// A key of a device is new.
    KeyAdded,
    /// One is gone.
    KeyRemoved,
    /// One has another value, or another end.
    KeyChanged,
}

impl Act {
    /// The value of the field `audit`.
    pub fn as_str(self) -> &'static str {
        match self {
            Act::Added => "device-added",
            Act::Removed => "device-removed",
            Act::Enabled => "device-enabled",
            Act::Disabled => "device-disabled",
            Act::Role => "device-role",
            Act::Parent => "device-parent",
            Act::KeyAdded => "key-added",
            Act::KeyRemoved => "key-removed",
            Act::KeyChanged => "key-changed",
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdentityChange {
    /// The device.
    pub device: String,
    /// What was done.
    pub act: Act,
    /// To what: the role, the parent, or the kind of the key; of a new device, and of one that a
    /// fault had disabled, its role and keys. Of a device that is disabled: [`FAULT`] if a fault of
    /// the configuration does it.
    pub to: String,
}

impl IdentityChange {
    /// The hashes of the public keys for tokens that are new.
    pub fn new_token_keys(&self) -> impl Iterator<Item = [u8; 32]> {
        let is_new = matches!(self.act, Act::Added | Act::KeyAdded);
        let words = self.to.split(' ').filter(move |_| is_new);
        words.filter_map(|word| parse_key_hash(word.strip_prefix(TOKEN_KEY)?))
    }
}

/// What is different, by device. One whose files have a fault may not connect: that is a change,
/// and its keys are compared with nothing until they can be read again; then all are named.
pub fn identity_changes(before: &[Known], after: &[Known]) -> Vec<IdentityChange> {
    let (was, is) = (by_id(before), by_id(after));
    let mut changes = Vec::new();
    let mut push = |device: &str, act, to: String| {
        changes.push(IdentityChange { device: device.to_owned(), act, to });
    };
    for (id, known) in &was {
        if !is.contains_key(id) {
            push(id, Act::Removed, String::new());
            continue;
        }
        let may = |known: &Known| known.usable && !known.switched_off;
        let was_faulty = known.device.is_none() || !known.usable && !known.switched_off;
        match (may(known), may(is[id]), &is[id].device) {
            (true, false, _) if !is[id].switched_off => push(id, Act::Disabled, FAULT.to_owned()),
            (true, false, _) => push(id, Act::Disabled, String::new()),
            (false, true, Some(device)) if was_faulty => push(id, Act::Enabled, described(device)),
            (false, true, _) => push(id, Act::Enabled, String::new()),
            _ => {}
        }
        let (Some(old), Some(new)) = (&known.device, &is[id].device) else { continue };
        if old.role != new.role {
            push(id, Act::Role, new.role.to_string());
        }
        if old.parent != new.parent {
            push(id, Act::Parent, new.parent.as_ref().map_or_else(|| "-".to_owned(), Name::to_string));
        }
        keys(old, new).into_iter().for_each(|(act, key)| push(id, act, key));
    }
    // A new one with a fault is not added: it is enabled when the fault is mended.
    let is_new = |known: &Known| known.usable || known.switched_off;
    for (id, known) in is.iter().filter(|(id, known)| is_new(known) && !was.contains_key(*id)) {
        let Some(device) = &known.device else { continue };
        push(id, Act::Added, described(device));
    }
    changes.sort();
    changes
}

/// Its role, and the kinds of its keys.
fn described(device: &Device) -> String {
    let nothing = Device::new(device.id.clone(), device.role.clone());
    let keys: Vec<String> = keys(&nothing, device).into_iter().map(|(_, key)| key).collect();
    format!("{} {}", device.role, keys.join(" ")).trim_end().to_owned()
}

fn by_id(all: &[Known]) -> BTreeMap<&str, &Known> {
    all.iter().map(|known| (known.id.as_str(), known)).collect()
}

/// The keys that differ.
fn keys(old: &Device, new: &Device) -> Vec<(Act, String)> {
    fn act<T: PartialEq>(old: Option<&T>, new: Option<&T>) -> Option<Act> {
        match (old, new) {
            (None, Some(_)) => Some(Act::KeyAdded),
            (Some(_), None) => Some(Act::KeyRemoved),
            (Some(old), Some(new)) if old != new => Some(Act::KeyChanged),
            _ => None,
        }
    }
    let one = [
        (act(old.psk.as_ref(), new.psk.as_ref()), "psk"),
        (act(old.next_psk.as_ref(), new.next_psk.as_ref()), "next-psk"),
        (act(old.login.as_ref(), new.login.as_ref()), "password"),
        (act(old.certificate.as_ref(), new.certificate.as_ref()), "certificate"),
        (act(old.public_key.as_ref(), new.public_key.as_ref()), "public-key"),
    ];
    let mut found: Vec<(Act, String)> =
        one.into_iter().filter_map(|(act, key)| Some((act?, key.to_owned()))).collect();
    let ends = |device: &Device| -> BTreeMap<[u8; 32], _> {
        device.jwt_keys.iter().map(|key| (key.hash(), key.until)).collect()
    };
    let (was, is) = (ends(old), ends(new));
    let hashes: BTreeSet<&[u8; 32]> = was.keys().chain(is.keys()).collect();
    found.extend(hashes.into_iter().filter_map(|hash| {
        Some((act(was.get(hash), is.get(hash))?, format!("{TOKEN_KEY}{}", format_key_hash(hash))))
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeviceSource;
    use crate::gate::jwt::SignatureAlgorithm;
    use crate::gate::jwt::tests::Signer;
    use crate::gate::settings::Psk;

    fn known(device: Device) -> Known {
        let id = device.id.to_string();
        let device = Some(device.into());
        Known { id, device, source: DeviceSource::Registry, place: None, usable: true, switched_off: false }
    }

    fn device(id: &str) -> Device {
        Device::new(Name::parse(id).expect("a name"), Name::parse("sensor").expect("a name"))
    }

    fn psk(key: &[u8]) -> Option<Psk> {
        Some(Psk { identity: b"i".to_vec(), key: key.to_vec().into() })
    }

    fn said(before: &[Known], after: &[Known]) -> Vec<String> {
        let shown = |change: &IdentityChange| format!("{} {} {}", change.act, change.device, change.to);
        identity_changes(before, after).iter().map(|change| shown(change).trim_end().to_owned()).collect()
    }

    #[test]
    fn each_change_of_a_device_and_of_its_keys_is_named_and_no_key_is_shown() {
        let signer = Signer::new(SignatureAlgorithm::Es256);
        let hash = format_key_hash(&signer.key().hash());
        let before = [
            known(device("gone")),
            known(Device { psk: psk(b"secret-one"), ..device("rekeyed") }),
            known(device("same")),
            known(device("off")),
            Known { switched_off: true, ..known(device("on")) },
            known(device("moved")),
        ];
        let mut moved = Device { role: Name::parse("boss").expect("a name"), ..device("moved") };
        moved.parent = Some(Name::parse("hub").expect("a name"));
        let after = [
            known(Device { psk: psk(b"secret-two"), jwt_keys: vec![signer.key()], ..device("rekeyed") }),
            known(Device { psk: psk(b"secret-three"), ..device("new") }),
            known(device("same")),
            Known { switched_off: true, ..known(device("off")) },
            known(device("on")),
            known(moved),
        ];
        let changes = said(&before, &after);
        assert_eq!(
            changes,
            [
                "device-removed gone".to_owned(),
                "device-role moved boss".to_owned(),
                "device-parent moved hub".to_owned(),
                "device-added new sensor psk".to_owned(),
                "device-disabled off".to_owned(),
                "device-enabled on".to_owned(),
                format!("key-added rekeyed jwt:{hash}"),
                "key-changed rekeyed psk".to_owned(),
            ]
        );
        assert!(changes.iter().all(|change| !change.contains("secret")));
        assert!(said(&after, &after).is_empty());
        let tokens = identity_changes(&before, &after);
        let tokens: Vec<_> = tokens.iter().flat_map(IdentityChange::new_token_keys).collect();
        assert_eq!(tokens, [signer.key().hash()]);
    }

    #[test]
    fn a_device_that_a_fault_disables_is_named_and_again_with_its_keys_when_it_is_mended() {
        let broken = |id: &str| Known { device: None, usable: false, ..known(device(id)) };
        let keyed = |id: &str| known(Device { psk: psk(b"secret"), ..device(id) });
        let off = || Known { switched_off: true, usable: false, ..keyed("off") };
        // One that cannot be used although it was read: another device has its credential.
        let twin = || Known { usable: false, ..keyed("twin") };
        let good = [keyed("a"), off(), keyed("twin")];
        let bad = [broken("a"), broken("new"), broken("off"), twin()];
        let fault = |id: &str| format!("device-disabled {id} {FAULT}");
        assert_eq!(said(&good, &bad), [fault("a"), fault("twin")]);
        assert!(said(&bad, &bad).is_empty());
        let mended = [keyed("a"), keyed("new"), off(), keyed("twin")];
        let enabled = ["a", "new", "twin"].map(|id| format!("device-enabled {id} sensor psk"));
        assert_eq!(said(&bad, &mended), enabled);
    }
}
