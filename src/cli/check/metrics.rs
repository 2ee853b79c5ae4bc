//! Whether the addresses of `[metrics] listen` can be had.

use std::io;
use std::net::{SocketAddr, TcpListener};

use crate::config::Finding;

/// Tries each, but for the ports in `own`: the text that names what a running gateway serves.
pub fn judge(listen: &[SocketAddr], own: &str) -> Vec<Finding> {
    let own: Vec<SocketAddr> = own.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
    let others = listen.iter().filter(|address| !own.iter().any(|own| own.port() == address.port()));
    others.filter_map(|address| one(*address)).collect()
}

fn one(address: SocketAddr) -> Option<Finding> {
    let finding = match TcpListener::bind(address) {
        Ok(_) => Finding::ok("metrics", format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let message = format!("{address} cannot be had: another program has the port");
            let advice = format!("`ss -ltnp sport = :{}` names it; or use another port", address.port());
            Finding::fail("metrics", message).advice(advice)
        }
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let message = format!("{address} cannot be had: this machine has no such address now");
            Finding::fail("metrics", message).advice("use one that `ip address` shows")
        }
        // Another user may be allowed to.
        Err(_) => return None,
    };
    Some(finding.key("metrics.listen"))
}
