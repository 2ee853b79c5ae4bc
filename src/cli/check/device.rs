//! The devices' side: what the gateway shows them, whom of them it believes, and who of them could
//! never connect.
//!
//! That the files of `[coap]` can be read and fit together is `config`'s finding; here is what time
//! does to them.

use std::collections::BTreeMap;
use std::path::Path;

use super::credential::{bundle, validity};
use crate::cli::output::{plural, span};
use crate::clock::WallClock;
use crate::config::registry::credentials::format_time;
use crate::config::{Finding, Loaded, Material, Settings};
use crate::credential::leaf::Usage;
use crate::gate::jwt::JwtKey;
use crate::gate::settings::SharedDevice;
use crate::hex::format_hex;
use crate::northbound::certificate::RevocationList;
use crate::proto::dtls::server::bundle::misplaced;

/// Bytes of an uncompressed SubjectPublicKeyInfo on P-256, the curve that devices must have (RFC
/// 7252 §9.1.3.3).
const P256_LENGTH: usize = 91;
/// Most devices named in one finding.
const NAMED_MAX: usize = 5;

/// Judges what was loaded.
pub fn judge(loaded: &Loaded, clock: &dyn WallClock) -> Vec<Finding> {
    let mut findings =
        certificates(&loaded.certificates, loaded.settings.certificate(Usage::Server).is_some(), clock);
    // Who is in the registry is not known then.
    findings.extend(mute(&loaded.settings).filter(|_| loaded.state.closed.is_none()));
    findings.extend(shared_token_key(&loaded.settings, clock));
    findings.extend(overlaps(&loaded.settings.gate.devices, clock));
    findings
}

fn certificates(material: &Material, renewed: bool, clock: &dyn WallClock) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(key) = &material.key {
        let shows = match material.chain.len() {
            0 => "a raw public key alone".to_owned(),
            length => format!("its key and {}", plural(length as u64, "certificate")),
        };
        findings.push(Finding::ok("coap", format!("the gateway shows devices {shows}")));
        if key.public_key().len() != P256_LENGTH {
            let message = "the gateway's key is not on P-256, the one curve that every CoAP device has";
            findings.push(Finding::warn("coap", message).key("coap.key-file").advice("use a key on P-256"));
        }
        let file = material.chain_file.as_deref().unwrap_or(Path::new("coap.certificate-file"));
        // What the gateway renews by itself is judged by its plan.
        if !renewed {
            findings.extend(validity(file, "coap.certificate-file", &material.chain, clock));
        }
        if let Some(at) = misplaced(&material.chain) {
            let message = format!("certificate {} in the chain was not issued by the one after it", at + 1);
            let advice = "put the gateway's own first, then the one that issued it, and so on";
            findings.push(Finding::warn("coap", message).key("coap.certificate-file").advice(advice));
        }
    }
    let authorities = &material.authorities;
    if !authorities.anchors.is_empty() {
        let (anchors, others) = (authorities.anchors.len() as u64, authorities.intermediates.len() as u64);
        let message = format!(
            "devices' certificates lead to {}, over {}",
            plural(anchors, "CA"),
            plural(others, "intermediate")
        );
        findings.push(Finding::ok("coap", message).key("coap.client-ca-file"));
        let all = [&authorities.anchors[..], &authorities.intermediates[..]].concat();
        let file = material.authorities_file.as_deref().unwrap_or(Path::new("coap.client-ca-file"));
        findings.extend(bundle(file, "coap.client-ca-file", &all, clock));
    }
    for (key, lists) in
        [("coap.crl-file", &material.revocation_lists), ("coap.crl-url", &material.fetched_lists)]
    {
        findings.extend(lists.iter().filter_map(|list| revocations(list, clock, "coap", key)));
    }
    findings
}

/// A list out of date is used all the same: it is better than none, but not what its CA says today.
///
/// `table`: whose key names where it comes from.
pub(super) fn revocations(
    list: &[u8],
    clock: &dyn WallClock,
    table: &'static str,
    key: &str,
) -> Option<Finding> {
    let list = RevocationList::parse(list)?;
    // A list is used whatever its date, so a clock that is not trusted is good enough for a
    // warning.
    let now = clock.wall().unwrap_or_else(|| clock.raw().max(clock.floor()));
    let issuer = list.issuer.unwrap_or_else(|| "a CA".to_owned());
    let finding = match list.next_update {
        Some(next) if next < now => {
            let late = span(now.as_secs().saturating_sub(next.as_secs()));
            let message =
                format!("the next update of the revocation list of {issuer} was due {late} ago ({next})");
            Finding::warn(table, message).advice(
                "install a new one, then systemctl reload tombolo; crl-expired says what it is good for",
            )
        }
        Some(next) => {
            let age = span(now.as_secs().saturating_sub(list.this_update.as_secs()));
            Finding::ok(
                table,
                format!("the revocation list of {issuer} is {age} old; its next update is due {next}"),
            )
        }
        None => {
            Finding::ok(table, format!("the revocation list of {issuer} was issued {}", list.this_update))
        }
    };
    Some(finding.key(key))
}

/// The first of these, and how many there are more.
fn some_of<S: std::borrow::Borrow<str>>(names: &[S]) -> String {
    let (shown, rest) = names.split_at(names.len().min(NAMED_MAX));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{more}", shown.join(", "))
}

