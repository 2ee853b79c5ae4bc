//! What benches share: numbers from the environment, medians, and libcoap's server beside us.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use crate::free_udp_port;

/// The number in this variable of the environment; `default` without one.
pub fn number<N: FromStr>(name: &str, default: N) -> N {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The one in the middle; of an even count the greater of the two.
///
/// # Panics
/// No figure is given.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// `coap-server-openssl` of libcoap, on loopback; it ends with this.
pub struct Libcoap {
    child: Child,
    address: SocketAddr,
}

impl Libcoap {
    /// Starts it with this pre-shared key and identity hint.
    ///
    /// # Panics
    /// It is not installed.
    pub fn start(key: &str, hint: &str) -> Libcoap {
        let port = free_udp_port();
        let child = Command::new("coap-server-openssl")
            .args(["-A", "127.0.0.1", "-p", &(port - 1).to_string(), "-k", key, "-h", hint, "-v", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("coap-server-openssl is installed with libcoap3-bin");
        // coaps listens one port above coap.
        Libcoap { child, address: (Ipv4Addr::LOCALHOST, port).into() }
    }

    /// Where it takes DTLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Libcoap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
