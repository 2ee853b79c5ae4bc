//! Topic filters of clients (MQTT 5.0 §4.7): whether one is valid, and which topics it matches
//! together with another one.

/// Most levels of a filter.
pub const LEVELS_MAX: usize = 32;
/// Longest filter, in bytes.
pub const FILTER_MAX: usize = 1_024;
/// What a shared subscription begins with (MQTT 5.0 §4.8.2).
const SHARED: &str = "$share/";

/// A valid topic filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter(Box<str>);

/// Why a text is not a filter that this listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// Empty, too long, with too many levels, or with a wildcard in a wrong place.
    Invalid,
    /// A shared subscription.
    Shared,
}

impl Filter {
    /// Parses a filter of `1..=1,024` bytes and at most 32 levels.
    ///
    /// # Errors
    /// [`FilterError`]
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        if text.starts_with(SHARED) {
            return Err(FilterError::Shared);
        }
        let levels = text.split('/').count();
        if text.is_empty() || text.len() > FILTER_MAX || levels > LEVELS_MAX || text.contains('\0') {
            return Err(FilterError::Invalid);
        }
        let valid = |(at, level): (usize, &str)| match level {
            "+" => true,
            "#" => at + 1 == levels,
            level => !level.contains(['+', '#']),
        };
        text.split('/').enumerate().all(valid).then(|| Filter(text.into())).ok_or(FilterError::Invalid)
    }

    /// The filter of all paths that a template of a downlink rule can name: a level with a
    /// placeholder is any level, and a last level `{rest}` any number of them.
    pub fn of_template(template: &str) -> Option<Filter> {
        let last = template.split('/').count() - 1;
        let level = |(at, level): (usize, &str)| match level {
            "{rest}" if at == last => "#".to_owned(),
            level if level.contains('{') => "+".to_owned(),
            level => level.to_owned(),
        };
        let levels: Vec<String> = template.split('/').enumerate().map(level).collect();
        Filter::parse(&levels.join("/")).ok()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a topic matches. A wildcard in the first level does not match a topic that begins
    /// with `$` (MQTT 5.0 §4.7.2).
    pub fn matches(&self, topic: &str) -> bool {
        if topic.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let (mut filter, mut levels) = (self.0.split('/'), topic.split('/'));
        loop {
            match (filter.next(), levels.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(wanted), Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
    }

    /// Whether a topic below `$` that one names is out of reach of the other: a wildcard in the
    /// first level does not match it (MQTT 5.0 §4.7.2).
    fn is_apart(&self, other: &Filter) -> bool {
        let hidden = |one: &Filter, other: &Filter| one.0.starts_with('$') && other.0.starts_with(['+', '#']);
        hidden(self, other) || hidden(other, self)
    }

    /// Whether there is a topic that both match.
    pub fn overlaps(&self, other: &Filter) -> bool {
        if self.is_apart(other) {
            return false;
        }
        let (mut one, mut other) = (self.0.split('/'), other.0.split('/'));
        loop {
            match (one.next(), other.next()) {
                (Some("#"), _) | (_, Some("#")) => return true,
                (None, None) => return true,
                // `a/#` matches `a` too (MQTT 5.0 §4.7.1.2).
                (None, Some(_)) | (Some(_), None) => return false,
                (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }

    /// The filter of the topics that both match; `None`: there is none.
    pub fn intersection(&self, other: &Filter) -> Option<Filter> {
        if self.is_apart(other) {
            return None;
        }
        let (mut one, mut other) = (self.0.split('/'), other.0.split('/'));
        let mut levels: Vec<&str> = Vec::new();
        loop {
            match (one.next(), other.next()) {
                (None, None) | (Some("#"), None) | (None, Some("#")) => break,
                (Some("#"), Some(level)) => {
                    levels.push(level);
                    levels.extend(other);
                    break;
                }
                (Some(level), Some("#")) => {
                    levels.push(level);
                    levels.extend(one);
                    break;
                }
                (Some("+"), Some(level)) | (Some(level), Some("+")) => levels.push(level),
                (Some(a), Some(b)) if a == b => levels.push(a),
                _ => return None,
            }
        }
        Filter::parse(&levels.join("/")).ok()
    }

    /// Whether it matches every topic that the other one matches.
    pub fn covers(&self, other: &Filter) -> bool {
        self.intersection(other).as_ref() == Some(other)
    }

    /// Whether it matches a topic that none of `others` matches.
    ///
    /// A level that no filter names is matched by their wildcards alone, so it is the one to try in
    /// the place of each wildcard. For `#` it is tried in every number up to one more than the
    /// others have levels; more of them make no difference.
    pub fn reaches_beyond(&self, others: &[&Filter]) -> bool {
        /// No filter contains it.
        const UNNAMED: &str = "\0";
        let mut levels: Vec<&str> = self.0.split('/').collect();
        let is_open = levels.pop_if(|last| *last == "#").is_some();
        levels.iter_mut().filter(|level| **level == "+").for_each(|level| *level = UNNAMED);
        let deepest = others.iter().map(|other| other.0.split('/').count()).max().unwrap_or(0);
        let most = if is_open { (deepest + 1).saturating_sub(levels.len()).max(1) } else { 0 };
        (0..=most).any(|more| {
            let topic = levels.iter().copied().chain(std::iter::repeat_n(UNNAMED, more)).collect::<Vec<_>>();
            // `#` alone matches no topic without a level.
            !topic.is_empty() && {
                let topic = topic.join("/");
                others.iter().all(|other| !other.matches(&topic))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intersection_matches_what_both_filters_match() {
        let words = ["a", "b", "+", "#"];
        let mut filters: Vec<Filter> = Vec::new();
        let mut topics: Vec<String> = vec!["$a".into(), "$a/b".into()];
        for one in words.map(|word| vec![word]).into_iter().chain([vec!["$a"]]) {
            let two = words.iter().map(|word| [one.clone(), vec![*word]].concat());
            let three: Vec<Vec<&str>> =
                two.clone().flat_map(|two| words.map(|word| [two.clone(), vec![word]].concat())).collect();
            for levels in [vec![one.clone()], two.collect(), three].concat() {
                let text = levels.join("/");
                filters.extend(Filter::parse(&text));
                topics.extend((!text.contains(['+', '#'])).then_some(text));
            }
        }
        assert!(filters.len() > 50 && topics.len() > 15);
        for (one, other) in filters.iter().flat_map(|one| filters.iter().map(move |other| (one, other))) {
            let both = one.intersection(other);
            for topic in &topics {
                let expected = one.matches(topic) && other.matches(topic);
                let found = both.as_ref().is_some_and(|both| both.matches(topic));
                assert_eq!(found, expected, "{one:?} {other:?} {topic}");
            }
            let covered = topics.iter().all(|topic| !other.matches(topic) || one.matches(topic));
            assert!(covered || !one.covers(other), "{one:?} {other:?}");
        }
        // All topics that differ to these filters: `z` is a level that none of them names.
        let longer = |topics: &[String]| -> Vec<String> {
            topics.iter().flat_map(|topic| ["a", "b", "z"].map(|level| format!("{topic}/{level}"))).collect()
        };
        let short = ["a", "b", "z", "$a"].map(String::from);
        let middle = longer(&short);
        let long = longer(&middle);
        let deep = long.iter().map(|topic| format!("{topic}/z")).collect::<Vec<_>>();
        let all = [&short[..], &middle[..], &long[..], &deep[..]].concat();
        for (one, other) in
            filters.iter().flat_map(|one| filters.iter().step_by(3).map(move |other| (one, other)))
        {
            for third in filters.iter().step_by(11) {
                let is_left =
                    |topic: &String| one.matches(topic) && !other.matches(topic) && !third.matches(topic);
                let expected = all.iter().any(is_left);
                assert_eq!(one.reaches_beyond(&[other, third]), expected, "{one:?} {other:?} {third:?}");
            }
        }
        let filter = |text| Filter::parse(text).expect("a filter");
        assert!(!filter("a/#").reaches_beyond(&[&filter("a"), &filter("a/+"), &filter("a/+/+/#")]));
        assert!(filter("a/#").reaches_beyond(&[&filter("a"), &filter("a/+"), &filter("a/+/+/+/#")]));
        assert!(filter("a/#").covers(&filter("a")) && filter("#").covers(&filter("a/+")));
        assert!(!filter("a/+").covers(&filter("a/#")) && !filter("#").covers(&filter("$SYS/#")));
    }

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn wildcards_have_their_places() {
        for text in ["a", "/", "+", "#", "+/+", "a/#", "/#", "a//b", "$SYS/#"] {
            filter(text);
        }
        for text in ["", "a#", "#/a", "a+", "a/+b", "a/#/b", "a\0", &"x".repeat(1_025), &"a/".repeat(40)] {
            assert_eq!(Filter::parse(text), Err(FilterError::Invalid), "{text}");
        }
        assert_eq!(Filter::parse("$share/g/a"), Err(FilterError::Shared));
    }

    #[test]
    fn a_topic_matches_as_the_standard_says() {
        for (text, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("+/+", "/x", true),
            ("+", "/x", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("A", "a", false),
        ] {
            assert_eq!(filter(text).matches(topic), expected, "{text} {topic}");
        }
    }

    #[test]
    fn filters_overlap_where_one_topic_matches_both() {
        for (one, other, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/+", "+/b", true),
            ("a/#", "a", true),
            ("a/#", "b/#", false),
            ("#", "a/b/c", true),
            ("a/+", "a/b/c", false),
        ] {
            assert_eq!(filter(one).overlaps(&filter(other)), expected, "{one} {other}");
            assert_eq!(filter(other).overlaps(&filter(one)), expected, "{other} {one}");
        }
    }

    #[test]
    fn a_template_stands_for_all_its_paths() {
        for (template, expected) in
            [("{rest}", "#"), ("set/{1}", "set/+"), ("x-{1}/y", "+/y"), ("plain/path", "plain/path")]
        {
            assert_eq!(Filter::of_template(template).as_ref().map(Filter::as_str), Some(expected));
        }
    }
}
