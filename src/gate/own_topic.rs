//! The topics that are the gateway's own, wherever the configuration puts them: no rule's result
//! may equal one.
//!
//! `[topics]` may put the gateway's statuses, losses and commands anywhere, also outside the
//! prefix, where no level says whose a topic is ([`mapping`](super::mapping) guards only those
//! levels). So a rule is compared as a whole with each of these topics, twice:
//!
//! * when it is built, as a pattern: whether any device and any path could make one
//!   ([`Shape::meets`]). Then the rule is a fault.
//! * for each reading, its topic: a second look at what the first has already excluded
//!   ([`OwnTopic::matches`]).
//!
//! Both may find more than there is, never less: a place in an own topic stands for any device or
//! any text, also of devices that do not exist, and a rule that `deny` narrows is judged as if it
//! did not.

use super::pattern::{LevelText, Pattern};
use crate::message::{NAME_MAX, RESERVED_DEVICE};

/// A topic, or all topics of a template or an MQTT filter, that the gateway publishes to or
/// subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnTopic {
    key: String,
    text: String,
    /// The levels from the front.
    head: Box<[OwnLevel]>,
    /// `Some`: any number of levels, and then these at the end.
    tail: Option<Box<[OwnLevel]>>,
}

/// One level: literal text round at most one stretch that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnLevel {
    before: Box<str>,
    unknown: Option<Unknown>,
    after: Box<str>,
}

/// What an unknown stretch can be; at least one character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// The id of a device.
    Name,
    /// Anything but `/`.
    Text,
}

impl OwnTopic {
    /// From a topic whose `{prefix}` and `{gateway}` are filled in. `{device}` is left for the id
    /// of any device, `+` and other places for any text within a level; `#`, `{path}` and `{rest}`
    /// for any number of levels. `key` is what says so in the configuration: `topics.loss`.
    pub fn new(key: impl Into<String>, text: impl Into<String>) -> OwnTopic {
        let (key, text) = (key.into(), text.into());
        let is_several = |level: &str| matches!(level, "#" | "{path}" | "{rest}");
        let levels: Vec<&str> = text.split('/').collect();
        // Between the first and the last of those that stand for several levels anything may be.
        let first = levels.iter().position(|level| is_several(level));
        let last = levels.iter().rposition(|level| is_several(level));
        let (head, tail) = match first.zip(last) {
            Some((first, last)) => (&levels[..first], Some(&levels[last + 1..])),
            None => (&levels[..], None),
        };
        let all = |levels: &[&str]| levels.iter().map(|level| OwnLevel::parse(level)).collect();
        let (head, tail) = (all(head), tail.map(all));
        OwnTopic { key, text, head, tail }
    }

    /// The key of the configuration that says so.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `topic` is one of them. Does not allocate.
    pub fn matches(&self, topic: &str) -> bool {
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

    /// The same as steps, to compare with those of a rule.
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
        // Several places in one level are any text from the first to the last.
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
        let mut tokens: Vec<Token> = self.before.chars().map(|c| Token::One(Class::Just(c))).collect();
        match self.unknown {
            Some(Unknown::Name) => tokens.extend(NAME),
            Some(Unknown::Text) => tokens.extend(TEXT),
            None => {}
        }
        tokens.extend(self.after.chars().map(|c| Token::One(Class::Just(c))));
        Step::Level(tokens)
    }
}

fn is_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= NAME_MAX
        && bytes.iter().all(|byte| Class::Name.has(char::from(*byte)))
}

/// What a rule can make a topic of, level by level.
#[derive(Debug, Default)]
pub(super) struct Shape {
    steps: Vec<Step>,
    level: Vec<Token>,
}

#[derive(Debug)]
enum Step {
    /// One level, character by character.
    Level(Vec<Token>),
    /// Any number of levels, none among them.
    Several,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    One(Class),
    /// None or more of them.
    Many(Class),
}

/// A set of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Just(char),
    /// What an id begins with.
    NameStart,
    /// What an id goes on with.
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

    /// Whether a character is in both.
    fn meets(self, other: Class) -> bool {
        match (self, other) {
            (Class::Just(c), other) | (other, Class::Just(c)) => other.has(c),
            // All others have the letter `a`.
            _ => true,
        }
    }
}

impl Shape {
    /// Literal text, which may have a `/` in it.
    pub(super) fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '/' => self.end_level(),
                c => self.level.push(Token::One(Class::Just(c))),
            }
        }
    }

    /// The id of any device.
    pub(super) fn device(&mut self) {
        self.level.extend(NAME);
    }

    /// Any one segment of a path.
    pub(super) fn segment(&mut self) {
        self.level.extend(TEXT);
    }

    /// Any number of segments; a level of its own.
    pub(super) fn rest(&mut self) {
        self.end_level();
        self.steps.push(Step::Several);
    }

    /// Any whole path of that pattern; levels of their own.
    pub(super) fn path(&mut self, pattern: &Pattern) {
        let is_any_path = pattern.as_str() == "#";
        for level in pattern.levels() {
            self.end_level();
            match level {
                LevelText::Literal(text) => self.text(text),
                LevelText::Any => self.segment(),
                LevelText::Rest => {
                    // A path has a segment at least.
                    if is_any_path {
                        self.segment();
                    }
                    self.rest();
                }
            }
        }
    }

    /// No level of a template is empty: what looks so stands behind a place of several levels.
    fn end_level(&mut self) {
        if !self.level.is_empty() {
            self.steps.push(Step::Level(std::mem::take(&mut self.level)));
        }
    }

    /// The first of the own topics that it could make.
    pub(super) fn meets(mut self, own: &[OwnTopic]) -> Option<&OwnTopic> {
        self.end_level();
        own.iter().find(|own| steps_meet(&self.steps, &own.steps()))
    }
}

/// Whether some topic is of both. Each of the two may be any number of levels at several places.
fn steps_meet(one: &[Step], other: &[Step]) -> bool {
    // Most differ where all they have is literal.
    let literal = |steps: &[Step]| match steps.first() {
        Some(Step::Level(tokens))
            if tokens.iter().all(|token| matches!(token, Token::One(Class::Just(_)))) =>
        {
            Some(tokens.clone())
        }
        _ => None,
    };
    if literal(one).zip(literal(other)).is_some_and(|(one, other)| one != other) {
        return false;
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
    // No device has that id.
    if (is_device(one) && is_reserved(other)) || (is_reserved(one) && is_device(other)) {
        return false;
    }
    let class = |token: &Token| match token {
        Token::One(class) | Token::Many(class) => *class,
    };
    meet(one, other, |token| matches!(token, Token::Many(_)), |one, other| class(one).meets(class(other)))
}

/// Whether two patterns have a text in common: `repeats` says what may be there any number of
/// times, `agree` whether one part of each can be the same. Takes as many steps as the product of
/// their lengths.
fn meet<T>(one: &[T], other: &[T], repeats: impl Fn(&T) -> bool, agree: impl Fn(&T, &T) -> bool) -> bool {
    // `row[j]`: whether the rest of `one` from i has a text in common with the rest of `other` from
    // j.
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
                            // What both repeat can as well be left out.
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
        // As a rule without {prefix} and {gateway} is built.
        for part in template.parts() {
            match part {
                crate::gate::template::Part::Text(start, end) => shape.text(template.text(*start, *end)),
                crate::gate::template::Part::Device => shape.device(),
                crate::gate::template::Part::Path => shape.path(&pattern),
                crate::gate::template::Part::Rest => shape.rest(),
                _ => shape.segment(),
            }
        }
        shape.meets(&[own(text)]).is_some()
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
