//! `tombolo import mosquitto`: makes a configuration of what a mosquitto on the same board had:
//! users with their passwords, the ACL, and what its bridge sent upstream.
//!
//! | mosquitto | here |
//! |---|---|
//! | a user of `password_file` | a device of a role of its own, with the same password |
//! | `topic write`, `topic read`, `topic deny` of a user | `local-publish`, `local-subscribe` rules with the same filter |
//! | `pattern` | the same for every role; `%u` is `{device}` |
//! | `topic … out` of a bridge | uplink rules of every role for what both it and the ACL allow, to the same topic at the broker; what the ACL denies is denied there too |
//! | anonymous topics, `%c`, `topic … in`, listeners, the rest | listed: nobody is anonymous here, and commands have rules of their own |
//!
//! It writes a file for `conf.d` and one for `device import`, and changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::json;

use super::args::ImportMosquittoArguments;
use super::error::CommandError;
use super::input::text_of;
use super::output::plural;
use super::{Context, note};
use crate::gate::login::PasswordHash;
use crate::message::Name;

/// Largest file, in bytes.
const FILE_MAX: u64 = 16 << 20;
/// The names of the files it writes.
const RULES: &str = "30-mosquitto.toml";
const DEVICES: &str = "mosquitto-devices.csv";

/// A line that has no counterpart.
#[derive(Debug, PartialEq, Eq)]
struct Unmapped {
    file: &'static str,
    line: usize,
    text: String,
    why: &'static str,
}

/// A filter that a user may use, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Access {
    filter: String,
    read: bool,
    write: bool,
    deny: bool,
}

/// What a bridge sends: the local filter, and what is before it at the broker.
#[derive(Debug, PartialEq, Eq)]
struct Outgoing {
    line: usize,
    filter: String,
    local: String,
    remote: String,
}

/// An uplink rule.
#[derive(Debug, PartialEq, Eq)]
struct Uplink {
    path: String,
    /// The topic at the broker; `None`: it denies.
    topic: Option<String>,
}

#[derive(Debug, Default)]
struct Found {
    users: BTreeMap<String, String>,
    /// There is an ACL: who is not in it may nothing.
    has_acl: bool,
    /// By user; `None` = every user.
    access: Vec<(Option<String>, Access)>,
    outgoing: Vec<Outgoing>,
    unmapped: Vec<Unmapped>,
}

impl Found {
    fn skip(&mut self, file: &'static str, line: usize, text: &str, why: &'static str) {
        // A line of the password file has a hash, which is not shown.
        let text = if file == PASSWORDS { text.split(':').next().unwrap_or_default() } else { text };
        self.unmapped.push(Unmapped { file, line, text: text.to_owned(), why });
    }

    fn passwords(&mut self, text: &str) {
        for (line, text) in lines(text) {
            let Some((user, hash)) = text.split_once(':') else {
                self.skip(PASSWORDS, line, text, "has no password");
                continue;
            };
            if Name::parse(user).is_err() {
                self.skip(
                    PASSWORDS,
                    line,
                    text,
                    "this user name is no device id: letters, digits, '.', '_' and '-'",
                );
            } else if PasswordHash::parse(hash).is_none() {
                self.skip(
                    PASSWORDS,
                    line,
                    text,
                    "its password is not hashed as mosquitto_passwd does ($6$, $7$)",
                );
            } else {
                self.users.insert(user.to_owned(), hash.to_owned());
            }
        }
    }

    fn acl(&mut self, text: &str) {
        self.has_acl = true;
        let mut user: Option<&str> = None;
        for (line, text) in lines(text) {
            let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            let rest = rest.trim();
            match word {
                "user" => user = Some(rest),
                "topic" | "pattern" => {
                    let (kind, filter) = match rest.split_once(char::is_whitespace) {
                        Some((kind @ ("read" | "write" | "readwrite" | "deny"), filter)) => {
                            (kind, filter.trim())
                        }
                        _ => ("readwrite", rest),
                    };
                    let access = Access {
                        filter: filter.replace("%u", "{device}"),
                        read: kind != "write",
                        write: kind != "read",
                        deny: kind == "deny",
                    };
                    let is_pattern = word == "pattern";
                    if access.filter.contains("%c") {
                        self.skip(ACL, line, text, "there is no placeholder for the client id");
                    } else if is_pattern {
                        self.access.push((None, access));
                    } else if let Some(user) = user {
                        self.access.push((Some(user.to_owned()), access));
                    } else {
                        self.skip(
                            ACL,
                            line,
                            text,
                            "it is of anonymous clients, and nobody is anonymous here",
                        );
                    }
                }
                _ => self.skip(ACL, line, text, "is not understood"),
            }
        }
    }

