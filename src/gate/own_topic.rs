//! The gateway's own topics, wherever the configuration puts them. No rule may produce one of them.
//!
//! `[topics]` may put the gateway's statuses, losses and commands anywhere, also outside the
//! prefix, where no level identifies the owner ([`mapping`](super::mapping) checks only owner
//! levels). So the topic of a rule is compared with each of these topics, twice:
//!
//! * when the rule is built, as a pattern: if any device and any path could produce an own topic
//!   ([`Shape::meets`]), the rule is rejected.
//! * for each reading, its topic ([`OwnTopic::matches`]), as defence in depth.
//!
//! Both may report a match that cannot happen, but never miss one: a placeholder in an own topic
//! matches any device or any text, also devices that do not exist, and `deny` rules are ignored.

use std::collections::HashMap;

use super::pattern::{LevelText, Pattern};
use crate::message::{NAME_MAX, RESERVED_DEVICE};

/// A topic, or all topics of a template or an MQTT filter, that the gateway publishes to or
/// subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTopic {
    key: String,
    text: String,
    /// So many bytes of the text begin each of its topics.
    literal: usize,
    /// The levels from the start.
    head: Box<[OwnLevel]>,
    /// `Some`: any number of levels, followed by these.
    tail: Option<Box<[OwnLevel]>>,
}

/// One level: literal text around at most one unknown part.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnLevel {
    before: Box<str>,
    unknown: Option<Unknown>,
    after: Box<str>,
}

/// What an unknown part can be; at least one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// A device id.
    Name,
    /// Any text without `/`.
    Text,
}

impl OwnTopic {
    /// The configuration key of the topics that replies to commands are published to by default.
    pub const REPLY_KEY: &str = "topics.reply";

    /// Parses a topic whose `{prefix}` and `{gateway}` are filled in. `{device}` matches any device
    /// id, `+` and other placeholders any text within a level; `#`, `{path}` and `{rest}` match any
    /// number of levels. `key` is the configuration key that sets it, such as `topics.loss`.
    pub fn new(key: impl Into<String>, text: impl Into<String>) -> OwnTopic {
        let (key, text) = (key.into(), text.into());
        let is_several = |level: &str| matches!(level, "#" | "{path}" | "{rest}");
        let levels: Vec<&str> = text.split('/').collect();
        // Between the first and the last placeholder for several levels, any text matches.
        let first = levels.iter().position(|level| is_several(level));
        let last = levels.iter().rposition(|level| is_several(level));
        let (head, tail) = match first.zip(last) {
            Some((first, last)) => (&levels[..first], Some(&levels[last + 1..])),
            None => (&levels[..], None),
        };
        let all = |levels: &[&str]| levels.iter().map(|level| OwnLevel::parse(level)).collect();
        let (head, tail) = (all(head), tail.map(all));
        let literal = &text[..text.find(['{', '+', '#']).unwrap_or(text.len())];
        // `a/#` is `a`, too.
        let literal = literal.trim_end_matches('/').len();
        OwnTopic { key, text, literal, head, tail }
    }

    /// The configuration key that sets this topic.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The text given to [`OwnTopic::new`].
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `topic` is one of them. Does not allocate.
    pub fn matches(&self, topic: &str) -> bool {
        // Most readings end here, before their levels are compared.
        if !topic.as_bytes().starts_with(&self.text.as_bytes()[..self.literal]) {
            return false;
        }
        let mut levels = topic.split('/');
        if !self.head.iter().all(|own| levels.next().is_some_and(|level| own.matches(level))) {
            return false;
        }
        match &self.tail {
            None => levels.next().is_none(),
            Some(tail) => {
                tail.iter().rev().all(|own| levels.next_back().is_some_and(|level| own.matches(level)))
            }
        }
    }

    /// The topic as steps, to compare with the steps of a rule.
    fn steps(&self) -> Vec<Step> {
        let head = self.head.iter().map(OwnLevel::step);
        let tail = self
            .tail
            .iter()
            .flat_map(|tail| std::iter::once(Step::Several).chain(tail.iter().map(OwnLevel::step)));
        head.chain(tail).collect()
    }
}

