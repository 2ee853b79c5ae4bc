//! The changes of a reload, and whether a running daemon can apply them.

use std::collections::BTreeMap;

use super::{Finding, Loaded};
use crate::credential::leaf::Usage;
use crate::gate::SharedDevice;
use crate::message::Name;

/// The changes that a running daemon must apply.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The previous gateway id, if it changed: the retained statuses under it must be cleared.
    pub renamed_from: Option<Name>,
    /// Devices that were removed or whose key or role changed, in id order.
    pub devices_gone: Vec<Name>,
    /// New devices, in id order.
    pub devices_new: Vec<Name>,
    /// The uplink must reconnect.
    pub upstream: bool,
    /// The files of the upstream are elsewhere, and nothing else of it changed: they are tried
    /// beside the connection.
    pub upstream_files: bool,
    /// The device of plain CoAP changed.
    pub insecure_device: bool,
    /// The certificates, keys or trust anchors for devices with certificates or raw public keys
    /// changed.
    pub certificates: bool,
    /// The handshake policy changed.
    pub dtls: bool,
    /// `[mqtt]` changed, or the files it names.
    pub mqtt: bool,
    /// Serial ports were added, removed or changed.
    pub serial: bool,
    /// Limits of the journal changed.
    pub journal: bool,
    /// `[clock]` changed.
    pub clock: bool,
    /// The log level changed.
    pub log: bool,
    /// The addresses of the metrics changed.
    pub metrics: bool,
    /// `[update]` changed, or what it derives from the journal's bounds.
    pub update: bool,
}

/// Compares the running configuration with a new one.
///
/// # Errors
/// One finding for each changed key that needs a restart; nothing of the new configuration must
/// then be used.
pub fn compare(old: &Loaded, new: &Loaded) -> Result<Changes, Vec<Finding>> {
    let fixed = fixed_keys(old, new);
    if !fixed.is_empty() {
        return Err(fixed
            .into_iter()
            .map(|(table, key)| {
                let place = new.place(&[table, key]).or_else(|| old.place(&[table, key]));
                let (message, advice) = match key {
                    "max-bytes" => (
                        "changed, and with it the size of the journal's files, which a reload cannot apply",
                        format!(
                            "systemctl restart tombolo takes it up; or keep that size with segment-bytes = {}, then reload",
                            old.settings.journal.segment_bytes
                        ),
                    ),
                    "certificate" => (
                        "changed, or its [certificate] table, which a reload cannot apply",
                        "systemctl restart tombolo takes it up; or change it back; nothing was reloaded".to_owned(),
                    ),
                    _ => (
                        "changed, and a reload cannot apply it",
                        "systemctl restart tombolo takes it up; or change it back; nothing was reloaded".to_owned(),
                    ),
                };
                Finding::fail(table, message).at(place).key(format!("{table}.{key}")).advice(advice)
            })
            .collect());
    }
    let (was, is) = (&old.settings, &new.settings);
    let has_other_files = was.upstream != is.upstream
        && was
            .upstream
            .as_ref()
            .zip(is.upstream.as_ref())
            .is_some_and(|(was, is)| was.is_same_but_for_files(is));
    let (devices_gone, devices_new) = devices(&was.gate.devices, &is.gate.devices);
    Ok(Changes {
        renamed_from: (was.gateway.id != is.gateway.id).then(|| was.gateway.id.clone()),
        devices_gone,
        devices_new,
        upstream: was.upstream != is.upstream && !has_other_files,
        upstream_files: has_other_files,
        insecure_device: was.coap.insecure.as_ref().map(|(_, device)| device)
            != is.coap.insecure.as_ref().map(|(_, device)| device),
        certificates: was.coap.certificates != is.coap.certificates,
        dtls: was.coap.policy != is.coap.policy,
        mqtt: was.mqtt != is.mqtt,
        serial: was.serial != is.serial,
        journal: was.journal != is.journal,
        clock: was.clock != is.clock,
        log: was.log != is.log,
        metrics: was.metrics != is.metrics,
        update: was.update != is.update,
    })
}