    fn bridges(&mut self, text: &str) {
        let mut in_bridge = false;
        for (line, text) in lines(text) {
            let words: Vec<&str> = text.split_whitespace().collect();
            in_bridge |= words[0] == "connection";
            match &words[..] {
                ["connection", ..] => {}
                ["topic", filter, rest @ ..] if in_bridge => {
                    let direction = rest.first().copied().unwrap_or("out");
                    let part = |at: usize| rest.get(at).copied().unwrap_or("").trim_matches('"').to_owned();
                    if direction != "out" && direction != "both" {
                        self.skip(
                            CONF,
                            line,
                            text,
                            "what comes from the broker are commands: [role.R.downlink.NAME]",
                        );
                        continue;
                    }
                    if direction == "both" {
                        self.skip(
                            CONF,
                            line,
                            text,
                            "only its direction out: what comes from the broker are commands",
                        );
                    }
                    let filter = filter.trim_matches('"').to_owned();
                    self.outgoing.push(Outgoing { line, filter, local: part(2), remote: part(3) });
                }
                ["address" | "addresses", ..] if in_bridge => {
                    self.skip(CONF, line, text, "[upstream] url names the broker");
                }
                _ if in_bridge => self.skip(CONF, line, text, "an option of the bridge: see [upstream]"),
                ["password_file" | "acl_file" | "per_listener_settings", ..] => {}
                ["listener" | "port" | "bind_address", ..] => {
                    self.skip(CONF, line, text, "[mqtt] listen, or insecure-listen on this machine");
                }
                _ => self.skip(CONF, line, text, "has no counterpart"),
            }
        }
    }

    /// The file for `conf.d`.
    fn rules(&self) -> String {
        let mut text = "# Made by `tombolo import mosquitto`: review it before it is used.\n".to_owned();
        let quoted = |value: &str| toml::Value::String(value.to_owned()).to_string();
        let named = self.users.keys().cloned();
        for user in named {
            let role = role_of(&user);
            let _ = writeln!(text, "\n# {}\n[role.{}]", user, quoted(&role));
            let own = self.of(&user);
            for (at, access) in own.iter().enumerate() {
                for (kind, on) in [("local-publish", access.write), ("local-subscribe", access.read)] {
                    if on {
                        let _ = writeln!(
                            text,
                            "[role.{}.{kind}.acl-{}]\ntopic = {}",
                            quoted(&role),
                            at + 1,
                            quoted(&access.filter)
                        );
                        if access.deny {
                            text.push_str("deny = true\n");
                        }
                    }
                }
            }
            for (at, outgoing) in self.outgoing.iter().enumerate() {
                let rules = self.uplink(&user, &own, outgoing);
                for (number, rule) in rules.iter().enumerate() {
                    let name = match rules.len() {
                        1 => format!("bridge-{}", at + 1),
                        _ => format!("bridge-{}-{}", at + 1, number + 1),
                    };
                    let (role, path) = (quoted(&role), quoted(&rule.path));
                    let _ = writeln!(text, "[role.{role}.uplink.{name}]\npath = {path}");
                    let _ = match &rule.topic {
                        Some(topic) => writeln!(text, "topic = {}", quoted(topic)),
                        None => writeln!(text, "deny = true"),
                    };
                }
            }
        }
        text
    }

    /// Lists the lines of bridges that nobody may write to.
    fn list_unreached(&mut self) {
        let reaches = |outgoing: &Outgoing| {
            self.users.keys().any(|user| {
                let own: Vec<&Access> = self.of(user);
                self.uplink(user, &own, outgoing).iter().any(|rule| rule.topic.is_some())
            })
        };
        let unreached = self.outgoing.iter().filter(|outgoing| !reaches(outgoing));
        let unreached: Vec<(usize, String)> =
            unreached.map(|outgoing| (outgoing.line, format!("topic {} out", outgoing.filter))).collect();
        for (line, text) in unreached {
            self.skip(CONF, line, &text, "no user of the two other files may write there");
        }
    }

