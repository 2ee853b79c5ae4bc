//! `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.
//!
//! A date is compared with the `Date` of the same answer, not with our clock, which may be wrong.

use std::time::Duration;

/// The longest wait that is taken from an answer: a year. The caller has a bound of its own.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// How long to wait; `None` if the field cannot be read, or is a date and there is no `date` to
/// compare it with.
pub fn parse(field: &str, date: Option<&str>) -> Option<Duration> {
    let field = field.trim();
    if !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a very long time.
        let seconds = field.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(LONGEST));
    }
    let until = httpdate::parse_http_date(field).ok()?;
    let sent = httpdate::parse_http_date(date?.trim()).ok()?;
    Some(until.duration_since(sent).unwrap_or_default().min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: Option<&str> = Some("Wed, 21 Oct 2015 07:28:00 GMT");

    #[test]
    fn seconds_are_seconds() {
        assert_eq!(parse("0", None), Some(Duration::ZERO));
        assert_eq!(parse(" 120 ", None), Some(Duration::from_secs(120)));
        assert_eq!(parse("99999999999999999999999999", None), Some(LONGEST));
        for wrong in ["", "-1", "+1", "1.5", "soon", "1 2"] {
            assert_eq!(parse(wrong, DATE), None, "{wrong}");
        }
    }

    #[test]
    fn a_date_counts_from_the_date_of_the_answer() {
        assert_eq!(parse("Wed, 21 Oct 2015 07:30:00 GMT", DATE), Some(Duration::from_secs(120)));
        assert_eq!(parse("Wed, 21 Oct 2015 07:00:00 GMT", DATE), Some(Duration::ZERO));
        assert_eq!(parse("Wed, 21 Oct 2015 07:30:00 GMT", None), None);
        assert_eq!(parse("Fri, 31 Dec 9999 23:59:59 GMT", DATE), Some(LONGEST));
    }
}
