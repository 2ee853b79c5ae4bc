//! MQTT passwords of `device add`: made or taken, hashed, and printed once with the command that
//! sends a first reading.

use std::io::Read as _;

use zeroize::Zeroizing;

use super::client::{self, Attempt};
use crate::cli::Context;
use crate::cli::error::CommandError;
use crate::cli::key::shell_word;
use crate::cli::output::{align, plural};
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

/// Prints what the client needs. A password is in no file in the clear, so it is shown only now.
pub(super) fn say(
    context: &Context,
    settings: &Settings,
    device: &Device,
    username: &str,
    password: &str,
) -> Result<(), CommandError> {
    context.out.text(&align(&[
        vec!["MQTT user name".to_owned(), username.to_owned()],
        vec!["password".to_owned(), password.to_owned()],
    ]))?;
    context.out.line("the password is shown only now: the gateway keeps a hash of it")?;
    let mqtt = &settings.mqtt;
    // One that other machines reach, if there is one.
    let is_outward = |address: &&std::net::SocketAddr| !address.ip().is_loopback();
    let target = if let Some(address) = mqtt.listen.iter().find(is_outward).or(mqtt.listen.first()) {
        let host = client::host(address.ip());
        let machine = match client::is_local(&mqtt.listen) {
            true => "this machine (it listens for no other; [mqtt] listen decides)",
            false => "any machine that reaches this one",
        };
        Some((format!("--cafile gateway-ca.pem -h {host} -p {}", address.port()), machine))
    } else {
        mqtt.insecure_listen.first().map(|address| match address {
            PlainAddress::Loopback(address) => {
                (format!("-h {} -p {}", address.ip(), address.port()), "this machine")
            }
            PlainAddress::Unix(path) => {
                (format!("--unix {}", shell_word(&path.display().to_string())), "this machine")
            }
        })
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