impl OwnLevel {
    fn parse(level: &str) -> OwnLevel {
        if level == "+" {
            return OwnLevel { before: "".into(), unknown: Some(Unknown::Text), after: "".into() };
        }
        let Some((before, rest)) = level.split_once('{') else {
            return OwnLevel { before: level.into(), unknown: None, after: "".into() };
        };
        let (place, _) = rest.split_once('}').unwrap_or((rest, ""));
        let after = rest.rsplit_once('}').map_or("", |(_, after)| after);
        // Several placeholders in one level match any text from the first to the last.
        let is_one = !rest.contains('{');
        let unknown = if is_one && place == "device" { Unknown::Name } else { Unknown::Text };
        OwnLevel { before: before.into(), unknown: Some(unknown), after: after.into() }
    }

    fn matches(&self, level: &str) -> bool {
        let Some(unknown) = self.unknown else { return *self.before == *level };
        let middle =
            level.strip_prefix(&*self.before).and_then(|rest| rest.strip_suffix(&*self.after)).unwrap_or("");
        match unknown {
            Unknown::Text => !middle.is_empty(),
            Unknown::Name => is_id(middle) && (middle.len() < level.len() || middle != RESERVED_DEVICE),
        }
    }

    fn step(&self) -> Step {
        let mut tokens = literal(&self.before);
        match self.unknown {
            Some(Unknown::Name) => tokens.extend(NAME),
            Some(Unknown::Text) => tokens.extend(TEXT),
            None => {}
        }
        tokens.extend(literal(&self.after));
        Step::Level(tokens)
    }
}

fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= NAME_MAX
        && bytes.iter().all(|byte| Class::Name.has(char::from(*byte)))
}

/// The topics a rule can produce, level by level.
#[derive(Debug, Default)]
pub(super) struct Shape {
    steps: Vec<Step>,
    level: Vec<Token>,
}

#[derive(Debug)]
enum Step {
    /// One level, character by character.
    Level(Vec<Token>),
    /// Any number of levels, including 0.
    Several,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    One(Class),
    /// Zero or more characters of this class.
    Many(Class),
}

/// A set of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Just(char),
    /// The first character of an id.
    NameStart,
    /// A further character of an id.
    Name,
    Any,
}

const NAME: [Token; 2] = [Token::One(Class::NameStart), Token::Many(Class::Name)];
const TEXT: [Token; 2] = [Token::One(Class::Any), Token::Many(Class::Any)];

impl Class {
    fn has(self, c: char) -> bool {
        match self {
            Class::Just(just) => just == c,
            Class::NameStart => c.is_ascii_alphanumeric(),
            Class::Name => c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'),
            Class::Any => true,
        }
    }

    /// Whether the two sets share a character.
    fn meets(self, other: Class) -> bool {
        match (self, other) {
            (Class::Just(c), other) | (other, Class::Just(c)) => other.has(c),
            // All other pairs share the letter `a`.
            _ => true,
        }
    }
}

impl Shape {
    /// Literal text, which may contain `/`.
    pub(super) fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '/' => self.end_level(),
                c => self.level.push(Token::One(Class::Just(c))),
            }
        }
    }

    /// Any device id.
    pub(super) fn device(&mut self) {
        self.level.extend(NAME);
    }

    /// Any one segment of a path.
    pub(super) fn segment(&mut self) {
        self.level.extend(TEXT);
    }

    /// Any number of segments, as whole levels.
    pub(super) fn rest(&mut self) {
        self.end_level();
        self.steps.push(Step::Several);
    }

    /// Any path that matches the pattern, as whole levels.
    pub(super) fn path(&mut self, pattern: &Pattern) {
        let is_any_path = pattern.as_str() == "#";
        for level in pattern.levels() {
            self.end_level();
            match level {
                LevelText::Literal(text) => self.text(text),
                LevelText::Any => self.segment(),
                LevelText::Rest => {
                    // A path has at least one segment.
                    if is_any_path {
                        self.segment();
                    }
                    self.rest();
                }
            }
        }
    }

    /// No level of a template is empty; an empty level here follows a placeholder for several
    /// levels.
    fn end_level(&mut self) {
        if !self.level.is_empty() {
            self.steps.push(Step::Level(std::mem::take(&mut self.level)));
        }
    }

    /// The first of the own topics that the rule could produce.
    pub(super) fn meets(mut self, own: &OwnTopics) -> Option<&OwnTopic> {
        self.end_level();
        let mut candidates = own.candidates(&self.steps);
        candidates.sort_unstable();
        let mut candidates = candidates.into_iter().filter_map(|at| own.all.get(at));
        candidates.find(|own| steps_meet(&self.steps, &own.steps()))
    }
}

