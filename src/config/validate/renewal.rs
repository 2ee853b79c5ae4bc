//! `[certificate.*]`: certificates that the gateway renews by itself.

use std::path::PathBuf;

use super::{Context, built_with};
use crate::config::model;
use crate::config::settings::{Certificate, Paths};
use crate::config::source_keys::SourceKeys;
use crate::credential::decision::RenewAt;
use crate::credential::leaf::Usage;
use crate::credential::request::Names;
use crate::credential::settings::{FOLDER, Settings};
use crate::credential::source_settings::SourceSettings;
use crate::message::Name;
use crate::northbound::settings::TokenSettings;
use crate::proto::dtls::server::DistinguishedName;

/// The folder of what is kept about tokens in the state directory.
const TOKENS: &str = "tokens";
/// `renew-at` in percent.
const SHARES: std::ops::RangeInclusive<u8> = 10..=90;

/// Names that `cert status` has for files which another program renews.
pub const RESERVED: [&str; 2] = ["upstream-files", "coap-files"];

/// The certificates that `[upstream]` and `[coap]` use, as far as they are valid.
pub(super) fn certificates(
    cx: &mut Context<'_>,
    file: &model::File,
    gateway: &Name,
    paths: &Paths,
) -> Vec<Certificate> {
    let upstream = file.upstream.as_ref().and_then(|table| table.certificate.as_deref());
    let coap = file.coap.certificate.as_deref();
    for (table, used) in [("upstream", upstream), ("coap", coap)] {
        if let Some(name) = used.filter(|name| !file.certificate.contains_key(*name)) {
            let message = format!("there is no [certificate.{name}]");
            cx.fatal(&[table, "certificate"], message, "add that table, or correct the name");
        }
    }
    if let Some(name) = coap.filter(|name| upstream == Some(*name)) {
        let message = format!("[upstream] uses {name:?} too, and one certificate is for one of the two");
        cx.fatal(&["coap", "certificate"], message, "give [coap] a [certificate] table of its own");
        return Vec::new();
    }
    let mut certificates = Vec::new();
    for (name, table) in &file.certificate {
        if RESERVED.contains(&name.as_str()) {
            let message = "this name stands for the files of [upstream] or [coap] in `tombolo cert status`";
            cx.fatal(&["certificate", name.as_str()], message, "use another name");
        } else if upstream == Some(name.as_str()) {
            certificates.extend(certificate(cx, name, table, Usage::Client, gateway, paths));
        } else if coap == Some(name.as_str()) {
            certificates.extend(certificate(cx, name, table, Usage::Server, gateway, paths));
        } else {
            let message = "without effect: neither [upstream] nor [coap] uses this certificate";
            let advice =
                format!("set certificate = \"{name}\" in [upstream] or [coap], or take the table out");
            cx.warn(&format!("certificate {name}"), &["certificate", name.as_str()], message, &advice);
        }
    }
    certificates
}

fn certificate(
    cx: &mut Context<'_>,
    name: &str,
    table: &model::RenewedCertificate,
    usage: Usage,
    gateway: &Name,
    paths: &Paths,
) -> Option<Certificate> {
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
    if let Some(wrong) = table.dns.iter().flatten().find(|name| !is_dns_name(name)) {
        let message = format!("{wrong:?} is not a DNS name");
        cx.fatal(&key("dns"), message, "use names like \"gateway-7.example.com\", one a list element");
        return None;
    }
    let is_uri = |uri: &str| uri.contains(':') && uri.bytes().all(|byte| byte.is_ascii_graphic());
    if let Some(wrong) = table.uri.iter().flatten().find(|uri| !is_uri(uri)) {
        let message = format!("{wrong:?} is not a URI");
        cx.fatal(&key("uri"), message, "use \"SCHEME:REST\" without blanks, like \"urn:uuid:…\"");
        return None;
    }
    let (dns, uri) = (table.dns.as_deref().unwrap_or_default(), table.uri.as_deref().unwrap_or_default());
    let renew_at = renew_at(cx, name, table)?;
    let bootstrap = bootstrap(cx, name, table)?;
    let source = source(cx, name, table)?;
    let may_enroll = match &source {
        SourceSettings::Est(est) => est.username.is_some(),
        SourceSettings::Exec(_) => true,
        SourceSettings::Manual => false,
    };
    let by_hand = source == SourceSettings::Manual;
    if !may_enroll && !by_hand && bootstrap.is_none() {
        let message = "nothing proves to the EST server who asks for the first certificate";
        let advice = "set bootstrap-certificate-file and bootstrap-key-file, or username and password-file";
        cx.warn(&format!("certificate {name}"), &["certificate", name], message, advice);
    }
    let settings = Settings {
        name: name.to_owned(),
        usage,
        folder: paths.state_dir.join(FOLDER).join(name),
        names: Names::new(subject, dns, uri),
        // Devices may pin the key.
        reuse_key: table.reuse_key.unwrap_or(usage == Usage::Server),
        renew_at,
        seed: format!("{gateway}/{name}"),
        bootstrap,
        by_hand,
        may_enroll,
        token: token(cx, name, table, paths)?,
    };
    let trusts_est = table.trust == Some(model::EstTrust::Est);
    if trusts_est && !matches!(source, SourceSettings::Est(_)) {
        let message = "only an EST server offers CAs";
        cx.fatal(&key("trust"), message, "take it out, or use source = \"est\"");
        return None;
    }
    Some(Certificate { settings, source, trusts_est })
}

