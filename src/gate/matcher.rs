//! The patterns of a role, compiled to a trie that finds the most specific match in one descent.
//!
//! At each node the literal child is tried first, then `+`, then `#`, so the first rule reached is
//! the most specific one in the order of
//! [`Pattern::specificity`](super::pattern::Pattern::specificity). The children of a node are
//! contiguous and sorted by their first 16 bytes as one integer, so a node with 1,000 children
//! costs ten integer comparisons. The work for any path is bounded by the number of nodes.
//!
//! The topics of local rules are compiled to the same trie. They have levels with `{device}`, which
//! stay as they are written: one trie serves all devices of a role, and the name is filled in where
//! a level is compared. Such children of a node are grouped by what stands before the placeholder,
//! so that 1,000 of them, too, cost a search and no comparison of each. Levels with `{tag.NAME}` or
//! several placeholders are compared one by one: at one node they are few.

use std::collections::BTreeMap;

use super::pattern::{LevelText, Pattern};
use crate::message::{PATH_SEGMENTS_MAX, Path};

/// The placeholder for the name of a device in a level.
pub(crate) const DEVICE: &str = "{device}";

/// What the placeholder for a tag of a device begins with.
const TAG: &str = "{tag.";

/// A part of a text with placeholders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'t> {
    /// This text.
    Text(&'t str),
    /// The name of the device.
    Device,
    /// The value of its tag of this name.
    Tag(&'t str),
}

/// The parts of a text with [`DEVICE`] and `{tag.NAME}` in order. Any other brace is text.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let places = rest.match_indices('{').map(|(at, _)| at);
        let mut found = places.filter_map(|at| Some((at, placeholder(&rest[at..])?)));
        let (piece, length) = match found.next() {
            Some((0, (piece, length))) => (piece, length),
            Some((at, _)) => (Piece::Text(&rest[..at]), at),
            None if rest.is_empty() => return None,
            None => (Piece::Text(rest), rest.len()),
        };
        rest = &rest[length..];
        Some(piece)
    })
}

/// The placeholder that a text begins with, and its length.
fn placeholder(text: &str) -> Option<(Piece<'_>, usize)> {
    if text.starts_with(DEVICE) {
        return Some((Piece::Device, DEVICE.len()));
    }
    let (name, _) = text.strip_prefix(TAG)?.split_once('}')?;
    (!name.contains(['{', '/'])).then_some((Piece::Tag(name), TAG.len() + name.len() + 1))
}

/// What is matched, level by level.
pub(crate) trait Levels {
    /// How many there are.
    fn count(&self) -> usize;

    /// The one at `index`, counted from 0.
    fn get(&self, index: usize) -> &str;

    /// The name that stands for [`DEVICE`].
    fn device(&self) -> &str;

    /// What stands for `{tag.NAME}`; `None`: the device has no such tag.
    fn tag(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// One level of what is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// Exactly this text.
    Literal(&'a str),
    /// This text, with what is the device's in the place of each placeholder.
    Device(&'a str),
    /// `+`
    Any,
    /// `#`, always the last.
    Rest,
}

impl<'a> From<LevelText<'a>> for Step<'a> {
    fn from(level: LevelText<'a>) -> Step<'a> {
        match level {
            LevelText::Literal(text) => Step::Literal(text),
            LevelText::Any => Step::Any,
            LevelText::Rest => Step::Rest,
        }
    }
}

impl<'a> Step<'a> {
    /// A level of a topic filter (MQTT 5.0 §4.7.1) that may contain placeholders.
    pub(crate) fn of_filter(level: &'a str) -> Step<'a> {
        match level {
            "+" => Step::Any,
            "#" => Step::Rest,
            level if pieces(level).any(|piece| !matches!(piece, Piece::Text(_))) => Step::Device(level),
            level => Step::Literal(level),
        }
    }
}

/// A path with its segments located, on the stack.
#[derive(Clone, Copy)]
pub(super) struct Segments<'a> {
    text: &'a str,
    /// The offset at which each segment ends.
    ends: [u8; PATH_SEGMENTS_MAX],
    count: u8,
}

impl<'a> Segments<'a> {
    pub(super) fn new(path: Path<'a>) -> Segments<'a> {
        let text = path.as_str();
        let mut segments = Segments { text, ends: [0; PATH_SEGMENTS_MAX], count: 0 };
        let separators = text.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        // A path has at most 16 segments and 255 bytes, so every end fits.
        for (at, end) in separators.chain([text.len()]).zip(&mut segments.ends) {
            *end = at as u8;
            segments.count += 1;
        }
        segments
    }

    /// The whole path.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    fn count(&self) -> usize {
        usize::from(self.count)
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { usize::from(self.ends[index - 1]) + 1 }
    }

    /// The segment at `index`, counted from 0; empty beyond the last.
    pub(super) fn get(&self, index: usize) -> &'a str {
        if index >= self.count() {
            return "";
        }
        &self.text[self.start(index)..usize::from(self.ends[index])]
    }

    /// All segments from `index` on, joined; empty beyond the last.
    pub(super) fn rest(&self, index: usize) -> &'a str {
        if index >= self.count() { "" } else { &self.text[self.start(index)..] }
    }
}

impl Levels for Segments<'_> {
    fn count(&self) -> usize {
        Segments::count(self)
    }

