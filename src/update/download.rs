//! How an image is fetched: in pieces, within a daily budget, and what a server's answer means for
//! the piece that is here already.
//!
//! The bytes go to `NAME.part`; only when its length and SHA-256 are those of the signed metadata
//! does it become `NAME`. A part is kept over restarts and continued with Range (RFC 9110 §14.2),
//! guarded by If-Range with the ETag of the first answer, so that a file changed on the server is
//! begun anew and not glued together.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::UnixTime;

/// A day of the budget.
const DAY: Duration = Duration::from_secs(86_400);

/// What is to be asked for next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The bytes from here on, by `Range: bytes=N-`; 0 = all, without Range.
    From(u64),
    /// Nothing: all is here, and is to be verified.
    Verify,
    /// Nothing: what is here is longer than the image. It is to be deleted.
    Discard,
}

/// What to ask for with `have` bytes of an image of `bytes`. Without a strong `etag` of the answer
/// they came from, they cannot be continued.
pub fn ask(have: u64, bytes: u64, etag: Option<&str>) -> Ask {
    match have.cmp(&bytes) {
        std::cmp::Ordering::Greater => Ask::Discard,
        std::cmp::Ordering::Equal => Ask::Verify,
        std::cmp::Ordering::Less if etag.is_some_and(is_strong) => Ask::From(have),
        std::cmp::Ordering::Less => Ask::From(0),
    }
}

/// RFC 9110 §8.8.3: `"…"`, and not `W/"…"`, which may name different bytes.
fn is_strong(etag: &str) -> bool {
    etag.len() >= 2 && etag.starts_with('"') && etag.ends_with('"')
}

/// What an answer is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its body continues what is here.
    Append,
    /// Its body is the whole image: what is here is to be emptied first.
    Restart,
    /// It cannot be used: why.
    Refuse(String),
}

/// The head of an answer, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The status code.
    pub status: u16,
    /// Content-Length.
    pub length: Option<u64>,
    /// Content-Range.
    pub range: Option<&'a str>,
    /// Whether there is a Content-Encoding other than `identity`: the bytes would not be those of
    /// the image, and could be many more than they seem.
    pub is_encoded: bool,
}

/// Judges the answer to a request for the bytes from `from` on, of an image of `bytes`.
pub fn judge(head: Head<'_>, from: u64, bytes: u64) -> Answer {
    if head.is_encoded {
        return Answer::Refuse("the server sends the image compressed, which was not asked for".to_owned());
    }
    let fits = |rest: u64| head.length.is_none_or(|length| length == rest);
    match head.status {
        200 if fits(bytes) => Answer::Restart,
        206 if from > 0 && range_start(head.range) == Some((from, bytes)) && fits(bytes - from) => {
            Answer::Append
        }
        // The part is not what the server has (RFC 9110 §15.5.17).
        416 => Answer::Refuse("the server cannot continue the download; it begins anew".to_owned()),
        200 => Answer::Refuse(format!(
            "the server offers {} bytes of the image, and the signed metadata says {bytes}",
            head.length.map_or_else(|| "other".to_owned(), |length| length.to_string()),
        )),
        206 if from == 0 => Answer::Refuse(
            "status 206: the server sends a part, and the whole image was asked for".to_owned(),
        ),
        206 => Answer::Refuse(format!(
            "status 206: the server sends {}, and bytes {from}-{}/{bytes} were asked for",
            part(head),
            bytes - 1,
        )),
        301..=308 => Answer::Refuse(format!("status {}: redirects are not followed", head.status)),
        status => Answer::Refuse(format!("status {status}")),
    }
}

/// What a 206 says that it is.
fn part(head: Head<'_>) -> String {
    let range: String = head.range.unwrap_or_default().chars().filter(|c| !c.is_control()).take(64).collect();
    match (range.is_empty(), head.length) {
        (true, _) => "a part without Content-Range".to_owned(),
        (false, Some(length)) => format!("{range} with {length} bytes"),
        (false, None) => range,
    }
}

/// Start and whole length out of `bytes N-M/LENGTH`.
fn range_start(range: Option<&str>) -> Option<(u64, u64)> {
    let (span, length) = range?.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = span.split_once('-')?;
    let (start, end, length): (u64, u64, u64) =
        (start.parse().ok()?, end.parse().ok()?, length.parse().ok()?);
    (start <= end && end.checked_add(1)? == length).then_some((start, length))
}

