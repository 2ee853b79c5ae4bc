//! Filters: readings of a rule that are acknowledged and not published, because conditions on their
//! content do not hold, because they tell nothing new, or because they come too soon after the one
//! before; and local messages that a subscriber does not get for the same reasons.
//!
//! Conditions ([`When`](super::condition::When)) are judged first, by the reading alone; what they
//! hold back leaves no trace here.
//!
//! What was published last is remembered for each rule and path of a device, a few bytes of each
//! ([`Remembered`]). A reading passes if nothing is remembered, or if it cannot be judged: a filter
//! never holds back what it does not understand.
//!
//! A reading is measured against one that may not be on disk yet. Each that passes has a number;
//! [`Filtered::behind`] names it, so that the pipeline acknowledges the one no sooner than the
//! other, and [`Remembered::forget`] forgets one that was not stored.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use super::condition::Unmet;
use super::field;
use super::settings::{QoS, ReadingFilter};
use crate::message::{Content, ContentFormat, Name};

/// Most paths of a device for which is remembered what was published last, all its rules together.
/// For one more the one that was published longest ago is forgotten: its next reading passes.
pub const PATHS_MAX: usize = 64;

/// Why a reading is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBack {
    /// Conditions on its content do not hold: see [`Unmet`].
    Unmet,
    /// It equals the one before.
    Unchanged,
    /// It differs from the one before by the dead band or less.
    WithinDeadBand,
    /// It comes too soon after the one before.
    TooSoon,
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeldBack::Unmet => "the conditions do not hold (when)",
            HeldBack::Unchanged => "unchanged (on-change)",
            HeldBack::WithinDeadBand => "changed too little (dead-band)",
            HeldBack::TooSoon => "too soon (min-interval)",
        })
    }
}

/// A reading that the rules allow and that is not published.
#[derive(Clone, Copy, Debug)]
pub struct Filtered<'a> {
    /// What it was.
    pub content: Content<'a>,
    /// The rule that holds it back.
    pub rule: &'a Name,
    /// Why.
    pub why: HeldBack,
    /// The condition that does not hold, if it is that.
    pub unmet: Option<Unmet<'a>>,
    /// The number of the reading that it was measured against, if it was.
    pub behind: Option<u64>,
}

impl Filtered<'_> {
    /// Why, in words.
    pub fn reason(&self) -> impl fmt::Display {
        Reason { why: self.why, unmet: self.unmet }
    }
}

struct Reason<'a> {
    why: HeldBack,
    unmet: Option<Unmet<'a>>,
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unmet {
            Some(unmet) => unmet.fmt(f),
            None => self.why.fmt(f),
        }
    }
}

/// What of a reading or message a filter looks at.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Where it is: the path and the query of a reading, the topic of a message.
    pub place: (&'a str, Option<&'a str>),
    /// Its content format.
    pub content_format: Option<ContentFormat>,
    /// Its payload.
    pub payload: &'a [u8],
}

impl<'a> From<&Content<'a>> for Sample<'a> {
    fn from(content: &Content<'a>) -> Sample<'a> {
        let Content { path, query, content_format, payload, .. } = *content;
        Sample { place: (path, query), content_format, payload }
    }
}

/// Whether a message has the content format of the one before, whatever its own is: the question
/// names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyFormat {
    /// It has.
    Yes,
    /// Its own counts.
    No,
}

/// A filter as a rule uses it.
#[derive(Clone, Debug)]
pub struct Filter {
    settings: ReadingFilter,
    /// Of its rule: the same after a reload that does not change its name, path, topic, QoS or
    /// filter.
    key: u64,
}

impl Filter {
    /// `None` if nothing is filtered.
    /// `rule`: its role, name, path and topic. What a rule with `qos = 0` published is on no disk,
    /// and holds nothing back once it has `qos = 1`.
    pub(super) fn new(
        settings: &ReadingFilter,
        rule: (&Name, &Name, &str, &str),
        qos: QoS,
    ) -> Option<Filter> {
        Filter::of(settings, &(rule, qos))
    }

    /// The filter of whatever `rule` stands for; `None` if nothing is filtered. The same text and
    /// filter are the same rule.
    pub fn of(settings: &ReadingFilter, rule: &impl Hash) -> Option<Filter> {
        settings.first_key()?;
        let ReadingFilter { when, on_change, dead_band, dead_band_field, min_interval } = settings;
        let mut hasher = DefaultHasher::new();
        rule.hash(&mut hasher);
        (when, on_change, dead_band.map(f64::to_bits), dead_band_field, min_interval).hash(&mut hasher);
        Some(Filter { settings: settings.clone(), key: hasher.finish() })
    }

    /// Another one for each rule and filter.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// What it does, for an explanation.
    pub(super) fn settings(&self) -> &ReadingFilter {
        &self.settings
    }

    /// The condition on the content of a reading or message that does not hold; `None`: all do, as
    /// far as they can be judged.
    pub fn unmet<'a>(&'a self, sample: &Sample<'a>) -> Option<Unmet<'a>> {
        self.settings.when.unmet(sample.content_format, sample.payload)
    }

    /// Whether it measures readings against the one before, which then is remembered.
    pub fn compares(&self) -> bool {
        self.settings.compares()
    }

    /// What of a reading is remembered, and compared.
    fn measure(&self, sample: &Sample<'_>) -> Measured {
        let ReadingFilter { on_change, dead_band, dead_band_field, .. } = &self.settings;
        let number = dead_band.and_then(|_| match dead_band_field {
            Some(pointer) => pointer.number(sample.payload, sample.content_format),
            None => field::number(sample.payload, sample.content_format),
        });
        // Two hashes of 64 bits: that two payloads of a device have the same ones does not happen.
        let content = if *on_change { digest(&sample.payload) } else { [0; 2] };
        Measured { content, format: sample.content_format, number }
    }