    fn get(&self, index: usize) -> &str {
        Segments::get(self, index)
    }

    /// Patterns have no placeholder.
    fn device(&self) -> &str {
        ""
    }
}

/// Marks an absent node or rule.
const NONE: u32 = u32::MAX;

/// The compiled patterns of one role; each has the rule number given to [`Builder::insert`].
#[derive(Debug)]
pub(crate) struct Matcher {
    nodes: Box<[Node]>,
    edges: Box<[Edge]>,
    mixed: Box<[Mixed]>,
}

#[derive(Debug)]
struct Node {
    first_edge: u32,
    edge_count: u32,
    /// The node after a level that is [`DEVICE`] alone.
    device: u32,
    /// The levels with [`DEVICE`] and more, or with a tag.
    first_mixed: u32,
    mixed_count: u32,
    /// The node after `+`.
    any: u32,
    /// The rule that ends here.
    exact: u32,
    /// The rule that ends here with `#`.
    rest: u32,
}

#[derive(Debug)]
struct Edge {
    key: u128,
    text: Box<str>,
    child: u32,
}

/// A child behind a level with [`DEVICE`] and more, or with a tag.
#[derive(Debug)]
struct Mixed {
    place: Place,
    child: u32,
}

/// What is round the first [`DEVICE`] of a level. In this order what has as much before it is
/// together, and in the order of its text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// There are several placeholders, or a tag: all of it is in `after`.
    is_composed: bool,
    length: usize,
    before: Box<str>,
    after: Box<str>,
}

impl Place {
    /// `None`: the level is the placeholder alone.
    fn of(level: &str) -> Option<Place> {
        let is_named = |piece: &Piece<'_>| !matches!(piece, Piece::Text(_));
        let is_tag = |piece: Piece<'_>| matches!(piece, Piece::Tag(_));
        if pieces(level).filter(is_named).count() > 1 || pieces(level).any(is_tag) {
            return Some(Place { is_composed: true, length: 0, before: "".into(), after: level.into() });
        }
        let (before, after) = level.split_once(DEVICE)?;
        (!before.is_empty() || !after.is_empty()).then(|| Place {
            is_composed: false,
            length: before.len(),
            before: before.into(),
            after: after.into(),
        })
    }

    /// Whether the device has all tags in it.
    fn is_given(&self, levels: &impl Levels) -> bool {
        let has = |piece| !matches!(piece, Piece::Tag(name) if levels.tag(name).is_none());
        !self.is_composed || pieces(&self.after).all(has)
    }

    /// Whether one that is composed is this segment, with what is the device's filled in. A rule
    /// with a tag that it does not have is none of its rules.
    fn is(&self, segment: &str, levels: &impl Levels) -> bool {
        let left = pieces(&self.after).try_fold(segment, |rest, piece| {
            rest.strip_prefix(match piece {
                Piece::Text(text) => text,
                Piece::Device => levels.device(),
                Piece::Tag(name) => levels.tag(name)?,
            })
        });
        left == Some("")
    }
}

/// Bytes of a segment that are in its [`key`].
const KEY_BYTES: usize = 16;

/// The first bytes as a big-endian integer, which sorts as the text does. A segment has no NUL, so
/// padding does not make two different texts of up to [`KEY_BYTES`] equal.
fn key(segment: &str) -> u128 {
    let bytes = segment.as_bytes();
    let mut first = [0; KEY_BYTES];
    let length = bytes.len().min(KEY_BYTES);
    first[..length].copy_from_slice(&bytes[..length]);
    u128::from_be_bytes(first)
}

