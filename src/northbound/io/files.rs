//! The files a connection needs, read anew for each: CA, certificate, key, password.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::jwt::mint;
use super::kept;
use super::small_file::read;
use crate::clock::WallClock;
use crate::northbound::encrypted_key::{self, Encryption};
use crate::northbound::jwt::life;
use crate::northbound::revocation::{self, RevocationSettings};
use crate::northbound::settings::{Settings, TlsSettings};
use crate::northbound::tls::{self, Pem, TlsError};
use crate::northbound::token_key::TokenKey;
use crate::proto::dtls::server::RevocationLists;

/// What is in the files that the operator provides, as numbers: other numbers mean that something
/// was changed. Lists and anchors that the gateway fetches itself are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fingerprints {
    /// Of all of them.
    pub all: u64,
    /// Without certificate, key and its password: for a gateway that proves these by itself.
    pub without_identity: u64,
}

impl Fingerprints {
    /// Whether the files are the same, with or without the identity.
    pub fn is_same(&self, other: &Fingerprints, with_identity: bool) -> bool {
        match with_identity {
            true => self.all == other.all,
            false => self.without_identity == other.without_identity,
        }
    }
}

/// What the files gave.
pub struct Material {
    /// `None` without TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// The client's key is in a token: a handshake blocks on its signature.
    pub signs_in_token: bool,
    /// The MQTT password.
    pub password: Option<Vec<u8>>,
    /// How long the password serves, if it expires.
    pub password_life: Option<Duration>,
    /// Of the files, as they were just before they were read.
    pub fingerprints: Fingerprints,
}

/// Reads what `settings` name. It blocks: not for the path's thread.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn load(settings: &Settings, clock: Arc<dyn WallClock>) -> Result<Material, String> {
    // Before: what is replaced meanwhile counts as changed.
    let fingerprints = fingerprints(settings);
    let tls = settings.tls.as_ref().map(|tls| tls_config(tls, clock.clone())).transpose()?;
    let (tls, signs_in_token) = tls.map_or((None, false), |(config, in_token)| (Some(config), in_token));
    let (password, password_life) = match &settings.jwt {
        Some(jwt) => (Some(mint(jwt, pem(&jwt.key_file)?, &settings.client_id, &*clock)?), Some(life(jwt))),
        None => {
            let password = settings.password_file.as_deref().map(password).transpose();
            (password.map_err(|error| format!("upstream.password-file: {error}"))?, None)
        }
    };
    Ok(Material { tls, signs_in_token, password, password_life, fingerprints })
}

/// What is in all the files that `settings` name, as one number: another number means that
/// something was changed. It blocks.
pub fn fingerprint(settings: &Settings) -> u64 {
    let identity = settings.tls.as_ref().and_then(|tls| tls.identity.as_ref());
    let paths =
        settings.password_file.iter().chain(settings.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()));
    let paths = paths.chain(settings.tls.as_ref().and_then(|tls| tls.key_password.as_ref()));
    let paths = paths.chain(settings.jwt.as_ref().map(|jwt| &jwt.key_file));
    let paths = paths.chain(settings.tls.iter().flat_map(|tls| &tls.revocation.file));
    let paths = paths.chain(identity.into_iter().flat_map(|(certificate, key)| [certificate, key]));
    let own = settings.tls.iter().flat_map(|tls| [&tls.revocation.fetched, &tls.est_anchors]).flatten();
    hash(paths.map(|path| (path, read(path))).chain(own.map(|path| (path, kept::read(path)))))
}