/// The changed keys that only a restart can take up; by their values, so that `"4MiB"` is 4194304.
pub(super) fn fixed_keys(old: &Loaded, new: &Loaded) -> Vec<(&'static str, &'static str)> {
    let (was, is) = (&old.settings, &new.settings);
    let insecure =
        |coap: &crate::southbound::coap::Settings| coap.insecure.as_ref().map(|(list, _)| list.clone());
    [
        ("upstream", "certificate", was.certificate(Usage::Client) != is.certificate(Usage::Client)),
        ("coap", "listen", was.coap.listen != is.coap.listen),
        ("coap", "insecure-listen", insecure(&was.coap) != insecure(&is.coap)),
        ("coap", "max-sessions", was.coap.max_sessions != is.coap.max_sessions),
        ("coap", "max-half-open", was.coap.max_half_open != is.coap.max_half_open),
        ("coap", "idle-timeout", was.coap.idle_timeout != is.coap.idle_timeout),
        ("coap", "persist-sessions", was.coap.persist_sessions != is.coap.persist_sessions),
        ("coap", "engine", was.coap.engine != is.coap.engine),
        ("coap", "certificate", was.certificate(Usage::Server) != is.certificate(Usage::Server)),
        ("journal", size_key(old, new), was.journal.segment_bytes != is.journal.segment_bytes),
        ("log", "target", was.log.target != is.log.target),
        ("paths", "state-dir", was.paths.state_dir != is.paths.state_dir),
        ("paths", "runtime-dir", was.paths.runtime_dir != is.paths.runtime_dir),
    ]
    .into_iter()
    .filter_map(|(table, key, changed)| changed.then_some((table, key)))
    .collect()
}

/// The key that decides about the size of segments: where it is not set, it follows from the bound.
fn size_key(old: &Loaded, new: &Loaded) -> &'static str {
    let is_set = |loaded: &Loaded| loaded.place(&["journal", "segment-bytes"]).is_some();
    if is_set(old) || is_set(new) { "segment-bytes" } else { "max-bytes" }
}

/// The devices that are gone or have another key or role, and those that are new.
fn devices(was: &[SharedDevice], is: &[SharedDevice]) -> (Vec<Name>, Vec<Name>) {
    fn by_id(list: &[SharedDevice]) -> BTreeMap<&Name, &SharedDevice> {
        list.iter().map(|device| (&device.id, device)).collect()
    }
    let (old, new) = (by_id(was), by_id(is));
    let same = |a: &SharedDevice, b: &SharedDevice| a.is_same(b) || a.same_proof(b) && a.role == b.role;
    let gone = old.iter().filter(|(id, device)| !new.get(*id).is_some_and(|now| same(device, now)));
    let fresh = new.keys().filter(|id| !old.contains_key(*id)).map(|id| (*id).clone());
    (gone.map(|(id, _)| (*id).clone()).collect(), fresh.collect())
}

#[cfg(test)]
mod tests {
    use super::super::schema::{self, Kind};

    #[test]
    fn the_keys_compared_are_those_the_schema_calls_fixed() {
        let listed = [
            "upstream.certificate",
            "coap.listen",
            "coap.insecure-listen",
            "coap.max-sessions",
            "coap.max-half-open",
            "coap.idle-timeout",
            "coap.persist-sessions",
            "coap.engine",
            "coap.certificate",
            "journal.segment-bytes",
            "log.target",
            "paths.state-dir",
            "paths.runtime-dir",
        ];
        let mut fixed = Vec::new();
        for table in schema::ROOT {
            if let Kind::Table(keys) = table.kind {
                let names = keys
                    .iter()
                    .filter(|key| !key.reloadable)
                    .map(|key| format!("{}.{}", table.name, key.name));
                fixed.extend(names);
            }
        }
        assert_eq!(fixed, listed);
    }
}
