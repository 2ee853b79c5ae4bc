//! `tombolo import mosquitto`: makes a configuration of what a mosquitto on the same board had:
//! users with their passwords, the ACL, and what its bridge sent upstream.
//!
//! | mosquitto | here |
//! |---|---|
//! | a user of `password_file` | a device of a role of its own, with the same password |
//! | `topic write`, `topic read`, `topic deny` of a user | `local-publish`, `local-subscribe` rules with the same filter |
//! | `pattern` | the same for every role; `%u` is `{device}` |
//! | `topic … out` of a bridge | uplink rules for what is both sent by it and allowed to be written, to the same topic at the broker ([`bridge`]) |
//! | anonymous topics, `%c`, `topic … in`, listeners, the rest | listed: nobody is anonymous here, and commands have rules of their own |
//!
//! The rules never allow more than mosquitto did. A deny line that has no counterpart takes the
//! lines with it that it restricted.
//!
//! It writes a file for `conf.d` and one for `device import`, and changes nothing.

mod bridge;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::Path;

use serde_json::json;

use super::args::ImportMosquittoArguments;
use super::error::CommandError;
use super::input::text_of;
use super::output::plural;
use super::{Context, note};
use crate::durable::folder::StateFolder as _;
use crate::durable::io::OnDisk;
use crate::gate::login::PasswordHash;
use crate::message::{Name, RESERVED_DEVICE};
use crate::southbound::mqtt::filter::Filter;
use crate::telemetry::text::{Escaped, is_harmless, numbered_toml};

/// Largest file, in bytes.
const FILE_MAX: u64 = 16 << 20;
/// The names of the files it writes.
const RULES: &str = "30-mosquitto.toml";
const DEVICES: &str = "mosquitto-devices.csv";

/// The quota of each role: nothing that a client of mosquitto sent is to be refused, but one that
/// runs wild must not take the CPU and the journal of all.
const QUOTA: &str = "quota = { messages = 6000, bytes = \"64MiB\", per = \"1min\", burst = 1000 }";

/// A line that has no counterpart.
#[derive(Debug, PartialEq, Eq)]
struct Unmapped {
    file: &'static str,
    line: usize,
    text: String,
    why: String,
}

/// A line of the ACL: a filter that a user may use, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Access {
    line: usize,
    text: String,
    /// As mosquitto has it.
    filter: String,
    /// In its filter `%u` is the user.
    is_pattern: bool,
    read: bool,
    write: bool,
    deny: bool,
    /// Only of a deny line: no rule says the same.
    is_lost: bool,
}

impl Access {
    /// The filter of a rule.
    fn rule_filter(&self) -> String {
        if self.is_pattern { self.filter.replace("%u", "{device}") } else { self.filter.clone() }
    }

    /// The filter of a user. One with `%c` is that of any client id; `None`: it is not valid.
    fn filter_of(&self, user: &str) -> Option<Filter> {
        let text = if self.is_pattern { self.filter.replace("%u", user) } else { self.filter.clone() };
        let level = |level| if self.is_pattern && str::contains(level, "%c") { "+" } else { level };
        Filter::parse(&text.split('/').map(level).collect::<Vec<_>>().join("/")).ok()
    }

    /// Whether it is about what mosquitto itself publishes.
    fn is_of_the_broker(&self) -> bool {
        self.filter.split('/').next() == Some("$SYS")
    }

    /// Why there is no rule like it.
    fn fault(&self) -> Option<&'static str> {
        if self.is_pattern && self.filter.contains("%c") {
            Some("there is no placeholder for the client id")
        } else if self.is_of_the_broker() {
            Some(
                "nothing is published on $SYS here: `tombolo status` and [metrics] have the gateway's numbers",
            )
        } else if self.filter.contains(['{', '}']) {
            Some("braces are placeholders here")
        } else if self.filter_of("u").is_none() {
            Some("it is no topic filter")
        } else if self.filter.contains(char::is_control) {
            Some("it has a control character, which no topic has here")
        } else {
            None
        }
    }
}

/// What a bridge sends: the local filter, and what is before it here and at the broker.
#[derive(Debug, PartialEq, Eq)]
struct Outgoing {
    line: usize,
    text: String,
    whole: Filter,
    local: String,
    remote: String,
}

