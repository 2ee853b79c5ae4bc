//! Takes secrets out of texts: those that are known, literally, and whatever looks like one.
//! Pure.
//!
//! The bundle has no part that is meant to hold a secret; this is the second fence.

use std::collections::BTreeSet;

/// A secret shorter than this would take innocent words out; nothing prints it.
const KNOWN_MIN: usize = 4;
/// What stands for a secret.
const REMOVED: &str = "[removed]";
/// What stands for a name.
const NAME: &str = "[name]";

/// The known secrets, and names that are to be taken out.
#[derive(Debug, Default)]
pub struct Redactor {
    secrets: BTreeSet<(std::cmp::Reverse<usize>, String)>,
    names: BTreeSet<String>,
}

impl Redactor {
    /// A secret: its text in the file, without `text:` or `hex:`, and in hexadecimal.
    pub fn know(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim();
        let bare = text.strip_prefix("text:").or_else(|| text.strip_prefix("hex:")).unwrap_or(text);
        let hex: String = bare.bytes().map(|byte| format!("{byte:02x}")).collect();
        for form in [bare.to_owned(), hex] {
            if form.len() >= KNOWN_MIN {
                self.secrets.insert((std::cmp::Reverse(form.len()), form));
            }
        }
        // A key in PEM form is recognised line by line, wherever it is quoted.
        for line in bare.lines().map(str::trim).filter(|line| line.len() >= 32 && !line.starts_with("-----"))
        {
            self.secrets.insert((std::cmp::Reverse(line.len()), line.to_owned()));
        }
    }

    /// A name that is to be taken out.
    pub fn hide_name(&mut self, name: &str) {
        if !name.is_empty() {
            self.names.insert(name.to_owned());
        }
    }

    /// The text without secrets.
    pub fn redact(&self, text: &str) -> String {
        let mut text = without_pem(text);
        for (_, secret) in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REMOVED);
            }
        }
        for name in &self.names {
            text = text.replace(name.as_str(), NAME);
        }
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            out.push_str(&line_without(line));
        }
        out
    }
}

/// Private keys in PEM form, whole.
fn without_pem(text: &str) -> String {
    let (mut out, mut inside) = (String::with_capacity(text.len()), false);
    for line in text.split_inclusive('\n') {
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
            inside = true;
            out.push_str(REMOVED);
            out.push('\n');
        }
        if !inside {
            out.push_str(line);
        }
        if line.contains("-----END") {
            inside = false;
        }
    }
    out
}

/// What follows a word that announces a secret: `password = …`, `hex:…`, `SetCredential=…`, and the
/// name and password of a URL.
fn line_without(line: &str) -> String {
    let mut line = without_user(line);
    for prefix in ["text:", "hex:"] {
        line = without_after(&line, prefix);
    }
    // `key = value`, `KEY=value`, `"key":"value"`, where the key is announced and is no file's.
    let lower = line.to_lowercase();
    let Some(at) = lower.find(['=', ':']) else { return line };
    if announces(&lower[..at]) && at + 1 < line.len() {
        let end = if line.ends_with('\n') { "\n" } else { "" };
        return format!("{} {REMOVED}{end}", &line[..=at]);
    }
    line
}

/// Whether a name announces a secret.
pub(super) fn announces(name: &str) -> bool {
    const ANNOUNCED: [&str; 8] =
        ["password", "passwd", "secret", "psk", "token", "setcredential", "setcredentialencrypted", "pin"];
    let key: String = name.to_lowercase().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    ANNOUNCED.iter().any(|word| key.ends_with(word))
}

/// `scheme://name:password@host` without what is before the `@`.
fn without_user(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end =
            tail.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).unwrap_or(tail.len());
        match tail[..end].rfind('@') {
            Some(user) => {
                out.push_str(REMOVED);
                rest = &tail[user..];
            }
            None => rest = tail,
        }
    }
    out.push_str(rest);
    out
}

/// The word that follows a prefix.
fn without_after(line: &str, prefix: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(prefix) {
        let (head, tail) = rest.split_at(at + prefix.len());
        out.push_str(head);
        let end =
            tail.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',')).unwrap_or(tail.len());
        // `text: …` of a sentence is none.
        if end > 0 && tail[..end] != *"…" {
            out.push_str(REMOVED);
        } else {
            out.push_str(&tail[..end]);
        }
        rest = &tail[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_secrets_are_taken_out_in_every_form() {
        let mut redactor = Redactor::default();
        redactor.know(b"text:sesame-sesame-77\n");
        redactor.know(b"hunter2");
        redactor.hide_name("greenhouse-user");
        let text = "a sesame-sesame-77 b 736573616d652d736573616d652d3737 hunter2 greenhouse-user";
        assert_eq!(redactor.redact(text), "a [removed] b [removed] [removed] [name]");
        // Too short to be taken out of texts; nothing prints it.
        redactor.know(b"a");
        assert_eq!(redactor.redact("a"), "a");
    }

    #[test]
    fn what_looks_like_a_secret_is_taken_out() {
        let redactor = Redactor::default();
        for (text, clean) in [
            ("password = \"x\"\n", "password = [removed]\n"),
            ("TOMBOLO_PASSWORD=x y", "TOMBOLO_PASSWORD= [removed]"),
            ("SetCredential=a:b\n", "SetCredential= [removed]\n"),
            ("password-file = \"secrets/x\"\n", "password-file = \"secrets/x\"\n"),
            ("psk hex:00ff, and text:abc\n", "psk hex:[removed], and text:[removed]\n"),
            ("url mqtts://u:p@host:1/x and http://b/", "url mqtts://[removed]@host:1/x and http://b/"),
            (
                "x\n-----BEGIN EC PRIVATE KEY-----\nabc\n-----END EC PRIVATE KEY-----\ny\n",
                "x\n[removed]\ny\n",
            ),
        ] {
            assert_eq!(redactor.redact(text), clean);
        }
    }
}
