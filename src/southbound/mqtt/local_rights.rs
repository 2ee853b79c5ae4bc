//! What a device may publish to other local clients, and receive from them.
//!
//! The rules of a role are compiled once, and all its sessions share them: a session has the name
//! of its device beside them, which stands for `{device}`, and where a rule names a tag its tags:
//! 16 at most. They are searched as those of the uplink are ([`matcher`](crate::gate::matcher)), so
//! neither a session nor a message costs more for more rules. Tests compare it with rules that are
//! looked at one by one.

use std::rc::Rc;
use std::time::Instant;

use super::bus::{BusMessage, Client, Grant, LocalRule, LocalRules};
use super::filter::{Filter, LEVELS_MAX};
use crate::gate::filter::{AnyFormat, Filter as Screen, Remembered, Sample};
use crate::gate::matcher::{Builder, Levels, Matcher, Step};
use crate::gate::tag::Tags;
use crate::message::{ContentFormat, Name};

/// The rules of one direction of a role.
#[derive(Debug)]
struct Rules {
    deny: Matcher,
    /// Finds the number of a group.
    allow: Matcher,
    /// The rules that allow, those of one topic together.
    groups: Box<[Vec<Allowing>]>,
    /// Whether a filter of one of them compares a message with one before.
    has_screens: bool,
    /// As they are configured, in their order.
    all: Box<[LocalRule]>,
    /// Whether a topic of them begins with `$`, which no wildcard stands for.
    has_hidden: bool,
    /// Whether a topic of them has a tag.
    has_tags: bool,
}

#[derive(Debug)]
struct Allowing {
    /// Its number among all.
    number: u32,
    grant: Grant,
    content_formats: Box<[Option<ContentFormat>]>,
    screen: Option<Screen>,
}

impl Allowing {
    fn takes(&self, format: Option<ContentFormat>) -> bool {
        self.content_formats.is_empty() || self.content_formats.contains(&format)
    }
}

impl Rules {
    /// `None`: there are none.
    fn compile(rules: &[LocalRule]) -> Option<Rc<Rules>> {
        let (mut allow, mut deny) = (Builder::default(), Builder::default());
        let mut groups: Vec<Vec<Allowing>> = Vec::new();
        let valid = rules.iter().zip(0..).filter(|(rule, _)| rule.filled("d", |_| Some("t")).is_some());
        for (rule, number) in valid {
            let steps = rule.topic.split('/').map(Step::of_filter);
            if rule.deny {
                deny.insert_steps(steps, number);
                continue;
            }
            let next = groups.len() as u32;
            let group = allow.insert_steps(steps, next).unwrap_or(next);
            if group == next {
                groups.push(Vec::new());
            }
            groups[group as usize].push(Allowing {
                number,
                grant: rule.grant,
                content_formats: rule.content_formats.clone().into(),
                screen: Screen::of(&rule.filter, &(&rule.name, &rule.from, &rule.topic)),
            });
        }
        let has_screens =
            groups.iter().flatten().filter_map(|rule| rule.screen.as_ref()).any(Screen::compares);
        let has_hidden = rules.iter().any(|rule| rule.topic.starts_with('$'));
        let has_tags = rules.iter().any(|rule| rule.tag_names().next().is_some());
        (!rules.is_empty()).then(|| {
            let (allow, deny, groups) = (allow.build(), deny.build(), groups.into());
            Rc::new(Rules { deny, allow, groups, has_screens, all: rules.into(), has_hidden, has_tags })
        })
    }
}

impl Rules {
    /// Whether a filter matches a topic that a rule allows and none denies, rule by rule.
    fn reach(&self, wanted: &Filter, client: Client<'_>) -> bool {
        let with = |rule: &LocalRule| rule.filter(client)?.intersection(wanted);
        let met = |deny: bool| self.all.iter().filter(move |rule| rule.deny == deny).filter_map(with);
        let denied: Vec<Filter> = met(true).collect();
        let denied: Vec<&Filter> = denied.iter().collect();
        met(false).any(|both| both.reaches_beyond(&denied))
    }
}

