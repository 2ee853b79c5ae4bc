//! The topic filter of a downlink rule, and of a template with `{device}`, `{id}` and `{path}`:
//! parsed once, matched level by level.

use std::collections::HashMap;

pub use crate::message::covers;

/// One level of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    /// This text.
    Text(String),
    /// `+`: any text.
    Any,
    /// The device's id between two texts.
    Device(String, String),
    /// `{id}`: any text.
    Id,
    /// `#` or `{path}`: this level and all that follow.
    Rest,
}

/// A parsed filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    levels: Vec<Level>,
}

/// What a topic has in the places of a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures<'t> {
    /// `{device}`.
    pub device: Option<&'t str>,
    /// `{id}`.
    pub id: Option<&'t str>,
    /// Each `+`, from the first on.
    pub levels: Vec<&'t str>,
    /// `#` or `{path}`; empty where nothing is there.
    pub rest: Option<&'t str>,
}

impl Filter {
    /// Parses a filter whose `{prefix}` and `{gateway}` are filled in.
    pub fn parse(text: &str) -> Filter {
        let level = |level: &str| match level {
            "+" => Level::Any,
            "#" | "{path}" => Level::Rest,
            "{id}" => Level::Id,
            other => match other.split_once("{device}") {
                Some((before, after)) => Level::Device(before.to_owned(), after.to_owned()),
                None => Level::Text(other.to_owned()),
            },
        };
        Filter { levels: text.split('/').map(level).collect() }
    }

    /// Whether it names the device.
    pub fn names_device(&self) -> bool {
        self.levels.iter().any(|level| matches!(level, Level::Device(..)))
    }

    /// As MQTT knows it: `+` for each placeholder of one level, `#` for the rest.
    pub fn to_mqtt(&self) -> String {
        let levels: Vec<&str> = self
            .levels
            .iter()
            .map(|level| match level {
                Level::Text(text) => text.as_str(),
                Level::Any | Level::Device(..) | Level::Id => "+",
                Level::Rest => "#",
            })
            .collect();
        levels.join("/")
    }

    /// How specific it is: of two filters that match one topic the greater one decides. Level by
    /// level, text is more than a device, a device more than `+`, and `+` more than `#`.
    pub fn rank(&self) -> Vec<u8> {
        self.levels
            .iter()
            .map(|level| match level {
                Level::Text(_) => 4,
                Level::Device(..) => 3,
                Level::Any | Level::Id => 2,
                Level::Rest => 1,
            })
            .collect()
    }

    /// What `topic` has in its places; `None` if it does not match.
    pub fn captures<'t>(&self, topic: &'t str) -> Option<Captures<'t>> {
        let mut captures = Captures::default();
        let mut left = Some(topic);
        for level in &self.levels {
            if *level == Level::Rest {
                captures.rest = Some(left.unwrap_or_default());
                return Some(captures);
            }
            let here = left?;
            let (text, after) = match here.split_once('/') {
                Some((text, after)) => (text, Some(after)),
                None => (here, None),
            };
            match level {
                Level::Text(expected) if expected != text => return None,
                Level::Text(_) => {}
                Level::Any => captures.levels.push(text),
                Level::Id => captures.id = Some(text),
                Level::Device(before, after) => {
                    let id = text.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?;
                    if captures.device.is_some_and(|device| device != id) {
                        return None;
                    }
                    captures.device = Some(id);
                }
                Level::Rest => {}
            }
            left = after;
        }
        left.is_none().then_some(captures)
    }
}

/// Those of different MQTT filters that no other one of them [covers], in their order. The time
/// grows with their number: they are looked up level by level.
pub fn uncovered(filters: Vec<String>) -> Vec<String> {
    let mut nodes = vec![Node::default()];
    for filter in &filters {
        let mut at = 0;
        for level in filter.split('/') {
            if level == "#" {
                nodes[at].has_rest = true;
                break;
            }
            let next = nodes.len();
            let child = *nodes[at].children.entry(level).or_insert(next);
            if child == next {
                nodes.push(Node::default());
            }
            at = child;
        }
        nodes[at].ends |= !filter.ends_with('#');
    }
    let keep: Vec<bool> = filters.iter().map(|filter| !is_covered(&nodes, filter)).collect();
    filters.into_iter().zip(keep).filter_map(|(filter, keep)| keep.then_some(filter)).collect()
}

