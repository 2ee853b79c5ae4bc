//! The topic filter of a downlink rule, and of a template with `{device}`, `{id}` and `{path}`:
//! parsed once, matched level by level.

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

/// Whether every topic that the MQTT filter `filter` matches is matched by `other`, too.
pub fn covers(other: &str, filter: &str) -> bool {
    // A `+` or `#` of the filter is like any text, which only a wildcard of the other one matches.
    (other.ends_with('#') || !filter.ends_with('#')) && Filter::parse(other).captures(filter).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_covers_another_if_it_matches_all_that_it_matches() {
        assert!(covers("a/+/down/#", "a/+/down/run/+") && covers("a/+/down/#", "a/gateway/down/#"));
        assert!(covers("a/#", "a/#") && covers("#", "a/+") && covers("a/+", "a/b"));
        assert!(!covers("a/+", "a/#") && !covers("a/b", "a/+") && !covers("a/+/c", "a/b/#"));
        assert!(!covers("a/+/down/run/+", "a/+/down/#"));
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