    fn holds_back(&self, last: &Published, now: Instant, measured: &Measured) -> Option<HeldBack> {
        let ReadingFilter { on_change, dead_band, min_interval, .. } = &self.settings;
        let is_same = last.measured.content == measured.content && last.measured.format == measured.format;
        if *on_change && is_same {
            return Some(HeldBack::Unchanged);
        }
        if let (Some(band), Some(before), Some(number)) = (dead_band, last.measured.number, measured.number)
            && (number - before).abs() <= *band
        {
            return Some(HeldBack::WithinDeadBand);
        }
        let is_soon = min_interval.is_some_and(|least| now.saturating_duration_since(last.at) < least);
        is_soon.then_some(HeldBack::TooSoon)
    }
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    content: [u64; 2],
    format: Option<ContentFormat>,
    number: Option<f64>,
}

/// The reading of a rule and path that was published last.
#[derive(Clone, Copy, Debug)]
struct Published {
    /// Of the rule, the path and the query.
    place: [u64; 2],
    at: Instant,
    measured: Measured,
    number: u64,
}

/// What was published last of a device, or delivered last to a subscriber, at most [`PATHS_MAX`]
/// of 80 bytes.
#[derive(Debug, Default)]
pub struct Remembered(Vec<Published>);

impl Remembered {
    /// Whether a reading is to be published, which then has this number, or why not, and the number
    /// of the one before.
    pub(super) fn screen(
        &mut self,
        now: Instant,
        filter: &Filter,
        content: &Content<'_>,
        number: u64,
    ) -> Result<(), (HeldBack, u64)> {
        let sample = Sample::from(content);
        let published = Published::new(now, filter, &sample, number);
        if let Some(last) = self.0.iter().find(|last| last.place == published.place)
            && let Some(why) = filter.holds_back(last, now, &published.measured)
        {
            return Err((why, last.number));
        }
        self.keep(published);
        Ok(())
    }

    /// Why a message whose conditions hold is not to be delivered; `None`: it is. Nothing is
    /// remembered of it.
    pub fn judge(
        &self,
        now: Instant,
        filter: &Filter,
        sample: &Sample<'_>,
        format: AnyFormat,
    ) -> Option<HeldBack> {
        let place = place(filter, sample);
        let last = self.0.iter().find(|last| last.place == place)?;
        let mut sample = *sample;
        if format == AnyFormat::Yes {
            sample.content_format = last.measured.format;
        }
        filter.holds_back(last, now, &filter.measure(&sample))
    }

    /// A message was delivered: later ones are measured against it.
    pub fn note(&mut self, now: Instant, filter: &Filter, sample: &Sample<'_>) {
        self.keep(Published::new(now, filter, sample, 0));
    }

    fn keep(&mut self, published: Published) {
        let is_full = self.0.len() >= PATHS_MAX;
        match self.0.iter_mut().find(|last| last.place == published.place) {
            Some(last) => *last = published,
            None if !is_full => self.0.push(published),
            None => {
                if let Some(oldest) = self.0.iter_mut().min_by_key(|last| last.at) {
                    *oldest = published;
                }
            }
        }
    }

    /// A DELETE takes away what was published: the next reading passes.
    pub(super) fn clear(&mut self, filter: &Filter, content: &Content<'_>) {
        let place = place(filter, &content.into());
        self.0.retain(|last| last.place != place);
    }

    /// The reading of this number was not stored.
    pub(super) fn forget(&mut self, number: u64) {
        self.0.retain(|last| last.number != number);
    }
}

impl Published {
    fn new(now: Instant, filter: &Filter, sample: &Sample<'_>, number: u64) -> Published {
        Published { place: place(filter, sample), at: now, measured: filter.measure(sample), number }
    }
}

fn place(filter: &Filter, sample: &Sample<'_>) -> [u64; 2] {
    digest(&(filter.key, sample.place))
}

fn digest(value: &impl Hash) -> [u64; 2] {
    [0_u8, 1].map(|round| {
        let mut hasher = DefaultHasher::new();
        round.hash(&mut hasher);
        value.hash(&mut hasher);
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::message::{Envelope, Method, Stamp};

    #[test]
    fn at_most_so_many_paths_are_remembered_and_the_one_published_longest_ago_gives_way() {
        let name = |text| Name::parse(text).expect("a name");
        let settings = ReadingFilter { on_change: true, ..ReadingFilter::default() };
        let filter =
            Filter::new(&settings, (&name("r"), &name("u"), "#", "t"), QoS::AtLeastOnce).expect("a filter");
        let mut remembered = Remembered::default();
        let start = Instant::now();
        let mut screen = |second: u64, path: &str| {
            let content = Content {
                device: "d",
                path,
                query: None,
                topic: "t",
                method: Method::Post,
                content_format: None,
                retain: false,
                test: false,
                reply: None,
                envelope: Envelope::None,
                expires_s: None,
                received: Stamp { boottime_ms: 1, wall_ms: None },
                payload: b"1",
            };
            let said = remembered.screen(start + Duration::from_secs(second), &filter, &content, second);
            assert!(remembered.0.len() <= PATHS_MAX);
            said.is_ok()
        };
        for number in 0..PATHS_MAX as u64 {
            assert!(screen(number, &number.to_string()));
        }
        assert!(!screen(100, "0") && !screen(100, "63"), "all are remembered");
        assert!(screen(101, "one-more"));
        assert!(screen(102, "0"), "the oldest was forgotten");
        assert!(!screen(103, "63") && screen(104, "1"), "then the next one");
        assert!(size_of::<Published>() <= 80);
    }
}
