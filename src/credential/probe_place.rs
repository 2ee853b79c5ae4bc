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
//! otherwise. After [`BESIDE_MAX`] times in a row at which neither was accepted it is rather the
//! client id that the peer does not admit, and the candidate is probed in the place of the
//! connection. So it is where no connection stands that could be spared.

use super::renewal::Verdict;

/// So often in a row neither is accepted beside the connection before that is given up.
pub const BESIDE_MAX: u32 = 3;

/// What is known of probes beside the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbePlace {
    undecided: u32,
    /// Why the peer does not accept the present certificate with that client id.
    fault: Option<String>,
}

impl ProbePlace {
    /// Whether the next probe is made beside the connection. `stands`: there is one.
    pub fn is_beside(&self, stands: bool) -> bool {
        stands && self.undecided < BESIDE_MAX
    }

    /// Whether the present certificate is to be tried after this.
    pub fn needs_comparison(candidate: &Verdict) -> bool {
        matches!(candidate, Verdict::Refused(_) | Verdict::Closed(_))
    }

    /// What a probe beside the connection says of the candidate. `present`: what came of the
    /// present certificate afterwards, with the same client id, where it was tried.
    pub fn judge(&mut self, client_id: &str, candidate: Verdict, present: Option<Verdict>) -> Verdict {
        let of_id = |why: &str| with_client_id(client_id, why);
        match (candidate, present) {
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
                self.fault = Some(of_id(&why));
                Verdict::Fault(format!("the present certificate is not accepted either {}", of_id(&why)))
            }
            (Verdict::Refused(why) | Verdict::Closed(why), Some(Verdict::Fault(other))) => Verdict::Fault(
                format!("{}; the present certificate could not be compared: {other}", of_id(&why)),
            ),
            (Verdict::Refused(why) | Verdict::Closed(why), None) => Verdict::Fault(of_id(&why)),
        }
    }

    /// Another certificate is in use: the next one is tried beside the connection again, but not as
    /// often where that never came to anything.
    pub fn handle_committed(&mut self) {
        self.undecided = if self.fault.is_some() { BESIDE_MAX - 1 } else { 0 };
    }

    /// Why the peer does not accept the present certificate with that client id, where that was
    /// seen last.
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

    fn refused() -> Verdict {
        Verdict::Refused("it does not accept this client id; set upstream.client-id".to_owned())
    }

    fn closed() -> Verdict {
        Verdict::Closed("closed".to_owned())
    }

    fn fault() -> Verdict {
        Verdict::Fault("no route".to_owned())
    }

    #[test]
    fn a_candidate_is_refused_only_if_the_present_one_is_accepted_after_it_with_the_same_client_id() {
        let mut place = ProbePlace::default();
        assert!(matches!(place.judge("p", refused(), Some(Verdict::Accepted)), Verdict::Refused(_)));
        assert!(matches!(place.judge("p", closed(), Some(Verdict::Accepted)), Verdict::Closed(_)));
        assert_eq!(place, ProbePlace::default());
        for present in [Some(refused()), Some(closed()), Some(fault()), None] {
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
        assert!(!place.is_beside(false), "there is no connection that it could be beside");
        for _ in 0..BESIDE_MAX {
            assert!(place.is_beside(true));
            let Verdict::Fault(why) = place.judge("gw-probe", refused(), Some(refused())) else { panic!() };
            assert!(why.contains("set upstream.probe-client-id") && why.contains("\"gw-probe\""), "{why}");
        }
        assert!(!place.is_beside(true));
        assert!(place.fault().is_some_and(|why| why.contains("gw-probe")));
        // The next candidate is tried beside it once, and what was known is known until it works.
        place.handle_committed();
        assert!(place.is_beside(true) && place.fault().is_some());
        place.judge("gw-probe", refused(), Some(refused()));
        assert!(!place.is_beside(true));
        place.handle_committed();
        place.judge("gw-probe", Verdict::Accepted, None);
        assert!(place.is_beside(true) && place.fault().is_none());
    }

    #[test]
    fn the_network_alone_never_costs_the_connection() {
        let mut place = ProbePlace::default();
        for _ in 0..20 {
            place.judge("p", fault(), None);
            place.judge("p", refused(), Some(fault()));
        }
        assert!(place.is_beside(true) && place.fault().is_none());
    }
}
