//! The local time, by the system's time zone: `maintenance-window` is written in it.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::clock::UnixTime;
use crate::update::window::WeekTime;

/// That time in the system's time zone (`TZ`, `/etc/localtime`; UTC where there is none).
pub fn at(time: UnixTime) -> Option<WeekTime> {
    in_zone(time, TimeZone::system())
}

fn in_zone(time: UnixTime, zone: TimeZone) -> Option<WeekTime> {
    let zoned = Timestamp::from_millisecond(i64::try_from(time.0).ok()?).ok()?.to_zoned(zone);
    let day = u8::try_from(zoned.weekday().to_monday_zero_offset()).ok()?;
    let minute = u16::try_from(zoned.hour()).ok()? * 60 + u16::try_from(zoned.minute()).ok()?;
    Some(WeekTime { day, minute })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_in_local_time_also_over_a_change_to_summer_time() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        // 2026-03-29 00:30 UTC is 01:30 CET; an hour later it is 03:30 CEST.
        let before = UnixTime::from_secs(1_774_744_200);
        let after = UnixTime::from_secs(1_774_747_800);
        let at = |time| in_zone(time, zone.clone()).expect("a time");
        assert_eq!((at(before).day, at(before).minute), (6, 90));
        assert_eq!((at(after).day, at(after).minute), (6, 210));
        assert_eq!(in_zone(UnixTime(u64::MAX), zone), None);
    }
}