/// All own topics, found by their first levels: each rule of thousands of roles is compared with
/// the few that begin like it, where each role may have topics of commands of its own.
#[derive(Debug, Default)]
pub struct OwnTopics {
    all: Vec<OwnTopic>,
    root: Node,
}

/// Levels of a topic that [`OwnTopics`] goes by.
const DEPTH: usize = 16;

/// The own topics that begin with the same levels.
#[derive(Debug, Default)]
struct Node {
    /// Those of which no further level tells whether a topic begins like them: they end here, or
    /// any number of levels follows.
    here: Vec<usize>,
    /// The next level is this text,
    literal: HashMap<String, Node>,
    /// or one with an unknown part.
    other: Vec<(Vec<Token>, Node)>,
}

impl OwnTopics {
    /// With what finds them by their first levels.
    pub fn new(all: Vec<OwnTopic>) -> OwnTopics {
        let mut root = Node::default();
        for (at, own) in all.iter().enumerate() {
            let mut node = &mut root;
            for step in own.steps().into_iter().take(DEPTH) {
                let Step::Level(tokens) = step else { break };
                node = match text_of(&tokens) {
                    Some(text) => node.literal.entry(text).or_default(),
                    None => {
                        let known = node.other.iter().position(|(known, _)| *known == tokens);
                        let place = known.unwrap_or_else(|| {
                            node.other.push((tokens, Node::default()));
                            node.other.len() - 1
                        });
                        &mut node.other[place].1
                    }
                };
            }
            node.here.push(at);
        }
        OwnTopics { all, root }
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, OwnTopic> {
        self.all.iter()
    }

    /// The numbers of all that a rule with these steps could meet, and perhaps of some others.
    fn candidates(&self, steps: &[Step]) -> Vec<usize> {
        let mut found = Vec::new();
        // Nodes to look at, each with the step of the rule that its next level is compared with.
        let mut left = vec![(&self.root, 0)];
        while let Some((node, at)) = left.pop() {
            found.extend(&node.here);
            match steps.get(at) {
                None => {}
                // Any levels may follow.
                Some(Step::Several) => left.extend(node.children().map(|child| (child, at))),
                Some(Step::Level(tokens)) => {
                    match text_of(tokens) {
                        Some(text) => left.extend(node.literal.get(&text).map(|child| (child, at + 1))),
                        None => left.extend(node.literal.iter().filter_map(|(text, child)| {
                            level_meets(tokens, &literal(text)).then_some((child, at + 1))
                        })),
                    }
                    let fitting = node.other.iter().filter(|(known, _)| level_meets(tokens, known));
                    left.extend(fitting.map(|(_, child)| (child, at + 1)));
                }
            }
        }
        found
    }
}

impl Node {
    fn children(&self) -> impl Iterator<Item = &Node> {
        self.literal.values().chain(self.other.iter().map(|(_, child)| child))
    }
}

/// The text of a level without an unknown part.
fn text_of(tokens: &[Token]) -> Option<String> {
    let just = |token: &Token| match token {
        Token::One(Class::Just(c)) => Some(*c),
        _ => None,
    };
    tokens.iter().map(just).collect()
}

fn literal(text: &str) -> Vec<Token> {
    text.chars().map(|c| Token::One(Class::Just(c))).collect()
}

/// Whether a topic exists that matches both. Each may have several steps of any number of levels.
fn steps_meet(one: &[Step], other: &[Step]) -> bool {
    // Fast path: most pairs differ in a literal level before any step of several levels. Without it
    // the check of thousands of roles takes minutes.
    let is_literal =
        |tokens: &[Token]| tokens.iter().all(|token| matches!(token, Token::One(Class::Just(_))));
    for pair in one.iter().zip(other) {
        let (Step::Level(one), Step::Level(other)) = pair else { break };
        if one != other && is_literal(one) && is_literal(other) {
            return false;
        }
    }
    meet(
        one,
        other,
        |step| matches!(step, Step::Several),
        |one, other| match (one, other) {
            (Step::Level(one), Step::Level(other)) => level_meets(one, other),
            _ => true,
        },
    )
}

fn level_meets(one: &[Token], other: &[Token]) -> bool {
    let is_device = |tokens: &[Token]| *tokens == NAME;
    let is_reserved = |tokens: &[Token]| {
        tokens.len() == RESERVED_DEVICE.len()
            && tokens
                .iter()
                .zip(RESERVED_DEVICE.chars())
                .all(|(token, c)| *token == Token::One(Class::Just(c)))
    };
    // `gateway` is reserved: no device has that id.
    if (is_device(one) && is_reserved(other)) || (is_reserved(one) && is_device(other)) {
        return false;
    }
    let class = |token: &Token| match token {
        Token::One(class) | Token::Many(class) => *class,
    };
    meet(one, other, |token| matches!(token, Token::Many(_)), |one, other| class(one).meets(class(other)))
}

/// Whether two patterns match a common text. `repeats` tells which parts may occur any number of
/// times, `agree` whether one part of each can match the same text. The cost is the product of the
/// lengths.
fn meet<T>(one: &[T], other: &[T], repeats: impl Fn(&T) -> bool, agree: impl Fn(&T, &T) -> bool) -> bool {
    // `row[j]`: whether `one` from i on and `other` from j on match a common text.
    let mut below: Vec<bool> = Vec::new();
    for i in (0..=one.len()).rev() {
        let mut row = vec![false; other.len() + 1];
        for j in (0..=other.len()).rev() {
            let (first, second) = (one.get(i), other.get(j));
            let skip_first = first.is_some_and(&repeats) && below[j];
            let skip_second = second.is_some_and(&repeats) && row[j + 1];
            row[j] = skip_first
                || skip_second
                || match (first, second) {
                    (None, None) => true,
                    (Some(first), Some(second)) => {
                        let after = match (repeats(first), repeats(second)) {
                            (false, false) => below[j + 1],
                            (true, false) => row[j + 1],
                            (false, true) => below[j],
                            // If both repeat, skipping one of them is sufficient.
                            (true, true) => false,
                        };
                        after && agree(first, second)
                    }
                    _ => false,
                };
        }
        below = row;
    }
    below.first().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gate::template::Template;

    fn own(text: &str) -> OwnTopic {
        OwnTopic::new("topics.x", text)
    }

    #[test]
    fn a_place_stands_for_what_can_be_there_and_no_more() {
        let is = |text: &str, topic: &str| own(text).matches(topic);
        assert!(is("a/b", "a/b") && !is("a/b", "a/b/c") && !is("a/b", "a") && !is("a/b", "a/c"));
        assert!(is("s/{device}", "s/door-7") && !is("s/{device}", "s/door 7") && !is("s/{device}", "s/"));
        assert!(!is("s/{device}", "s/gateway") && is("s/x-{device}", "s/x-gateway"));
        assert!(
            is("s/x-{device}.y", "s/x-a.y") && !is("s/x-{device}.y", "s/x-.y") && !is("s/x{device}x", "s/x")
        );
        assert!(is("a/+/c", "a/ß/c") && !is("a/+/c", "a/b/d"));
        assert!(is("a/#", "a") && is("a/#", "a/b/c") && !is("a/#", "b"));
        assert!(is("a/{path}/z", "a/b/c/z") && !is("a/{path}/z", "a/b/c") && is("a/{1}{2}x", "a/1x"));
        assert!(is("a/#/{device}/{rest}/y", "a/q/y"), "several stretches are one");
    }

    fn meets(rule: &str, path: &str, text: &str) -> bool {
        let (template, pattern) = (Template::parse(rule).unwrap(), Pattern::parse(path).unwrap());
        let mut shape = Shape::default();
        // Built as a rule without {prefix} and {gateway} is.
        for part in template.parts() {
            match part {
                crate::gate::template::Part::Text(start, end) => shape.text(template.text(*start, *end)),
                crate::gate::template::Part::Device => shape.device(),
                crate::gate::template::Part::Path => shape.path(&pattern),
                crate::gate::template::Part::Rest => shape.rest(),
                _ => shape.segment(),
            }
        }
        shape.meets(&OwnTopics::new(vec![own(text)])).is_some()
    }

    /// A few levels, so that many of them meet.
    fn levels(several: &'static str) -> impl Strategy<Value = String> {
        let level = prop_oneof![
            Just("a"),
            Just("b"),
            Just("gateway"),
            Just("{device}"),
            Just("a{device}"),
            Just("{1}"),
            Just("x{1}"),
            Just(several)
        ];
        prop::collection::vec(level, 1..6).prop_map(|levels| levels.join("/"))
    }

    fn shape(rule: &str) -> Shape {
        let mut shape = Shape::default();
        for (at, level) in rule.split('/').enumerate() {
            if at > 0 {
                shape.text("/");
            }
            match level.split_once('{') {
                Some((_, "rest}")) => shape.rest(),
                Some((before, "device}")) => {
                    shape.text(before);
                    shape.device();
                }
                Some((before, _)) => {
                    shape.text(before);
                    shape.segment();
                }
                None => shape.text(level),
            }
        }
        shape
    }

    proptest! {
        #[test]
        fn the_own_topic_that_is_found_by_its_levels_is_the_first_of_all_that_a_rule_meets(
            own_topics in prop::collection::vec(levels("{path}"), 0..12),
            rule in levels("{rest}"),
        ) {
            let all: Vec<OwnTopic> = own_topics.iter().map(|text| own(text)).collect();
            let mut whole = shape(&rule);
            whole.end_level();
            let first = all.iter().find(|own| steps_meet(&whole.steps, &own.steps())).cloned();
            let index = OwnTopics::new(all);
            prop_assert_eq!(shape(&rule).meets(&index).cloned(), first);
        }
    }

    #[test]
    fn of_thousands_of_topics_of_commands_a_rule_is_compared_with_those_that_begin_like_it() {
        let topics = |count: usize| (0..count).map(|at| own(&format!("x/{{device}}/c{at}/#")));
        let deep = own(&format!("x/y/{}", "z/".repeat(4 * DEPTH)));
        let index = OwnTopics::new(topics(4_000).chain([own("x/{device}/#"), deep.clone()]).collect());
        let candidates = |rule: &str| {
            let mut shape = shape(rule);
            shape.end_level();
            index.candidates(&shape.steps).len()
        };
        assert_eq!(candidates("tombolo/{device}/up/{rest}"), 0);
        assert_eq!(candidates("x/{device}/up/t"), 1);
        assert_eq!(candidates("x/{device}/c7/t"), 2);
        assert_eq!(candidates("x/{rest}"), index.all.len());
        assert_eq!(shape("x/{device}/c7/t").meets(&index).map(OwnTopic::as_str), Some("x/{device}/c7/#"));
    }

    #[test]
    fn a_rule_meets_an_own_topic_if_any_device_and_path_lead_there() {
        for (rule, path, text) in [
            ("x/{device}", "t", "x/{device}"),
            ("x/{1}", "+", "x/status"),
            ("x/{path}", "#", "x/a/b"),
            ("x/{rest}", "t/#", "x"),
            ("x/{path}/z", "t/#", "x/t/z"),
            ("x/{1}{2}", "+/+", "x/ab"),
            ("x/a{1}b", "+", "x/a{device}"),
            ("x/y", "t", "x/{device}"),
            ("x/{device}-status", "t", "x/{device}"),
            ("x/{path}/z", "#", "x/{path}/{rest}/z"),
            ("x/{1}/down/y", "+", "x/+/down/#"),
        ] {
            assert!(meets(rule, path, text), "{rule} of {path} and {text}");
        }
        for (rule, path, text) in [
            ("x/{device}", "t", "x/gateway"),
            ("x/gateway", "t", "x/{device}"),
            ("x/{1}", "+", "x"),
            ("x/{1}", "+", "x/a/b"),
            ("x/{path}", "#", "x"),
            ("x/{path}", "t/+", "x/u/v"),
            ("x/{device}", "t", "x/a b"),
            ("x/{1}a", "+", "x/b"),
            ("x/{device}/up/{path}", "#", "x/{device}/status"),
            ("y/{path}", "#", "x/{path}"),
            ("x/{1}/up", "+", "x/+/down/#"),
        ] {
            assert!(!meets(rule, path, text), "{rule} of {path} and {text}");
        }
    }

    #[test]
    fn the_longest_templates_are_compared_in_bounded_time() {
        let rule = format!("x/{}", "{1}{2}".repeat(170));
        let text = format!("x/{}b", "a".repeat(1_000));
        assert!(meets(&rule, "+/+", &text));
        assert!(!meets(&format!("{rule}c"), "+/+", &text));
    }
}