/// The local rules of a role, for all its sessions.
#[derive(Debug)]
pub(super) struct LocalRights {
    publish: Option<Rc<Rules>>,
    subscribe: Option<Rc<Rules>>,
}

impl LocalRights {
    pub(super) fn compile(rules: &LocalRules) -> LocalRights {
        LocalRights { publish: Rules::compile(&rules.publish), subscribe: Rules::compile(&rules.subscribe) }
    }

    /// What a device of the role may publish and receive.
    pub(super) fn of(&self, device: &Name, tags: &Tags) -> (Allowed, Allowed) {
        let mut both = [&self.publish, &self.subscribe].into_iter().flatten();
        let needs_tags = both.any(|rules| rules.has_tags) && !tags.is_empty();
        let tags = needs_tags.then(|| Rc::new(tags.clone()));
        let of = |rules: &Option<Rc<Rules>>| {
            let rules = rules.clone()?;
            let tags = tags.clone().filter(|_| rules.has_tags);
            Some(Own { rules, device: device.clone(), tags })
        };
        (Allowed(of(&self.publish)), Allowed(of(&self.subscribe)))
    }
}

/// Rules of one direction, for one device; by default none.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowed(Option<Own>);

#[derive(Clone, Debug)]
struct Own {
    rules: Rc<Rules>,
    device: Name,
    /// If a rule names a tag, and the device has one.
    tags: Option<Rc<Tags>>,
}

impl Own {
    /// The levels of a topic or a filter, for its device.
    fn levels<'a>(&'a self, text: &'a str) -> TopicLevels<'a> {
        TopicLevels::new(text, &self.device, self.tags.as_deref())
    }
}

/// What becomes of a message whose topic a subscriber may receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reception {
    /// It is delivered, and [`Allowed::note`]d then.
    Delivered,
    /// No rule allows it, or none takes its content format.
    NotAllowed,
    /// The filters of all rules that allow it hold it back.
    HeldBack,
}

impl Allowed {
    /// Asks each rule that allows a topic until one is enough; a deny takes precedence. Returns
    /// whether one was.
    fn any<'a>(&'a self, topic: &str, mut is_enough: impl FnMut(&'a Allowing) -> bool) -> bool {
        let Some(own) = &self.0 else { return false };
        let (rules, levels) = (&own.rules, own.levels(topic));
        // No local message has a topic that begins with `$`, which wildcards would not match.
        if topic.starts_with('$') || rules.deny.find(&levels).is_some() {
            return false;
        }
        let applies = |group: u32| rules.groups[group as usize].iter().any(&mut is_enough);
        rules.allow.find_applicable(&levels, applies).is_some()
    }

    /// What becomes of a message for a subscriber of whom is `remembered` what it got last. Each
    /// rule that allows it delivers it, unless its filter holds it back.
    pub(super) fn receive(
        &self,
        now: Instant,
        message: &BusMessage<'_>,
        remembered: Option<&Remembered>,
    ) -> Reception {
        let mut otherwise = Reception::NotAllowed;
        let delivers = |rule: &Allowing| {
            if !rule.takes(message.content_format) {
                return false;
            }
            let is_held = rule.screen.as_ref().is_some_and(|screen| holds(screen, now, message, remembered));
            if is_held {
                otherwise = Reception::HeldBack;
            }
            !is_held
        };
        if self.any(message.topic, delivers) { Reception::Delivered } else { otherwise }
    }

