//! The certificate files of `[coap]`, and the keys of devices and fleets that identify their
//! certificate or public key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Context;
use crate::config::certificate::{self, FILE_MAX, Material};
use crate::config::settings::Paths;
use crate::config::{FileError, Level, model};
use crate::gate::certificate::{CertificateName, CertificateNameError, CertificatePattern, NameKind};
use crate::proto::dtls::server::{DistinguishedName, ServerKey};
use crate::southbound::coap::EngineKind;

/// Reads all files, or reports the fault and keeps the last good material. With `None`, only
/// devices with pre-shared keys can connect. `served`: the file of a certificate that the gateway
/// renews by itself. `of_mqtt`: `[mqtt]` has a CA, to whose clients the lists apply too.
pub(super) fn material(
    cx: &mut Context<'_>,
    table: &model::Coap,
    served: Option<&Path>,
    paths: &Paths,
    of_mqtt: bool,
) -> Option<Arc<Material>> {
    let before = cx.findings.list.len();
    if let Some(read) = read_all(cx, table, served, paths, of_mqtt) {
        return Some(read.into());
    }
    let previous = cx.sources.certificates.clone()?;
    if previous.key.is_none()
        && previous.authorities.anchors.is_empty()
        && previous.revocation_lists.is_empty()
    {
        // There is nothing that could stay in use.
        return Some(Material { lists_fault: expects_lists(table), ..(*previous).clone() }.into());
    }
    for finding in cx.findings.list[before..].iter_mut().filter(|finding| finding.level == Level::Fail) {
        finding.message.push_str("; the previous files stay in use until the next restart");
        if finding.advice == WITHOUT {
            finding.advice = WITHIN.to_owned();
        }
    }
    Some(previous)
}

/// What there is where nothing could be used at a start.
pub(super) fn none(table: &model::Coap) -> Arc<Material> {
    Material { lists_fault: expects_lists(table), ..Material::default() }.into()
}

fn expects_lists(table: &model::Coap) -> bool {
    table.crl_file.is_some() || table.crl_url.is_some()
}