/// What is in the files that the operator provides. It blocks.
pub fn fingerprints(settings: &Settings) -> Fingerprints {
    let tls = settings.tls.as_ref();
    let of_tls = tls.into_iter().flat_map(|tls| tls.ca_file.iter().chain(&tls.revocation.file));
    let paths = settings.password_file.iter().chain(settings.jwt.as_ref().map(|jwt| &jwt.key_file));
    let hash = |paths: &mut dyn Iterator<Item = &PathBuf>| hash(paths.map(|path| (path, read(path))));
    let without_identity = hash(&mut paths.chain(of_tls));
    let identity = tls.and_then(|tls| tls.identity.as_ref());
    let of_identity = identity.into_iter().flat_map(|(certificate, key)| [certificate, key]);
    let identity = hash(&mut of_identity.chain(tls.and_then(|tls| tls.key_password.as_ref())));
    Fingerprints { all: without_identity.rotate_left(1) ^ identity, without_identity }
}

fn hash<'p>(files: impl Iterator<Item = (&'p PathBuf, Result<Vec<u8>, String>)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
    }
    hasher.finish()
}

/// How a sentence about a certificate begins that is not there yet.
pub const NOT_ENROLLED: &str = "not enrolled yet";

/// How it is said that a connection has to wait for such a certificate.
pub const WAITS: &str = "it waits for its certificate";

/// The configuration, and whether its key is in a token.
fn tls_config(
    settings: &TlsSettings,
    clock: Arc<dyn WallClock>,
) -> Result<(Arc<ClientConfig>, bool), String> {
    let (anchors, place) = anchors(settings)?;
    let revoked = revocation_lists(settings, &anchors)?;
    let (identity, in_token) = match &settings.identity {
        None => (None, false),
        Some((certificate, key_file)) => {
            if settings.is_kept_here() && !certificate.exists() {
                let shown = certificate.display();
                return Err(format!("{WAITS}: there is no {shown}; `tombolo cert status` shows why"));
            }
            let chain = pem(certificate)?;
            match TokenKey::from_pem(&pem(key_file)?.bytes) {
                Some(key) => (Some(in_token(settings, &chain, key_file, key)?), true),
                None => {
                    let key = key(key_file, settings.key_password.as_deref())?;
                    (Some(tls::certified_key(&chain, &key).map_err(|error| error.to_string())?), false)
                }
            }
        }
    };
    let config = tls::client_config_with(settings, &anchors, &place, identity, revoked, clock);
    config.map(|config| (config, in_token)).map_err(|error| error.to_string())
}

/// The anchors of the broker, and what to call where they are: those of `ca-file` and of the EST
/// server, else the system's.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn anchors(settings: &TlsSettings) -> Result<(Vec<Pem>, String), String> {
    let own = settings.ca_file.as_deref().map(pem).transpose()?;
    let Some(est) = &settings.est_anchors else {
        return Ok(match own {
            Some(own) => (vec![own.clone()], own.file),
            None => system_anchors(),
        });
    };
    // What the EST server offers may not have come yet.
    let offered = kept::exists(est).then(|| kept::read(est)).transpose()?;
    let offered = offered.map(|bytes| Pem { file: est.display().to_string(), bytes });
    let found: Vec<Pem> = own.into_iter().chain(offered).collect();
    match found.is_empty() {
        true => Err("no CA of the broker is known yet: trust = \"est\", and the EST server has not answered; set upstream.ca-file \
                     for the time until then"
            .to_owned()),
        false => {
            let place = found.iter().map(|pem| pem.file.as_str()).collect::<Vec<_>>().join(" and ");
            Ok((found, place))
        }
    }
}

/// The CA certificates of PEM files, DER.
pub fn certificates(anchors: &[Pem]) -> Vec<Vec<u8>> {
    let ders = anchors.iter().flat_map(|pem| CertificateDer::pem_slice_iter(&pem.bytes));
    ders.filter_map(Result::ok).map(|der| der.to_vec()).collect()
}

