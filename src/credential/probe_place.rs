//! Where a candidate is probed that may have a client id of its own: beside the connection that
//! stands, or in its place. Without I/O.
//!
//! | the candidate, beside | the present certificate with the same client id, afterwards | what follows |
//! |---|---|---|
//! | is accepted | is not asked | it is accepted |
//! | is refused, or the peer closes | is accepted | the candidate is refused |
//! | is refused, or the peer closes | is not accepted either | nothing is known of the candidate |
//! | is refused, or the peer closes | is not decided | nothing is known of the candidate |
//! | is not decided | is not asked | nothing is known of the candidate |
//!
//! That the connection stands shows nothing of that: it was made when the peer may have judged
//! otherwise. A peer that accepts neither may not admit that client id, or may refuse everybody for
//! a while, and then a connection that is given up is not had again. So a candidate is probed in
//! the place of the connection only
//!
//! * after the peer has said [`BESIDE_MAX`] times in a row that it does not admit the client id
//!   (0x85, or 2 in MQTT 3.1.1);
//! * after [`BESIDE_MAX`] times in a row that neither was accepted, or that nothing was decided
//!   although the connection stands, where the present certificate is so near its end that nothing
//!   is lost ([`InPlace::AtLast`]);
//! * where a person asks for the probe, and neither is accepted beside it ([`InPlace::AtOnce`]);
//! * where no connection stands that could be spared.

use super::renewal::{InPlace, Verdict};

/// So often in a row neither is accepted beside the connection before that is given up.
pub const BESIDE_MAX: u32 = 3;

/// What came of the present certificate with the client id for probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Whether it is accepted.
    pub verdict: Verdict,
    /// The peer says that it does not admit the client id.
    pub refuses_client_id: bool,
}

/// What is known of probes beside the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbePlace {
    /// So often in a row neither certificate was accepted.
    undecided: u32,
    /// So often in a row nothing was decided of the candidate at all.
    faults: u32,
    /// So often in a row the peer said that it does not admit the client id.
    not_admitted: u32,
    /// The last probe was one at which neither was accepted.
    neither: bool,
    /// Why the peer does not accept the present certificate with that client id.
    fault: Option<String>,
}

impl ProbePlace {
    /// Whether the next probe is made beside the connection. `stands`: there is one.
    pub fn is_beside(&self, stands: bool, in_place: InPlace) -> bool {
        let is_over = in_place == InPlace::AtLast && self.undecided.max(self.faults) >= BESIDE_MAX;
        stands && !is_over && !self.is_not_admitted()
    }

    /// Whether the probe that has just come to nothing beside the connection is repeated in its
    /// place.
    pub fn goes_on_in_place(&self, in_place: InPlace) -> bool {
        self.neither && in_place == InPlace::AtOnce
    }

    /// The peer has said often enough that it does not admit the client id.
    pub fn is_not_admitted(&self) -> bool {
        self.not_admitted >= BESIDE_MAX
    }

    /// Whether the present certificate is to be tried after this.
    pub fn needs_comparison(candidate: &Verdict) -> bool {
        matches!(candidate, Verdict::Refused(_) | Verdict::Closed(_))
    }

    /// What a probe beside the connection says of the candidate. `present`: what came of the
    /// present certificate afterwards, with the same client id, where it was tried.
    pub fn judge(&mut self, client_id: &str, candidate: Verdict, present: Option<Comparison>) -> Verdict {
        let of_id = |why: &str| with_client_id(client_id, why);
        self.neither = false;
        self.faults = if matches!(candidate, Verdict::Fault(_)) { self.faults.saturating_add(1) } else { 0 };
        let refuses_client_id = present.as_ref().is_some_and(|present| present.refuses_client_id);
        match (candidate, present.map(|present| present.verdict)) {
            (Verdict::Accepted, _) => {
                *self = ProbePlace::default();
                Verdict::Accepted
            }
            (Verdict::Fault(why), _) => Verdict::Fault(of_id(&why)),
            (candidate, Some(Verdict::Accepted)) => {
                *self = ProbePlace::default();
                match candidate {
                    Verdict::Closed(why) => Verdict::Closed(of_id(&why)),
                    Verdict::Refused(why) | Verdict::Fault(why) => Verdict::Refused(of_id(&why)),
                    Verdict::Accepted => Verdict::Accepted,
                }
            }
            (_, Some(Verdict::Refused(why) | Verdict::Closed(why))) => {
                self.undecided = self.undecided.saturating_add(1);
                self.not_admitted = if refuses_client_id { self.not_admitted.saturating_add(1) } else { 0 };
                self.neither = true;
                self.fault = Some(of_id(&why));
                Verdict::Fault(format!("the present certificate is not accepted either {}", of_id(&why)))
            }
            (Verdict::Refused(why) | Verdict::Closed(why), Some(Verdict::Fault(other))) => Verdict::Fault(
                format!("{}; the present certificate could not be compared: {other}", of_id(&why)),
            ),
            (Verdict::Refused(why) | Verdict::Closed(why), None) => Verdict::Fault(of_id(&why)),
        }
    }

    /// Another certificate is in use, or none waits for its probe any more: the next one is tried
    /// beside the connection again, but not as often where that never came to anything. What kept
    /// this one out of use is over.
    pub fn handle_over(&mut self) {
        let seldom = |times: u32| if times > 0 { BESIDE_MAX - 1 } else { 0 };
        *self = ProbePlace {
            undecided: seldom(self.undecided),
            not_admitted: seldom(self.not_admitted),
            ..ProbePlace::default()
        };
    }

