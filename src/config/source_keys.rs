//! The keys of `[certificate.NAME]` that say where the certificate comes from.
//!
//! The enclosing table resolves paths and reports faults; here one key is judged with the others.

use std::path::PathBuf;
use std::time::Duration;

use super::scalar::parse_hex;
use crate::credential::est::{self, EstSettings, EstTrust, EstUrl};
use crate::credential::exec::ExecSettings;
use crate::credential::source_settings::SourceSettings;

/// How long an order may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What is set; paths are resolved.
#[derive(Clone, Debug, Default)]
pub struct SourceKeys {
    /// `source`: `est`, `exec` or `manual`; without it, the one whose keys are set.
    pub source: Option<String>,
    /// `est-url`
    pub est_url: Option<String>,
    /// `est-ca-file`
    pub est_ca_file: Option<PathBuf>,
    /// `est-ca-sha256`
    pub est_ca_sha256: Option<String>,
    /// `username`
    pub username: Option<String>,
    /// `password-file`
    pub password_file: Option<PathBuf>,
    /// `command`
    pub command: Option<Vec<String>>,
    /// `timeout`
    pub timeout: Option<Duration>,
}

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFault {
    /// The key.
    pub key: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub advice: &'static str,
}

fn fault(key: &'static str, message: impl Into<String>, advice: &'static str) -> SourceFault {
    SourceFault { key, message: message.into(), advice }
}

impl SourceKeys {
    /// The source that these keys mean.
    ///
    /// # Errors
    /// All faults, in the order of the keys.
    pub fn settings(&self) -> Result<SourceSettings, Vec<SourceFault>> {
        if self.source.as_deref() == Some("manual") {
            return self.manual();
        }
        let is_est = match self.source.as_deref() {
            Some(source) => source == "est",
            None if self.est_url.is_some() == self.command.is_some() => {
                let message = match self.command {
                    Some(_) => "both est-url and command are set",
                    None => "no source is set",
                };
                return Err(vec![fault(
                    "source",
                    message,
                    "set source = \"est\" with est-url, or source = \"exec\" with command",
                )]);
            }
            None => self.est_url.is_some(),
        };
        let mut faults = self.without_effect(is_est);
        let timeout = self.timeout.unwrap_or(TIMEOUT);
        let settings = if is_est { self.est(timeout, &mut faults) } else { self.exec(timeout, &mut faults) };
        match settings {
            Some(settings) if faults.is_empty() => Ok(settings),
            _ => Err(faults),
        }
    }

    /// Nobody is asked: no key of another source goes with it.
    fn manual(&self) -> Result<SourceSettings, Vec<SourceFault>> {
        let set = [
            ("est-url", self.est_url.is_some()),
            ("est-ca-file", self.est_ca_file.is_some()),
            ("est-ca-sha256", self.est_ca_sha256.is_some()),
            ("username", self.username.is_some()),
            ("password-file", self.password_file.is_some()),
            ("command", self.command.is_some()),
            ("timeout", self.timeout.is_some()),
        ];
        let message = "has no effect with source = \"manual\"";
        let set = set.into_iter().filter(|(_, set)| *set);
        let faults: Vec<SourceFault> =
            set.map(|(key, _)| fault(key, message, "take it out, or change source")).collect();
        if faults.is_empty() { Ok(SourceSettings::Manual) } else { Err(faults) }
    }

    /// Keys of the other source.
    fn without_effect(&self, is_est: bool) -> Vec<SourceFault> {
        let (keys, message): (&[_], _) = match is_est {
            true => (&[("command", self.command.is_some())], "belongs to source = \"exec\""),
            false => (
                &[
                    ("est-url", self.est_url.is_some()),
                    ("est-ca-file", self.est_ca_file.is_some()),
                    ("est-ca-sha256", self.est_ca_sha256.is_some()),
                    ("username", self.username.is_some()),
                    ("password-file", self.password_file.is_some()),
                ],
                "belongs to source = \"est\"",
            ),
        };
        let set = keys.iter().filter(|(_, set)| *set);
        set.map(|(key, _)| fault(key, message, "take it out, or change source")).collect()
    }

    fn est(&self, timeout: Duration, faults: &mut Vec<SourceFault>) -> Option<SourceSettings> {
        let url = self.url().map_err(|fault| faults.push(fault)).ok();
        let trust = match (&self.est_ca_file, &self.est_ca_sha256) {
            (Some(_), Some(_)) => {
                let message = "est-ca-file and est-ca-sha256 are both set";
                faults.push(fault("est-ca-sha256", message, "take one of the two out"));
                None
            }
            (Some(file), None) => Some(EstTrust::File(file.clone())),
            (None, Some(text)) => {
                let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
                let sum = parse_hex(&digits).and_then(|sum| <[u8; 32]>::try_from(sum.as_slice()).ok());
                if sum.is_none() {
                    let advice = "use 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256 -noout -in CA` prints them";
                    faults.push(fault("est-ca-sha256", "this is not the SHA-256 of a certificate", advice));
                }
                sum.map(EstTrust::Fingerprint)
            }
            (None, None) => Some(EstTrust::System),
        };
        match (&self.username, &self.password_file) {
            (Some(_), None) => {
                faults.push(fault("username", "there is no password for it", "set password-file too"))
            }
            (None, Some(_)) => {
                faults.push(fault("password-file", "there is no user name for it", "set username too"))
            }
            (Some(name), _) if name.contains(':') => {
                // RFC 7617 §2: the first colon begins the password.
                faults.push(fault("username", "a user name in HTTP has no ':'", "take the ':' out"));
            }
            _ => {}
        }
        let (username, password_file) = (self.username.clone(), self.password_file.clone());
        Some(SourceSettings::Est(EstSettings { url: url?, trust: trust?, username, password_file, timeout }))
    }