    /// A message was delivered: later ones are measured against it, by every filter.
    pub(super) fn note(
        &self,
        now: Instant,
        message: &BusMessage<'_>,
        remembered: &mut Option<Box<Remembered>>,
    ) {
        if self.0.as_ref().is_none_or(|own| !own.rules.has_screens) {
            return;
        }
        let mut found = Vec::new();
        self.any(message.topic, |rule| {
            let screen = rule.screen.as_ref().filter(|screen| screen.compares());
            let screen = screen.filter(|_| rule.takes(message.content_format));
            found.extend(screen.map(|screen| (rule.number, screen)));
            false
        });
        found.sort_unstable_by_key(|(number, _)| *number);
        for (_, screen) in found {
            remembered.get_or_insert_default().note(now, screen, &sample(message));
        }
    }

    /// The first rule that denies a topic.
    pub(super) fn denying(&self, topic: &str) -> Option<&Name> {
        let own = self.0.as_ref()?;
        let rules = &own.rules;
        let mut first: Option<u32> = None;
        rules.deny.find_applicable(&own.levels(topic), |number| {
            first = Some(first.map_or(number, |found| found.min(number)));
            false
        });
        first.map(|number| &rules.all[number as usize].name)
    }

    /// Whether a topic is allowed; a deny takes precedence.
    pub(super) fn topic(&self, topic: &str) -> bool {
        self.any(topic, |_| true)
    }

    /// How a message on a topic may be published, if it may; a deny takes precedence, and of
    /// several rules that allow it each grants what it says.
    pub(super) fn granted(&self, topic: &str) -> Option<Grant> {
        let mut all: Option<Grant> = None;
        self.any(topic, |Allowing { grant, .. }| {
            let Grant { retain, qos } = all.unwrap_or(*grant);
            all = Some(Grant { retain: retain || grant.retain, qos: qos.max(grant.qos) });
            false
        });
        all
    }

    /// Whether a filter may match a topic that is allowed: one that no rule denies.
    pub(super) fn filter(&self, wanted: &Filter) -> bool {
        let Some(own) = &self.0 else { return false };
        let (rules, levels) = (&own.rules, own.levels(wanted.as_str()));
        let is_plain = !rules.has_hidden && !wanted.as_str().starts_with('$');
        match is_plain && !rules.deny.overlaps(&levels) {
            true => rules.allow.overlaps(&levels),
            false => {
                let none = Tags::default();
                let tags = own.tags.as_deref().unwrap_or(&none);
                rules.reach(wanted, Client { device: own.device.as_str(), tags })
            }
        }
    }
}

/// Whether a filter holds a message back from a subscriber of whom is `remembered` what it got
/// last.
fn holds(screen: &Screen, now: Instant, message: &BusMessage<'_>, remembered: Option<&Remembered>) -> bool {
    let sample = sample(message);
    screen.unmet(&sample).is_some()
        || remembered.is_some_and(|known| known.judge(now, screen, &sample, AnyFormat::No).is_some())
}

fn sample<'m>(message: &BusMessage<'m>) -> Sample<'m> {
    let BusMessage { topic, payload, content_format, .. } = *message;
    Sample { place: (topic, None), content_format, payload }
}

/// A topic or a filter with its levels located, on the stack. A filter has at most [`LEVELS_MAX`]
/// levels, so of a topic one more says all: only `#` matches it then.
struct TopicLevels<'a> {
    text: &'a str,
    ends: [u16; LEVELS_MAX + 1],
    count: u8,
    device: &'a str,
    tags: Option<&'a Tags>,
}

impl<'a> TopicLevels<'a> {
    fn new(text: &'a str, device: &'a Name, tags: Option<&'a Tags>) -> TopicLevels<'a> {
        let (ends, device) = ([0; LEVELS_MAX + 1], device.as_str());
        let mut levels = TopicLevels { text, ends, count: 0, device, tags };
        let separators = text.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        // A topic and a filter have at most 1,024 bytes.
        for (at, end) in separators.chain([text.len()]).zip(&mut levels.ends) {
            *end = at as u16;
            levels.count += 1;
        }
        levels
    }
}

impl Levels for TopicLevels<'_> {
    fn count(&self) -> usize {
        usize::from(self.count)
    }