    /// The ACL of a user.
    fn of(&self, user: &str) -> Vec<&Access> {
        let own = self.access.iter().filter(|(of, _)| of.as_deref().is_none_or(|of| of == user));
        own.map(|(_, access)| access).collect()
    }

    /// What a user's publishes upstream come to by one line of a bridge: no more than mosquitto sent,
    /// which is what the ACL lets the user write. A deny counts before all others there.
    fn uplink(&self, user: &str, own: &[&Access], outgoing: &Outgoing) -> Vec<Uplink> {
        let bridged = format!("{}{}", outgoing.local, outgoing.filter);
        let of_user = |access: &Access| access.filter.replace("{device}", user);
        let everything = Access { filter: "#".to_owned(), read: false, write: true, deny: false };
        let may = own.iter().filter(|access| access.write && !access.deny).copied();
        let may: Vec<&Access> = if self.has_acl { may.collect() } else { vec![&everything] };
        let mut allowed: Vec<String> =
            may.into_iter().filter_map(|access| intersection(&of_user(access), &bridged)).collect();
        let denied: Vec<String> =
            own.iter().filter(|access| access.write && access.deny).map(|access| of_user(access)).collect();
        // One within another adds nothing, nor does one that is denied whole.
        let is_within = |inner: &str, outer: &str| intersection(inner, outer).as_deref() == Some(inner);
        let all = allowed.clone();
        let mut at = 0;
        allowed.retain(|path| {
            at += 1;
            !denied.iter().any(|denied| is_within(path, denied))
                && !all.iter().enumerate().any(|(other, wider)| {
                    other != at - 1 && is_within(path, wider) && (path != wider || other < at - 1)
                })
        });
        let mut rules: Vec<Uplink> = allowed
            .iter()
            .filter_map(|path| {
                let filter = path.strip_prefix(&outgoing.local)?;
                let topic = Some(template(&outgoing.remote, filter));
                Some(Uplink { path: path.clone(), topic })
            })
            .collect();
        for denied in &denied {
            for path in allowed.iter().filter_map(|path| intersection(path, denied)) {
                let rule = Uplink { path, topic: None };
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
        rules
    }

    /// The file for `device import`.
    fn devices(&self) -> String {
        let mut text = "id,role,password\n".to_owned();
        for (user, hash) in &self.users {
            // None of these has a comma or a quote.
            let _ = writeln!(text, "{user},{},{hash}", role_of(user));
        }
        text
    }
}

const PASSWORDS: &str = "password_file";
const ACL: &str = "acl_file";
const CONF: &str = "mosquitto.conf";

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let all = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    all.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn role_of(user: &str) -> String {
    // A name has at most 64 bytes.
    let short: String = user.chars().take(54).collect();
    format!("mosquitto-{short}")
}

/// The filter of the topics that both match; there is one, or there are none.
fn intersection(one: &str, other: &str) -> Option<String> {
    let (mut one, mut other) = (one.split('/').peekable(), other.split('/').peekable());
    let mut levels = Vec::new();
    loop {
        let level = match (one.peek().copied(), other.peek().copied()) {
            (None, None) => break,
            (Some("#"), _) => {
                levels.extend(other);
                break;
            }
            (_, Some("#")) => {
                levels.extend(one);
                break;
            }
            (Some("+"), Some(level)) | (Some(level), Some("+")) => level,
            (Some(level), Some(same)) if level == same => level,
            _ => return None,
        };
        levels.push(level);
        (one.next(), other.next());
    }
    Some(levels.join("/"))
}

/// The topic at the broker, with captures in the place of wildcards. Its first level must be
/// literal: without a remote prefix it is that of the filter.
fn template(remote: &str, filter: &str) -> String {
    let mut number = 0;
    let level = |level: &str| match level {
        "+" => {
            number += 1;
            format!("{{{number}}}")
        }
        "#" => "{rest}".to_owned(),
        literal => literal.to_owned(),
    };
    let levels: Vec<String> = filter.split('/').map(level).collect();
    format!("{remote}{}", levels.join("/"))
}

/// Runs it.
///
/// # Errors
/// [`CommandError::Failed`]: a file cannot be read or written.
pub fn run(context: &Context, arguments: &ImportMosquittoArguments) -> Result<(), CommandError> {
    let mut found = Found::default();
    let files = [&arguments.password_file, &arguments.acl_file, &arguments.conf];
    let takes: [fn(&mut Found, &str); 3] = [Found::passwords, Found::acl, Found::bridges];
    for (file, take) in files.into_iter().zip(takes) {
        if let Some(file) = file {
            take(&mut found, &text_of(file, FILE_MAX)?);
        }
    }
    found.list_unreached();
    let mut unknown: Vec<String> = found
        .access
        .iter()
        .filter_map(|(user, _)| user.clone())
        .filter(|user| !found.users.contains_key(user))
        .collect();
    unknown.dedup();
    let (rules, devices) = (arguments.output.join(RULES), arguments.output.join(DEVICES));
    // No secret is in the rules, and the service has to read them in `conf.d`, whoever copies them.
    write(&rules, &found.rules(), 0o644)?;
    write(&devices, &found.devices(), 0o600)?;
    if context.out.json {
        for Unmapped { file, line, text, why } in &found.unmapped {
            context.out.object(&json!({ "file": file, "line": line, "text": text, "why": why }))?;
        }
        return Ok(context.out.object(&json!({
            "users": found.users.len(), "unmapped": found.unmapped.len(), "users_without_password": unknown,
            "rules": rules.display().to_string(), "devices": devices.display().to_string(),
        }))?);
    }
    for Unmapped { file, line, text, why } in &found.unmapped {
        context.out.line(format_args!("not taken over: {file}:{line}: {text}: {why}"))?;
    }
    for user in &unknown {
        context
            .out
            .line(format_args!("not taken over: the rules of {user}, who is not in the password file"))?;
    }
    let and_users = match unknown.len() {
        0 => String::new(),
        count => format!(" and the rules of {}", plural(count as u64, "user")),
    };
    context.out.line(format_args!(
        "wrote {} and {}: {}; {}{and_users} not taken over",
        rules.display(),
        devices.display(),
        plural(found.users.len() as u64, "user"),
        plural(found.unmapped.len() as u64, "line")
    ))?;
    note(format_args!(
        "next: put {RULES} into conf.d, `{}`, then `{}`",
        context.hint("reload"),
        context.hint(&format!("device import {}", devices.display()))
    ));
    Ok(())
}

fn write(file: &Path, text: &str, mode: u32) -> Result<(), CommandError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let written = options.open(file).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let way_out = match error.kind() {
            ErrorKind::AlreadyExists => "; delete it, or name another folder with --output",
            ErrorKind::NotFound => "; make that folder, or name another one with --output",
            _ => "; name a folder that may be written to with --output",
        };
        CommandError::Failed(format!("{} cannot be written: {error}{way_out}", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As mosquitto_passwd 2.0 wrote it for the password `secret`.
    const HASH: &str = "$7$101$oGB4I/cYdnwLBuJr$FwP87im51rvl/wRx64yBq4i4ahrRI7eAuRa3tfWF8ndg/wU3hbcV74f+ZCi+oZjGpCoqA2jGAA3qeNY938K69w==";

    fn found() -> Found {
        let mut found = Found::default();
        found.passwords(&format!("anna:{HASH}\nbert:{HASH}\nno name:{HASH}\nplain:secret\n"));
        found.acl(
            "topic read $SYS/#\nuser anna\ntopic write plant/+/temp\ntopic deny plant/9/#\ntopic cmd/anna\nuser bert\n\
             topic read plant/#\npattern write own/%u/#\npattern read %c/#\nnonsense\n",
        );
        found.bridges(
            "listener 1883\npassword_file /x\nconnection up\naddress b.example:8883\ntopic plant/+/temp out 1 \"\" site7/\n\
             topic # in 1\ntopic own/# both 1\ncleansession true\n",
        );
        found
    }

    #[test]
    fn what_can_be_is_taken_over_and_every_other_line_is_listed() {
        let found = found();
        assert_eq!(found.users.keys().collect::<Vec<_>>(), ["anna", "bert"]);
        let places: Vec<(&str, usize)> = found.unmapped.iter().map(|one| (one.file, one.line)).collect();
        let conf = [1, 4, 6, 7, 8].map(|line| (CONF, line));
        let expected: Vec<_> =
            [(PASSWORDS, 3), (PASSWORDS, 4), (ACL, 1), (ACL, 9), (ACL, 10)].into_iter().chain(conf).collect();
        assert_eq!(places, expected, "{:?}", found.unmapped);
        assert!(found.unmapped.iter().all(|one| !one.text.contains("secret") && !one.text.contains("$7$")));
    }

    #[test]
    fn the_rules_are_those_of_the_acl() {
        let text = found().rules();
        for part in [
            "[role.\"mosquitto-anna\".local-publish.acl-1]\ntopic = \"plant/+/temp\"\n",
            "[role.\"mosquitto-anna\".local-publish.acl-2]\ntopic = \"plant/9/#\"\ndeny = true\n",
            "[role.\"mosquitto-anna\".local-subscribe.acl-3]\ntopic = \"cmd/anna\"\n",
            "[role.\"mosquitto-anna\".local-publish.acl-4]\ntopic = \"own/{device}/#\"\n",
            "[role.\"mosquitto-anna\".uplink.bridge-1-1]\npath = \"plant/+/temp\"\ntopic = \"site7/plant/{1}/temp\"\n",
            "[role.\"mosquitto-anna\".uplink.bridge-1-2]\npath = \"plant/9/temp\"\ndeny = true\n",
            "[role.\"mosquitto-anna\".uplink.bridge-2]\npath = \"own/anna/#\"\ntopic = \"own/anna/{rest}\"\n",
            "[role.\"mosquitto-bert\".uplink.bridge-2]\npath = \"own/bert/#\"\ntopic = \"own/bert/{rest}\"\n",
            "[role.\"mosquitto-bert\".local-subscribe.acl-1]\ntopic = \"plant/#\"\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("mosquitto-bert\".uplink.bridge-1"), "bert may not write there: {text}");
        assert!(toml::from_str::<toml::Table>(&text).is_ok(), "{text}");
        assert_eq!(found().devices().lines().count(), 3);
    }

    #[test]
    fn two_filters_meet_in_one() {
        for (one, other, both) in [
            ("#", "a/+", Some("a/+")),
            ("a/#", "a/b/c", Some("a/b/c")),
            ("a/#", "+/b/#", Some("a/b/#")),
            ("+/b", "a/+", Some("a/b")),
            ("a/#", "a", Some("a")),
            ("a", "a/b", None),
            ("a/b", "a/c", None),
            ("a/+", "a/b/#", Some("a/b")),
        ] {
            assert_eq!(intersection(one, other).as_deref(), both, "{one} {other}");
            assert_eq!(intersection(other, one).as_deref(), both, "{other} {one}");
        }
    }

    /// The rules of `anna` for a bridge that sends everything, with `rules` as her ACL.
    fn uplink(acl: &str) -> Vec<Uplink> {
        let mut found = Found::default();
        found.passwords(&format!("anna:{HASH}\n"));
        if !acl.is_empty() {
            found.acl(acl);
        }
        found.bridges("connection up\ntopic # out 1 \"\" site/\n");
        found.uplink("anna", &found.of("anna"), &found.outgoing[0])
    }

    #[test]
    fn a_bridge_sends_no_more_than_the_acl_let_a_user_write() {
        let rule = |path: &str, topic: Option<&str>| Uplink {
            path: path.to_owned(),
            topic: topic.map(str::to_owned),
        };
        let everything = [rule("#", Some("site/{rest}"))];
        assert_eq!(uplink(""), everything, "there was no ACL");
        assert_eq!(uplink("user bert\ntopic #\n"), [], "who is not in an ACL may write nothing");
        assert_eq!(uplink("user anna\ntopic read #\n"), []);
        let own = [rule("a/+", Some("site/a/{1}")), rule("b", Some("site/b"))];
        assert_eq!(uplink("user anna\ntopic write a/+\ntopic write a/1\ntopic b\n"), own);
        let cut = [rule("a/#", Some("site/a/{rest}")), rule("a/secret/+", None)];
        assert_eq!(uplink("user anna\ntopic a/#\ntopic deny +/secret/+\n"), cut);
        assert_eq!(uplink("user anna\ntopic a/b\ntopic deny a/#\n"), []);
    }
}
