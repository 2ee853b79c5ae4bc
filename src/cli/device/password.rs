//! MQTT passwords of `device add`: made or taken, hashed, and printed once with the command that
//! sends a first reading.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;
use zeroize::Zeroizing;

use super::client::{self, Attempt};
use crate::cli::error::CommandError;
use crate::cli::key::shell_word;
use crate::cli::output::{align, plural};
use crate::cli::{Context, note};
use crate::config::Settings;
use crate::config::registry::io::random_key;
use crate::config::registry::is_generated_key;
use crate::gate::login::{Login, PASSWORD_MAX, PasswordHash, SALT_LENGTH, USERNAME_MAX};
use crate::gate::settings::Device;
use crate::southbound::mqtt::settings::PlainAddress;
use crate::system;

/// A chosen password that is shorter can be guessed, though guesses are damped.
const PASSWORD_MIN: usize = 12;
/// What stands before a password that `device keygen` made: like one that is made here, it needs no
/// costly hash.
pub(super) const GENERATED: &str = "generated:";
/// Most bytes read from standard input.
const STDIN_MAX: u64 = 4_096;

/// Checks the value of `--mqtt-username`.
///
/// # Errors
/// [`CommandError::Usage`].
pub(super) fn check_username(username: &str) -> Result<(), CommandError> {
    if username.is_empty() || username.len() > USERNAME_MAX || username.chars().any(char::is_control) {
        let text =
            format!("--mqtt-username takes 1 to {USERNAME_MAX} bytes of text without control characters");
        return Err(CommandError::Usage(text));
    }
    Ok(())
}

/// A user name and the hash of a password, and the password: empty = made here, `generated:…` =
/// made by `device keygen`, `-` = standard input, else `text:…`.
///
/// # Errors
/// [`CommandError::Usage`]; the message does not contain the password.
pub(super) fn login(username: &str, argument: &str) -> Result<(Login, Zeroizing<String>), CommandError> {
    check_username(username)?;
    let salt: [u8; SALT_LENGTH] = system::io::random().map_err(CommandError::failed)?;
    let made_elsewhere = argument.strip_prefix(GENERATED);
    let is_generated = argument.is_empty() || made_elsewhere.is_some();
    let password = if let Some(password) = made_elsewhere {
        if !is_generated_key(password) {
            let text = format!(
                "--password: what stands behind {GENERATED} is no password that `tombolo device keygen` made; write \
                 text:SECRET for a chosen one"
            );
            return Err(CommandError::Usage(text));
        }
        Zeroizing::new(password.to_owned())
    } else if is_generated {
        let key = random_key().map_err(CommandError::failed)?;
        Zeroizing::new(String::from_utf8_lossy(&key).into_owned())
    } else {
        chosen(argument)?
    };
    let hash = if is_generated {
        PasswordHash::of_generated(password.as_bytes(), salt)
    } else {
        PasswordHash::of_chosen(password.as_bytes(), salt).map_err(CommandError::failed)?
    };
    Ok((Login { username: username.to_owned(), password: hash }, password))
}

/// The warning about a password that is short.
pub(super) fn short(password: &str) -> Option<String> {
    short_of(password.len(), "--password without a value")
}

/// The warning about a password of so many bytes, if it is short. `maker`: what makes a better one.
pub(super) fn short_of(length: usize, maker: &str) -> Option<String> {
    (length < PASSWORD_MIN).then(|| {
        format!(
            "the password has only {}: it may be guessed; use {PASSWORD_MIN} or more, or {maker}, which makes one",
            plural(length as u64, "byte")
        )
    })
}

