//! Whether a gateway should have one of the versions offered, and if not, why.
//!
//! A pure decision over what is installed and what the verified metadata offers. It downloads
//! nothing, and what it says is what `tombolo update check`, `status` and the retained topic say.

use std::cmp::Ordering;
use std::fmt;

use super::offer::{GATEWAY_CLASS, Offer};
use super::rollout::bucket;
use crate::clock::UnixTime;
use crate::message::Name;

/// Most pairs of offers of one version that are named.
const TWINS_MAX: usize = 16;

/// What is known of this gateway.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The gateway's id.
    pub gateway: Name,
    /// The version that runs; `None`: nothing says it.
    pub version: Option<String>,
    /// The product this is; `None`: not configured, and RAUC does not say.
    pub compatible: Option<String>,
    /// The hardware revision.
    pub hardware: Option<String>,
}

/// What the owner or history holds against versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objections {
    /// No version is to be installed: `tombolo update hold`.
    pub is_held: bool,
    /// Versions that failed here twice, or that the owner denied.
    pub denied: Vec<String>,
    /// Nothing older is installed; see [`floor`](super::floor).
    pub floor: Option<String>,
}

/// The decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing newer is offered for this gateway.
    UpToDate,
    /// This one.
    Available(Box<Offer>),
    /// There is a newer one, and not for this gateway now.
    Ineligible {
        /// The newest.
        version: String,
        /// Why not.
        reason: Reason,
    },
}

/// Why a newer version is not to be installed.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// What is installed cannot be told, so nothing can be newer.
    NotKnownInstalled,
    /// The versions cannot be compared by the scheme of the target.
    NotComparable {
        /// What is installed.
        installed: String,
    },
    /// Nothing in the repository fits the product.
    OtherProduct {
        /// What this gateway is, if that is known.
        ours: Option<String>,
    },
    /// The hardware revision is not among those it fits.
    OtherHardware {
        /// What this gateway is, if that is known.
        ours: Option<String>,
    },
    /// It can be installed only from a later version.
    TooOld {
        /// The lowest from which it can.
        minimum: String,
    },
    /// It goes out in stages, and it is not this gateway's turn.
    NotYetRolledOut {
        /// The share it is for, in percent.
        percent: f64,
    },
    /// Its time has not come.
    NotBefore(UnixTime),
    /// Its time cannot be told while the clock is untrusted.
    ClockUntrusted,
    /// It failed here, or the owner denied it.
    Denied,
    /// The owner holds updates.
    Held,
    /// It is older than one that was once installed and good.
    BelowFloor(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = |ours: &Option<String>| ours.clone().unwrap_or_else(|| "not known".to_owned());
        match self {
            Reason::NotKnownInstalled => f.write_str(
                "the installed version is not known: neither RAUC, nor dpkg, nor IMAGE_VERSION in /etc/os-release says it",
            ),
            Reason::NotComparable { installed } => {
                write!(
                    f,
                    "the installed version {installed:?} cannot be compared by the target's version-scheme"
                )
            }
            Reason::OtherProduct { ours: product } => {
                write!(f, "the repository has nothing compatible with this gateway ({})", ours(product))
            }
            Reason::OtherHardware { ours: hardware } => {
                write!(f, "it is not for this hardware ({})", ours(hardware))
            }
            Reason::TooOld { minimum } => write!(f, "it can be installed only from version {minimum} on"),
            Reason::NotYetRolledOut { percent } => {
                write!(f, "it is rolled out to {percent} % of the gateways, and not yet to this one")
            }
            Reason::NotBefore(time) => write!(f, "it is not to be installed before {time}"),
            Reason::ClockUntrusted => f.write_str("it has a not-before time, and the clock is not trusted"),
            Reason::Denied => f.write_str("it is denied here: see `tombolo update denied list`"),
            Reason::Held => f.write_str("updates are held: `tombolo update release` ends that"),
            Reason::BelowFloor(floor) => write!(f, "it is older than {floor}, which was installed and good"),
        }
    }
}