    fn get(&self, index: usize) -> &str {
        let start = if index == 0 { 0 } else { usize::from(self.ends[index - 1]) + 1 };
        &self.text[start..usize::from(self.ends[index])]
    }

    fn device(&self) -> &str {
        self.device
    }

    fn tag(&self, name: &str) -> Option<&str> {
        self.tags?.get(name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::gate::settings::ReadingFilter;

    fn name(text: &str) -> Name {
        Name::parse(text).expect("a name")
    }

    fn rule(text: &str, topic: &str, deny: bool) -> LocalRule {
        LocalRule {
            name: name(text),
            from: None,
            topic: topic.to_owned(),
            deny,
            grant: Grant::ALL,
            content_formats: Vec::new(),
            filter: ReadingFilter::default(),
        }
    }

    fn allowed(rules: &[LocalRule], device: &str) -> Allowed {
        let rules = LocalRules { publish: rules.into(), subscribe: Vec::new() };
        LocalRights::compile(&rules).of(&name(device), &Tags::default()).0
    }

    #[test]
    fn a_deny_rule_wins_and_the_place_is_the_device() {
        let rules = [rule("own", "home/{device}/#", false), rule("not", "home/+/secret", true)];
        let allowed = allowed(&rules, "pump-2");
        assert!(allowed.topic("home/pump-2/x") && allowed.topic("home/pump-2"));
        assert!(!allowed.topic("home/pump-2/secret") && !allowed.topic("home/door-7/x"));
        let filter = |text: &str| Filter::parse(text).expect("a filter");
        assert!(allowed.filter(&filter("home/#")) && !allowed.filter(&filter("other/#")));
        let granting = |grant, rule: LocalRule| LocalRule { grant, ..rule };
        let least = Grant { retain: false, qos: 0 };
        let rules = [
            granting(least, rule("all", "a/#", false)),
            granting(Grant { retain: false, qos: 1 }, rule("one", "a/+", false)),
            granting(Grant { retain: true, qos: 0 }, rule("exact", "a/b", false)),
            rule("not", "a/no", true),
        ];
        let allowed = self::allowed(&rules, "pump-2");
        assert_eq!(allowed.granted("a/x/y"), Some(least));
        assert_eq!(allowed.granted("a/x"), Some(Grant { retain: false, qos: 1 }));
        let both = Grant { retain: true, qos: 1 };
        assert_eq!(allowed.granted("a/b"), Some(both), "each grants what it says");
        assert_eq!((allowed.granted("a/no"), allowed.granted("b")), (None, None));
    }

    #[test]
    fn all_sessions_of_a_role_share_its_rules() {
        let rules: Vec<_> = (0..1_000).map(|n| rule("r", &format!("home/{{device}}/{n}/#"), false)).collect();
        let rights = LocalRights::compile(&LocalRules { publish: Vec::new(), subscribe: rules });
        let devices: Vec<_> =
            (0..500).map(|number| rights.of(&name(&format!("d{number}")), &tagged(number)).1).collect();
        assert_eq!(rights.subscribe.as_ref().map(Rc::strong_count), Some(501));
        assert!(devices[7].topic("home/d7/999/x") && !devices[7].topic("home/d8/999/x"));
        assert!(size_of::<Allowed>() <= 32, "{}", size_of::<Allowed>());
        let has_tags = |allowed: &Allowed| allowed.0.as_ref().is_some_and(|own| own.tags.is_some());
        assert!(!devices.iter().any(has_tags), "no rule names a tag, so none is kept");
    }

    fn tagged(number: usize) -> Tags {
        let mut tags = Tags::default();
        tags.set("site", &format!("s{number}")).expect("a tag");
        tags
    }

    #[test]
    fn rules_with_tags_are_shared_too_and_are_for_the_devices_that_have_them() {
        let rules: Vec<_> = (0..1_000)
            .map(|n| rule("r", &format!("plant/{{tag.site}}/x-{{tag.site}}-{n}/{{device}}/#"), false))
            .chain([
                rule("two", "hall/{tag.site}/{tag.hall}", false),
                rule("secret", "plant/+/x-s8-3/#", true),
            ])
            .collect();
        let rights = LocalRights::compile(&LocalRules { publish: rules.clone(), subscribe: rules });
        let devices: Vec<_> =
            (0..500).map(|number| rights.of(&name(&format!("d{number}")), &tagged(number))).collect();
        assert_eq!(rights.subscribe.as_ref().map(Rc::strong_count), Some(501));
        let (publishes, receives) = &devices[7];
        let tags = |allowed: &Allowed| allowed.0.as_ref().and_then(|own| own.tags.clone());
        assert_eq!(tags(publishes).as_ref().map(Rc::strong_count), Some(3), "both have the same");
        assert!(publishes.topic("plant/s7/x-s7-999/d7/a") && receives.topic("plant/s7/x-s7-0/d7"));
        for topic in
            ["plant/s8/x-s7-1/d7", "plant/s7/x-s8-1/d7", "plant/s7/x-s7-1/d8", "hall/s7/", "hall/s7/+"]
        {
            assert!(!publishes.topic(topic), "{topic}");
        }
        assert!(!devices[8].0.topic("plant/s8/x-s8-3/d8/a"), "what is denied is denied");
        let filter = |text: &str| Filter::parse(text).expect("a filter");
        assert!(receives.filter(&filter("#")) && receives.filter(&filter("plant/s7/#")));
        assert!(!receives.filter(&filter("plant/s8/#")) && !receives.filter(&filter("hall/#")));
        let (publishes, receives) = rights.of(&name("d7"), &Tags::default());
        assert!(!publishes.topic("plant/s7/x-s7-1/d7") && !receives.filter(&filter("#")), "none is its own");
    }

    #[test]
    fn the_value_of_a_tag_is_put_in_as_it_is() {
        let rules = [rule("own", "home/{tag.site}/{tag.hall}/x", false)];
        let rights = LocalRights::compile(&LocalRules { publish: rules.to_vec(), subscribe: Vec::new() });
        let mut tags = Tags::default();
        for (name, value) in [("site", "{device}"), ("hall", "{tag.site}")] {
            tags.set(name, value).expect("a tag");
        }
        let (publishes, _) = rights.of(&name("d"), &tags);
        assert!(publishes.topic("home/{device}/{tag.site}/x"));
        assert!(!publishes.topic("home/d/{tag.site}/x") && !publishes.topic("home/{device}/{device}/x"));
        let client = Client { device: "d", tags: &tags };
        let filter = rules[0].filter(client).expect("a filter");
        assert_eq!(filter.as_str(), "home/{device}/{tag.site}/x");
    }

    #[test]
    fn a_topic_of_more_levels_than_a_filter_can_have_is_matched_by_a_last_wildcard_alone() {
        let deep = "a/".repeat(400) + "a";
        let plain = vec!["+"; LEVELS_MAX].join("/");
        let rest = vec!["+"; LEVELS_MAX - 1].join("/") + "/#";
        for (topic, expected) in [("#", true), ("a/#", true), (&*rest, true), (&*plain, false)] {
            assert_eq!(allowed(&[rule("r", topic, false)], "a").topic(&deep), expected, "{topic}");
        }
        assert!(allowed(&[rule("r", &plain, false)], "a").topic(&vec!["a"; LEVELS_MAX].join("/")));
    }

    /// The rules one by one, in their order.
    struct Naive<'r> {
        rules: Vec<(Filter, &'r LocalRule)>,
    }

    impl<'r> Naive<'r> {
        fn new(rules: &'r [LocalRule], client: Client<'_>) -> Naive<'r> {
            let of = |rule: &'r LocalRule| Some((rule.filter(client)?, rule));
            Naive { rules: rules.iter().filter_map(of).collect() }
        }

        fn allowing(&self, topic: &str) -> Vec<&'r LocalRule> {
            let matching = || self.rules.iter().filter(|(filter, _)| filter.matches(topic));
            match matching().any(|(_, rule)| rule.deny) {
                true => Vec::new(),
                false => matching().map(|(_, rule)| *rule).collect(),
            }
        }

        fn denying(&self, topic: &str) -> Option<&'r Name> {
            let denies = |(filter, rule): &&(Filter, &LocalRule)| rule.deny && filter.matches(topic);
            self.rules.iter().find(denies).map(|(_, rule)| &rule.name)
        }