fn read_all(
    cx: &mut Context<'_>,
    table: &model::Coap,
    served: Option<&Path>,
    paths: &Paths,
    of_mqtt: bool,
) -> Option<Material> {
    let chain = match &table.certificate_file {
        _ if table.certificate.is_some() => Some(Vec::new()),
        Some(text) => {
            let key = ["coap", "certificate-file"];
            let path = cx.path(&key, text);
            take(cx, &key, &path, false, certificate::chain)
        }
        None => Some(Vec::new()),
    };
    let authorities = match &table.client_ca_file {
        Some(text) => {
            let key = ["coap", "client-ca-file"];
            let path = cx.path(&key, text);
            take(cx, &key, &path, false, certificate::authorities)
        }
        None => Some(Default::default()),
    };
    let lists = match &table.crl_file {
        Some(text) => {
            let key = ["coap", "crl-file"];
            let path = cx.path(&key, text);
            take(cx, &key, &path, false, certificate::revocation_lists)
        }
        None => Some(Vec::new()),
    };
    let mut renewed = Vec::new();
    let server_key = match (&table.key_file, &table.certificate_file) {
        _ if table.certificate.is_some() => {
            for (name, set) in [
                ("certificate-file", table.certificate_file.is_some()),
                ("key-file", table.key_file.is_some()),
            ] {
                if set {
                    let message = "certificate is set too, whose files the gateway keeps itself";
                    cx.fatal(&["coap", name], message, "take one of the two out");
                }
            }
            match served {
                Some(file) => own(cx, file).map(|own| {
                    own.map(|own| {
                        renewed = own.chain;
                        own.key
                    })
                }),
                None => Some(None),
            }
        }
        (Some(text), _) => {
            let key = ["coap", "key-file"];
            let path = cx.secret(&key, text);
            let chain = chain.clone().unwrap_or_default();
            let read = |bytes: &[u8]| certificate::server_key(chain, bytes).map(Arc::<ServerKey>::new);
            path.and_then(|path| take(cx, &key, &path, true, read)).map(Some)
        }
        (None, Some(_)) => {
            let advice = "set coap.key-file too";
            cx.fail("coap", &["coap", "certificate-file"], "the certificate has no key", advice);
            None
        }
        (None, None) => Some(None),
    };
    if table.crl_file.is_some() && table.client_ca_file.is_none() && !of_mqtt {
        let advice = "set coap.client-ca-file or mqtt.client-ca-file too, or take it out";
        cx.warn("coap", &["coap", "crl-file"], "without effect: no CA is configured", advice);
    }
    let (authorities, lists) = (authorities?, lists?);
    if let Some(text) = &table.crl_file
        && let Err(what) = certificate::fit(&authorities, &lists)
    {
        let key = ["coap", "crl-file"];
        let path = cx.path(&key, text);
        cx.fail("coap", &key, format!("{} {what}", path.display()), WITHOUT);
        return None;
    }
    let (fetched, list_policy) = super::revocation::coap(cx, table, paths, &authorities, of_mqtt);
    let file = |key: &str, text: &Option<String>| text.as_deref().map(|text| cx.path(&["coap", key], text));
    // At a start, files that are put right later are taken up by themselves; a reload goes back.
    let has_key = chain.is_some() && server_key.is_some();
    if !has_key && cx.sources.certificates.is_some() {
        return None;
    }
    let server_key = server_key.filter(|_| has_key).flatten();
    Some(Material {
        key: server_key,
        chain: if served.is_some() { renewed } else { chain.filter(|_| has_key).unwrap_or_default() },
        key_fault: !has_key,
        authorities,
        revocation_lists: lists,
        fetched_lists: fetched,
        list_policy,
        lists_fault: false,
        chain_file: served
            .map(Path::to_path_buf)
            .or_else(|| file("certificate-file", &table.certificate_file)),
        authorities_file: file("client-ca-file", &table.client_ca_file),
    })
}

/// The files of the gateway's certificate and its key, if both are set: they may change while it
/// runs.
pub(super) fn files(cx: &Context<'_>, table: &model::Coap) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = (table.certificate_file.as_deref()?, table.key_file.as_deref()?);
    if table.certificate.is_some() {
        return None;
    }
    let certificate = cx.path(&["coap", "certificate-file"], certificate);
    Some((certificate, cx.secret_path(&["coap", "key-file"], key)?))
}

/// What is in the one file of a certificate that the gateway renews by itself.
struct Own {
    chain: Vec<Vec<u8>>,
    key: Arc<ServerKey>,
}

/// The certificate that the gateway renews by itself: chain and key in one file; none as long as it
/// is not enrolled. `None` after a fault.
#[allow(clippy::option_option, reason = "there may be none, and there may be a fault")]
fn own(cx: &mut Context<'_>, file: &Path) -> Option<Option<Own>> {
    let key = ["coap", "certificate"];
    if matches!(cx.sources.files.look(file), Err(FileError::Missing)) {
        return Some(None);
    }
    let chain = take(cx, &key, file, true, certificate::chain)?;
    let read = |bytes: &[u8]| certificate::server_key(chain.clone(), bytes).map(Arc::<ServerKey>::new);
    let own = take(cx, &key, file, true, read)?;
    Some(Some(Own { chain, key: own }))
}

/// The remedy for an invalid file at a start.
const WITHOUT: &str =
    "replace the file; no device with a certificate or raw public key can connect until it is valid";
/// The remedy if the previous files are still in use.
const WITHIN: &str = "replace the file, then reload";

