//! When an update may be installed: `maintenance-window`, in local time.
//!
//! `"always"`, or spans of time, each with the days it begins on:
//! `"02:00-04:00"`, `"Mon-Fri 22:00-05:00"`, `"Sat,Sun 00:00-24:00"`, several separated by `;`. A
//! span whose end is before its beginning ends on the next day; one that ends when it begins is
//! none: a whole day is `"00:00-24:00"`.

/// Minutes in a day.
const DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A time in a week, local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeekTime {
    /// 0 = Monday … 6 = Sunday.
    pub day: u8,
    /// Minutes since midnight, `0..1440`.
    pub minute: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    days: [bool; 7],
    from: u16,
    /// Exclusive; `<= from` = on the next day.
    to: u16,
}

/// The spans in which an update may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window(Option<Vec<Span>>);

impl Window {
    /// No restriction.
    pub const ALWAYS: Window = Window(None);

    /// Closed at all times.
    pub const NEVER: Window = Window(Some(Vec::new()));

    /// Reads `text`.
    ///
    /// # Errors
    /// The span that cannot be read.
    pub fn parse(text: &str) -> Result<Window, String> {
        if text.trim() == "always" {
            return Ok(Window::ALWAYS);
        }
        let spans =
            text.split(';').map(|span| Span::parse(span.trim()).ok_or_else(|| span.trim().to_owned()));
        spans.collect::<Result<Vec<Span>, String>>().map(|spans| Window(Some(spans)))
    }

    /// Whether it is open at this time. `None` is a time that is not known: only a window without
    /// restriction is open then.
    pub fn is_open(&self, at: Option<WeekTime>) -> bool {
        let Some(spans) = &self.0 else { return true };
        let Some(at) = at else { return false };
        spans.iter().any(|span| span.contains(at))
    }

    /// Minutes until it opens: 0 while it is open.
    pub fn opens_in(&self, at: WeekTime) -> u32 {
        let now = u32::from(at.day) * u32::from(DAY) + u32::from(at.minute);
        let week = 7 * u32::from(DAY);
        let at_minute = |minute: u32| {
            let minute = minute % week;
            WeekTime { day: (minute / u32::from(DAY)) as u8, minute: (minute % u32::from(DAY)) as u16 }
        };
        (0..week).find(|wait| self.is_open(Some(at_minute(now + wait)))).unwrap_or(week)
    }
}

impl Span {
    fn parse(text: &str) -> Option<Span> {
        let (days, times) = match text.split_once(char::is_whitespace) {
            Some((days, times)) => (parse_days(days)?, times.trim()),
            None => ([true; 7], text),
        };
        let (from, to) = times.split_once('-')?;
        let (from, to) = (parse_time(from)?, parse_time(to)?);
        (from < DAY && from != to).then_some(Span { days, from, to })
    }

    fn contains(&self, at: WeekTime) -> bool {
        let today = self.days[usize::from(at.day % 7)];
        let yesterday = self.days[usize::from((at.day + 6) % 7)];
        match self.to > self.from {
            true => today && (self.from..self.to).contains(&at.minute),
            false => (today && at.minute >= self.from) || (yesterday && at.minute < self.to),
        }
    }
}

/// `Mon-Fri`, `Sat,Sun`, `Fri-Mon`.
fn parse_days(text: &str) -> Option<[bool; 7]> {
    let day = |text: &str| DAYS.iter().position(|day| text.eq_ignore_ascii_case(day));
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (day(first)?, day(last)?),
            None => (day(part)?, day(part)?),
        };
        let count = (last + 7 - first) % 7;
        for n in 0..=count {
            days[(first + n) % 7] = true;
        }
    }
    Some(days)
}

/// `HH:MM`, up to 24:00.
fn parse_time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| (text.len() == 2).then(|| text.parse::<u16>().ok()).flatten();
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let time = hours * 60 + minutes;
    (minutes < 60 && time <= DAY).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u8, text: &str) -> Option<WeekTime> {
        Some(WeekTime { day, minute: parse_time(text).expect("a time") })
    }

    fn window(text: &str) -> Window {
        Window::parse(text).expect("a window")
    }

    #[test]
    fn a_span_is_open_from_its_first_minute_to_before_its_last() {
        let window = window("02:00-04:00");
        for (time, is_open) in [("01:59", false), ("02:00", true), ("03:59", true), ("04:00", false)] {
            for day in 0..7 {
                assert_eq!(window.is_open(at(day, time)), is_open, "{time}");
            }
        }
    }

    #[test]
    fn a_span_over_midnight_belongs_to_the_day_it_begins_on() {
        let window = window("Fri 22:00-05:00");
        assert!(window.is_open(at(4, "22:00")));
        assert!(window.is_open(at(5, "04:59")));
        assert!(!window.is_open(at(5, "05:00")));
        assert!(!window.is_open(at(4, "04:00")));
        assert!(!window.is_open(at(5, "23:00")));
    }

    #[test]
    fn days_are_lists_and_ranges_also_over_the_end_of_the_week() {
        let window = window("Sat-Mon 00:00-24:00; wed,THU 12:00-13:00");
        let open: Vec<u8> = (0..7).filter(|day| window.is_open(at(*day, "12:30"))).collect();
        assert_eq!(open, [0, 2, 3, 5, 6]);
        assert!(window.is_open(at(0, "23:59")));
    }

    #[test]
    fn without_a_known_time_only_always_is_open() {
        assert!(window("always").is_open(None));
        assert!(!window("00:00-24:00").is_open(None));
    }

    #[test]
    fn it_says_how_long_until_it_opens() {
        let window = window("Mon 02:00-04:00");
        assert_eq!(window.opens_in(at(0, "02:30").expect("a time")), 0);
        assert_eq!(window.opens_in(at(0, "01:00").expect("a time")), 60);
        assert_eq!(window.opens_in(at(0, "04:00").expect("a time")), 7 * 1440 - 120);
    }

    #[test]
    fn what_is_no_window_is_named() {
        for text in [
            "",
            "2:00-4:00",
            "02:00",
            "02:60-03:00",
            "24:00-25:00",
            "24:00-01:00",
            "Thu 10:00-10:00",
            "00:00-00:00",
            "Foo 02:00-03:00",
            "02:00-04:00;",
        ] {
            assert!(Window::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Window::parse("02:00-04:00; nights"), Err("nights".to_owned()));
    }
}