impl Matcher {
    /// The number of the most specific pattern that matches.
    pub(crate) fn find(&self, levels: &impl Levels) -> Option<u32> {
        self.find_applicable(levels, |_| true)
    }

    /// The number of the most specific pattern that matches, among those that apply. Until one
    /// applies every pattern that matches is asked.
    pub(crate) fn find_applicable(
        &self,
        levels: &impl Levels,
        mut applies: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        self.descend(0, levels, 0, &mut applies)
    }

    fn descend(
        &self,
        node: u32,
        levels: &impl Levels,
        depth: usize,
        applies: &mut impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let node = self.nodes.get(node as usize)?;
        let mut ends = |rule: u32| (rule != NONE && applies(rule)).then_some(rule);
        if depth == levels.count() {
            return ends(node.exact).or_else(|| ends(node.rest));
        }
        if node.edge_count > 0
            && let Some(child) = self.literal(node, levels.get(depth))
            && let Some(rule) = self.descend(child, levels, depth + 1, applies)
        {
            return Some(rule);
        }
        if node.device != NONE
            && levels.get(depth) == levels.device()
            && let Some(rule) = self.descend(node.device, levels, depth + 1, applies)
        {
            return Some(rule);
        }
        if node.mixed_count > 0 {
            for child in self.mixed(node, levels.get(depth), levels) {
                if let Some(rule) = self.descend(child, levels, depth + 1, applies) {
                    return Some(rule);
                }
            }
        }
        if node.any != NONE
            && let Some(rule) = self.descend(node.any, levels, depth + 1, applies)
        {
            return Some(rule);
        }
        (node.rest != NONE && applies(node.rest)).then_some(node.rest)
    }

    fn edges(&self, node: &Node) -> &[Edge] {
        &self.edges[node.first_edge as usize..][..node.edge_count as usize]
    }

    /// The child of a node behind just this segment.
    fn literal(&self, node: &Node, segment: &str) -> Option<u32> {
        let key = key(segment);
        let edges = self.edges(node);
        let found = edges.binary_search_by(|edge| {
            edge.key.cmp(&key).then_with(|| {
                if segment.len() <= KEY_BYTES && edge.text.len() <= KEY_BYTES {
                    std::cmp::Ordering::Equal
                } else {
                    (*edge.text).cmp(segment)
                }
            })
        });
        found.ok().map(|at| edges[at].child)
    }

    fn all_mixed(&self, node: &Node) -> &[Mixed] {
        &self.mixed[node.first_mixed as usize..][..node.mixed_count as usize]
    }

    /// The children of a node behind levels with [`DEVICE`] and more that are this segment.
    fn mixed<'m, L: Levels>(
        &'m self,
        node: &Node,
        segment: &'m str,
        levels: &'m L,
    ) -> impl Iterator<Item = u32> + use<'m, L> {
        let mut rest = self.all_mixed(node);
        std::iter::from_fn(move || {
            while let Some(Mixed { place, child }) = rest.first() {
                if place.is_composed {
                    rest = &rest[1..];
                    if place.is(segment, levels) {
                        return Some(*child);
                    }
                    continue;
                }
                let length = place.length;
                let is_alike = |Mixed { place, .. }: &Mixed| !place.is_composed && place.length == length;
                let (group, other) = rest.split_at(rest.partition_point(is_alike));
                rest = other;
                let (Some(before), Some(after)) = (segment.get(..length), segment.get(length..)) else {
                    continue;
                };
                let Some(after) = after.strip_prefix(levels.device()) else { continue };
                let found = group.binary_search_by(|Mixed { place, .. }| {
                    (&*place.before, &*place.after).cmp(&(before, after))
                });
                if let Ok(at) = found {
                    return Some(group[at].child);
                }
            }
            None
        })
    }

    /// Whether there is a topic that both a pattern and this topic filter match.
    pub(crate) fn overlaps(&self, filter: &impl Levels) -> bool {
        self.overlaps_below(0, filter, 0)
    }

    /// The children of a node behind levels with [`DEVICE`] and more, or with a tag that the device
    /// has.
    fn given<'m, L: Levels>(&'m self, node: &Node, levels: &'m L) -> impl Iterator<Item = u32> + use<'m, L> {
        let given = self.all_mixed(node).iter().filter(|mixed| mixed.place.is_given(levels));
        given.map(|mixed| mixed.child)
    }

    /// Whether a rule of the device is at a node or below it: each node is on the way to a rule,
    /// but not to one of a device that lacks a tag.
    fn leads_to_rule(&self, node: &Node, levels: &impl Levels) -> bool {
        let below =
            |child: u32| self.nodes.get(child as usize).is_some_and(|node| self.leads_to_rule(node, levels));
        node.exact != NONE
            || node.rest != NONE
            || self.edges(node).iter().any(|edge| below(edge.child))
            || below(node.device)
            || below(node.any)
            || self.given(node, levels).any(below)
    }

    fn overlaps_below(&self, node: u32, filter: &impl Levels, depth: usize) -> bool {
        let Some(node) = self.nodes.get(node as usize) else { return false };
        // `a/#` matches `a` too (MQTT 5.0 §4.7.1.2).
        if node.rest != NONE {
            return true;
        }
        if depth == filter.count() {
            return node.exact != NONE;
        }
        let mut below = |child: u32| child != NONE && self.overlaps_below(child, filter, depth + 1);
        match filter.get(depth) {
            "#" => self.leads_to_rule(node, filter),
            "+" => {
                self.edges(node).iter().any(|edge| below(edge.child))
                    || below(node.device)
                    || self.given(node, filter).any(&mut below)
                    || below(node.any)
            }
            segment => {
                self.literal(node, segment).is_some_and(&mut below)
                    || segment == filter.device() && below(node.device)
                    || self.mixed(node, segment, filter).any(&mut below)
                    || below(node.any)
            }
        }
    }
}

