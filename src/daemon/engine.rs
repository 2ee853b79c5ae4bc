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

/// The time certificates are judged by: the clock's, or one that has certainly passed.
pub fn verdict(clock: &dyn WallClock) -> Clock {
    match clock.wall() {
        Some(time) => Clock { time, trusted: true },
        None => Clock { time: clock.floor(), trusted: false },
    }
}