/// How many bytes may still be fetched today.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The day it counts, since 1970; `None` = none yet.
    day: Option<u64>,
    used: u64,
}

impl Budget {
    /// Bytes left of `limit` (`None` = no limit) on the day of `now`.
    pub fn left(&mut self, limit: Option<u64>, now: UnixTime) -> u64 {
        let day = now.as_secs() / DAY.as_secs();
        if self.day != Some(day) {
            (self.day, self.used) = (Some(day), 0);
        }
        limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.used))
    }

    /// Counts what was fetched.
    pub fn spend(&mut self, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: Option<&str> = Some("\"abc\"");

    fn head(status: u16, length: Option<u64>, range: Option<&'static str>) -> Head<'static> {
        Head { status, length, range, is_encoded: false }
    }

    #[test]
    fn a_part_is_continued_only_under_a_strong_etag() {
        assert_eq!(ask(0, 100, None), Ask::From(0));
        assert_eq!(ask(40, 100, ETAG), Ask::From(40));
        assert_eq!(ask(40, 100, Some("W/\"abc\"")), Ask::From(0));
        assert_eq!(ask(40, 100, None), Ask::From(0));
        assert_eq!(ask(100, 100, None), Ask::Verify);
        assert_eq!(ask(101, 100, ETAG), Ask::Discard);
    }

    #[test]
    fn the_rest_is_appended_only_where_it_begins_and_ends_right() {
        assert_eq!(judge(head(206, Some(60), Some("bytes 40-99/100")), 40, 100), Answer::Append);
        assert_eq!(judge(head(200, Some(100), None), 40, 100), Answer::Restart);
        assert_eq!(judge(head(200, None, None), 0, 100), Answer::Restart);
        for range in [
            "bytes 39-99/100",
            "bytes 40-98/100",
            "bytes 40-99/101",
            "bytes 40-99/*",
            "40-99/100",
            "bytes */100",
        ] {
            let answer = judge(head(206, Some(60), Some(range)), 40, 100);
            assert!(matches!(answer, Answer::Refuse(_)), "{range}");
        }
        assert!(matches!(judge(head(206, Some(100), Some("bytes 0-99/100")), 0, 100), Answer::Refuse(_)));
    }

    #[test]
    fn another_length_a_redirect_an_error_and_a_compressed_body_are_refused() {
        for refused in
            [head(200, Some(101), None), head(302, None, None), head(404, None, None), head(416, None, None)]
        {
            assert!(matches!(judge(refused, 0, 100), Answer::Refuse(_)), "{refused:?}");
        }
        let encoded = Head { is_encoded: true, ..head(200, Some(100), None) };
        assert!(matches!(judge(encoded, 0, 100), Answer::Refuse(_)));
    }

    #[test]
    fn what_is_wrong_with_a_part_is_said_as_it_is() {
        for (from, length, range, said) in [
            (0, 100, Some("bytes 0-99/100"), "sends a part, and the whole image was asked for"),
            (40, 60, Some("bytes 5-64/100"), "sends bytes 5-64/100 with 60 bytes, and bytes 40-99/100 were"),
            (
                40,
                59,
                Some("bytes 40-99/100"),
                "sends bytes 40-99/100 with 59 bytes, and bytes 40-99/100 were",
            ),
            (40, 60, None, "sends a part without Content-Range, and bytes 40-99/100 were asked for"),
        ] {
            let Answer::Refuse(why) = judge(head(206, Some(length), range), from, 100) else {
                panic!("{range:?} is taken");
            };
            assert!(why.contains(said), "{why}");
        }
        let Answer::Refuse(why) = judge(head(200, Some(7), None), 40, 100) else { panic!("it is taken") };
        assert_eq!(why, "the server offers 7 bytes of the image, and the signed metadata says 100");
    }

    #[test]
    fn the_budget_is_of_a_day() {
        let mut budget = Budget::default();
        let day = |n: u64| UnixTime::from_secs(n * 86_400 + 5);
        assert_eq!(budget.left(Some(100), day(1)), 100);
        budget.spend(70);
        assert_eq!(budget.left(Some(100), day(1)), 30);
        budget.spend(70);
        assert_eq!(budget.left(Some(100), day(1)), 0);
        assert_eq!(budget.left(Some(100), day(2)), 100);
        assert_eq!(budget.left(None, day(2)), u64::MAX);
    }
}