    /// Why the peer does not accept the present certificate with that client id, while a candidate
    /// waits for that.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

/// The sentence about a connection with the client id for probes: it names the key that is about
/// it.
pub fn with_client_id(client_id: &str, why: &str) -> String {
    let why = why.replace("upstream.client-id", "upstream.probe-client-id");
    let why = why.replace("certificate-file and client-id", "certificate-file and probe-client-id");
    format!("with upstream.probe-client-id = \"{client_id}\": {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [InPlace; 3] = [InPlace::OfClientId, InPlace::AtLast, InPlace::AtOnce];

    fn refused() -> Verdict {
        Verdict::Refused("it does not accept this client id; set upstream.client-id".to_owned())
    }

    fn closed() -> Verdict {
        Verdict::Closed("closed".to_owned())
    }

    fn fault() -> Verdict {
        Verdict::Fault("no route".to_owned())
    }

    fn of(verdict: Verdict) -> Option<Comparison> {
        Some(Comparison { verdict, refuses_client_id: false })
    }

    fn of_id() -> Option<Comparison> {
        Some(Comparison { verdict: refused(), refuses_client_id: true })
    }

    #[test]
    fn a_candidate_is_refused_only_if_the_present_one_is_accepted_after_it_with_the_same_client_id() {
        let mut place = ProbePlace::default();
        assert!(matches!(place.judge("p", refused(), of(Verdict::Accepted)), Verdict::Refused(_)));
        assert!(matches!(place.judge("p", closed(), of(Verdict::Accepted)), Verdict::Closed(_)));
        assert_eq!(place, ProbePlace::default());
        for present in [of(refused()), of_id(), of(closed()), of(fault()), None] {
            let verdict = place.judge("p", refused(), present.clone());
            assert!(matches!(verdict, Verdict::Fault(_)), "{present:?}: {verdict:?}");
        }
        assert!(matches!(place.judge("p", fault(), None), Verdict::Fault(_)));
        assert_eq!(place.judge("p", Verdict::Accepted, None), Verdict::Accepted);
        assert_eq!(place, ProbePlace::default());
    }

    #[test]
    fn a_client_id_that_the_peer_does_not_admit_is_named_and_the_connection_gives_way_to_the_probe() {
        let mut place = ProbePlace::default();
        let in_place = InPlace::OfClientId;
        assert!(!place.is_beside(false, in_place), "there is no connection that it could be beside");
        for _ in 0..BESIDE_MAX {
            assert!(place.is_beside(true, in_place) && !place.goes_on_in_place(in_place));
            let Verdict::Fault(why) = place.judge("gw-probe", refused(), of_id()) else { panic!() };
            assert!(why.contains("set upstream.probe-client-id") && why.contains("\"gw-probe\""), "{why}");
        }
        assert!(!place.is_beside(true, in_place) && place.is_not_admitted());
        assert!(place.fault().is_some_and(|why| why.contains("gw-probe")));
        // The next candidate is tried beside it once.
        place.handle_over();
        assert!(place.is_beside(true, in_place));
        place.judge("gw-probe", refused(), of_id());
        assert!(!place.is_beside(true, in_place));
        place.handle_over();
        place.judge("gw-probe", Verdict::Accepted, None);
        assert_eq!(place, ProbePlace::default());
    }

    #[test]
    fn a_peer_that_refuses_everybody_for_a_while_does_not_cost_the_connection() {
        for present in [closed(), Verdict::Refused("not authorized".to_owned())] {
            let mut place = ProbePlace::default();
            for _ in 0..20 {
                assert!(place.is_beside(true, InPlace::OfClientId), "{present:?}");
                place.judge("p", refused(), of(present.clone()));
                assert!(!place.goes_on_in_place(InPlace::OfClientId), "{present:?}");
            }
            // What it says of the client id counts only if it says nothing else between.
            place.judge("p", refused(), of_id());
            place.judge("p", refused(), of_id());
            place.judge("p", refused(), of(present.clone()));
            place.judge("p", refused(), of_id());
            assert!(place.is_beside(true, InPlace::OfClientId) && place.fault().is_some());
        }
    }

    #[test]
    fn near_the_end_of_the_present_one_the_connection_gives_way_after_the_third_time_and_by_hand_at_once() {
        let mut place = ProbePlace::default();
        for _ in 0..BESIDE_MAX {
            assert!(ALL.into_iter().all(|in_place| place.is_beside(true, in_place)));
            place.judge("p", refused(), of(closed()));
        }
        let beside = ALL.map(|in_place| place.is_beside(true, in_place));
        assert_eq!(beside, [true, false, true]);
        assert_eq!(ALL.map(|in_place| place.goes_on_in_place(in_place)), [false, false, true]);
        // Not for what the network does.
        place.judge("p", fault(), None);
        assert!(!place.goes_on_in_place(InPlace::AtOnce));
    }

    #[test]
    fn what_kept_a_candidate_out_of_use_is_not_named_any_more_once_one_is_in_use() {
        let mut place = ProbePlace::default();
        for present in [of_id(), of(closed())] {
            place.judge("p", refused(), present);
            assert!(place.fault().is_some());
            place.handle_over();
            assert_eq!(place.fault(), None);
        }
    }

    #[test]
    fn the_network_alone_costs_the_connection_only_near_the_end_of_the_present_certificate() {
        let mut place = ProbePlace::default();
        for _ in 0..20 {
            place.judge("p", fault(), None);
            place.judge("p", refused(), of(fault()));
        }
        assert!(ALL.into_iter().all(|in_place| place.is_beside(true, in_place)), "it answers in between");
        for _ in 0..BESIDE_MAX {
            place.judge("p", fault(), None);
        }
        assert!(place.is_beside(true, InPlace::OfClientId) && place.is_beside(true, InPlace::AtOnce));
        assert!(!place.is_beside(true, InPlace::AtLast));
        assert!(place.fault().is_none());
    }
}