/// Decides. `now` is the wall time, if it is trusted. The order of `offers` does not matter; of two
/// of one version that fit, it is the first by its target's name.
pub fn decide(
    installed: &Installed,
    objections: &Objections,
    offers: &[Offer],
    now: Option<UnixTime>,
) -> Decision {
    let ours: Vec<&Offer> = offers.iter().filter(|offer| offer.class == GATEWAY_CLASS).collect();
    let fits = |offer: &&Offer| offer.compatible.is_none() || offer.compatible == installed.compatible;
    let fitting: Vec<&Offer> = ours.iter().copied().filter(fits).collect();
    if let Some(offer) = newest(ours.into_iter()).filter(|_| fitting.is_empty()) {
        return ineligible(offer, Reason::OtherProduct { ours: installed.compatible.clone() });
    }
    let Some(current) = installed.version.as_deref() else {
        return match newest(fitting.into_iter()) {
            None => Decision::UpToDate,
            Some(offer) => ineligible(offer, Reason::NotKnownInstalled),
        };
    };
    // A target whose versions cannot be compared with ours is named only if nothing else is newer.
    let (mut newer, mut strange) = (Vec::new(), None);
    for offer in fitting {
        match offer.scheme.compare(&offer.version, current) {
            Some(Ordering::Greater) => newer.push(offer),
            Some(_) => {}
            None => strange = Some(offer),
        }
    }
    newer.sort_by(|a, b| order(b, a).then_with(|| a.target.cmp(&b.target)));
    let mut first = None;
    for offer in newer {
        match objection(offer, installed, objections, current, now) {
            None => return Decision::Available(Box::new(offer.clone())),
            Some(reason) => {
                first.get_or_insert((offer, reason));
            }
        }
    }
    match (first, strange) {
        (Some((offer, reason)), _) => ineligible(offer, reason),
        (None, Some(offer)) => ineligible(offer, Reason::NotComparable { installed: current.to_owned() }),
        (None, None) => Decision::UpToDate,
    }
}

/// Offers of one version that fit one and the same gateway, as pairs, of which that gateway takes
/// the first; 16 pairs at most.
pub fn twins(offers: &[Offer]) -> Vec<(&Offer, &Offer)> {
    let meets = |a: &Offer, b: &Offer| {
        let of_one = a.compatible.is_none() || b.compatible.is_none() || a.compatible == b.compatible;
        let is_free = a.hardware.is_empty() || b.hardware.is_empty();
        let is_shared = is_free || a.hardware.iter().any(|revision| b.hardware.contains(revision));
        a.class == b.class && of_one && is_shared
    };
    let mut sorted: Vec<&Offer> = offers.iter().collect();
    sorted.sort_by(|a, b| order(a, b).then_with(|| a.target.cmp(&b.target)));
    let mut pairs = Vec::new();
    for alike in sorted.chunk_by(|a, b| order(a, b) == Ordering::Equal) {
        for (number, &first) in alike.iter().enumerate() {
            for &second in &alike[number + 1..] {
                if pairs.len() == TWINS_MAX {
                    return pairs;
                }
                if meets(first, second) {
                    pairs.push((first, second));
                }
            }
        }
    }
    pairs
}

fn ineligible(offer: &Offer, reason: Reason) -> Decision {
    Decision::Ineligible { version: offer.version.clone(), reason }
}

/// Versions of different schemes are not compared: those of one are before those of the other.
fn order(a: &Offer, b: &Offer) -> Ordering {
    let by_scheme = (a.scheme as u8).cmp(&(b.scheme as u8));
    by_scheme.then_with(|| a.scheme.compare(&a.version, &b.version).unwrap_or(Ordering::Equal))
}

fn newest<'a>(offers: impl Iterator<Item = &'a Offer>) -> Option<&'a Offer> {
    offers.max_by(|a, b| order(a, b))
}

