//! The formats of values: sizes, durations, keys, URLs; and the suggestion for a misspelt word.
//!
//! Errors never contain the refused text; the caller decides whether it may be shown.

pub use crate::hex::format_hex;
use std::time::Duration;

use zeroize::Zeroizing;

/// Longest pre-shared key, in bytes.
pub const PSK_KEY_MAX: usize = 64;
/// Longest PSK identity, in bytes.
pub const PSK_IDENTITY_MAX: usize = 128;

/// Parses a size: digits and one of `B`, `KiB`, `MiB`, `GiB`; digits alone are bytes. `"192MiB"`,
/// `"64 KiB"`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor: u64 = match text[digits..].trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Formats a size with the largest unit that keeps it a whole number; [`parse_size`] reads it.
pub fn format_size(bytes: u64) -> String {
    for (factor, unit) in [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// Parses a duration with its unit: `"10ms"`, `"60s"`, `"1min"`, `"1h 30min"`, `"7d"`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim()).ok()
}

/// Formats a duration; [`parse_duration`] reads it.
pub fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// Why a text is not a pre-shared key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// It begins with neither `hex:` nor `text:`.
    NoScheme,
    /// The text after `hex:` is not pairs of hexadecimal digits.
    NotHex,
    /// The key is empty.
    Empty,
    /// More than [`PSK_KEY_MAX`] bytes.
    TooLong,
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            KeyError::NoScheme => "the key begins with neither \"hex:\" nor \"text:\"",
            KeyError::NotHex => "the text after \"hex:\" is not pairs of hexadecimal digits",
            KeyError::Empty => "the key is empty",
            KeyError::TooLong => "the key has more than 64 bytes",
        })
    }
}

impl std::error::Error for KeyError {}

/// Parses a pre-shared key, `hex:00ff…` or `text:…`; `1..=64` bytes. One trailing line end is
/// ignored, and with `hex:` all surrounding white space.
///
/// # Errors
/// [`KeyError`], which does not contain the text.
pub fn parse_psk(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let key = if let Some(literal) = text.strip_prefix(b"text:") {
        Zeroizing::new(literal.to_vec())
    } else if let Some(hex) = text.strip_prefix(b"hex:") {
        parse_hex(hex.trim_ascii()).ok_or(KeyError::NotHex)?
    } else {
        return Err(KeyError::NoScheme);
    };
    match key.len() {
        0 => Err(KeyError::Empty),
        1..=PSK_KEY_MAX => Ok(key),
        _ => Err(KeyError::TooLong),
    }
}

/// Reads a PSK identity: `hex:` and hexadecimal digits, for one that is no text, or the text
/// itself; 1 to [`PSK_IDENTITY_MAX`] bytes. `HEX:` is neither: it is hardly meant as a text.
pub fn parse_psk_identity(text: &str) -> Option<Vec<u8>> {
    let is_scheme = text.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("hex:"));
    let identity = match text.strip_prefix("hex:") {
        None if is_scheme => return None,
        Some(digits) => parse_hex(digits.trim_ascii().as_bytes())?.to_vec(),
        None => text.as_bytes().to_vec(),
    };
    (1..=PSK_IDENTITY_MAX).contains(&identity.len()).then_some(identity)
}

/// Writes a PSK identity so that [`parse_psk_identity`] reads it.
pub fn format_psk_identity(identity: &[u8]) -> String {
    match std::str::from_utf8(identity) {
        Ok(text)
            if parse_psk_identity(text).as_deref() == Some(identity)
                && !text.chars().any(char::is_control) =>
        {
            text.to_owned()
        }
        _ => format!("hex:{}", format_hex(identity)),
    }
}

pub(crate) fn parse_hex(digits: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for pair in pairs {
        let digit = |b: u8| char::from(b).to_digit(16);
        let value = digit(pair[0])? << 4 | digit(pair[1])?;
        bytes.push(u8::try_from(value).ok()?);
    }
    Some(bytes)
}

/// The address of the upstream broker, from `[upstream] url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    /// A host name, or an address without brackets.
    pub host: String,
    /// The port; default 8883, or 1883 without TLS.
    pub port: u16,
    /// Whether TLS is used (`mqtts`).
    pub tls: bool,
}

/// Why a text is not a broker URL. The messages are for the user; they contain no part of the URL,
/// which could be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// No `scheme://`.
    NoScheme,
    /// `ws://` or `wss://`.
    WebSocket,
    /// `tcp`, `ssl` or `tls`, as some clients write it.
    OtherName,
    /// Any other scheme.
    Scheme,
    /// `user:password@`.
    UserInfo,
    /// A path, a query or a fragment.
    Path,
    /// No host, or neither a valid host name nor an address.
    Host,
    /// Not a number from 1 to 65535.
    Port,
    /// An IPv6 address without brackets.
    Brackets,
}

impl std::fmt::Display for UrlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            UrlError::NoScheme => "it has no scheme",
            UrlError::WebSocket => "MQTT over WebSocket (ws://, wss://) is reserved and not implemented yet",
            UrlError::OtherName => "this scheme is spelt mqtts:// here",
            UrlError::Scheme => "the scheme is not mqtts://",
            UrlError::UserInfo => "the URL must not contain a user name or password",
            UrlError::Path => "nothing may follow the port",
            UrlError::Host => "the host is missing or is neither a host name nor an address",
            UrlError::Port => "the port is not a number from 1 to 65535",
            UrlError::Brackets => "an IPv6 address is written in brackets, like mqtts://[2001:db8::1]:8883",
        })
    }
}

impl std::error::Error for UrlError {}