/// The lists that the broker's chain is judged by; `None`: none are configured.
///
/// # Errors
/// Names the operator's file and what is wrong with it. What was fetched and cannot be used counts
/// as not fetched.
pub fn revocation_lists(settings: &TlsSettings, anchors: &[Pem]) -> Result<Option<RevocationLists>, String> {
    let RevocationSettings { file, fetched, refuse_expired } = &settings.revocation;
    if file.is_none() && fetched.is_none() {
        return Ok(None);
    }
    let shown = file.as_deref().unwrap_or(Path::new("upstream.crl-file")).display();
    let own = match file {
        None => Vec::new(),
        Some(path) => revocation::parse(&read(path)?).map_err(|what| format!("{shown} {what}"))?,
    };
    let parsed = fetched.as_deref().map(|path| {
        let parsed = kept::read(path).and_then(|bytes| revocation::parse(&bytes));
        parsed.unwrap_or_default()
    });
    let lists = revocation::lists(&own, parsed.as_deref(), &certificates(anchors), *refuse_expired);
    lists.map(Some).map_err(|what| format!("{shown} {what}"))
}

fn in_token(
    settings: &TlsSettings,
    chain: &Pem,
    key_file: &Path,
    key: TokenKey,
) -> Result<CertifiedKey, String> {
    let shown = key_file.display().to_string();
    let Some(token) = &settings.token else {
        return Err(format!(
            "{shown} refers to a key in a PKCS #11 token, and none is configured; set key = \"pkcs11\" in its [certificate] table"
        ));
    };
    let load = || super::token::signing_key(token, key).map_err(TlsError::Token);
    tls::certified_with(chain, &shown, load).map_err(|error| error.to_string())
}

/// The system's trust anchors: its bundle, or else all files of its folder; and what to call where
/// they are.
pub fn system_anchors() -> (Vec<Pem>, String) {
    let found = openssl_probe::probe();
    if let Some(file) = &found.cert_file
        && let Ok(bundle) = pem(file)
    {
        return (vec![bundle], file.display().to_string());
    }
    let mut anchors = Vec::new();
    for folder in &found.cert_dir {
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        anchors.extend(entries.flatten().filter_map(|entry| pem(&entry.path()).ok()));
        if !anchors.is_empty() {
            return (anchors, folder.display().to_string());
        }
    }
    (anchors, "the system's folders".to_owned())
}

/// A PEM file. A byte order mark, which some editors put before the text, is dropped.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn pem(path: &Path) -> Result<Pem, String> {
    let bytes = read(path)?;
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err(format!("{}: is UTF-16 text, which PEM is not; save it as UTF-8", path.display()));
    }
    let bytes = bytes.strip_prefix(&[0xEF, 0xBB, 0xBF]).map(<[u8]>::to_vec).unwrap_or(bytes);
    Ok(Pem { file: path.display().to_string(), bytes })
}

/// A PEM file with a private key, in clear: one that is encrypted is decrypted with the password in
/// the other file.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn key(path: &Path, password_file: Option<&Path>) -> Result<Pem, String> {
    let mut key = pem(path)?;
    let shown = path.display();
    match (encrypted_key::encryption(&key.bytes), password_file) {
        (Encryption::None, _) => {}
        (Encryption::OldForm, _) => {
            return Err(format!(
                "{shown}: the key is encrypted in OpenSSL's old form; `openssl pkcs8 -topk8 -in {shown} -out NEW` writes it \
                 anew, for upstream.key-password-file; with -nocrypt it needs none"
            ));
        }
        (Encryption::Pkcs8, None) => {
            return Err(format!(
                "{shown}: the key is encrypted; set upstream.key-password-file to a file with its password, or decrypt it: \
                 `openssl pkey -in {shown} -out NEW`"
            ));
        }
        (Encryption::Pkcs8, Some(file)) => {
            let secret = Zeroizing::new(password(file)?);
            let clear = encrypted_key::decrypt(&key.bytes, &secret);
            key.bytes = clear.map_err(|error| format!("{shown}: {error}"))?.to_vec();
        }
    }
    Ok(key)
}

fn password(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = read(path)?;
    // One line end that an editor leaves is not part of the password.
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    if bytes.len() > usize::from(u16::MAX) {
        return Err(format!("{}: a password has at most 65,535 bytes", path.display()));
    }
    Ok(bytes)
}
