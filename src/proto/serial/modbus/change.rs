//! When a reading is published: always, or only if a value has changed by more than its dead band,
//! with a longest interval.

use std::time::{Duration, Instant};

use super::map::{Register, Value};

/// The rule for publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// Every reading.
    Always,
    /// A reading with a value that differs from the last published one by more than its dead band,
    /// and one after `max_unchanged` at the latest.
    OnChange {
        /// Longest time without a reading; `None` = unlimited.
        max_unchanged: Option<Duration>,
    },
}

/// Stores the last published reading.
#[derive(Debug, Default)]
pub struct Changes {
    last: Option<(Instant, Vec<Option<Value>>)>,
}

impl Changes {
    /// Whether this reading must be published; if so, later readings are compared with it.
    pub fn decide(
        &mut self,
        now: Instant,
        publish: Publish,
        registers: &[Register],
        values: &[Option<Value>],
    ) -> bool {
        let wanted = match (publish, &self.last) {
            (Publish::Always, _) | (_, None) => true,
            (Publish::OnChange { max_unchanged }, Some((at, last))) => {
                max_unchanged.is_some_and(|longest| now.saturating_duration_since(*at) >= longest)
                    || last.len() != values.len()
                    || registers.iter().zip(last.iter().zip(values)).any(|(register, (last, value))| {
                        differs(register.dead_band, last.as_ref(), value.as_ref())
                    })
            }
        };
        if wanted && publish != Publish::Always {
            self.last = Some((now, values.to_vec()));
        }
        wanted
    }

    /// Drops the last reading, because it was refused: the next one is published in any case.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

fn differs(dead_band: f64, last: Option<&Value>, value: Option<&Value>) -> bool {
    let numbers = last.and_then(Value::number).zip(value.and_then(Value::number));
    match numbers {
        Some((last, value)) if dead_band > 0.0 => (value - last).abs() > dead_band,
        // Exact comparison, also for integers that are equal as f64.
        _ => last != value,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
mod tests {
    use super::super::map::Kind;
    use super::super::pdu::Table;
    use super::*;

    fn registers(dead_band: f64) -> Vec<Register> {
        let register = |name: &str| Register {
            name: name.to_owned(),
            table: Table::Input,
            kind: Kind::F32,
            dead_band,
            ..Register::default()
        };
        vec![register("a"), register("b")]
    }

    const ON_CHANGE: Publish = Publish::OnChange { max_unchanged: Some(Duration::from_secs(60)) };

    #[test]
    fn only_a_change_beyond_the_dead_band_is_published_and_counts_from_the_published_value() {
        let (registers, now, mut changes) = (registers(0.5), Instant::now(), Changes::default());
        let mut decide = |value: f64| {
            changes.decide(now, ON_CHANGE, &registers, &[Some(Value::Float(value)), Some(Value::Float(0.0))])
        };
        assert!(decide(10.0));
        // A slow drift is published when it differs enough from the last published value.
        let published: Vec<bool> = (1..=12).map(|step| decide(10.0 + 0.125 * f64::from(step))).collect();
        let at: Vec<usize> = (0..12).filter(|index| published[*index]).collect();
        assert_eq!(at, [4, 9]);
    }

    #[test]
    fn an_unchanged_reading_is_published_after_max_unchanged() {
        let (registers, now, mut changes) = (registers(0.0), Instant::now(), Changes::default());
        let values = [Some(Value::Unsigned(1)), None];
        let mut published = Vec::new();
        for second in 0..=180 {
            if changes.decide(now + Duration::from_secs(second), ON_CHANGE, &registers, &values) {
                published.push(second);
            }
        }
        assert_eq!(published, [0, 60, 120, 180]);
        let never = Publish::OnChange { max_unchanged: None };
        assert!(!changes.decide(now + Duration::from_secs(999_999), never, &registers, &values));
    }

    #[test]
    fn a_value_that_comes_goes_or_becomes_null_is_a_change() {
        let (registers, now) = (registers(1e9), Instant::now());
        let values = [Some(Value::Float(1.0)), None, Some(Value::Null), Some(Value::Text("a".into()))];
        for first in &values {
            for second in &values {
                let mut changes = Changes::default();
                changes.decide(now, ON_CHANGE, &registers, &[first.clone(), None]);
                let changed = changes.decide(now, ON_CHANGE, &registers, &[second.clone(), None]);
                assert_eq!(changed, first != second);
            }
        }
    }

    #[test]
    fn counters_beyond_what_a_double_tells_apart_still_change() {
        let (registers, now, mut changes) = (registers(0.0), Instant::now(), Changes::default());
        assert!(changes.decide(now, ON_CHANGE, &registers, &[Some(Value::Unsigned(u64::MAX)), None]));
        assert!(changes.decide(now, ON_CHANGE, &registers, &[Some(Value::Unsigned(u64::MAX - 1)), None]));
    }

    #[test]
    fn what_was_not_delivered_is_said_again() {
        let (registers, now, mut changes) = (registers(0.0), Instant::now(), Changes::default());
        let values = [Some(Value::Bool(true)), None];
        assert!(changes.decide(now, ON_CHANGE, &registers, &values));
        assert!(!changes.decide(now, ON_CHANGE, &registers, &values));
        changes.forget();
        assert!(changes.decide(now, ON_CHANGE, &registers, &values));
    }
}
