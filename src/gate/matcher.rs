//! The patterns of a role, compiled to a trie that finds the most specific match in one descent.
//!
//! At each node the literal child is tried first, then `+`, then `#`, so the first rule reached is
//! the most specific one in the order of
//! [`Pattern::specificity`](super::pattern::Pattern::specificity). The children of a node are
//! contiguous and sorted by their first 16 bytes as one integer, so a node with 1,000 children
//! costs ten integer comparisons. The work for any path is bounded by the number of nodes.

use std::collections::BTreeMap;

use super::pattern::{LevelText, Pattern};
use crate::message::{PATH_SEGMENTS_MAX, Path};

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

/// Marks an absent node or rule.
const NONE: u32 = u32::MAX;

/// The compiled patterns of one role; each has the rule number given to [`Builder::insert`].
#[derive(Debug)]
pub(super) struct Matcher {
    nodes: Box<[Node]>,
    edges: Box<[Edge]>,
}

#[derive(Debug)]
struct Node {
    first_edge: u32,
    edge_count: u32,
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
    pub(super) fn find(&self, segments: &Segments<'_>) -> Option<u32> {
        self.find_applicable(segments, |_| true)
    }

    /// The number of the most specific pattern that matches, among those that apply.
    pub(super) fn find_applicable(
        &self,
        segments: &Segments<'_>,
        applies: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        self.descend(0, segments, 0, &applies)
    }

    fn descend(
        &self,
        node: u32,
        segments: &Segments<'_>,
        depth: usize,
        applies: &impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let node = self.nodes.get(node as usize)?;
        let ends = |rule: u32| (rule != NONE && applies(rule)).then_some(rule);
        if depth == segments.count() {
            return ends(node.exact).or_else(|| ends(node.rest));
        }
        if node.edge_count > 0 {
            let segment = segments.get(depth);
            let key = key(segment);
            let edges = &self.edges[node.first_edge as usize..][..node.edge_count as usize];
            let found = edges.binary_search_by(|edge| {
                edge.key.cmp(&key).then_with(|| {
                    if segment.len() <= KEY_BYTES && edge.text.len() <= KEY_BYTES {
                        std::cmp::Ordering::Equal
                    } else {
                        (*edge.text).cmp(segment)
                    }
                })
            });
            if let Ok(at) = found
                && let Some(rule) = self.descend(edges[at].child, segments, depth + 1, applies)
            {
                return Some(rule);
            }
        }
        if node.any != NONE
            && let Some(rule) = self.descend(node.any, segments, depth + 1, applies)
        {
            return Some(rule);
        }
        ends(node.rest)
    }
}

/// Collects patterns and compiles them.
#[derive(Default)]
pub(super) struct Builder {
    nodes: Vec<Draft>,
}

#[derive(Default)]
struct Draft {
    children: BTreeMap<Box<str>, u32>,
    any: Option<u32>,
    exact: Option<u32>,
    rest: Option<u32>,
}

impl Builder {
    /// Adds `pattern` with its `rule`. If the pattern exists already, its rule is kept and
    /// returned.
    pub(super) fn insert(&mut self, pattern: &Pattern, rule: u32) -> Option<u32> {
        if self.nodes.is_empty() {
            self.nodes.push(Draft::default());
        }
        let mut at = 0_usize;
        for level in pattern.levels() {
            let next = self.nodes.len() as u32;
            let draft = &mut self.nodes[at];
            let child = match level {
                LevelText::Literal(text) => *draft.children.entry(text.into()).or_insert(next),
                LevelText::Any => *draft.any.get_or_insert(next),
                LevelText::Rest => return occupy(&mut draft.rest, rule),
            };
            if child == next {
                self.nodes.push(Draft::default());
            }
            at = child as usize;
        }
        occupy(&mut self.nodes[at].exact, rule)
    }

    /// Builds the flat trie.
    pub(super) fn build(self) -> Matcher {
        let mut edges = Vec::new();
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for draft in self.nodes {
            let first_edge = edges.len() as u32;
            // The text order is also the order of (key, text).
            edges.extend(draft.children.into_iter().map(|(text, child)| Edge {
                key: key(&text),
                text,
                child,
            }));
            nodes.push(Node {
                first_edge,
                edge_count: edges.len() as u32 - first_edge,
                any: draft.any.unwrap_or(NONE),
                exact: draft.exact.unwrap_or(NONE),
                rest: draft.rest.unwrap_or(NONE),
            });
        }
        Matcher { nodes: nodes.into(), edges: edges.into() }
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