/// Devices that nothing could ever identify.
fn mute(settings: &Settings) -> Option<Finding> {
    let insecure = settings.coap.insecure.as_ref().map(|(_, device)| device);
    let names: Vec<&str> = settings
        .gate
        .devices
        .iter()
        // For a child its parent speaks.
        .filter(|device| device.parent.is_none())
        .filter(|device| device.psk.is_none() && device.certificate.is_none())
        .filter(|device| device.public_key.is_none() && device.login.is_none())
        .filter(|device| device.jwt_keys.is_empty())
        .filter(|device| {
            Some(&device.id) != insecure
                && settings.serial.iter().all(|port| port.table_of(device.id.as_str()).is_none())
        })
        .map(|device| device.id.as_str())
        .collect();
    if names.is_empty() {
        return None;
    }
    let message = format!("nothing says how these prove who they are: {}", some_of(&names));
    let advice = "set psk-file, one of certificate-uri, -dns, -cn, public-key or password-file, or, for tokens, add a device of \
                  the registry with a key (`tombolo device add ID --role ROLE --jwt-key FILE`); until then they cannot connect";
    Some(Finding::warn("devices", message).advice(advice))
}

/// Devices that have a key for tokens in common: one can show a token that names the other. Keys
/// that have expired are taken of nobody; while the clock is not trusted all count.
fn shared_token_key(settings: &Settings, clock: &dyn WallClock) -> Option<Finding> {
    let now = clock.wall();
    let is_over = |key: &JwtKey| key.until.zip(now).is_some_and(|(until, now)| until <= now);
    let mut by_key: BTreeMap<[u8; 32], Vec<&str>> = BTreeMap::new();
    for device in &settings.gate.devices {
        for key in device.jwt_keys.iter().filter(|key| !is_over(key)) {
            by_key.entry(key.hash()).or_default().push(device.id.as_str());
        }
    }
    by_key.retain(|_, ids| ids.len() > 1);
    let (key, ids) = by_key.first_key_value()?;
    let others = match by_key.len() - 1 {
        0 => String::new(),
        count => format!("; so have the devices of {}", plural(count as u64, "other key")),
    };
    let message = format!(
        "these have the same key for tokens, sha256:{}, so each can connect as any of them: {}{others}",
        format_hex(key),
        some_of(ids)
    );
    let advice = "give each a key of its own: `tombolo device key add ID FILE`, then `tombolo device key remove ID KEY`";
    Some(Finding::warn("devices", message).advice(advice))
}

/// Devices whose key before is taken beyond the date that was printed, because the clock that says
/// that it is over is not trusted.
fn overlaps(devices: &[SharedDevice], clock: &dyn WallClock) -> Option<Finding> {
    let now = clock.raw();
    if clock.wall().is_some() {
        // The gateway ends it within a minute, or says why it cannot.
        return None;
    }
    let two = devices.iter().filter_map(|device| Some((device, device.next_psk.as_ref()?.until)));
    let over = two.filter(|(_, until)| *until <= now);
    let named = over.map(|(device, until)| format!("{} ({})", device.id, format_time(until)));
    let named: Vec<String> = named.collect();
    if named.is_empty() {
        return None;
    }
    let message = format!(
        "both keys of these are still taken, though the time for it is over by this machine's clock, which is not trusted: {}",
        some_of(&named)
    );
    let advice = "`tombolo clock` says what is missing for it to be trusted; `tombolo device rekey ID --psk` without --overlap \
                  leaves one new key at once";
    Some(Finding::warn("devices", message).advice(advice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
    use crate::clock::fixed::At;
    use crate::config::Level;
    use crate::gate::NextPsk;
    use crate::gate::settings::{Device, Psk};
    use crate::message::Name;

    #[test]
    fn a_list_that_was_to_be_renewed_is_named() {
        let (list, _) = crate::northbound::revocation::tests::list();
        let judged = |seconds, trusted| revocations(&list, &At(seconds, trusted), "coap", "k").unwrap();
        for trusted in [true, false] {
            assert_eq!(judged(1_767_225_599, trusted).level, Level::Ok);
            let late = judged(1_767_225_720, trusted);
            assert_eq!(late.level, Level::Warn);
            assert!(late.message.contains("was due 2 min ago"), "{late}");
        }
        assert_eq!(revocations(b"x", &At(0, true), "coap", "k"), None);
    }

    #[test]
    fn keys_that_are_both_taken_beyond_their_date_are_named_while_the_clock_is_not_trusted() {
        let mut device = Device::new(Name::parse("a").unwrap(), Name::parse("sensor").unwrap());
        let psk = Psk { identity: b"a.2".to_vec(), key: b"0123456789abcdef".to_vec().into() };
        let until = UnixTime::from_secs(1_767_225_600);
        device.next_psk = Some(Box::new(NextPsk { psk, until }));
        let devices = [SharedDevice::from(device)];
        assert_eq!(overlaps(&devices, &At(1_767_225_599, false)), None);
        assert_eq!(overlaps(&devices, &At(1_767_225_600, true)), None);
        let said = overlaps(&devices, &At(1_767_225_600, false)).unwrap();
        assert!(said.message.ends_with("not trusted: a (2026-01-01T00:00:00Z)"), "{said}");
    }
}
