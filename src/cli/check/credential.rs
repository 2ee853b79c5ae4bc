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
                findings.extend(bundle(file, "upstream.ca-file", &pem(&read.bytes), clock));
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
    std::fs::File::open(file).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
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
        Ok(found) if !found.is_empty() => Finding::ok(
            "upstream",
            format!("{shown} has {}", crate::cli::output::plural(found.len() as u64, "CA certificate")),
        )
        .key("upstream.ca-file"),
        _ => Finding::fail("upstream", format!("{shown} holds no certificate in PEM form"))
            .key("upstream.ca-file")
            .advice("it begins with -----BEGIN CERTIFICATE-----; `openssl x509 -inform der` converts"),
    }
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
            .advice("`tombolo cert rollback`, or `tombolo cert renew`"),
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

    struct At(u64, bool);

    impl WallClock for At {
        fn raw(&self) -> UnixTime {
            UnixTime::from_secs(self.0)
        }
        fn trusted(&self) -> bool {
            self.1
        }
        fn floor(&self) -> UnixTime {
            UnixTime::from_secs(1_600_000_000)
        }
    }

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
