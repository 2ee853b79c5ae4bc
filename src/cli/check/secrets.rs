//! Where keys and secrets are: their modes, the token, systemd credentials, and the revocation
//! lists of the broker.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::device::revocations;
use crate::clock::WallClock;
use crate::config::show::Shown;
use crate::config::{Finding, Settings};
use crate::durable::io::regular;
use crate::northbound::io::files;
use crate::northbound::io::kept;
use crate::northbound::io::token::Token;
use crate::northbound::revocation::parse;
use crate::northbound::settings::TlsSettings;

/// Greatest revocation list read, in bytes.
const LIST_MAX: u64 = 4 << 20;
/// The folder of the credentials of the service.
const CREDENTIALS: &str = "/run/credentials/tombolo.service";

/// Files of keys that the gateway keeps itself, and that others than its user may read.
pub fn modes(settings: &Settings) -> Vec<Finding> {
    let folders = settings.certificates.iter().map(|certificate| &certificate.settings.folder);
    let entries = folders.flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let mut findings = Vec::new();
    for entry in entries {
        let Ok(metadata) = entry.metadata() else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.is_file() && mode & 0o077 != 0 {
            let path = entry.path();
            let message =
                format!("{} has the mode {mode:04o}, so that others can read a private key", path.display());
            let advice =
                format!("chmod 0600 {}; if it may have been read, `tombolo cert renew NAME`", path.display());
            findings.push(Finding::warn("secrets", message).advice(advice));
        }
    }
    findings
}

/// The token that keys are in. `ask`: it is logged in to.
pub fn token(tls: Option<&TlsSettings>, ask: bool) -> Option<Finding> {
    let token = tls?.token.as_ref()?;
    let readable = regular::open(&token.pin_file).is_ok();
    if !ask || !readable {
        return None; // what cannot be read is named already
    }
    Some(match Token::of(token).and_then(|token| token.look()) {
        Ok(text) => Finding::ok("token", format!("{text} is there and takes the PIN")),
        Err(text) => Finding::fail("token", text)
            .advice("readings are stored meanwhile; docs/rotation.md says what each of these means"),
    })
}

/// Secrets that come as systemd credentials do not change while the service runs.
pub fn credentials(shown: &[Shown]) -> Vec<Finding> {
    let of = |one: &Shown| {
        let text = one.value.as_ref()?.as_str()?.strip_prefix("credential:")?.to_owned();
        super::security::is_secret(&one.key).then_some((one.key.clone(), text))
    };
    let sources = crate::config::io::unit_texts();
    let mut findings = Vec::new();
    for (key, name) in shown.iter().filter_map(of) {
        let newer =
            source(&sources, &name).filter(|file| is_newer(file, &Path::new(CREDENTIALS).join(&name)));
        findings.push(match newer {
            Some(file) => Finding::warn(
                "secrets",
                format!("{file} is newer than the credential {name:?} that the running service has ({key})"),
            )
            .key(key)
            .advice("systemctl restart tombolo: systemd hands credentials over at the start only"),
            None => Finding::ok(
                "secrets",
                format!("{key} is the systemd credential {name:?}; a new value takes effect with systemctl restart tombolo"),
            )
            .key(key),
        });
    }
    findings
}

/// The file that a unit loads this credential from.
fn source(texts: &[String], name: &str) -> Option<String> {
    let lines = texts.iter().flat_map(|text| text.lines());
    let mut found = lines.filter_map(|line| {
        let (setting, value) = line.trim().split_once('=')?;
        let loads = matches!(setting.trim(), "LoadCredential" | "LoadCredentialEncrypted");
        let (own, file) = value.trim().split_once(':')?;
        (loads && own == name && file.starts_with('/')).then(|| file.to_owned())
    });
    found.next_back()
}

fn is_newer(file: &str, credential: &Path) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    modified(Path::new(file)).zip(modified(credential)).is_some_and(|(file, credential)| file > credential)
}

/// The lists that the broker's chain is judged by.
pub fn lists(tls: &TlsSettings, clock: &dyn WallClock) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Ok((anchors, _)) = files::anchors(tls) else { return findings };
    if let Some(file) = tls.revocation.file.as_ref().filter(|file| regular::open(file).is_ok()) {
        let shown = file.display();
        let key = "upstream.crl-file";
        match regular::read(file, LIST_MAX).map_err(|fault| fault.to_string()).and_then(|bytes| parse(&bytes))
        {
            Err(what) => findings.push(Finding::fail("upstream", format!("{shown} {what}")).key(key).advice(
                "no connection is made until it is replaced; `openssl crl -in FILE` shows what it is",
            )),
            Ok(lists) => {
                if let Err(text) = files::revocation_lists(tls, &anchors) {
                    let advice =
                        "no connection is made until it is replaced by one that the CA in ca-file has signed";
                    findings.push(Finding::fail("upstream", text).key(key).advice(advice));
                }
                findings.extend(lists.iter().filter_map(|list| revocations(list, clock, "upstream", key)));
                let foreign = foreign(&lists, &files::certificates(&anchors));
                findings.extend(foreign.into_iter().map(|issuer| {
                    let message = format!(
                        "the revocation list of {issuer} in {shown} is of no CA that is trusted here"
                    );
                    Finding::warn("upstream", message)
                        .key(key)
                        .advice("it counts only if the broker presents that CA; is it the right file?")
                }));
            }
        }
    }
    if let Some(file) = tls.revocation.fetched.as_ref() {
        let key = "upstream.crl-url";
        match kept::read(file).and_then(|bytes| parse(&bytes)) {
            Ok(lists) => {
                findings.extend(lists.iter().filter_map(|list| revocations(list, clock, "upstream", key)))
            }
            Err(_) => {
                let message = "no revocation list has been fetched yet";
                let level = match tls.revocation.refuse_expired {
                    true => Finding::fail("upstream", format!("{message}, and crl-expired is \"refuse\"")),
                    false => Finding::warn("upstream", message),
                };
                findings.push(
                    level
                        .key(key)
                        .advice("the running gateway fetches it; `tombolo status` says what is wrong"),
                );
            }
        }
    }
    findings
}

fn foreign(lists: &[Vec<u8>], anchors: &[Vec<u8>]) -> Vec<String> {
    use crate::proto::dtls::server::{ListPolicy, RevocationLists};
    let signers = anchors.iter().map(Vec::as_slice);
    let Ok(read) = RevocationLists::new(lists, signers, ListPolicy::default()) else { return Vec::new() };
    let foreign = lists.iter().enumerate().filter(|(at, _)| read.is_foreign(*at));
    foreign.map(|(_, list)| crate::credential::revocation::issuer(list)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_credential_is_found_in_the_unit_and_its_drop_ins() {
        let texts = [
            "[Service]\nLoadCredential=pin:/etc/tombolo/secrets/pin\n".to_owned(),
            "#LoadCredential=pin:/never\nLoadCredentialEncrypted = pin:/etc/tombolo/pin.cred\nSetCredential=x:y\n".to_owned(),
        ];
        assert_eq!(source(&texts, "pin").as_deref(), Some("/etc/tombolo/pin.cred"), "the last counts");
        assert_eq!(source(&texts[..1], "pin").as_deref(), Some("/etc/tombolo/secrets/pin"));
        assert_eq!(source(&texts, "x"), None);
    }
}
