//! The upstream's credentials: whether certificate and key belong together, and for how long they
//! are good.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::clock::{UnixTime, WallClock};
use crate::config::{Finding, Level};
use crate::credential::decision::Validity;
use crate::credential::expiry;
use crate::durable::io::regular::{self, Fault};
use crate::northbound;
use crate::northbound::certificate::Certificate;
use crate::northbound::io::files;
use crate::northbound::settings::TlsSettings;
use crate::northbound::token_key::TokenKey;

/// A certificate that ends sooner is named, however short its life is.
const SOON_S: u64 = 14 * 86_400;

fn is_near(not_before: UnixTime, not_after: UnixTime, now: UnixTime) -> bool {
    expiry::step(Validity { not_before, not_after }, now).is_some()
}

/// Judges CA, certificate and key, where there are any. That they can be read is `config`'s
/// finding.
pub fn identity(tls: &TlsSettings, clock: &dyn WallClock) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(file) = tls.ca_file.as_ref().filter(|_| tls.pins.is_empty())
        && file.exists()
        && !is_closed(file)
    {
        match files::pem(file) {
            Ok(read) => {
                findings.push(authorities(file, &read.bytes));
                findings.extend(anchors(file, "upstream.ca-file", &pem(&read.bytes), clock));
            }
            Err(text) => findings.push(broken(text, "upstream.ca-file")),
        }
    }
    if let Some((certificate, key)) = &tls.identity
        && certificate.exists()
        && !is_closed(certificate)
    {
        match files::pem(certificate) {
            Ok(chain) => {
                let password = tls.key_password.as_deref();
                if key.exists() && !is_closed(key) && !password.is_some_and(is_closed) {
                    let in_token = files::pem(key).ok().and_then(|read| TokenKey::from_pem(&read.bytes));
                    findings.push(match files::key(key, tls.key_password.as_deref()) {
                        _ if in_token.is_some() => in_token_pair(certificate, &chain.bytes, in_token),
                        Ok(secret) => pair(certificate, &chain.bytes, key, &Zeroizing::new(secret.bytes)),
                        Err(text) => broken(text, "upstream.key-file"),
                    });
                }
                // What the gateway renews by itself is judged by its plan.
                if !tls.is_kept_here() {
                    findings.extend(validity(
                        certificate,
                        "upstream.certificate-file",
                        &pem(&chain.bytes),
                        clock,
                    ));
                }
            }
            Err(text) => findings.push(broken(text, "upstream.certificate-file")),
        }
    }
    findings
}

/// A file of `[upstream]` that this user may not read, though it is there.
pub fn closed(upstream: &northbound::Settings) -> Option<&Path> {
    let tls = upstream.tls.as_ref();
    let identity = tls.and_then(|tls| tls.identity.as_ref());
    let files = [
        tls.and_then(|tls| tls.ca_file.as_ref()),
        identity.map(|(certificate, _)| certificate),
        identity.map(|(_, key)| key),
        tls.and_then(|tls| tls.key_password.as_ref()),
        upstream.password_file.as_ref(),
    ];
    files.into_iter().flatten().map(PathBuf::as_path).find(|file| is_closed(file))
}