#[derive(Debug, Default)]
struct Found {
    users: BTreeMap<String, String>,
    /// There was a password file.
    has_passwords: bool,
    /// By user; `None` = every user.
    access: Vec<(Option<String>, Access)>,
    /// There was an ACL file.
    has_acl: bool,
    /// The configuration names one, or other files that may name one.
    wants_acl: bool,
    /// A plugin decides what may be written.
    has_plugin: bool,
    outgoing: Vec<Outgoing>,
    unmapped: Vec<Unmapped>,
}

impl Found {
    fn skip(&mut self, file: &'static str, line: usize, text: &str, why: impl Into<String>) {
        // Secrets are not shown: the hash in a line of the password file, the password of a bridge.
        let word = text.split_whitespace().next().unwrap_or_default();
        let text = match file {
            PASSWORDS => text.split(':').next().unwrap_or_default(),
            CONF if SECRETS.contains(&word) => word,
            _ => text,
        };
        self.unmapped.push(Unmapped { file, line, text: text.to_owned(), why: why.into() });
    }

    fn passwords(&mut self, text: &str) {
        self.has_passwords = true;
        for (line, text) in lines(text) {
            let Some((user, hash)) = text.split_once(':') else {
                self.skip(PASSWORDS, line, text, "has no password");
                continue;
            };
            if user == RESERVED_DEVICE {
                let why = "this name is reserved for the gateway's own topics: give that user another one";
                self.skip(PASSWORDS, line, text, why);
            } else if Name::parse(user).is_err() {
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
        let (mut user, mut nameless): (Option<&str>, bool) = (None, false);
        for (line, text) in lines(text) {
            let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            let rest = rest.trim();
            match word {
                "user" if rest.is_empty() => {
                    (user, nameless) = (None, true);
                    self.skip(ACL, line, text, "it names no user, and mosquitto refuses a file with it");
                }
                "user" => (user, nameless) = (Some(rest), false),
                "topic" | "pattern" => {
                    let (kind, filter) = match rest.split_once(char::is_whitespace) {
                        Some((kind @ ("read" | "write" | "readwrite" | "deny"), filter)) => {
                            (kind, filter.trim())
                        }
                        Some((kind, _)) => {
                            let why = format!(
                                "{kind:?} is none of read, write, readwrite and deny, and mosquitto refuses a file with it"
                            );
                            self.skip(ACL, line, text, why);
                            continue;
                        }
                        None => ("readwrite", rest),
                    };
                    let mut access = Access {
                        line,
                        text: text.to_owned(),
                        filter: filter.to_owned(),
                        is_pattern: word == "pattern",
                        read: kind != "write",
                        write: kind != "read",
                        deny: kind == "deny",
                        is_lost: false,
                    };
                    if !access.is_pattern && user.is_none() {
                        let why = match nameless {
                            true => "the line user before it names no user",
                            false => "it is of anonymous clients, and nobody is anonymous here",
                        };
                        self.skip(ACL, line, text, why);
                        continue;
                    }
                    if let Some(why) = access.fault() {
                        self.skip(ACL, line, text, why);
                        // What is never published needs no denial.
                        access.is_lost = access.deny && !access.is_of_the_broker();
                        if !access.is_lost {
                            continue;
                        }
                    }
                    let of = user.filter(|_| !access.is_pattern).map(str::to_owned);
                    self.access.push((of, access));
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
                    let (local, remote) = (part(2), part(3));
                    let whole = format!("{local}{}", filter.trim_matches('"'));
                    if whole.contains(['{', '}']) || remote.contains(['{', '}']) {
                        self.skip(CONF, line, text, "braces are placeholders here");
                        continue;
                    }
                    match Filter::parse(&whole) {
                        Ok(whole) => {
                            let text = text.to_owned();
                            self.outgoing.push(Outgoing { line, text, whole, local, remote });
                        }
                        Err(_) => self.skip(CONF, line, text, format!("{whole:?} is no topic filter")),
                    }
                }
                ["address" | "addresses", ..] if in_bridge => {
                    self.skip(CONF, line, text, "[upstream] url names the broker");
                }
                // These count wherever they stand: behind a bridge, too.
                ["acl_file", ..] => {
                    self.wants_acl = true;
                    if !self.has_acl {
                        self.skip(CONF, line, text, "name it with --acl-file");
                    }
                }
                ["password_file", ..] if !self.has_passwords => {
                    self.skip(CONF, line, text, "name it with --password-file");
                }
                ["password_file", ..] | ["per_listener_settings", "false"] => {}
                ["per_listener_settings", ..] => {
                    let why = "all addresses have the same users and rules here";
                    self.skip(CONF, line, text, why);
                }
                ["include_dir", ..] => {
                    self.wants_acl = true;
                    self.skip(CONF, line, text, "give the files of that folder to further imports");
                }
                [word, ..] if word.contains("plugin") => {
                    self.has_plugin = true;
                    self.skip(CONF, line, text, "what a plugin allows is not known");
                }
                ["listener" | "port" | "bind_address", ..] => {
                    self.skip(CONF, line, text, "[mqtt] listen, or insecure-listen on this machine");
                }
                ["certfile" | "keyfile" | "cafile", ..] => {
                    let why = "[mqtt] certificate-file, key-file, client-ca-file";
                    self.skip(CONF, line, text, why);
                }
                ["max_connections", ..] => self.skip(CONF, line, text, "[mqtt] max-clients"),
                [word, ..] if in_bridge && is_of_bridge(word) => {
                    self.skip(CONF, line, text, "an option of the bridge: see [upstream]");
                }
                _ => self.skip(CONF, line, text, "has no counterpart"),
            }
        }
    }

    /// The file for `conf.d`. What is left out because of a deny line, and what of a bridge has no
    /// rule, is listed then.
    fn rules(&mut self) -> String {
        let mut text = "# Made by `tombolo import mosquitto`: review it before it is used.\n\
                        # mosquitto had no quota. Each role has one here, for each device of it; raise it where that is too\n\
                        # little. Without `quota` it is 60 messages a minute, 20 at once.\n"
            .to_owned();
        let mut skipped = Vec::new();
        let mut bridged = bridge::Bridged::new(self);
        let roles = self.roles();
        for user in self.users.keys() {
            let role = quoted(&roles[user.as_str()]);
            let _ = writeln!(text, "\n# {user}\n[role.{role}]\n{QUOTA}");
            let own: Vec<&Access> = self
                .access
                .iter()
                .filter(|(of, _)| of.as_deref().is_none_or(|of| of == user))
                .map(|(_, access)| access)
                .collect();
            let mut taken = Vec::new();
            for (at, access) in own.iter().copied().enumerate().filter(|(_, access)| !access.is_lost) {
                if let Some(lost) = own.iter().find(|deny| deny.is_lost && restricts(deny, access, user)) {
                    let why =
                        format!("for {user}: line {}, which denies a part of it, has no rule", lost.line);
                    let (line, text) = (access.line, access.text.clone());
                    skipped.push(Unmapped { file: ACL, line, text, why });
                    continue;
                }
                taken.push(access);
                for (kind, on) in [("local-publish", access.write), ("local-subscribe", access.read)] {
                    if on {
                        let topic = quoted(&access.rule_filter());
                        let name = at + 1;
                        let _ = writeln!(text, "[role.{role}.{kind}.acl-{name}]\ntopic = {topic}");
                        if access.deny {
                            text.push_str("deny = true\n");
                        }
                    }
                }
            }
            for rule in bridged.rules(user, &taken, &mut skipped) {
                let (name, path) = (rule.name, quoted(&rule.path));
                let _ = writeln!(text, "[role.{role}.uplink.{name}]\npath = {path}");
                let _ = match rule.topic {
                    Some(topic) => writeln!(text, "topic = {}", quoted(&topic)),
                    None => writeln!(text, "deny = true"),
                };
            }
        }
        bridged.list_unused(&mut skipped);
        self.unmapped.extend(skipped);
        text
    }

    /// The role of each user; no two have the same.
    fn roles(&self) -> BTreeMap<&str, String> {
        let (short, long): (Vec<&str>, Vec<&str>) =
            self.users.keys().map(String::as_str).partition(|user| user.len() <= USER_MAX);
        let mut taken: BTreeSet<String> = short.iter().map(|user| (*user).to_owned()).collect();
        let mut named: Vec<(&str, String)> = short.into_iter().map(|user| (user, user.to_owned())).collect();
        for user in long {
            let ends = (1_u64..).map(|number| if number == 1 { String::new() } else { format!("-{number}") });
            // A user name is a device id, which is ASCII.
            let name = |end: String| format!("{}{end}", &user[..USER_MAX - end.len()]);
            let free = ends.map(name).find(|name| !taken.contains(name)).unwrap_or_default();
            taken.insert(free.clone());
            named.push((user, free));
        }
        named.into_iter().map(|(user, name)| (user, format!("{ROLE}{name}"))).collect()
    }

    /// The file for `device import`.
    fn devices(&self) -> String {
        let mut text = "id,role,password\n".to_owned();
        let roles = self.roles();
        for (user, hash) in &self.users {
            // None of these has a comma or a quote.
            let _ = writeln!(text, "{user},{},{hash}", roles[user.as_str()]);
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

/// What the name of a role begins with.
const ROLE: &str = "mosquitto-";
/// Bytes of a user name in it: a name has at most 64.
const USER_MAX: usize = 64 - ROLE.len();
/// Options whose value is a secret.
const SECRETS: [&str; 4] = ["password", "remote_password", "local_password", "bridge_psk"];

/// Whether an option is of the bridge before it (mosquitto.conf(5), "Configuring Bridges"). The
/// others are of a listener or of the whole, wherever they stand.
fn is_of_bridge(word: &str) -> bool {
    const OTHERS: [&str; 21] = [
        "cleansession",
        "clientid",
        "idle_timeout",
        "keepalive_interval",
        "local_cleansession",
        "local_clientid",
        "local_password",
        "local_username",
        "notification_topic",
        "notifications",
        "notifications_local_only",
        "password",
        "remote_clientid",
        "remote_password",
        "remote_username",
        "restart_timeout",
        "round_robin",
        "start_type",
        "threshold",
        "try_private",
        "username",
    ];
    word.starts_with("bridge_") || OTHERS.contains(&word)
}

/// A text as TOML has it; a basic string, if there is a character in it that is not seen.
fn quoted(value: &str) -> String {
    if value.chars().all(is_harmless) {
        return toml::Value::String(value.to_owned()).to_string();
    }
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", numbered_toml(&value))
}

/// Whether a deny line may be about a topic of another line.
fn restricts(deny: &Access, other: &Access, user: &str) -> bool {
    let both = deny.filter_of(user).zip(other.filter_of(user));
    !other.deny && both.is_none_or(|(deny, other)| deny.overlaps(&other))
}

/// Runs it.
///
/// # Errors
/// [`CommandError::Failed`]: a file cannot be read or written, or nothing can be taken over.
pub fn run(context: &Context, arguments: &ImportMosquittoArguments) -> Result<(), CommandError> {
    let mut found = Found::default();
    if [&arguments.password_file, &arguments.acl_file, &arguments.conf].into_iter().all(Option::is_none) {
        let what = "name at least one of --password-file FILE, --acl-file FILE and --conf FILE";
        return Err(CommandError::Usage(what.to_owned()));
    }
    let files = [&arguments.password_file, &arguments.acl_file, &arguments.conf];
    let takes: [fn(&mut Found, &str); 3] = [Found::passwords, Found::acl, Found::bridges];
    for (file, take) in files.into_iter().zip(takes) {
        if let Some(file) = file {
            take(&mut found, &text_of(file, FILE_MAX)?);
        }
    }
    let is_empty = found.users.is_empty();
    let users = found.access.iter().filter_map(|(user, _)| user.clone());
    let unknown: BTreeSet<String> = users.filter(|user| !found.users.contains_key(user)).collect();
    let (rules, devices) = (arguments.output.join(RULES), arguments.output.join(DEVICES));
    // No secret is in the rules, and the service has to read them in `conf.d`, whoever copies them.
    let text = found.rules();
    if !is_empty {
        write(&arguments.output, [(RULES, &text, 0o644), (DEVICES, &found.devices(), 0o600)])?;
    }
    if context.out.json {
        for Unmapped { file, line, text, why } in &found.unmapped {
            context.out.object(&json!({ "file": file, "line": line, "text": text, "why": why }))?;
        }
        if is_empty {
            return Err(nothing(&found));
        }
        return Ok(context.out.object(&json!({
            "users": found.users.len(), "unmapped": found.unmapped.len(), "users_without_password": unknown,
            "rules": rules.display().to_string(), "devices": devices.display().to_string(),
        }))?);
    }
    for Unmapped { file, line, text, why } in &found.unmapped {
        context.out.line(format_args!(
            "not taken over: {file}:{line}: {}: {}",
            Escaped(text),
            Escaped(why)
        ))?;
    }
    for user in &unknown {
        context
            .out
            .line(format_args!("not taken over: the rules of {}, which has no device", Escaped(user)))?;
    }
    if is_empty {
        return Err(nothing(&found));
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
        "mosquitto had no quota; each role of {RULES} has {QUOTA}: change it there where a device sends more"
    ));
    note(format_args!(
        "next: put {RULES} into conf.d, `{}`, then `{}`",
        context.hint("reload"),
        context.hint(&format!("device import {}", devices.display()))
    ));
    Ok(())
}

/// That there are no users: rules are of users, so there would be none.
fn nothing(found: &Found) -> CommandError {
    let way_out = match found.has_passwords {
        true => {
            "no line of the password file can be taken over; add the users with `tombolo device add ID --role ROLE --password`"
        }
        false => "name the password file of mosquitto with --password-file",
    };
    CommandError::Failed(format!("no user was taken over, and no file was written: {way_out}"))
}

/// Writes the files, each whole; none if one of them cannot be written, and none over one that is
/// there.
fn write(folder: &Path, files: [(&str, &str, u32); 2]) -> Result<(), CommandError> {
    let failed = |name: &str, error: &io::Error| {
        let way_out = match error.kind() {
            ErrorKind::AlreadyExists => "; delete it, or name another folder with --output",
            ErrorKind::NotFound => "; make that folder, or name another one with --output",
            _ => "; name a folder that may be written to, and has room, with --output",
        };
        let file = folder.join(name);
        CommandError::Failed(format!("{} cannot be written: {error}{way_out}", file.display()))
    };
    for (name, ..) in files {
        match std::fs::symlink_metadata(folder.join(name)) {
            Ok(_) => return Err(failed(name, &ErrorKind::AlreadyExists.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(name, &error)),
        }
    }
    let disk = OnDisk::new(folder);
    let mut written: Vec<(String, &str)> = Vec::new();
    for (name, text, mode) in files {
        match disk.write_beside(name, text.as_bytes(), mode) {
            Ok(beside) => written.push((beside, name)),
            Err(error) => {
                // What cannot be deleted has a hidden name, and is in nobody's way.
                written.iter().for_each(|(beside, _)| drop(disk.remove(beside)));
                return Err(failed(name, &error));
            }
        }
    }
    for (beside, name) in &written {
        disk.rename(beside, name).map_err(|error| failed(name, &error))?;
    }
    disk.sync_names().map_err(|error| failed(RULES, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As mosquitto_passwd 2.0 wrote it for the password `secret`.
    pub(super) const HASH: &str = "$7$101$oGB4I/cYdnwLBuJr$FwP87im51rvl/wRx64yBq4i4ahrRI7eAuRa3tfWF8ndg/wU3hbcV74f+ZCi+oZjGpCoqA2jGAA3qeNY938K69w==";

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
    fn an_access_word_and_a_user_that_mosquitto_refuses_become_no_rule() {
        let mut found = Found::default();
        found.passwords(&format!("anna:{HASH}\n"));
        found.acl("user anna\ntopic foo bar\npattern writ own/%u\ntopic foo\nuser\ntopic read lost\nuser anna\ntopic read a b\n");
        let listed: Vec<(usize, &str)> =
            found.unmapped.iter().map(|one| (one.line, one.why.as_str())).collect();
        assert_eq!(listed.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 5, 6], "{listed:?}");
        assert!(listed[0].1.contains("\"foo\" is none of read, write"), "{listed:?}");
        assert!(listed[2].1.contains("names no user") && listed[3].1.contains("names no user"), "{listed:?}");
        let taken: Vec<&str> = found.access.iter().map(|(_, access)| access.filter.as_str()).collect();
        assert_eq!(taken, ["foo", "a b"]);
        assert!(found.access.iter().all(|(user, _)| user.as_deref() == Some("anna")));
    }

    #[test]
    fn a_line_of_the_brokers_own_topics_is_listed_and_becomes_no_rule() {
        let mut found = Found::default();
        found.passwords(&format!("anna:{HASH}\n"));
        found.acl("user anna\ntopic read $SYS/#\ntopic deny $SYS/broker/load/#\ntopic read #\n");
        let lines: Vec<usize> = found.unmapped.iter().map(|one| one.line).collect();
        assert_eq!(lines, [2, 3], "{:?}", found.unmapped);
        let rules = found.rules();
        assert!(!rules.contains("$SYS") && rules.contains("topic = \"#\""), "{rules}");
    }

    #[test]
    fn an_option_is_told_from_those_of_the_bridge_before_it_and_secrets_are_not_shown() {
        let mut found = Found::default();
        found.bridges(
            "password_file /p\nacl_file /a\nper_listener_settings true\nconnection up\nremote_password hunter2\n\
             bridge_cafile /ca\nlistener 8883\ncertfile /c\nmax_connections 9\nlog_dest syslog\ntopic x/# out\n",
        );
        let why = |line: usize| {
            let mut of = found.unmapped.iter().filter(|one| one.line == line);
            of.next().map(|one| (one.text.as_str(), one.why.as_str())).expect("it is listed")
        };
        for (line, expected) in [
            (1, "--password-file"),
            (2, "--acl-file"),
            (3, "same users and rules"),
            (5, "an option of the bridge"),
            (6, "an option of the bridge"),
            (7, "[mqtt] listen"),
            (8, "[mqtt] certificate-file"),
            (9, "[mqtt] max-clients"),
            (10, "has no counterpart"),
        ] {
            assert!(why(line).1.contains(expected), "{line}: {:?}", why(line));
        }
        assert_eq!(why(5).0, "remote_password");
        assert_eq!(found.outgoing.len(), 1, "the bridge goes on behind a listener");
    }

    #[test]
    fn users_whose_names_begin_alike_have_roles_and_rules_of_their_own() {
        let long = |end: &str| format!("{}{end}", "u".repeat(60));
        // The name that the second of the long ones would get is a user's already.
        let taken = format!("{}-2", "u".repeat(USER_MAX - 2));
        let users = [long("a"), long("b"), long("c"), taken, "u".repeat(USER_MAX)];
        let mut found = Found::default();
        found.passwords(&users.iter().map(|user| format!("{user}:{HASH}\n")).collect::<String>());
        found.acl(
            &users.iter().map(|user| format!("user {user}\ntopic write {user}/#\n")).collect::<String>(),
        );
        let rules: toml::Table = toml::from_str(&found.rules()).expect("no table twice");
        let roles = rules["role"].as_table().expect("a table");
        assert_eq!(roles.len(), users.len());
        let devices = found.devices();
        for line in devices.lines().skip(1) {
            let [user, role, _] = line.splitn(3, ',').collect::<Vec<_>>()[..] else { panic!("{line}") };
            assert!(Name::parse(role).is_ok(), "{role}");
            let topic = roles[role]["local-publish"].as_table().and_then(|rules| rules.values().next());
            assert_eq!(topic.expect("a rule")["topic"].as_str(), Some(format!("{user}/#").as_str()));
        }
        assert_eq!(devices.lines().count(), users.len() + 1);
    }

    #[test]
    fn the_rules_are_those_of_the_acl() {
        let mut found = found();
        let text = found.rules();
        for part in [
            "[role.\"mosquitto-anna\"]\nquota = { messages = 6000, ",
            "[role.\"mosquitto-anna\".local-publish.acl-1]\ntopic = \"plant/+/temp\"\n",
            "[role.\"mosquitto-anna\".local-publish.acl-2]\ntopic = \"plant/9/#\"\ndeny = true\n",
            "[role.\"mosquitto-anna\".local-subscribe.acl-3]\ntopic = \"cmd/anna\"\n",
            "[role.\"mosquitto-anna\".local-publish.acl-4]\ntopic = \"own/{device}/#\"\n",
            "[role.\"mosquitto-anna\".uplink.bridge-1]\npath = \"plant/+/temp\"\ntopic = \"site7/plant/{1}/temp\"\n",
            "[role.\"mosquitto-anna\".uplink.deny-1]\npath = \"plant/9/#\"\ndeny = true\n",
            "[role.\"mosquitto-anna\".uplink.bridge-2]\npath = \"own/anna/#\"\ntopic = \"own/anna/{rest}\"\n",
            "[role.\"mosquitto-bert\".local-subscribe.acl-1]\ntopic = \"plant/#\"\n",
            "[role.\"mosquitto-bert\".uplink.bridge-2]\npath = \"own/bert/#\"\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("mosquitto-bert\".uplink.bridge-1"), "bert may not write there: {text}");
        assert!(toml::from_str::<toml::Table>(&text).is_ok(), "{text}");
        assert_eq!(found.devices().lines().count(), 3);
    }

    #[test]
    fn a_deny_line_without_a_counterpart_takes_those_with_it_that_it_restricts() {
        let mut found = Found::default();
        found.passwords(&format!("anna:{HASH}\n"));
        found.acl(
            "user anna\ntopic write a/#\ntopic write b/#\ntopic write c/%u\ntopic deny a/{x}\npattern deny b/%c/x\n\
             topic write d/{device}\ntopic write e#\n",
        );
        let text = found.rules();
        assert!(!text.contains("a/") && !text.contains("b/") && !text.contains("d/"), "{text}");
        // `%u` stands for the user in patterns alone.
        assert!(text.contains("local-publish.acl-3]\ntopic = \"c/%u\"\n"), "{text}");
        let lines: Vec<usize> = found.unmapped.iter().map(|one| one.line).collect();
        assert_eq!(lines, [5, 6, 7, 8, 2, 3], "{:?}", found.unmapped);
        assert!(found.unmapped[4].why.contains("anna: line 5"), "{:?}", found.unmapped);
    }

    #[test]
    fn a_reserved_user_and_topics_with_control_characters_are_listed_and_not_taken_over() {
        let mut found = Found::default();
        found.passwords(&format!("gateway:{HASH}\nanna:{HASH}\n"));
        found
            .acl("user gateway\ntopic a/#\nuser anna\ntopic write a/\x1b[2J\ntopic deny b/\x07\ntopic b/#\n");
        assert_eq!(found.users.keys().collect::<Vec<_>>(), ["anna"]);
        let text = found.rules();
        assert!(!text.contains("a/") && !text.contains("b/"), "{text}");
        let listed: Vec<_> = found.unmapped.iter().map(|one| (one.file, one.line)).collect();
        assert_eq!(listed, [(PASSWORDS, 1), (ACL, 4), (ACL, 5), (ACL, 6)], "{:?}", found.unmapped);
        assert!(found.unmapped[0].why.contains("reserved") && found.unmapped[1].why.contains("control"));
    }

    #[test]
    fn what_changes_how_a_topic_looks_is_seen_in_the_rules_that_are_written() {
        let mut found = Found::default();
        found.passwords(&format!("anna:{HASH}\n"));
        found.acl("user anna\ntopic write a/\u{202e}b\\\"\u{e0041}\n");
        let text = found.rules();
        assert!(text.contains("topic = \"a/\\u202eb\\\\\\\"\\U000e0041\"\n"), "{text}");
        let table: toml::Table = text.parse().expect("TOML");
        let rule = &table["role"]["mosquitto-anna"]["local-publish"]["acl-1"]["topic"];
        assert_eq!(rule.as_str(), Some("a/\u{202e}b\\\"\u{e0041}"));
    }

    #[test]
    fn a_pattern_that_denies_by_the_user_name_denies_here_too() {
        let mut found = Found::default();
        found.passwords(&format!("anna:{HASH}\n"));
        found.acl("user anna\ntopic readwrite own/#\npattern deny own/%u/secret/#\n");
        found.bridges("connection up\ntopic own/# out 1\n");
        let text = found.rules();
        for part in [
            "local-publish.acl-2]\ntopic = \"own/{device}/secret/#\"\ndeny = true\n",
            "local-subscribe.acl-2]\ntopic = \"own/{device}/secret/#\"\ndeny = true\n",
            "uplink.deny-1]\npath = \"own/anna/secret/#\"\ndeny = true\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(found.unmapped, []);
    }
}
