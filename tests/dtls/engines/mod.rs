//! What both engines do, against the same client and by hand; and what dimpl does otherwise than
//! the server of our own ([`dimpl`]).

/// Each of these as a test of every engine.
macro_rules! of_every_engine {
    ($($name:ident)*) => {
        mod own {
            $(#[test]
            fn $name() {
                super::$name::<tombolo::proto::dtls::ServerEngine>();
            })*
        }

        #[cfg(feature = "dimpl")]
        mod dimpl {
            $(#[test]
            fn $name() {
                super::$name::<tombolo::proto::dtls::DimplEngine>();
            })*
        }
    };
}

#[cfg(feature = "dimpl")]
mod dimpl;
mod forgery;
mod handshake;
mod hello;
mod limit;
mod lossy;

use std::time::Duration;

use hello::Hello;
use tombolo_test_support::dtls::client::{Config, handshake_message as message, record};
use tombolo_test_support::dtls::{FINE, Network, Start, Told, World, psk};

const SECOND: Duration = Duration::from_secs(1);