/// This user may not read it.
pub(super) fn is_closed(file: &Path) -> bool {
    // A pipe has no end, and is named where it is used.
    matches!(regular::open(file), Err(Fault::System(error)) if error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// A file that cannot be used, in the words of the connection.
fn broken(text: String, key: &str) -> Finding {
    Finding::fail("upstream", text).key(key)
}

/// As [`validity`], of a file of CAs: an expired one beside others that are good is no fault.
pub(super) fn bundle(
    file: &Path,
    key: &str,
    certificates: &[Vec<u8>],
    clock: &dyn WallClock,
) -> Vec<Finding> {
    let mut findings = validity(file, key, certificates, clock);
    let failing = findings.iter().filter(|finding| finding.level == Level::Fail).count();
    if failing < certificates.len() {
        for finding in findings.iter_mut().filter(|finding| finding.level == Level::Fail) {
            finding.level = Level::Warn;
            finding.advice = "take it out of the file, or renew it; the others are in use".to_owned();
        }
    }
    findings
}

/// As [`validity`], of a file of CAs whose own dates TLS does not judge: what they have issued is
/// accepted all the same, so nothing here is a failure.
pub(super) fn anchors(
    file: &Path,
    key: &str,
    certificates: &[Vec<u8>],
    clock: &dyn WallClock,
) -> Vec<Finding> {
    let mut findings = bundle(file, key, certificates, clock);
    for finding in findings.iter_mut().filter(|finding| finding.level == Level::Fail) {
        finding.level = Level::Warn;
        finding.advice = "what it has issued is accepted all the same, since the dates of a CA in this file are not judged; \
                          other programs may refuse it: have it renewed"
            .to_owned();
    }
    findings
}

/// What of a file has ended, ends soon or has not begun. Judged as TLS does: an untrusted clock
/// counts only from its floor, a time that has certainly passed.
pub(super) fn validity(
    file: &Path,
    key: &str,
    certificates: &[Vec<u8>],
    clock: &dyn WallClock,
) -> Vec<Finding> {
    let now = clock.wall().unwrap_or_else(|| clock.floor());
    let subject = key.split('.').next().unwrap_or(key);
    let mut findings = Vec::new();
    for certificate in certificates {
        let Some(read) = Certificate::parse(certificate) else { continue };
        let name = read.subject.unwrap_or_else(|| "a certificate".to_owned());
        let (shown, ends) = (file.display(), read.not_after);
        let finding = if ends < now {
            Finding::fail(subject, format!("{name} ({shown}) expired on {ends}")).advice("renew it")
        } else if ends.as_secs() < now.as_secs().saturating_add(SOON_S) || is_near(read.not_before, ends, now)
        {
            Finding::warn(subject, format!("{name} ({shown}) expires on {ends}")).advice("renew it in time")
        } else if clock.trusted() && read.not_before > now {
            Finding::fail(subject, format!("{name} ({shown}) is not valid before {}", read.not_before))
                .advice("see whether this clock or that of its issuer is right")
        } else {
            continue;
        };
        findings.push(finding.key(key));
    }
    findings
}

/// The certificates of a PEM file, in DER.
fn pem(bytes: &[u8]) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(bytes).filter_map(Result::ok).map(|der| der.to_vec()).collect()
}

fn authorities(file: &Path, bytes: &[u8]) -> Finding {
    let shown = file.display();
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match certificates {
        Ok(found) if !found.is_empty() => {
            let leaves = found.iter().filter(|der| is_leaf(der)).count();
            let plural = crate::cli::output::plural;
            if leaves == 0 {
                let message = format!("{shown} has {}", plural(found.len() as u64, "CA certificate"));
                return Finding::ok("upstream", message).key("upstream.ca-file");
            }
            let message = match found.len() - leaves {
                0 => format!("{shown} has {}, but no CA's", plural(leaves as u64, "certificate")),
                authorities => format!(
                    "{shown} has {}, and {} that {} no CA's",
                    plural(authorities as u64, "CA certificate"),
                    plural(leaves as u64, "certificate"),
                    if leaves == 1 { "is" } else { "are" }
                ),
            };
            let advice = "put the certificate of the CA that issued the broker's there, not the broker's own";
            Finding::warn("upstream", message).key("upstream.ca-file").advice(advice)
        }
        _ => {
            let has = |marker: &[u8]| bytes.windows(marker.len()).any(|part| part == marker);
            let (message, advice) = if has(b"PRIVATE KEY-----") && !has(b"BEGIN CERTIFICATE-----") {
                (
                    "holds a private key, not a certificate",
                    "name the CA's certificate; the key does not belong here",
                )
            } else if has(b"BEGIN CERTIFICATE-----") {
                ("has a certificate in PEM form that is damaged or cut off", "copy the file once more, whole")
            } else if bytes.first() == Some(&0x30) {
                (
                    "holds no certificate in PEM form, perhaps one in DER",
                    "`openssl x509 -inform der -in FILE` converts it",
                )
            } else {
                ("holds no certificate in PEM form", "it begins with -----BEGIN CERTIFICATE-----")
            };
            Finding::fail("upstream", format!("{shown} {message}")).key("upstream.ca-file").advice(advice)
        }
    }
}

/// Whether another has issued this certificate and it is no CA's, so that no chain leads to it.
fn is_leaf(der: &CertificateDer<'_>) -> bool {
    use crate::credential::leaf::Leaf;
    use crate::proto::dtls::server::outline::Outline;
    let is_alone = Outline::read(der).is_some_and(|read| read.version >= 3 && read.subject != read.issuer);
    is_alone && Leaf::parse(der).is_some_and(|leaf| !leaf.is_ca)
}

/// The chain, and the reference to its key in a token, which has the public half.
fn in_token_pair(certificate: &Path, chain: &[u8], key: Option<TokenKey>) -> Finding {
    let shown = certificate.display();
    let leaf = pem(chain).first().and_then(|der| crate::credential::leaf::Leaf::parse(der));
    let info = key.map(|key| key.info).unwrap_or_default();
    match leaf.is_some_and(|leaf| info.ends_with(&leaf.key) && !leaf.key.is_empty()) {
        true => Finding::ok("upstream", format!("{shown} and its key in the token belong together")),
        false => Finding::fail("upstream", format!("{shown} does not belong to the key in the token"))
            .key("upstream.certificate")
            .advice("`tombolo cert rollback NAME`, or `tombolo cert renew NAME`"),
    }
}

fn pair(certificate: &Path, chain: &[u8], key: &Path, secret: &[u8]) -> Finding {
    let (shown, shown_key) = (certificate.display(), key.display());
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let chain = chain.unwrap_or_default();
    if chain.is_empty() {
        return Finding::fail("upstream", format!("{shown} holds no certificate in PEM form"))
            .key("upstream.certificate-file")
            .advice("it begins with -----BEGIN CERTIFICATE-----");
    }
    if chain.first().and_then(|own| Certificate::parse(own)).is_some_and(|own| own.version < 3) {
        return Finding::fail(
            "upstream",
            format!("{shown} is a certificate of X.509 version 1, which TLS does not take"),
        )
        .key("upstream.certificate-file")
        .advice("have it issued as version 3, with its extensions");
    }
    let usable = PrivateKeyDer::from_pem_slice(secret).ok().and_then(|key| any_supported_type(&key).ok());
    let Some(signer) = usable else {
        return Finding::fail("upstream", format!("{shown_key} holds no private key that can be used"))
            .key("upstream.key-file")
            .advice("an unencrypted RSA, ECDSA or Ed25519 key in PEM form is needed");
    };
    let length = chain.len() as u64;
    match CertifiedKey::new(chain, Arc::clone(&signer)).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Finding::ok(
            "upstream",
            format!("{shown} ({}) and {shown_key} belong together", crate::cli::output::plural(length, "certificate")),
        ),
        Err(_) => Finding::fail("upstream", format!("{shown_key} is not the key of {shown}"))
            .key("upstream.key-file")
            .advice("the first certificate in the file must be this gateway's own, and the key the one it was made for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::fixed::At;

    #[test]
    fn what_ends_is_named_before_and_after_but_never_by_a_clock_that_is_not_trusted() {
        let mut params = rcgen::CertificateParams::new(["gw".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "gw-7");
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 1);
        let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        let levels = |seconds, trusted| {
            let findings =
                validity(Path::new("gw.pem"), "k", &super::pem(pem.as_bytes()), &At(seconds, trusted));
            findings.into_iter().map(|finding| (finding.level, finding.message)).collect::<Vec<_>>()
        };
        let end = 1_767_225_600;
        assert_eq!(levels(end - 31 * 86_400, true), []);
        assert_eq!(levels(end - 29 * 86_400, true)[0].0, Level::Warn);
        assert_eq!(levels(end - 86_400, true)[0].0, Level::Warn);
        let (level, message) = levels(end + 1, true).remove(0);
        assert_eq!(level, Level::Fail);
        assert!(message.contains("gw-7 (gw.pem) expired on 2026-01-01"), "{message}");
        assert_eq!(levels(1_700_000_000, true)[0].0, Level::Fail);
        assert_eq!(levels(0, false), []);
        assert_eq!(levels(2_100_000_000, false), []);
    }

    #[test]
    fn what_is_no_ca_certificate_is_called_what_it_is() {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::default();
        ca.distinguished_name.push(rcgen::DnType::CommonName, "The CA");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = ca.self_signed(&ca_key).unwrap().pem();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["broker".to_owned()]).unwrap();
        let issuer = rcgen::Issuer::new(ca, &ca_key);
        let own = params.signed_by(&key, &issuer).unwrap();
        let alone = params.self_signed(&key).unwrap().pem();
        let said = |bytes: &[u8]| {
            let finding = authorities(Path::new("ca.pem"), bytes);
            (finding.level, format!("{}; {}", finding.message, finding.advice))
        };
        assert_eq!(said(root.as_bytes()), (Level::Ok, "ca.pem has 1 CA certificate; ".to_owned()));
        // A broker's that nobody else has issued is its own CA.
        assert_eq!(said(alone.as_bytes()).0, Level::Ok);
        let (level, text) = said(own.pem().as_bytes());
        assert!(level == Level::Warn && text.contains("has 1 certificate, but no CA's; put"), "{text}");
        let (level, text) = said(format!("{root}{}", own.pem()).as_bytes());
        assert!(
            level == Level::Warn && text.contains("1 CA certificate, and 1 certificate that is no"),
            "{text}"
        );
        for (bytes, words) in [
            (key.serialize_pem().into_bytes(), "holds a private key, not a certificate"),
            (root.as_bytes()[..root.len() / 2].to_vec(), "damaged or cut off"),
            (own.der().to_vec(), "`openssl x509 -inform der"),
            (b"hello".to_vec(), "begins with -----BEGIN CERTIFICATE-----"),
        ] {
            let (level, text) = said(&bytes);
            assert!(level == Level::Fail && text.contains(words), "{text}");
            assert_eq!(text.contains("-inform der"), words.contains("-inform der"), "{text}");
        }
    }

    #[test]
    fn an_expired_ca_beside_a_good_one_is_a_warning_and_alone_a_failure() {
        let made = |year| {
            let mut params = rcgen::CertificateParams::default();
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
        };
        let levels = |certificates: &[Vec<u8>]| {
            let found = bundle(Path::new("ca.pem"), "k", certificates, &At(1_767_225_600, true));
            found.into_iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(&[made(2024), made(2090)]), [Level::Warn]);
        assert_eq!(levels(&[made(2024), made(2023)]), [Level::Fail, Level::Fail]);
        assert_eq!(levels(&[made(2090)]), []);
        // TLS accepts what such a CA has issued.
        let found = anchors(Path::new("ca.pem"), "k", &[made(2024), made(2023)], &At(1_767_225_600, true));
        assert!(found.iter().all(|finding| finding.level == Level::Warn) && found.len() == 2, "{found:?}");
        assert!(found[0].advice.contains("accepted all the same"), "{found:?}");
    }

    #[test]
    fn a_certificate_and_a_key_belong_together_or_it_is_said_that_they_do_not() {
        let made = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate =
                rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
            (certificate.pem(), key.serialize_pem())
        };
        let ((one, one_key), (_, other_key)) = (made("one"), made("other"));
        let judge = |chain: &str, key: &str| {
            pair(Path::new("gw.pem"), chain.as_bytes(), Path::new("gw.key"), key.as_bytes())
        };
        assert_eq!(judge(&one, &one_key).level, Level::Ok);
        let wrong = judge(&one, &other_key);
        assert_eq!(wrong.level, Level::Fail);
        assert!(wrong.message.contains("gw.key is not the key of gw.pem"), "{wrong}");
        assert_eq!(judge(&one_key, &one_key).level, Level::Fail);
        assert_eq!(judge(&one, &one).level, Level::Fail);
        assert_eq!(judge("", "").level, Level::Fail);
        assert_eq!(authorities(Path::new("ca.pem"), one.as_bytes()).level, Level::Ok);
        assert_eq!(authorities(Path::new("ca.pem"), b"hello").level, Level::Fail);
    }
}