        fn granted(&self, topic: &str) -> Option<Grant> {
            let grants = self.allowing(topic).into_iter().map(|rule| rule.grant);
            grants.reduce(|a, b| Grant { retain: a.retain || b.retain, qos: a.qos.max(b.qos) })
        }

        fn filter(&self, wanted: &Filter) -> bool {
            let of = |deny: bool| self.rules.iter().filter(move |(_, rule)| rule.deny == deny);
            let denied: Vec<&Filter> = of(true).map(|(filter, _)| filter).collect();
            of(false).any(|(filter, _)| {
                filter.intersection(wanted).is_some_and(|both| both.reaches_beyond(&denied))
            })
        }

        fn screens(&self, message: &BusMessage<'_>) -> Vec<Option<Screen>> {
            let takes = |rule: &&LocalRule| {
                rule.content_formats.is_empty() || rule.content_formats.contains(&message.content_format)
            };
            let screen = |rule: &LocalRule| Screen::of(&rule.filter, &(&rule.name, &rule.from, &rule.topic));
            self.allowing(message.topic).into_iter().filter(takes).map(screen).collect()
        }

        fn receive(&self, now: Instant, message: &BusMessage<'_>, known: Option<&Remembered>) -> Reception {
            let screens = self.screens(message);
            let holds = |screen: &Option<Screen>| {
                screen.as_ref().is_some_and(|screen| super::holds(screen, now, message, known))
            };
            match (screens.is_empty(), screens.iter().all(holds)) {
                (true, _) => Reception::NotAllowed,
                (_, true) => Reception::HeldBack,
                (_, false) => Reception::Delivered,
            }
        }