/// Collects patterns and compiles them.
#[derive(Default)]
pub(crate) struct Builder {
    nodes: Vec<Draft>,
}

#[derive(Default)]
struct Draft {
    children: BTreeMap<Box<str>, u32>,
    device: Option<u32>,
    mixed: BTreeMap<Place, u32>,
    any: Option<u32>,
    exact: Option<u32>,
    rest: Option<u32>,
}

impl Builder {
    /// Adds `pattern` with its `rule`. If the pattern exists already, its rule is kept and
    /// returned.
    pub(super) fn insert(&mut self, pattern: &Pattern, rule: u32) -> Option<u32> {
        self.insert_steps(pattern.levels().map(Step::from), rule)
    }

    /// Adds what has these levels, as [`Builder::insert`] does.
    pub(crate) fn insert_steps<'a>(
        &mut self,
        steps: impl Iterator<Item = Step<'a>>,
        rule: u32,
    ) -> Option<u32> {
        if self.nodes.is_empty() {
            self.nodes.push(Draft::default());
        }
        let mut at = 0_usize;
        for step in steps {
            let next = self.nodes.len() as u32;
            let draft = &mut self.nodes[at];
            let child = match step {
                Step::Literal(text) => *draft.children.entry(text.into()).or_insert(next),
                Step::Device(text) => match Place::of(text) {
                    Some(place) => *draft.mixed.entry(place).or_insert(next),
                    None => *draft.device.get_or_insert(next),
                },
                Step::Any => *draft.any.get_or_insert(next),
                Step::Rest => return occupy(&mut draft.rest, rule),
            };
            if child == next {
                self.nodes.push(Draft::default());
            }
            at = child as usize;
        }
        occupy(&mut self.nodes[at].exact, rule)
    }

    /// Builds the flat trie.
    pub(crate) fn build(self) -> Matcher {
        let (mut edges, mut mixed) = (Vec::new(), Vec::new());
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for draft in self.nodes {
            let first_edge = edges.len() as u32;
            // The text order is also the order of (key, text).
            edges.extend(draft.children.into_iter().map(|(text, child)| Edge {
                key: key(&text),
                text,
                child,
            }));
            let first_mixed = mixed.len() as u32;
            mixed.extend(draft.mixed.into_iter().map(|(place, child)| Mixed { place, child }));
            nodes.push(Node {
                first_edge,
                edge_count: edges.len() as u32 - first_edge,
                device: draft.device.unwrap_or(NONE),
                first_mixed,
                mixed_count: mixed.len() as u32 - first_mixed,
                any: draft.any.unwrap_or(NONE),
                exact: draft.exact.unwrap_or(NONE),
                rest: draft.rest.unwrap_or(NONE),
            });
        }
        Matcher { nodes: nodes.into(), edges: edges.into(), mixed: mixed.into() }
    }
}