/// Filters that begin with the same levels.
#[derive(Default)]
struct Node<'f> {
    children: HashMap<&'f str, usize>,
    /// One ends here.
    ends: bool,
    /// One ends with `#` behind here.
    has_rest: bool,
}

/// Whether another one of the filters in `nodes` covers `filter`, which is one of them.
fn is_covered(nodes: &[Node<'_>], filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    // The nodes to look at, each behind so many levels of the filter; whether it is on the way of
    // the filter itself.
    let mut left = vec![(0, 0, true)];
    while let Some((node, count, is_own)) = left.pop() {
        let level = levels.get(count).copied();
        let node: &Node<'_> = &nodes[node];
        if node.has_rest && !(is_own && level == Some("#")) {
            return true;
        }
        match level {
            Some("#") => {}
            None if node.ends && !is_own => return true,
            None => {}
            Some(level) => {
                left.extend(node.children.get(level).map(|child| (*child, count + 1, is_own)));
                if level != "+" {
                    left.extend(node.children.get("+").map(|child| (*child, count + 1, false)));
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn of_filters_of_which_one_covers_the_other_the_wider_one_stays() {
        let all = |filters: &[&str]| filters.iter().map(|filter| (*filter).to_owned()).collect();
        assert_eq!(uncovered(all(&["a/+/#", "a/#"])), ["a/#"]);
        assert_eq!(uncovered(all(&["a/b", "a/+", "c", "a/+/d"])), ["a/+", "c", "a/+/d"]);
        assert_eq!(uncovered(all(&["#", "a", "+"])), ["#"]);
    }

    proptest! {
        #[test]
        fn those_that_are_not_covered_are_those_that_no_other_one_covers(
            filters in prop::collection::btree_set("[ab+](/[ab+]){0,3}(/#)?|#", 0..10)
        ) {
            let filters: Vec<String> = filters.into_iter().collect();
            let mut kept = filters.clone();
            kept.retain(|filter| !filters.iter().any(|other| other != filter && covers(other, filter)));
            prop_assert_eq!(uncovered(filters), kept);
        }
    }

    #[test]
    fn a_topic_fills_the_places_of_a_filter() {
        let filter = Filter::parse("tombolo/gw/{device}/down/+/#");
        let captures = filter.captures("tombolo/gw/door-7/down/relay/1/state").unwrap();
        assert_eq!(captures.device, Some("door-7"));
        assert_eq!((captures.levels, captures.rest), (vec!["relay"], Some("1/state")));
        assert_eq!(filter.captures("tombolo/gw/door-7/down/relay").unwrap().rest, Some(""));
        assert_eq!(filter.captures("tombolo/gw/door-7/down"), None);
        assert_eq!(filter.captures("tombolo/other/door-7/down/relay/1"), None);
        assert_eq!(filter.to_mqtt(), "tombolo/gw/+/down/+/#");
    }

    #[test]
    fn an_exact_filter_matches_only_itself() {
        let filter = Filter::parse("site/all/lights");
        assert!(filter.captures("site/all/lights").is_some() && !filter.names_device());
        for topic in ["site/all", "site/all/lights/1", "site/all/light", ""] {
            assert_eq!(filter.captures(topic), None, "{topic}");
        }
    }

    #[test]
    fn a_device_may_be_part_of_a_level_and_stands_for_one_id() {
        let filter = Filter::parse("site/dev-{device}/x/{device}");
        assert_eq!(filter.captures("site/dev-a/x/a").unwrap().device, Some("a"));
        assert_eq!(filter.captures("site/dev-a/x/b"), None);
    }

    #[test]
    fn the_more_specific_filter_ranks_higher() {
        let rank = |text: &str| Filter::parse(text).rank();
        assert!(rank("a/{device}/down/relay") > rank("a/{device}/down/+"));
        assert!(rank("a/{device}/down/+") > rank("a/{device}/down/#"));
        assert!(rank("a/{device}/down/#") > rank("a/+/down/#"));
    }
}