    fn url(&self) -> Result<EstUrl, SourceFault> {
        let advice = "use \"https://HOST/.well-known/est\", or with a label after it";
        let text =
            self.est_url.as_deref().ok_or_else(|| fault("est-url", "the EST server is not set", advice))?;
        est::parse_url(text).map_err(|message| fault("est-url", message, advice))
    }

    fn exec(&self, timeout: Duration, faults: &mut Vec<SourceFault>) -> Option<SourceSettings> {
        let advice = "use command = [\"/usr/lib/tombolo/issue\", \"ARGUMENT\"]: no shell takes it apart";
        match self.command.as_deref() {
            None | Some([]) => {
                faults.push(fault("command", "the program is not set", advice));
                None
            }
            Some([program, ..]) if !program.starts_with('/') => {
                faults.push(fault("command", format!("{program:?} is not an absolute path"), advice));
                None
            }
            Some(command) => Some(SourceSettings::Exec(ExecSettings { command: command.to_vec(), timeout })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn est() -> SourceKeys {
        SourceKeys { est_url: Some("https://ca.test/.well-known/est/gw".to_owned()), ..SourceKeys::default() }
    }

    fn exec() -> SourceKeys {
        SourceKeys { command: Some(vec!["/bin/issue".to_owned()]), ..SourceKeys::default() }
    }

    fn faulty(keys: &SourceKeys) -> Vec<&'static str> {
        keys.settings().unwrap_err().into_iter().map(|fault| fault.key).collect()
    }

    #[test]
    fn the_source_follows_from_its_keys() {
        let Ok(SourceSettings::Est(settings)) = est().settings() else { panic!() };
        assert_eq!((settings.trust, settings.timeout), (EstTrust::System, TIMEOUT));
        assert!(matches!(exec().settings(), Ok(SourceSettings::Exec(_))));
        assert_eq!(faulty(&SourceKeys::default()), ["source"]);
        assert_eq!(faulty(&SourceKeys { command: exec().command, ..est() }), ["source"]);
        assert_eq!(faulty(&SourceKeys { source: Some("exec".to_owned()), ..est() }), ["est-url", "command"]);
        assert_eq!(faulty(&SourceKeys { source: Some("est".to_owned()), ..exec() }), ["command", "est-url"]);
    }

    #[test]
    fn a_manual_source_has_no_key_of_another() {
        let manual = |keys: SourceKeys| SourceKeys { source: Some("manual".to_owned()), ..keys };
        assert_eq!(manual(SourceKeys::default()).settings(), Ok(SourceSettings::Manual));
        assert_eq!(faulty(&manual(est())), ["est-url"]);
        assert_eq!(faulty(&manual(exec())), ["command"]);
    }

    #[test]
    fn an_est_url_has_the_well_known_path() {
        let with = |url: &str| SourceKeys { est_url: Some(url.to_owned()), ..SourceKeys::default() };
        for good in
            ["https://a/.well-known/est", "https://a:1/.well-known/est/", "https://[::1]/.well-known/est/x/"]
        {
            assert!(with(good).settings().is_ok(), "{good}");
        }
        for bad in [
            "https://a",
            "http://a/.well-known/est",
            "https://a/.well-known/estx",
            "https://a/.well-known/est/a/b",
            "https://a/.well-known/est?x",
        ] {
            assert_eq!(faulty(&with(bad)), ["est-url"], "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_is_64_digits_with_or_without_colons() {
        let with = |text: String| SourceKeys { est_ca_sha256: Some(text), ..est() };
        for text in ["ab".repeat(32), vec!["AB"; 32].join(":")] {
            let Ok(SourceSettings::Est(settings)) = with(text).settings() else { panic!() };
            assert_eq!(settings.trust, EstTrust::Fingerprint([0xab; 32]));
        }
        assert_eq!(faulty(&with("ab".repeat(31))), ["est-ca-sha256"]);
        let both = SourceKeys { est_ca_file: Some("ca.pem".into()), ..with("ab".repeat(32)) };
        assert_eq!(faulty(&both), ["est-ca-sha256"]);
    }

    #[test]
    fn a_user_name_and_its_password_go_together() {
        let name = |name: &str| SourceKeys { username: Some(name.to_owned()), ..est() };
        assert_eq!(faulty(&name("gw")), ["username"]);
        let file = Some(PathBuf::from("password"));
        assert_eq!(faulty(&SourceKeys { password_file: file.clone(), ..est() }), ["password-file"]);
        assert_eq!(faulty(&SourceKeys { password_file: file.clone(), ..name("a:b") }), ["username"]);
        assert!(SourceKeys { password_file: file, ..name("gw") }.settings().is_ok());
    }

    #[test]
    fn a_program_is_an_absolute_path() {
        let with = |command: &[&str]| SourceKeys {
            source: Some("exec".to_owned()),
            command: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            ..SourceKeys::default()
        };
        assert_eq!(faulty(&with(&[])), ["command"]);
        assert_eq!(faulty(&with(&["issue"])), ["command"]);
        assert!(with(&["/bin/issue", "--now"]).settings().is_ok());
    }
}