/// Reads and parses a file.
fn take<T>(
    cx: &mut Context<'_>,
    key: &[&str],
    path: &Path,
    secret: bool,
    make: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Option<T> {
    let shown = path.display();
    let content = match cx.sources.files.read(path, FILE_MAX) {
        Ok(content) => content,
        Err(_) if secret && cx.is_out_of_sight(path) => {
            cx.out_of_sight("coap", key);
            return None;
        }
        Err(crate::config::FileError::Denied) if cx.sources.files.is_outsider() => {
            cx.closed("coap", key, path);
            return None;
        }
        Err(error) => {
            let then = match cx.sources.certificates.is_some() {
                true => ", then reload",
                false => "; no device with a certificate or raw public key can connect until then",
            };
            let advice = format!("{}{then}", super::way_to_read(&error, "put the file there"));
            cx.fail("coap", key, format!("{shown} {error}"), &advice);
            return None;
        }
    };
    cx.judge("coap", key, path, &content.looked, secret);
    make(&content.bytes).map_err(|error| cx.fail("coap", key, format!("{shown} {error}"), WITHOUT)).ok()
}

/// The certificate names in a table.
pub(super) struct Names<'a> {
    pub(super) uri: Option<&'a str>,
    pub(super) dns: Option<&'a str>,
    pub(super) common_name: Option<&'a str>,
    pub(super) issuer: Option<&'a str>,
}

/// The kind of a name, its text, and the required issuer.
type One<'a> = (NameKind, &'a str, Option<DistinguishedName>);

impl<'a> Names<'a> {
    /// The one configured name, and the issuer. `Err` after a finding.
    fn one(&self, cx: &mut Context<'_>, table: &str, item: &str) -> Result<Option<One<'a>>, ()> {
        let subject = format!("{table} {item}");
        let all =
            [(NameKind::Uri, self.uri), (NameKind::Dns, self.dns), (NameKind::CommonName, self.common_name)];
        let mut set = all.into_iter().filter_map(|(kind, name)| Some((kind, name?)));
        let (first, second) = (set.next(), set.next());
        if let Some((kind, _)) = second {
            let advice = "keep the one that your CA verifies";
            cx.fail(&subject, &[table, item, kind.key()], "only one name may identify a certificate", advice);
            return Err(());
        }
        let issuer = match self.issuer.map(DistinguishedName::parse) {
            None => None,
            Some(Ok(issuer)) => Some(issuer),
            Some(Err(error)) => {
                let advice = "write it as `openssl x509 -noout -issuer` prints it after \"issuer=\"";
                cx.fail(&subject, &[table, item, "certificate-issuer"], error.to_string(), advice);
                return Err(());
            }
        };
        match (first, issuer) {
            (Some((kind, name)), issuer) => Ok(Some((kind, name, issuer))),
            (None, None) => Ok(None),
            (None, Some(_)) => {
                let message = "an issuer alone would match every certificate it issued";
                let advice = "set certificate-uri, certificate-dns or certificate-cn too";
                cx.fail(&subject, &[table, item, "certificate-issuer"], message, advice);
                Err(())
            }
        }
    }

    /// A device's certificate.
    pub(super) fn device(&self, cx: &mut Context<'_>, item: &str) -> Result<Option<CertificateName>, ()> {
        let Some((kind, name, issuer)) = self.one(cx, "device", item)? else { return Ok(None) };
        let made = CertificateName::new(kind, name, issuer);
        made.map(Some).map_err(|error| {
            let key = ["device", item, kind.key()];
            cx.fail(
                &format!("device {item}"),
                &key,
                format!("{name:?}: {error}"),
                "write it as it is in the certificate",
            );
        })
    }

    /// The certificates of a fleet.
    pub(super) fn fleet(&self, cx: &mut Context<'_>, item: &str) -> Option<CertificatePattern> {
        let subject = format!("fleet {item}");
        let Some((kind, name, issuer)) = self.one(cx, "fleet", item).ok()? else {
            let advice = "set certificate-uri, certificate-dns or certificate-cn, with {id} in it";
            cx.fail(&subject, &["fleet", item], "the fleet has no certificate name", advice);
            return None;
        };
        let made = CertificatePattern::new(kind, name, issuer);
        made.map_err(|error| {
            let advice = match error {
                CertificateNameError::Place => "write it like \"door-{id}.example.com\"",
                _ => "write it as it is in the certificates",
            };
            cx.fail(&subject, &["fleet", item, kind.key()], format!("{name:?}: {error}"), advice);
        })
        .ok()
    }
}

/// A device's public key.
pub(super) fn public_key(
    cx: &mut Context<'_>,
    item: &str,
    file: Option<&str>,
    hash: Option<&str>,
) -> Result<Option<[u8; 32]>, ()> {
    let subject = format!("device {item}");
    match (file, hash) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            let advice = "keep one of the two";
            cx.fail(
                &subject,
                &["device", item, "public-key"],
                "public-key and public-key-file are both set",
                advice,
            );
            Err(())
        }
        (None, Some(text)) => certificate::parse_key_hash(text).map(Some).ok_or_else(|| {
            let advice = "write sha256: and the 64 hexadecimal digits of the key's hash";
            cx.fail(&subject, &["device", item, "public-key"], "this is not a hash of a key", advice);
        }),
        (Some(text), None) => {
            let key = ["device", item, "public-key-file"];
            let path = cx.path(&key, text);
            let shown = path.display();
            let content = cx.sources.files.read(&path, FILE_MAX).map_err(|error| {
                let advice = super::way_to_read(&error, "put the device's public key there");
                cx.fail(&subject, &key, format!("{shown} {error}"), &advice);
            })?;
            cx.judge(&subject, &key, &path, &content.looked, false);
            certificate::public_key(&content.bytes).map(Some).map_err(|error| {
                let advice = "put a public key (P-256) or a certificate of it there, PEM or DER";
                cx.fail(&subject, &key, format!("{shown} {error}"), advice);
            })
        }
    }
}