/// Labels of letters, digits, `-` and `_`; the first may be `*` (RFC 5280 §4.2.1.6, RFC 6125
/// §6.4.3).
fn is_dns_name(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && rest.split('.').all(is_label)
}

/// Where keys are made. `None` after a fault.
#[allow(clippy::option_option, reason = "there may be none, and there may be a fault")]
fn token(
    cx: &mut Context<'_>,
    name: &str,
    table: &model::RenewedCertificate,
    paths: &Paths,
) -> Option<Option<TokenSettings>> {
    let key = |key: &'static str| ["certificate", name, key];
    let set = [
        ("pkcs11-module", table.pkcs11_module.is_some()),
        ("pkcs11-token", table.pkcs11_token.is_some()),
        ("pin-file", table.pin_file.is_some()),
    ];
    if table.key != Some(model::KeyPlace::Pkcs11) {
        for (of, _) in set.iter().filter(|(_, set)| *set) {
            let message = "without effect: keys are in files";
            cx.warn(
                &format!("certificate {name}"),
                &key(of),
                message,
                "set key = \"pkcs11\", or take it out",
            );
        }
        return Some(None);
    }
    if !cfg!(feature = "pkcs11") {
        let message = "this program was built without PKCS #11";
        let advice = format!("use key = \"file\", or {}", built_with("pkcs11"));
        cx.fatal(&key("key"), message, &advice);
        return None;
    }
    let (Some(module), Some(label), Some(pin)) = (&table.pkcs11_module, &table.pkcs11_token, &table.pin_file)
    else {
        let missing = set.iter().find(|(_, set)| !set).map_or("pin-file", |(of, _)| of);
        cx.fatal(&key(missing), "a key in a token needs it", "set pkcs11-module, pkcs11-token and pin-file");
        return None;
    };
    let subject = format!("certificate {name}");
    let module = cx.path(&key("pkcs11-module"), module);
    cx.look_at(&subject, &key("pkcs11-module"), &module, false);
    let pin_file = cx.secret(&key("pin-file"), pin)?;
    cx.look_at(&subject, &key("pin-file"), &pin_file, true);
    let mark_folder = paths.state_dir.join(TOKENS).join(name);
    Some(Some(TokenSettings { module, label: label.clone(), pin_file, mark_folder }))
}

fn source(cx: &mut Context<'_>, name: &str, table: &model::RenewedCertificate) -> Option<SourceSettings> {
    let key = |key: &'static str| ["certificate", name, key];
    let password_file = match table.password_file.as_deref() {
        Some(text) => Some(cx.secret(&key("password-file"), text)?),
        None => None,
    };
    let keys = SourceKeys {
        source: table.source.clone(),
        est_url: table.est_url.clone(),
        est_ca_file: table.est_ca_file.as_deref().map(|text| cx.path(&key("est-ca-file"), text)),
        est_ca_sha256: table.est_ca_sha256.clone(),
        username: table.username.clone(),
        password_file,
        command: table.command.clone(),
        timeout: table.timeout.map(|span| span.0),
    };
    match keys.settings() {
        Ok(source) => Some(source),
        Err(faults) => {
            for fault in faults {
                cx.fatal(&key(fault.key), fault.message, fault.advice);
            }
            None
        }
    }
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
        (None, Some(span)) => Some(RenewAt::Before(span.0)),
        (Some(text), None) => {
            let share = text.trim().strip_suffix('%').and_then(|digits| digits.trim().parse().ok());
            let share = share.filter(|share| SHARES.contains(share));
            if share.is_none() {
                let message = format!("{text:?} is not a share of the life");
                cx.fatal(&key("renew-at"), message, "use \"10%\" to \"90%\", or renew-before = \"30d\"");
            }
            share.map(RenewAt::Share)
        }
    }
}

/// `None` after a fault.
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
            let certificate = cx.path(&key("bootstrap-certificate-file"), certificate);
            let secret = cx.secret(&key("bootstrap-key-file"), secret)?;
            let subject = format!("certificate {name}");
            cx.look_at(&subject, &key("bootstrap-certificate-file"), &certificate, false);
            cx.look_at(&subject, &key("bootstrap-key-file"), &secret, true);
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