fn occupy(place: &mut Option<u32>, rule: u32) -> Option<u32> {
    let before = *place;
    place.get_or_insert(rule);
    before
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matcher(patterns: &[Pattern]) -> Matcher {
        let mut builder = Builder::default();
        for (number, pattern) in patterns.iter().enumerate() {
            builder.insert(pattern, number as u32);
        }
        builder.build()
    }

    /// Reference implementation: tests all patterns and takes the most specific that matches.
    fn naive(patterns: &[Pattern], path: Path<'_>) -> Option<u32> {
        let matching = patterns.iter().enumerate().filter(|(_, pattern)| pattern.matches(path));
        matching.min_by(|a, b| a.1.specificity(b.1)).map(|(number, _)| number as u32)
    }

    #[test]
    fn segments_are_where_the_path_has_them() {
        let segments = Segments::new(Path::parse("t/größe/3").unwrap());
        assert_eq!((segments.get(0), segments.get(1), segments.get(2)), ("t", "größe", "3"));
        assert_eq!((segments.rest(0), segments.rest(1), segments.rest(3)), ("t/größe/3", "größe/3", ""));
        assert_eq!(segments.get(3), "");
        let long = ["a"; 16].join("/");
        let segments = Segments::new(Path::parse(&long).unwrap());
        assert_eq!((segments.get(15), segments.rest(15), segments.rest(16)), ("a", "a", ""));
    }

    #[test]
    fn a_dead_end_behind_a_literal_falls_back_to_the_wildcard() {
        let patterns: Vec<_> = ["a/b/c", "+/b/d", "#"].map(|text| Pattern::parse(text).unwrap()).into();
        let matcher = matcher(&patterns);
        let find = |path| matcher.find(&Segments::new(Path::parse(path).unwrap()));
        assert_eq!(find("a/b/c"), Some(0));
        assert_eq!(find("a/b/d"), Some(1));
        assert_eq!(find("a/b"), Some(2));
    }

    #[test]
    fn an_empty_role_matches_nothing() {
        assert_eq!(Builder::default().build().find(&Segments::new(Path::parse("a").unwrap())), None);
    }

    #[test]
    fn literals_with_the_same_first_bytes_are_told_apart() {
        let texts = [
            "temperature-room-1",
            "temperature-room",
            "temperature-room-10",
            "temperature-roon",
            "t",
            "temp",
        ];
        let patterns: Vec<_> = texts.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        let matcher = matcher(&patterns);
        for (number, text) in texts.iter().enumerate() {
            let found = matcher.find(&Segments::new(Path::parse(text).unwrap()));
            assert_eq!(found, Some(number as u32), "{text}");
        }
        for text in ["temperature-roo", "temperature-room-", "temperature-room-2", "tem"] {
            assert_eq!(matcher.find(&Segments::new(Path::parse(text).unwrap())), None, "{text}");
        }
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[ab]".prop_map(String::from),
            1 => Just("temperature-room-1".to_owned()),
            1 => Just("temperature-room-2".to_owned()),
            1 => "[a-zé]{1,12}",
        ]
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        let level = prop_oneof![2 => level(), 1 => Just("+".to_owned())];
        (prop::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, rest)| {
            if rest || levels.is_empty() {
                levels.push("#".to_owned());
            }
            Pattern::parse(&levels.join("/")).unwrap_or_else(|_| Pattern::parse("#").unwrap())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn the_fast_matcher_equals_the_naive_one(
            patterns in prop::collection::vec(pattern(), 0..40),
            paths in prop::collection::vec(prop::collection::vec(level(), 1..6), 1..20),
        ) {
            let matcher = matcher(&patterns);
            for path in paths {
                let text = path.join("/");
                let path = Path::parse(&text).unwrap();
                let (fast, slow) = (matcher.find(&Segments::new(path)), naive(&patterns, path));
                // The same text twice: both find the first.
                prop_assert_eq!(fast, slow, "{}", text);
            }
        }

        #[test]
        fn only_the_same_text_ties(a in pattern(), b in pattern(), path in prop::collection::vec(level(), 1..6)) {
            let text = path.join("/");
            let path = Path::parse(&text).unwrap();
            if a.matches(path) && b.matches(path) {
                prop_assert_eq!(a.specificity(&b).is_eq(), a == b);
                prop_assert_eq!(a.specificity(&b), b.specificity(&a).reverse());
            }
        }
    }
}
