//! Which of the offered targets is the firmware of a class.

use std::cmp::Ordering;

use crate::clock::UnixTime;
use crate::update::offer::Offer;

/// What is offered to a class.
#[derive(Debug, PartialEq)]
pub struct Choice<'o> {
    /// The newest target that can be used now.
    pub offer: Option<&'o Offer>,
    /// Why a newer one, or any, is passed over: one sentence.
    pub reason: Option<String>,
}

/// How a version of a class is denied: `CLASS/VERSION`, because a version alone is the gateway's.
pub fn denied_name(class: &str, version: &str) -> String {
    format!("{class}/{version}")
}

/// Chooses. `now` is the wall time, which is trusted. `denied` has [denied names](denied_name).
/// `compatible` and `hardware` say for which gateways a target is; a target of a class with one of
/// them is for nobody, because what it limits is not known of a sensor. Of targets that are equally
/// new the first by name is taken.
pub fn choose<'o>(class: &str, offers: &'o [Offer], denied: &[String], now: UnixTime) -> Choice<'o> {
    let mut choice = Choice { offer: None, reason: None };
    let mut ours: Vec<&Offer> = offers.iter().filter(|offer| offer.class == class).collect();
    // Versions of different schemes are not compared: those of one are before those of the other,
    // which are named below.
    ours.sort_by(|a, b| {
        let by_scheme = (b.scheme as u8).cmp(&(a.scheme as u8));
        let by_version = || a.scheme.compare(&b.version, &a.version).unwrap_or(Ordering::Equal);
        by_scheme.then_with(by_version).then_with(|| a.target.cmp(&b.target))
    });
    for offer in ours {
        let why = if offer.compatible.is_some() || !offer.hardware.is_empty() {
            "compatible and hardware are for gateways: a class of sensors is one product".to_owned()
        } else if denied.contains(&denied_name(class, &offer.version)) {
            let name = denied_name(class, &offer.version);
            format!("it is denied; `tombolo update denied clear {name}` allows it again")
        } else {
            match offer.not_before.filter(|time| now < *time) {
                Some(time) => format!("it is not to be installed before {time}"),
                None => {
                    choice.offer = Some(offer);
                    break;
                }
            }
        };
        choice.reason.get_or_insert_with(|| {
            format!("version {} ({}) for {class} is passed over: {why}", offer.version, offer.target)
        });
    }
    let chosen = choice.offer.map(|offer| (offer.scheme, &offer.version));
    if let Some((scheme, version)) = chosen
        && let Some(other) = offers.iter().find(|other| other.class == class && other.scheme != scheme)
    {
        choice.reason.get_or_insert_with(|| {
            format!(
                "version {} ({}) for {class} is passed over: its version-scheme is not that of version {version}, so \
                 which is newer is not known; publish it with the same one, or remove it",
                other.version, other.target
            )
        });
    }
    choice
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn offer(class: &str, version: &str, more: &[(&str, serde_json::Value)]) -> Offer {
        let mut custom = json!({ "class": class, "version": version, "version-scheme": "semver" });
        for (key, value) in more {
            custom[*key] = value.clone();
        }
        let read = Offer::read(&format!("{class}-{version}.bin"), 9, [7; 32], Some(&custom));
        read.expect("readable").expect("ours")
    }

    #[test]
    fn the_newest_of_the_class_is_taken_and_no_other_class_is_looked_at() {
        let offers = [
            offer("door", "1.9.0", &[]),
            offer("door", "1.10.0", &[]),
            offer("gateway", "9.0.0", &[]),
            offer("window", "3.0.0", &[]),
        ];
        let version = |class| choose(class, &offers, &[], NOW).offer.map(|offer| offer.version.as_str());
        assert_eq!(
            (version("door"), version("window"), version("roof")),
            (Some("1.10.0"), Some("3.0.0"), None)
        );
        assert_eq!(choose("door", &offers, &[], NOW).reason, None);
    }

    #[test]
    fn a_version_that_is_denied_for_the_class_is_passed_over_and_named_and_no_other_is() {
        let offers = [offer("door", "2.0.0", &[]), offer("door", "1.0.0", &[]), offer("roof", "2.0.0", &[])];
        let denied = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let version = |choice: &Choice<'_>| choice.offer.map(|offer| offer.version.clone());
        // A version alone is one of the gateway.
        let choice = choose("door", &offers, &denied(&["2.0.0", "roof/2.0.0"]), NOW);
        assert_eq!((version(&choice).as_deref(), choice.reason), (Some("2.0.0"), None));
        let choice = choose("door", &offers, &denied(&["door/2.0.0"]), NOW);
        assert_eq!(version(&choice).as_deref(), Some("1.0.0"));
        assert!(choice.reason.expect("a reason").contains("`tombolo update denied clear door/2.0.0`"));
        assert_eq!(choose("door", &offers, &denied(&["door/2.0.0", "door/1.0.0"]), NOW).offer, None);
        let choice = choose("roof", &offers, &denied(&["door/2.0.0"]), NOW);
        assert_eq!(version(&choice).as_deref(), Some("2.0.0"));
    }

    #[test]
    fn a_version_of_another_scheme_than_the_chosen_one_is_named() {
        let debian = [("version-scheme", json!("debian"))];
        for versions in [["2.0.0", "1.0.0"], ["1.0.0", "2.0.0"]] {
            let offers = [offer("door", versions[0], &debian), offer("door", versions[1], &[])];
            let choice = choose("door", &offers, &[], NOW);
            assert!(choice.offer.is_some());
            let reason = choice.reason.expect("a reason");
            assert!(reason.contains("its version-scheme is not that of"), "{reason}");
        }
    }

    #[test]
    fn a_target_with_a_limit_that_a_sensor_cannot_have_or_before_its_time_is_passed_over_and_named() {
        let later = [("not-before", json!("2030-01-01T00:00:00Z"))];
        for more in [&[("compatible", json!("acme"))][..], &[("hardware", json!(["b"]))], &later] {
            let offers = [offer("door", "2.0.0", more), offer("door", "1.0.0", &[])];
            let choice = choose("door", &offers, &[], NOW);
            assert_eq!(choice.offer.map(|offer| offer.version.as_str()), Some("1.0.0"), "{more:?}");
            let reason = choice.reason.expect("a reason");
            assert!(reason.starts_with("version 2.0.0 (door-2.0.0.bin) for door is passed over"), "{reason}");
        }
    }
}