/// Why not, beginning with what changes least.
fn objection(
    offer: &Offer,
    installed: &Installed,
    objections: &Objections,
    current: &str,
    now: Option<UnixTime>,
) -> Option<Reason> {
    let is_below = |version: &str, limit: &str| offer.scheme.compare(version, limit) == Some(Ordering::Less);
    if !offer.hardware.is_empty()
        && !installed.hardware.as_ref().is_some_and(|ours| offer.hardware.contains(ours))
    {
        return Some(Reason::OtherHardware { ours: installed.hardware.clone() });
    }
    if let Some(minimum) = offer.min_version.as_ref().filter(|minimum| is_below(current, minimum)) {
        return Some(Reason::TooOld { minimum: minimum.clone() });
    }
    if let Some(floor) = objections.floor.as_ref().filter(|floor| is_below(&offer.version, floor)) {
        return Some(Reason::BelowFloor(floor.clone()));
    }
    if objections.denied.contains(&offer.version) {
        return Some(Reason::Denied);
    }
    if !offer.rollout.contains(bucket(&installed.gateway, &offer.version)) {
        return Some(Reason::NotYetRolledOut { percent: offer.rollout.percent() });
    }
    match (offer.not_before, now) {
        (Some(_), None) => return Some(Reason::ClockUntrusted),
        (Some(time), Some(now)) if now < time => return Some(Reason::NotBefore(time)),
        _ => {}
    }
    objections.is_held.then_some(Reason::Held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::rollout::Share;
    use crate::update::version::Scheme;

    fn offer(version: &str) -> Offer {
        Offer {
            target: format!("gateway-{version}.raucb"),
            is_hash_prefixed: false,
            bytes: 1,
            sha256: [0; 32],
            class: "gateway".to_owned(),
            version: version.to_owned(),
            scheme: Scheme::Semver,
            compatible: Some("acme-gw2".to_owned()),
            hardware: Vec::new(),
            min_version: None,
            rollout: Share::ALL,
            not_before: None,
            notes: None,
        }
    }

    fn installed() -> Installed {
        Installed {
            gateway: Name::parse("greenhouse-7").expect("a name"),
            version: Some("2.4.1".to_owned()),
            compatible: Some("acme-gw2".to_owned()),
            hardware: Some("rev-b".to_owned()),
        }
    }

    const NOW: Option<UnixTime> = Some(UnixTime::from_secs(1_800_000_000));

    #[test]
    fn of_two_targets_of_one_version_the_first_by_name_is_taken_and_both_are_named() {
        let mut other = offer("2.5.0");
        other.target = "a.raucb".to_owned();
        let both = [offer("2.5.0"), other.clone()];
        assert_eq!(decided(&both), Decision::Available(Box::new(other.clone())));
        assert_eq!(twins(&both), [(&other, &both[0])]);
        other.compatible = Some("another".to_owned());
        assert!(twins(&[offer("2.5.0"), other.clone()]).is_empty());
        (other.compatible, other.hardware) = (None, vec!["rev-a".to_owned()]);
        assert_eq!(twins(&[offer("2.5.0"), other.clone()]).len(), 1);
        let mut third = offer("2.5.0");
        third.hardware = vec!["rev-b".to_owned()];
        assert!(twins(&[third, other]).is_empty());
    }

    fn decided(offers: &[Offer]) -> Decision {
        decide(&installed(), &Objections::default(), offers, NOW)
    }

    fn reason(change: impl FnOnce(&mut Offer)) -> Option<Reason> {
        let mut offer = offer("2.5.0");
        change(&mut offer);
        match decided(&[offer]) {
            Decision::Ineligible { reason, version } => {
                assert_eq!(version, "2.5.0");
                Some(reason)
            }
            _ => None,
        }
    }

    #[test]
    fn the_newest_version_that_fits_is_available() {
        let offers = ["2.4.0", "2.10.0", "2.9.0", "2.4.1"].map(offer);
        let Decision::Available(chosen) = decided(&offers) else { panic!("nothing is available") };
        assert_eq!(chosen.version, "2.10.0");
        assert_eq!(decided(&["2.4.0", "2.4.1"].map(offer)), Decision::UpToDate);
        assert_eq!(decided(&[]), Decision::UpToDate);
    }

    #[test]
    fn a_version_that_is_not_for_this_gateway_hides_no_older_one_that_is() {
        let mut staged = offer("2.6.0");
        staged.rollout = Share::from_percent(0.0).expect("a share");
        let Decision::Available(chosen) = decided(&[staged, offer("2.5.0")]) else {
            panic!("nothing is available")
        };
        assert_eq!(chosen.version, "2.5.0");
    }

    #[test]
    fn each_limit_is_kept_and_named() {
        assert_eq!(reason(|_| {}), None);
        assert_eq!(
            reason(|offer| offer.compatible = Some("other".to_owned())),
            Some(Reason::OtherProduct { ours: Some("acme-gw2".to_owned()) })
        );
        assert_eq!(
            reason(|offer| offer.hardware = vec!["rev-a".to_owned()]),
            Some(Reason::OtherHardware { ours: Some("rev-b".to_owned()) })
        );
        assert_eq!(reason(|offer| offer.hardware = vec!["rev-a".to_owned(), "rev-b".to_owned()]), None);
        assert_eq!(
            reason(|offer| offer.min_version = Some("2.4.2".to_owned())),
            Some(Reason::TooOld { minimum: "2.4.2".to_owned() })
        );
        assert_eq!(reason(|offer| offer.min_version = Some("2.4.1".to_owned())), None);
        assert_eq!(
            reason(|offer| offer.rollout = Share::from_percent(0.0).expect("a share")),
            Some(Reason::NotYetRolledOut { percent: 0.0 })
        );
        let later = UnixTime::from_secs(1_800_000_001);
        assert_eq!(reason(|offer| offer.not_before = Some(later)), Some(Reason::NotBefore(later)));
        assert_eq!(reason(|offer| offer.not_before = NOW), None);
    }

    #[test]
    fn another_product_is_named_also_where_the_installed_version_is_not_known() {
        for compatible in [None, Some("acme-gw3".to_owned())] {
            let installed = Installed { version: None, compatible: compatible.clone(), ..installed() };
            let decision = decide(&installed, &Objections::default(), &[offer("2.5.0")], NOW);
            let reason = Reason::OtherProduct { ours: compatible };
            assert_eq!(decision, Decision::Ineligible { version: "2.5.0".to_owned(), reason });
        }
        let mut sensors = offer("2.5.0");
        sensors.class = "door-sensor".to_owned();
        let unknown = Installed { version: None, compatible: None, ..installed() };
        assert_eq!(decide(&unknown, &Objections::default(), &[sensors], NOW), Decision::UpToDate);
    }

    #[test]
    fn a_class_of_sensors_is_no_firmware_of_the_gateway() {
        let mut offer = offer("9.0.0");
        offer.class = "door-sensor".to_owned();
        assert_eq!(decided(&[offer]), Decision::UpToDate);
    }

    #[test]
    fn hold_denial_and_floor_stop_a_version() {
        let refused = |objections: Objections| match decide(&installed(), &objections, &[offer("2.5.0")], NOW)
        {
            Decision::Ineligible { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(Objections { is_held: true, ..Objections::default() }), Reason::Held);
        let denied = vec!["2.5.0".to_owned()];
        assert_eq!(refused(Objections { denied, ..Objections::default() }), Reason::Denied);
        let floor = Some("3.0.0".to_owned());
        assert_eq!(
            refused(Objections { floor, ..Objections::default() }),
            Reason::BelowFloor("3.0.0".to_owned())
        );
    }

    #[test]
    fn without_a_trusted_clock_only_a_target_with_a_time_waits() {
        let at_no_time = |offer: Offer| decide(&installed(), &Objections::default(), &[offer], None);
        assert!(matches!(at_no_time(offer("2.5.0")), Decision::Available(_)));
        let mut timed = offer("2.5.0");
        timed.not_before = NOW;
        assert!(matches!(at_no_time(timed), Decision::Ineligible { reason: Reason::ClockUntrusted, .. }));
    }

    #[test]
    fn a_gateway_that_does_not_know_itself_installs_nothing() {
        let mut unknown = installed();
        unknown.version = None;
        let decision = decide(&unknown, &Objections::default(), &[offer("2.5.0")], NOW);
        assert!(matches!(decision, Decision::Ineligible { reason: Reason::NotKnownInstalled, .. }));
        let mut strange = installed();
        strange.version = Some("built by hand".to_owned());
        let decision = decide(&strange, &Objections::default(), &[offer("2.5.0")], NOW);
        assert!(matches!(decision, Decision::Ineligible { reason: Reason::NotComparable { .. }, .. }));
    }
}