/// Parses `mqtts://host[:port]` or `mqtt://host[:port]`; an IPv6 address needs brackets; one
/// trailing `/` is allowed.
///
/// # Errors
/// [`UrlError`], the first fault.
pub fn parse_broker_url(text: &str) -> Result<BrokerUrl, UrlError> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "mqtts" => true,
        "mqtt" => false,
        "ws" | "wss" => return Err(UrlError::WebSocket),
        "tcp" | "ssl" | "tls" => return Err(UrlError::OtherName),
        _ => return Err(UrlError::Scheme),
    };
    if rest.contains('@') {
        return Err(UrlError::UserInfo);
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(UrlError::Path);
    }
    let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, port) = bracketed.split_once(']').ok_or(UrlError::Host)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Host)?;
        match port {
            "" => (host, None),
            port => (host, Some(port.strip_prefix(':').ok_or(UrlError::Port)?)),
        }
    } else if authority.matches(':').count() > 1 {
        return Err(UrlError::Brackets);
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let is_name = |h: &str| h.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if host.is_empty() || host.len() > 253 || !(is_name(host) || authority.starts_with('[')) {
        return Err(UrlError::Host);
    }
    let port = match port {
        None if tls => 8883,
        None => 1883,
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(UrlError::Port),
            Ok(port) => port,
        },
    };
    Ok(BrokerUrl { host: host.to_owned(), port, tls })
}

/// The word in `known` that is most similar to `word`, if at most a third of its letters differ.
pub fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Longer words than any key or name are not compared, because the cost is the product of the
    // lengths.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase().replace('_', "-");
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_they_are_written() {
        assert_eq!(parse_size("192MiB"), Some(192 << 20));
        assert_eq!(parse_size("64 KiB"), Some(64 << 10));
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("7B"), Some(7));
        for wrong in
            ["", "MiB", "1MB", "1.5MiB", "-1", "1 KiB x", "99999999999999999999", "18446744073709551615GiB"]
        {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
        for bytes in [0, 1, 1023, 1024, 1 << 20, 3 << 30, 4097] {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }
    }

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(parse_duration("7d"), Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_duration("1min"), Some(Duration::from_secs(60)));
        assert_eq!(parse_duration("1h 30min"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("60"), None);
        assert_eq!(parse_duration("-1s"), None);
        assert_eq!(parse_duration("99999999999999999999y"), None);
        assert_eq!(format_duration(Duration::from_secs(5400)), "1h30m");
    }

    #[test]
    fn keys_say_how_they_are_written() {
        assert_eq!(*parse_psk(b"text:abc\r\n").unwrap(), b"abc");
        assert_eq!(*parse_psk(b"text: a ").unwrap(), b" a ");
        assert_eq!(*parse_psk(b"hex: 00Ff \n").unwrap(), [0, 255]);
        assert_eq!(parse_psk(b"abc"), Err(KeyError::NoScheme));
        assert_eq!(parse_psk(b"hex:0"), Err(KeyError::NotHex));
        assert_eq!(parse_psk(b"hex:0g"), Err(KeyError::NotHex));
        assert_eq!(parse_psk(b"text:\n"), Err(KeyError::Empty));
        assert_eq!(parse_psk(&[b"text:", &[b'a'; 65][..]].concat()), Err(KeyError::TooLong));
        assert_eq!(format_hex(&[0, 0xab]), "00ab");
        // An identity need not be a text.
        for (text, identity) in
            [("door-7", &b"door-7"[..]), ("hex:00ff0a", &[0, 255, 10]), ("hex:6865783a", b"hex:")]
        {
            assert_eq!(parse_psk_identity(text).as_deref(), Some(identity));
            assert_eq!(format_psk_identity(identity), text);
        }
        for wrong in ["", "hex:", "hex:0", "hex:zz", "HEX:6162", "Hex:6162"] {
            assert_eq!(parse_psk_identity(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_broker_url_is_a_scheme_a_host_and_a_port() {
        let url = |text| parse_broker_url(text).map(|u| (u.host, u.port, u.tls));
        assert_eq!(url("mqtts://broker.example.com"), Ok(("broker.example.com".into(), 8883, true)));
        assert_eq!(url("mqtt://10.0.0.1/"), Ok(("10.0.0.1".into(), 1883, false)));
        assert_eq!(url("MQTTS://[fd00::1]:1234"), Ok(("fd00::1".into(), 1234, true)));
        assert_eq!(url("broker.example.com:8883"), Err(UrlError::NoScheme));
        assert_eq!(url("wss://b"), Err(UrlError::WebSocket));
        assert_eq!(url("ssl://b"), Err(UrlError::OtherName));
        assert_eq!(url("http://b"), Err(UrlError::Scheme));
        assert_eq!(url("mqtts://me:secret@b"), Err(UrlError::UserInfo));
        assert_eq!(url("mqtts://b/path"), Err(UrlError::Path));
        assert_eq!(url("mqtts://"), Err(UrlError::Host));
        assert_eq!(url("mqtts://[::1"), Err(UrlError::Host));
        assert_eq!(url("mqtts://a b"), Err(UrlError::Host));
        assert_eq!(url("mqtts://fd00::1"), Err(UrlError::Brackets));
        assert_eq!(url("mqtts://b:0"), Err(UrlError::Port));
        assert_eq!(url("mqtts://[::1]8883"), Err(UrlError::Port));
    }

    #[test]
    fn a_misspelt_word_finds_its_neighbour() {
        let known = ["ca-file", "key-file", "keep-alive", "url"];
        assert_eq!(did_you_mean("ca_file", known), Some("ca-file"));
        assert_eq!(did_you_mean("keepalive", known), Some("keep-alive"));
        assert_eq!(did_you_mean("ulr", known), Some("url"));
        assert_eq!(did_you_mean("password", known), None);
        assert_eq!(did_you_mean(&"x".repeat(10_000), known), None);
    }
}