fn chosen(argument: &str) -> Result<Zeroizing<String>, CommandError> {
    let wrong = |what: &str| {
        let from = if argument == "-" { " - (standard input)" } else { "" };
        let text =
            format!("--password{from}: {what}; write text:SECRET, or leave the value out and one is made");
        CommandError::Usage(text)
    };
    let mut text = Zeroizing::new(String::new());
    if argument == "-" {
        text.reserve(STDIN_MAX as usize + 1);
        std::io::stdin()
            .lock()
            .take(STDIN_MAX)
            .read_to_string(&mut text)
            .map_err(|error| CommandError::failed(format_args!("standard input cannot be read: {error}")))?;
    } else {
        text.push_str(argument);
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let password =
        line.strip_prefix("text:").ok_or_else(|| wrong("the password does not begin with \"text:\""))?;
    if password.is_empty() || password.len() > PASSWORD_MAX || password.chars().any(char::is_control) {
        return Err(wrong("a password has 1 to 255 bytes of text without control characters"));
    }
    Ok(Zeroizing::new(password.to_owned()))
}

/// Where a TLS client can connect to.
#[derive(Debug, PartialEq, Eq)]
struct Reach {
    host: String,
    port: u16,
    /// Only a client of this machine can.
    is_local: bool,
    /// The certificate has this name.
    fits: bool,
}

/// The host and port for a TLS client: one that the gateway's certificate has, for a client
/// verifies that (RFC 9525). Its DNS names are what its owner means clients to use; then come
/// addresses.
fn reach(
    listen: &[SocketAddr],
    leaf: Option<&[u8]>,
    own: Option<IpAddr>,
    host_name: Option<String>,
) -> Option<Reach> {
    // One that other machines reach, if there is one.
    let outward = listen.iter().find(|address| !address.ip().is_loopback());
    let first = outward.or(listen.first())?;
    let der = leaf.map(CertificateDer::from);
    let certificate = der.as_ref().and_then(|der| EndEntityCert::try_from(der).ok());
    let has = |name: &str| {
        let name = ServerName::try_from(name).ok();
        certificate
            .as_ref()
            .zip(name)
            .is_some_and(|(certificate, name)| certificate.verify_is_valid_for_subject_name(&name).is_ok())
    };
    let mut candidates: Vec<(String, u16, bool)> = Vec::new();
    if let Some(address) = outward {
        let names =
            certificate.iter().flat_map(|certificate| certificate.valid_dns_names()).map(str::to_owned);
        let outer = names.filter(|name| !name.contains('*') && name != "localhost").chain(host_name.clone());
        let own = if address.ip().is_unspecified() { own } else { Some(address.ip()) };
        let hosts = outer.chain(own.map(|own| own.to_string()));
        candidates.extend(hosts.map(|host| (host, address.port(), false)));
    }
    for address in listen.iter().filter(|address| address.ip().is_loopback() || address.ip().is_unspecified())
    {
        let same = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let hosts = ["localhost".to_owned(), same.to_string()];
        candidates.extend(hosts.map(|host| (host, address.port(), true)));
    }
    let found = candidates.into_iter().find(|(host, ..)| has(host));
    let reach = found.map(|(host, port, is_local)| Reach { host, port, is_local, fits: true });
    Some(reach.unwrap_or_else(|| {
        let ip = if first.ip().is_unspecified() { own } else { Some(first.ip()) };
        let host = ip.map(|ip| ip.to_string()).or(host_name).unwrap_or_else(|| "HOST".to_owned());
        Reach { host, port: first.port(), is_local: false, fits: leaf.is_none() }
    }))
}

/// Prints the user name and the password, without a line that would use them.
pub(super) fn say_values(context: &Context, username: &str, password: &str) -> Result<(), CommandError> {
    context.out.text(&align(&[
        vec!["MQTT user name".to_owned(), username.to_owned()],
        vec!["password".to_owned(), password.to_owned()],
    ]))?;
    Ok(context.out.line("the password is shown only now: the gateway keeps a hash of it")?)
}

/// Prints what the client needs. A password is in no file in the clear, so it is shown only now.
pub(super) fn say(
    context: &Context,
    settings: &Settings,
    device: &Device,
    username: &str,
    password: &str,
) -> Result<(), CommandError> {
    say_values(context, username, password)?;
    let mqtt = &settings.mqtt;
    let leaf = mqtt.tls.as_ref().and_then(|tls| tls.chain.first());
    let tls = reach(&mqtt.listen, leaf.map(Vec::as_slice), client::own_address(), client::host_name());
    let plain = mqtt.insecure_listen.first().map(|address| match address {
        PlainAddress::Loopback(address) => {
            (format!("-h {} -p {}", address.ip(), address.port()), "this machine")
        }
        PlainAddress::Unix(path) => {
            (format!("--unix {}", shell_word(&path.display().to_string())), "this machine")
        }
    });
    if tls.as_ref().is_some_and(|reach| !reach.fits) {
        note(
            "clients check that the certificate of mqtt.certificate-file has the name that they connect to, and it has no name \
             or address of this gateway: they refuse it until there is one with the name that they use",
        );
    }
    if plain.is_none() && tls.as_ref().is_some_and(|reach| !reach.fits) {
        return Ok(context.out.line(
            "no client that checks it can connect yet: put a certificate with a name or address of this gateway into \
             mqtt.certificate-file, or set mqtt.insecure-listen for clients of this machine, then reload",
        )?);
    }
    let target = match tls {
        Some(reach) if reach.fits || plain.is_none() => {
            let machine = match (reach.is_local, client::is_local(&mqtt.listen)) {
                (_, true) => "this machine, because [mqtt] listen has no address for others",
                (true, false) => "this machine, because the certificate has no other name",
                (false, false) => "any machine that reaches this one",
            };
            let (host, port) = (shell_word(&reach.host), reach.port);
            Some((format!("--cafile gateway-ca.pem -h {host} -p {port}"), machine))
        }
        _ => plain,
    };
    let Some((target, machine)) = target else {
        return Ok(context.out.line(
            "the gateway does not listen for MQTT: set mqtt.insecure-listen for clients of this machine, or mqtt.listen for \
             others, then reload",
        )?);
    };
    let (username, password) = (shell_word(username), shell_word(password));
    let with = |program: &str, rest: String| {
        format!("  {program} -V mqttv5 {target} -u {username} -P {password} {rest}")
    };
    let (success, line) = match client::attempt(settings, device) {
        Attempt::Subscribe(filter) => (
            "\"Subscribed\" is success, then it prints what comes",
            with("mosquitto_sub", format!("-d -q 1 -t {}", shell_word(&filter))),
        ),
        Attempt::Publish(topic) => {
            ("no output is success", with("mosquitto_pub", format!("-q 1 -t {} -m 21.5", shell_word(&topic))))
        }
        Attempt::Nothing => (
            "no output is success",
            with(
                "mosquitto_pub",
                "-q 1 -t t/temperature -m 21.5   # no rule of its role allows anything yet".to_owned(),
            ),
        ),
    };
    context.out.line(format_args!("try it, on {machine} (Debian package mosquitto-clients); {success}:"))?;
    Ok(context.out.line(line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rcgen::generate_simple_self_signed(names).expect("a certificate").cert.der().to_vec()
    }

    #[test]
    fn a_client_is_told_a_name_that_the_certificate_has() {
        let own: IpAddr = "192.0.2.7".parse().unwrap();
        for (listen, names, expected) in [
            ("[::]:8883", &["localhost", "gw.example"][..], ("gw.example", false, true)),
            ("0.0.0.0:8883", &["192.0.2.7", "localhost"], ("192.0.2.7", false, true)),
            ("0.0.0.0:8883", &["*.plant.example"], ("box.plant.example", false, true)),
            // Other machines mean themselves with it.
            ("0.0.0.0:8883", &["localhost"], ("localhost", true, true)),
            ("0.0.0.0:8883", &["127.0.0.1"], ("127.0.0.1", true, true)),
            ("127.0.0.1:8883", &["gw.example", "localhost"], ("localhost", true, true)),
            ("[::1]:8883", &["::1"], ("::1", true, true)),
            // It does not listen there.
            ("192.0.2.9:8883", &["localhost", "192.0.2.7"], ("192.0.2.9", false, false)),
            ("0.0.0.0:8883", &["198.51.100.1"], ("192.0.2.7", false, false)),
        ] {
            let der = certificate(names);
            let host_name = Some("box.plant.example".to_owned());
            let found = reach(&[listen.parse().unwrap()], Some(&der), Some(own), host_name).unwrap();
            let (host, is_local, fits) = expected;
            assert_eq!(
                found,
                Reach { host: host.to_owned(), port: 8883, is_local, fits },
                "{listen} {names:?}"
            );
        }
        assert_eq!(reach(&[], None, Some(own), None), None);
        // The files cannot be read: nothing is known of its names.
        assert!(reach(&["0.0.0.0:1".parse().unwrap()], None, Some(own), None).unwrap().fits);
    }
}
