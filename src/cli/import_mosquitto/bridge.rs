//! The uplink rules of `import mosquitto`.
//!
//! A bridge sends what anybody has published. So an uplink rule has the topics that are in both: a
//! `topic … out` line of the bridge, and a line by which the user may write. Where a deny line is
//! about a part of them, a deny rule is too. Without an ACL every user may write everything.
//!
//! What cannot be said so, such as a topic that is no path, is left out and listed.

use std::collections::BTreeMap;

use super::{ACL, Access, CONF, Found, Outgoing, Unmapped};
use crate::gate::pattern::{Pattern, PatternError};
use crate::gate::template::Template;
use crate::southbound::mqtt::filter::Filter;

/// An uplink rule.
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) path: String,
    /// The topic at the broker; `None`: it denies.
    pub(super) topic: Option<String>,
}

/// The lines of the bridges, and which of them have a rule of any user.
pub(super) struct Bridged<'f> {
    outgoing: &'f [Outgoing],
    writers: Writers,
    is_used: Vec<bool>,
}

/// Who may write what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writers {
    /// The ACL says so.
    Acl,
    /// Everybody everything.
    All,
    /// It is not known, and why.
    Unknown(&'static str),
}

impl<'f> Bridged<'f> {
    pub(super) fn new(found: &'f Found) -> Bridged<'f> {
        let writers = if found.has_plugin {
            Writers::Unknown("a plugin decides who may write there")
        } else if found.has_acl {
            Writers::Acl
        } else if found.wants_acl {
            Writers::Unknown("who may write there is in an ACL file: name it with --acl-file")
        } else {
            Writers::All
        };
        Bridged { outgoing: &found.outgoing, writers, is_used: vec![false; found.outgoing.len()] }
    }

    /// The rules of a user with these lines of the ACL.
    pub(super) fn rules(&mut self, user: &str, access: &[&Access], skipped: &mut Vec<Unmapped>) -> Vec<Rule> {
        let of = |deny: bool| {
            let lines = access.iter().filter(move |line| line.write && line.deny == deny);
            lines.filter_map(|line| Some((*line, line.filter_of(user)?))).collect::<Vec<_>>()
        };
        let (writes, denies) = (of(false), of(true));
        // By path, so that no two rules have the same.
        let (mut allowing, mut denying) = (BTreeMap::new(), Vec::<String>::new());
        let mut rules = Vec::new();
        for (at, outgoing) in self.outgoing.iter().enumerate() {
            let parts = match self.writers {
                Writers::Acl => both(&outgoing.whole, &writes),
                Writers::All => vec![outgoing.whole.clone()],
                Writers::Unknown(_) => return Vec::new(),
            };
            let mut count = 0;
            for part in parts {
                if denies.iter().any(|(_, deny)| deny.covers(&part)) {
                    continue;
                }
                let mut skip = |why: String| {
                    let why = format!("for {user}, who may write {:?}: {why}", part.as_str());
                    let (line, text) = (outgoing.line, outgoing.text.clone());
                    skipped.push(Unmapped { file: CONF, line, text, why });
                };
                let topic = match topic(outgoing, &part) {
                    Ok(topic) => topic,
                    Err(why) => {
                        skip(why);
                        continue;
                    }
                };
                let about = denies.iter().filter(|(_, deny)| deny.overlaps(&part));
                let about: Result<Vec<Option<String>>, (&Access, PatternError)> =
                    about.map(|(line, deny)| denied(deny).map_err(|error| (*line, error))).collect();
                let about = match about {
                    Ok(about) => about,
                    Err((line, error)) => {
                        skip(format!("{ACL}:{}, which denies a part of it, has no rule: {error}", line.line));
                        continue;
                    }
                };
                match allowing.get(part.as_str()) {
                    None => {}
                    Some(known) if *known == topic => continue,
                    Some(known) => {
                        skip(format!("a path has one topic, and another line sends it to {known:?}"));
                        continue;
                    }
                }
                count += 1;
                self.is_used[at] = true;
                let number = if count == 1 { String::new() } else { format!("-{count}") };
                let name = format!("bridge-{}{number}", at + 1);
                rules.push(Rule { name, path: part.as_str().to_owned(), topic: Some(topic.clone()) });
                allowing.insert(part.as_str().to_owned(), topic);
                denying.extend(about.into_iter().flatten());
            }
        }
        denying.sort_unstable();
        denying.dedup();
        rules.extend(denying.into_iter().enumerate().map(|(at, path)| Rule {
            name: format!("deny-{}", at + 1),
            path,
            topic: None,
        }));
        rules
    }

    /// Lists the lines that have no rule of any user, without which they would be missed.
    pub(super) fn list_unused(&self, skipped: &mut Vec<Unmapped>) {
        for (outgoing, _) in self.outgoing.iter().zip(&self.is_used).filter(|(_, is_used)| !**is_used) {
            let why = match self.writers {
                Writers::Unknown(why) => why,
                Writers::Acl | Writers::All => "no user may write there, as far as there are rules for it",
            };
            let (line, text) = (outgoing.line, outgoing.text.clone());
            skipped.push(Unmapped { file: CONF, line, text, why: why.to_owned() });
        }
    }
}

/// The topics that are in a filter and in one of those lines, none twice.
fn both(whole: &Filter, lines: &[(&Access, Filter)]) -> Vec<Filter> {
    let parts: Vec<Filter> = lines.iter().filter_map(|(_, line)| whole.intersection(line)).collect();
    let is_double = |at: usize, part: &Filter| {
        parts.iter().enumerate().any(|(other_at, other)| {
            other.covers(part) && (other != part && other_at != at || other == part && other_at < at)
        })
    };
    parts
        .iter()
        .enumerate()
        .filter(|(at, part)| !is_double(*at, part))
        .map(|(_, part)| part.clone())
        .collect()
}

/// The path of a deny rule; `None`: no path is about it.
fn denied(deny: &Filter) -> Result<Option<String>, PatternError> {
    match Pattern::parse(deny.as_str()) {
        Ok(pattern) => Ok(Some(pattern.as_str().to_owned())),
        Err(PatternError::EmptyLevel | PatternError::Level | PatternError::Reserved) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The topic of a part at the broker, with captures in the place of wildcards.
fn topic(outgoing: &Outgoing, part: &Filter) -> Result<String, String> {
    let pattern = Pattern::parse(part.as_str()).map_err(|error| format!("it is no path: {error}"))?;
    let rest = part.as_str().strip_prefix(outgoing.local.as_str());
    let rest = rest.ok_or_else(|| format!("it is above {:?}", outgoing.local))?;
    let mut number = 0;
    let level = |level: &str| match level {
        "+" => {
            number += 1;
            format!("{{{number}}}")
        }
        "#" => "{rest}".to_owned(),
        literal => literal.to_owned(),
    };
    let levels: Vec<String> = rest.split('/').map(level).collect();
    let topic = format!("{}{}", outgoing.remote, levels.join("/"));
    let template = Template::parse(&topic).map_err(|error| format!("{topic:?} is no topic: {error}"))?;
    template.check_captures(&pattern).map_err(|error| format!("{topic:?}: {error}"))?;
    Ok(topic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::HASH;
    use super::*;
    use crate::message::Path;

    fn found(acl: Option<&str>, conf: &str) -> Found {
        let mut found = Found::default();
        found.passwords(&format!("u:{HASH}\n"));
        if let Some(acl) = acl {
            found.acl(acl);
        }
        found.bridges(conf);
        found
    }

    /// The uplink rules as the gate has them: path, and the topic unless it denies.
    fn rules(found: &mut Found) -> Vec<(Pattern, Option<String>)> {
        let text = found.rules();
        let table: toml::Table = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let uplink = table["role"]["mosquitto-u"].get("uplink").and_then(toml::Value::as_table).cloned();
        let rule = |(_, rule): (String, toml::Value)| {
            let path = Pattern::parse(rule["path"].as_str().expect("a path")).expect("a pattern");
            (path, rule.get("topic").and_then(toml::Value::as_str).map(str::to_owned))
        };
        uplink.unwrap_or_default().into_iter().map(rule).collect()
    }

    /// Whether they let a topic upstream.
    fn passes(rules: &[(Pattern, Option<String>)], topic: &str) -> bool {
        let Ok(path) = Path::parse(topic) else { return false };
        let mut matching = rules.iter().filter(|(pattern, _)| pattern.matches(path)).peekable();
        matching.peek().is_some() && matching.all(|(_, topic)| topic.is_some())
    }

    fn whys(found: &Found) -> Vec<(&'static str, usize)> {
        found.unmapped.iter().map(|one| (one.file, one.line)).collect()
    }

    #[test]
    fn a_client_sends_nothing_upstream_that_mosquitto_refused() {
        let acl = "user u\ntopic write sensors/u/#\ntopic deny sensors/u/secret\ntopic readwrite both/#\n";
        let conf =
            "connection up\ntopic sensors/# out 1\ntopic both/# both 0 local/ remote/\ntopic other/# out\n";
        let mut found = found(Some(acl), conf);
        let rules = rules(&mut found);
        for (topic, expected) in [
            ("sensors/u", true),
            ("sensors/u/x", true),
            ("sensors/u/secret", false),
            ("sensors/bob/x", false),
            ("both/x", false),
            ("local/both/x", false),
            ("other/x", false),
        ] {
            assert_eq!(passes(&rules, topic), expected, "{topic}: {rules:?}");
        }
        // Each line of the bridge that got no rule is named.
        assert_eq!(whys(&found), [(CONF, 3), (CONF, 3), (CONF, 4)], "{:?}", found.unmapped);
    }

    #[test]
    fn without_an_acl_all_is_allowed_unless_something_else_decides() {
        let conf = "connection up\ntopic a/# out\n";
        assert!(passes(&rules(&mut found(None, conf)), "a/x"));
        assert!(rules(&mut found(Some(""), conf)).is_empty(), "an empty ACL allows nothing");
        for other in ["acl_file /x\n", "plugin /x.so\n", "auth_plugin /x.so\n", "include_dir /x\n"] {
            for (conf, line) in [(format!("{other}{conf}"), 3), (format!("{conf}{other}"), 2)] {
                let mut found = found(None, &conf);
                assert!(rules(&mut found).is_empty(), "{conf}");
                assert_eq!(whys(&found).last(), Some(&(CONF, line)), "{conf}");
            }
        }
        assert!(rules(&mut found(Some("user u\ntopic #\n"), &format!("plugin /x.so\n{conf}"))).is_empty());
    }

    #[test]
    fn what_cannot_be_said_is_left_out_with_its_line() {
        let deep = vec!["x"; 16].join("/");
        for (acl, line, what) in [
            ("topic write #", "topic # out", "is no topic"),
            ("topic write rd/#", "topic rd/# out", "is no path"),
            ("topic write a//b", "topic a/# out", "is no path"),
            ("topic write local", "topic # out 0 local/ x/", "it is above"),
            (&format!("topic write a/#\ntopic deny +/{deep}/#"), "topic a/# out", "acl_file:3"),
            ("topic write a/#", "topic a/# out 1 \"\" {x}/", "braces"),
        ] {
            let mut found = found(Some(&format!("user u\n{acl}\n")), &format!("connection up\n{line}\n"));
            assert!(rules(&mut found).is_empty(), "{acl}");
            let first = &found.unmapped[0];
            assert!(first.line == 2 && first.why.contains(what), "{acl}: {first:?}");
        }
        // Two lines that send the same path to different topics.
        let conf = "connection up\ntopic a/# out 0 \"\" x/\ntopic a/# out 0 \"\" y/\n";
        let mut found = found(Some("user u\ntopic write a/#\n"), conf);
        let topics: Vec<_> = rules(&mut found).into_iter().map(|(_, topic)| topic).collect();
        assert_eq!(topics, [Some("x/a/{rest}".to_owned())]);
        assert!(found.unmapped[0].why.contains("another line"), "{:?}", found.unmapped);
    }

    fn a_filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "u", "+"]);
        (prop::collection::vec(level, 1..4), any::<bool>()).prop_map(|(levels, is_open)| {
            let text = levels.join("/");
            if is_open { format!("{text}/#") } else { text }
        })
    }

    proptest! {
        #[test]
        fn what_passes_is_what_the_bridge_sent_and_the_acl_allowed(
            lines in prop::collection::vec((any::<bool>(), 0..4_u8, a_filter()), 0..5),
            bridges in prop::collection::vec(a_filter(), 1..3),
        ) {
            let (mut acl, mut judged) = ("user u\n".to_owned(), Vec::new());
            for (is_pattern, kind, filter) in &lines {
                let word = if *is_pattern { "pattern" } else { "topic" };
                let kind = ["write", "readwrite", "read", "deny"][usize::from(*kind)];
                let shown = if *is_pattern { filter.replace('u', "%u") } else { filter.clone() };
                acl += &format!("{word} {kind} {shown}\n");
                judged.push((kind, Filter::parse(filter).expect("a filter")));
            }
            let mut conf = "connection up\n".to_owned();
            conf.extend(bridges.iter().map(|filter| format!("topic {filter} out 1 \"\" far/\n")));
            let mut found = found(Some(&acl), &conf);
            let rules = rules(&mut found);
            let levels = ["a", "b", "u"];
            let mut topics: Vec<String> = levels.map(str::to_owned).to_vec();
            for _ in 0..3 {
                let deeper: Vec<String> =
                    topics.iter().flat_map(|topic| levels.map(|level| format!("{topic}/{level}"))).collect();
                topics.extend(deeper);
            }
            for topic in &topics {
                let may = |wanted: &[&str]| {
                    judged.iter().any(|(kind, filter)| wanted.contains(kind) && filter.matches(topic))
                };
                let sent = bridges.iter().any(|filter| Filter::parse(filter).expect("a filter").matches(topic));
                let expected = sent && may(&["write", "readwrite"]) && !may(&["deny"]);
                prop_assert_eq!(passes(&rules, topic), expected, "{}: {}{}{:?}", topic, acl, conf, rules);
            }
        }
    }
}