/// Checks once whether devices with certificates or public keys can connect at all. Without
/// `material`, the fault is already reported. `renewed`: the gateway renews its own certificate by
/// itself. `by_mqtt`: certificates are for `[mqtt]` alone, which has a CA.
pub(super) fn needs(
    cx: &mut Context<'_>,
    material: Option<&Material>,
    engine: EngineKind,
    renewed: bool,
    by_mqtt: bool,
    settings: &crate::gate::Settings,
) {
    let keyed = settings.devices.iter().filter(|device| device.public_key.is_some()).count();
    let certified = settings.devices.iter().filter(|device| device.certificate.is_some()).count();
    let certified = if by_mqtt { 0 } else { certified + settings.fleets.len() };
    let has_key = material.is_some_and(|material| material.key.is_some());
    if engine == EngineKind::Dimpl && (keyed + certified > 0 || has_key) {
        let message = "the engine \"dimpl\" supports only pre-shared keys: no device can connect with a certificate or public key";
        cx.warn("coap", &["coap", "engine"], message, "remove the key: the default engine supports all");
    }
    let Some(material) = material.filter(|material| !material.key_fault) else { return };
    if keyed + certified > 0 && material.key.is_none() && renewed {
        let message = "its certificate is not there yet: until it is, no device with a certificate or public key can connect";
        let advice = "the running gateway enrols; `tombolo cert status` shows what it waits for";
        cx.warn("coap", &["coap", "certificate"], message, advice);
    } else if keyed + certified > 0 && material.key.is_none() {
        let message = "devices have certificates or public keys, but the gateway has no key of its own";
        let advice = "set coap.key-file; openssl ecparam -name prime256v1 -genkey -noout makes one";
        cx.warn("coap", &["coap", "key-file"], message, advice);
    }
    if certified > 0 && material.authorities.anchors.is_empty() {
        let message = "devices have certificates, but no CA is configured to verify them";
        let advice = "set coap.client-ca-file, or mqtt.client-ca-file for MQTT clients";
        cx.warn("coap", &["coap", "client-ca-file"], message, advice);
    }
    if certified > 0 && material.key.is_some() && material.chain.is_empty() {
        let message = "the gateway has no certificate for devices that require one";
        let advice = "set coap.certificate-file, unless all of them accept a raw public key";
        cx.warn("coap", &["coap", "certificate-file"], message, advice);
    }
}