        fn note(&self, now: Instant, message: &BusMessage<'_>, remembered: &mut Option<Box<Remembered>>) {
            for screen in self.screens(message).into_iter().flatten().filter(Screen::compares) {
                remembered.get_or_insert_default().note(now, &screen, &sample(message));
            }
        }
    }

    /// Levels that meet: names of devices alone, within others and twice.
    fn level(of_rule: bool) -> impl Strategy<Value = String> {
        let words = vec!["a", "b", "aa", "aab", "x-a", "x-aa", "a-b-a", "", "{device}", "temperature-room-1"];
        let words = prop::sample::select(words);
        let own = vec![
            "{device}",
            "{device}",
            "x-{device}",
            "{device}b",
            "a{device}",
            "{device}-b-{device}",
            "{device}{device}",
            "{device",
            "{tag.t}",
            "{tag.t}",
            "a{tag.t}b",
            "{tag.t}{device}-{tag.u}",
            "+",
            "+",
        ];
        let own = prop::sample::select(own);
        let weight = if of_rule { 3 } else { 0 };
        // What a client sends may look like a placeholder; a rule has none but that.
        prop_oneof![4 => words.prop_filter("a rule has placeholders", move |text| !of_rule || !text.contains('{')), weight => own]
            .prop_map(str::to_owned)
    }

    fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(level(false), 1..5)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("a topic", |topic| super::super::bus::is_topic(topic))
    }

    fn wanted() -> impl Strategy<Value = Filter> {
        let level = prop_oneof![3 => level(false), 1 => Just("+".to_owned())];
        (prop::collection::vec(level, 1..5), any::<bool>()).prop_filter_map("a filter", |(levels, rest)| {
            Filter::parse(&(levels.join("/") + if rest { "/#" } else { "" })).ok()
        })
    }

    fn local_rule() -> impl Strategy<Value = LocalRule> {
        let formats = prop::sample::select(vec![vec![], vec![None], vec![Some(ContentFormat::JSON), None]]);
        let filter = (any::<bool>(), prop::option::weighted(0.3, Just(Duration::from_secs(5))));
        let topic = (prop::collection::vec(level(true), 0..4), any::<bool>());
        (topic, prop::bool::weighted(0.15), any::<bool>(), 0..3_u8, formats, filter, "[a-c]").prop_filter_map(
            "a filter",
            |((levels, rest), deny, retain, qos, content_formats, (on_change, min_interval), text)| {
                let rest = rest || levels.is_empty();
                let levels = levels.into_iter().chain(rest.then(|| "#".to_owned()));
                let topic = levels.collect::<Vec<_>>().join("/");
                Filter::parse(&topic).ok()?;
                let filter = ReadingFilter { on_change, min_interval, ..ReadingFilter::default() };
                let grant = Grant { retain, qos };
                Some(LocalRule { grant, content_formats, filter, ..rule(&text, &topic, deny) })
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn shared_rules_say_what_rules_looked_at_one_by_one_say(
            rules in prop::collection::vec(local_rule(), 0..12),
            topics in prop::collection::vec((topic(), any::<bool>(), 0..2_u8, 0..9_u64), 1..20),
            wanted in prop::collection::vec(wanted(), 1..10),
        ) {
            let compiled = LocalRights::compile(&LocalRules { publish: rules.clone(), subscribe: rules.clone() });
            let all_tags: [&[(&str, &str)]; 4] =
                [&[], &[("t", "a")], &[("t", "{device}"), ("u", "aa")], &[("t", "b"), ("u", "b-a")]];
            for (device, values) in ["a", "aa", "b", "x-a"].into_iter().zip(all_tags) {
                let mut tags = Tags::default();
                values.iter().for_each(|(name, value)| tags.set(name, value).expect("a tag"));
                let (allowed, receives) = compiled.of(&name(device), &tags);
                let naive = Naive::new(&rules, Client { device, tags: &tags });
                for wanted in &wanted {
                    prop_assert_eq!(allowed.filter(wanted), naive.filter(wanted), "{:?} {}", wanted, device);
                }
                #[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
                let mut now = Instant::now();
                let (mut known, mut naively_known) = (None, None);
                for (topic, is_json, payload, pause_s) in &topics {
                    now += Duration::from_secs(*pause_s);
                    let message = BusMessage {
                        topic,
                        payload: &[*payload],
                        content_format: is_json.then_some(ContentFormat::JSON),
                        retain: false,
                        qos: 0,
                        sender: 1,
                        expires: None,
                        properties: &[],
                    };
                    prop_assert_eq!(allowed.granted(topic), naive.granted(topic), "{} {}", topic, device);
                    prop_assert_eq!(allowed.topic(topic), naive.granted(topic).is_some());
                    prop_assert_eq!(allowed.denying(topic), naive.denying(topic), "{} {}", topic, device);
                    let found = receives.receive(now, &message, known.as_deref());
                    let expected = naive.receive(now, &message, naively_known.as_deref());
                    prop_assert_eq!(found, expected, "{} {}", topic, device);
                    if found == Reception::Delivered {
                        receives.note(now, &message, &mut known);
                        naive.note(now, &message, &mut naively_known);
                    }
                    prop_assert_eq!(format!("{known:?}"), format!("{naively_known:?}"));
                }
            }
        }
    }
}
