//! Which DTLS engine the gateway has, made from its settings: the one place that names them.

use std::time::Instant;

use crate::clock::WallClock;
#[cfg(feature = "dimpl")]
use crate::proto::dtls::DimplEngine;
use crate::proto::dtls::server::{self, Clock, ServerEngine};
use crate::proto::dtls::{Engine, Keyring, Limits};
use crate::southbound::coap::{EngineKind, Settings};

/// Makes it. `seed` is good randomness of this process alone.
///
/// # Errors
/// One sentence: this machine cannot, or this program was built without the engine asked for.
pub fn open(
    now: Instant,
    settings: &Settings,
    keyring: Keyring,
    clock: &dyn WallClock,
    seed: &[u8; 32],
) -> Result<Box<dyn Engine>, String> {
    let limits = Limits::new(settings.max_sessions, settings.max_half_open, settings.idle_timeout);
    let certificates = &settings.certificates;
    let mut engine: Box<dyn Engine> = match settings.engine {
        EngineKind::Tombolo => {
            let settings = server::Settings::new(limits, settings.policy);
            let certificates = certificates.clone();
            Box::new(ServerEngine::new(now, settings, keyring, certificates, seed))
        }
        #[cfg(not(feature = "dimpl"))]
        EngineKind::Dimpl => return Err(format!("coap.engine: {}", EngineKind::NO_DIMPL)),
        #[cfg(feature = "dimpl")]
        EngineKind::Dimpl => {
            Box::new(DimplEngine::new(now, limits, keyring, seed).map_err(|error| error.to_string())?)
        }
    };
    engine.set_clock(verdict(clock));
    Ok(engine)
}

/// The keys of all devices that have one.
pub fn keyring(gate: &crate::gate::Settings) -> Keyring {
    let psks = gate.devices.iter().flat_map(|device| device.psks());
    Keyring::new(psks.map(|psk| (psk.identity.clone(), psk.key.to_vec())))
}

/// The time devices' certificates are judged by: the clock's, or one that has certainly passed
/// (decision 0016).
///
/// A trusted clock may stand before the floor; what has expired at the floor has expired. And a
/// clock that only the kernel speaks for may be years ahead: it must end no session.
pub fn verdict(clock: &dyn WallClock) -> Clock {
    match clock.wall() {
        Some(time) if !clock.is_refutable() => Clock { time: time.max(clock.floor()), trusted: true },
        _ => Clock { time: clock.floor(), trusted: false },
    }
}

/// The time tokens are judged by: also that of a clock that only the kernel or `[clock] trust`
/// speaks for (decision 0033). A token lives for a day at most, so at the floor every one would
/// pass.
///
/// It is not held to the floor: a certificate that was valid while the clock was some days ahead
/// has raised that, and the clock that was set right and is trusted again is behind it
/// ([`Judge::wall`](crate::clock::judge::Judge::wall) is never before the build date).
///
/// While such a clock is wrong, tokens are refused. It is over when the clock is set right, or the
/// certificate of the broker refutes it; nothing is remembered of it.
pub fn token_verdict(clock: &dyn WallClock) -> Clock {
    match clock.wall() {
        Some(time) => Clock { time, trusted: true },
        None => Clock { time: clock.floor(), trusted: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;
    use crate::clock::chain::ChainValidity;
    use crate::clock::judge::{Judge, Look};

    struct Fake {
        raw: u64,
        trusted: bool,
        refutable: bool,
    }

    const FLOOR: UnixTime = UnixTime(1_000);

    impl WallClock for Fake {
        fn raw(&self) -> UnixTime {
            UnixTime(self.raw)
        }
        fn trusted(&self) -> bool {
            self.trusted
        }
        fn floor(&self) -> UnixTime {
            FLOOR
        }
        fn is_refutable(&self) -> bool {
            self.refutable
        }
    }

    #[test]
    fn certificates_are_judged_by_the_clock_if_it_is_believed_and_never_before_the_floor() {
        for (raw, trusted, refutable, expected) in [
            (2_000, true, false, Clock { time: UnixTime(2_000), trusted: true }),
            (500, true, false, Clock { time: FLOOR, trusted: true }),
            (2_000, true, true, Clock { time: FLOOR, trusted: false }),
            (2_000, false, false, Clock { time: FLOOR, trusted: false }),
            (500, false, false, Clock { time: FLOOR, trusted: false }),
        ] {
            assert_eq!(verdict(&Fake { raw, trusted, refutable }), expected);
        }
    }

    #[test]
    fn tokens_are_judged_by_a_trusted_clock_that_is_behind_the_floor_of_when_it_was_ahead() {
        for (raw, trusted, expected) in [
            (500, true, Clock { time: UnixTime(500), trusted: true }),
            (2_000, true, Clock { time: UnixTime(2_000), trusted: true }),
            (500, false, Clock { time: FLOOR, trusted: false }),
        ] {
            assert_eq!(token_verdict(&Fake { raw, trusted, refutable: false }), expected);
        }
    }

    #[test]
    fn tokens_are_judged_by_a_clock_that_only_the_kernel_speaks_for_until_it_is_refuted() {
        const DAY: u64 = 86_400_000;
        /// What the judge says at a time.
        struct Judged(Judge, Look);
        impl WallClock for Judged {
            fn raw(&self) -> UnixTime {
                self.1.raw
            }
            fn trusted(&self) -> bool {
                self.0.wall(self.1.raw, self.1.boottime_ms).is_some()
            }
            fn floor(&self) -> UnixTime {
                self.0.floor()
            }
            fn is_refutable(&self) -> bool {
                self.0.is_refutable()
            }
        }
        let build = UnixTime(20_000 * DAY);
        for (synchronised, always) in [(true, false), (false, true)] {
            // The first start, and the clock is ten years ahead.
            let right = build.0 + 30 * DAY;
            let look = |boottime_ms, raw| Look { boottime_ms, raw: UnixTime(raw), synchronised };
            let wrong = look(1_000, right + 3_650 * DAY);
            let mut clock = Judged(Judge::new(build, Some([1; 16]), always, None), wrong);
            clock.0.observe(wrong);
            assert_eq!(token_verdict(&clock), Clock { time: wrong.raw, trusted: true });
            assert_eq!(verdict(&clock), Clock { time: build, trusted: false });
            // The broker's chain is of today.
            let chain = ChainValidity {
                not_before: UnixTime(right - DAY),
                not_after: UnixTime(right + 60 * DAY),
                leaf: std::time::Duration::from_millis(61 * DAY),
            };
            clock.0.learn(chain, wrong);
            let floor = UnixTime(right - DAY);
            assert_eq!(token_verdict(&clock), Clock { time: floor, trusted: false });
            // Set right, it counts at once.
            clock.1 = look(2_000, right + 1_000);
            clock.0.observe(clock.1);
            assert_eq!(token_verdict(&clock), Clock { time: clock.1.raw, trusted: true });
        }
    }
}
