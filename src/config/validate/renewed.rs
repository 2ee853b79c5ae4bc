//! `[certificate.*]`: certificates that the gateway renews by itself, and who uses them.

use std::path::PathBuf;
use std::time::Duration;

use super::Context;
use crate::config::model;
use crate::config::scalar::parse_duration;
use crate::credential::decision::RenewAt;
use crate::credential::leaf::Usage;
use crate::credential::request::Names;
use crate::credential::settings::{FOLDER, Settings};
use crate::message::Name;
use crate::proto::dtls::server::DistinguishedName;

/// `renew-at` in percent.
const SHARES: std::ops::RangeInclusive<u8> = 10..=90;
/// `renew-before`
const LEAST_BEFORE: Duration = Duration::from_secs(60);

/// The valid certificates that somebody uses, in name order.
pub(super) fn certificates(
    cx: &mut Context<'_>,
    file: &model::File,
    gateway: &Name,
    state_dir: &std::path::Path,
) -> Vec<Settings> {
    let upstream = file.upstream.as_ref().and_then(|table| table.certificate.as_deref());
    let coap = file.coap.certificate.as_deref();
    for (table, name) in [("upstream", upstream), ("coap", coap)] {
        let Some(name) = name.filter(|name| !file.certificate.contains_key(*name)) else { continue };
        let message = format!("there is no [certificate.{name}]");
        cx.fatal(&[table, "certificate"], message, "add that table, or correct the name");
    }
    if upstream.is_some() && upstream == coap {
        let message = "one certificate cannot be for both [upstream] and [coap]";
        cx.fatal(&["coap", "certificate"], message, "give each a [certificate.NAME] of its own");
    }
    let mut certificates = Vec::new();
    for (name, table) in &file.certificate {
        let usage = match Some(name.as_str()) {
            of if of == upstream => Usage::Client,
            of if of == coap => Usage::Server,
            _ => {
                let message = "without effect: neither [upstream] nor [coap] uses this certificate";
                let advice = format!("set certificate = \"{name}\" there, or take the table out");
                cx.warn(&format!("certificate {name}"), &["certificate", name], message, &advice);
                continue;
            }
        };
        certificates.extend(certificate(cx, name, table, usage, gateway, state_dir));
    }
    certificates
}

fn certificate(
    cx: &mut Context<'_>,
    name: &str,
    table: &model::RenewedCertificate,
    usage: Usage,
    gateway: &Name,
    state_dir: &std::path::Path,
) -> Option<Settings> {
    let key = |key: &'static str| ["certificate", name, key];
    let subject = table.subject.clone().unwrap_or_else(|| format!("CN={gateway}"));
    let subject = match DistinguishedName::parse(&subject) {
        Ok(subject) => subject.to_der(),
        Err(error) => {
            cx.fatal(&key("subject"), error.to_string(), "write it like \"CN=gateway-7,O=Example\"");
            return None;
        }
    };
    for (list, of) in [(&table.dns, "dns"), (&table.uri, "uri")] {
        if list.iter().flatten().any(|name| !name.is_ascii()) {
            cx.fatal(&key(of), "a name in a certificate is ASCII", "write it in its ASCII form (xn--…)");
            return None;
        }
    }
    let names = Names::new(
        subject,
        table.dns.as_deref().unwrap_or_default(),
        table.uri.as_deref().unwrap_or_default(),
    );
    let renew_at = renew_at(cx, name, table)?;
    let bootstrap = bootstrap(cx, name, table)?;
    Some(Settings {
        name: name.to_owned(),
        usage,
        folder: state_dir.join(FOLDER).join(name),
        names,
        // A device may have pinned the gateway's key.
        reuse_key: table.reuse_key.unwrap_or(usage == Usage::Server),
        renew_at,
        seed: format!("{gateway}/{name}"),
        bootstrap,
        // The keys of the sources decide about these two.
        by_hand: true,
        may_enroll: false,
    })
}

fn renew_at(cx: &mut Context<'_>, name: &str, table: &model::RenewedCertificate) -> Option<RenewAt> {
    let key = |key: &'static str| ["certificate", name, key];
    match (&table.renew_at, &table.renew_before) {
        (None, None) => Some(RenewAt::default()),
        (Some(_), Some(_)) => {
            let message = "renew-at and renew-before are both set";
            cx.fatal(&key("renew-before"), message, "take one of the two out");
            None
        }
        (Some(text), None) => {
            let share = text.trim().strip_suffix('%').and_then(|digits| digits.trim().parse().ok());
            match share.filter(|share| SHARES.contains(share)) {
                Some(share) => Some(RenewAt::Share(share)),
                None => {
                    let message = format!("{text:?} is not a share of the life");
                    cx.fatal(&key("renew-at"), message, "use \"10%\" to \"90%\", or renew-before = \"30d\"");
                    None
                }
            }
        }
        (None, Some(text)) => match parse_duration(text).filter(|before| *before >= LEAST_BEFORE) {
            Some(before) => Some(RenewAt::Before(before)),
            None => {
                let message = format!("{text:?} is not a duration of at least one minute");
                cx.fatal(&key("renew-before"), message, "use a value like \"30d\"");
                None
            }
        },
    }
}

/// `None` after a finding.
#[allow(clippy::option_option, reason = "there may be none, and there may be a fault")]
fn bootstrap(
    cx: &mut Context<'_>,
    name: &str,
    table: &model::RenewedCertificate,
) -> Option<Option<(PathBuf, PathBuf)>> {
    let key = |key: &'static str| ["certificate", name, key];
    match (table.bootstrap_certificate_file.as_deref(), table.bootstrap_key_file.as_deref()) {
        (None, None) => Some(None),
        (Some(certificate), Some(secret)) => {
            let of = key("bootstrap-certificate-file");
            let certificate = cx.path(&of, certificate);
            let of = key("bootstrap-key-file");
            let secret = cx.secret(&of, secret)?;
            Some(Some((certificate, secret)))
        }
        (Some(_), None) => {
            let message = "the bootstrap certificate has no key";
            cx.fatal(&key("bootstrap-certificate-file"), message, "set bootstrap-key-file too");
            None
        }
        (None, Some(_)) => {
            let message = "the bootstrap key has no certificate";
            cx.fatal(&key("bootstrap-key-file"), message, "set bootstrap-certificate-file too");
            None
        }
    }
}
