//! `https://HOST[:PORT]/path`, parsed once (RFC 3986, RFC 9110 §4.2.2).

use std::fmt;

/// The port of HTTPS.
const PORT: u16 = 443;
/// The port of plain HTTP.
const PLAIN_PORT: u16 = 80;
/// Longest URL, in bytes.
const LENGTH_MAX: usize = 2_000;

/// An address to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsUrl {
    /// Host name or address; an IPv6 address without its brackets.
    pub host: String,
    /// Default 443.
    pub port: u16,
    /// Path and query, `/…`, printable ASCII.
    pub path: String,
    /// It is `http://`, without TLS: for what proves itself, such as a signed list.
    pub plain: bool,
}

/// Why a text is no such URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// It does not begin with `https://`.
    Scheme,
    /// It contains a user name or password.
    UserInfo,
    /// It contains `#`.
    Fragment,
    /// The host is neither a name nor an address.
    Host,
    /// The port is no number from 1 to 65535.
    Port,
    /// The path has a character that must be percent-encoded.
    Path,
    /// It has more than 2,000 bytes.
    Length,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UrlError::Scheme => "a URL here begins with https://",
            UrlError::UserInfo => "no user name or password belongs in the URL",
            UrlError::Fragment => "a '#' does not belong in the URL",
            UrlError::Host => "the host is neither a name nor an address (an IPv6 address needs [brackets])",
            UrlError::Port => "the port is not a number from 1 to 65535",
            UrlError::Path => "the path has a blank or a character that must be percent-encoded",
            UrlError::Length => "the URL has more than 2,000 bytes",
        })
    }
}

impl std::error::Error for UrlError {}

impl HttpsUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`UrlError`], the first fault.
    pub fn parse(text: &str) -> Result<HttpsUrl, UrlError> {
        HttpsUrl::of(text, false)
    }

    /// As [`HttpsUrl::parse`], or the same with `http://`.
    ///
    /// # Errors
    /// [`UrlError`], the first fault.
    pub fn parse_plain_too(text: &str) -> Result<HttpsUrl, UrlError> {
        let plain = text.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
        HttpsUrl::of(text, plain)
    }

    fn of(text: &str, plain: bool) -> Result<HttpsUrl, UrlError> {
        if text.len() > LENGTH_MAX {
            return Err(UrlError::Length);
        }
        let wanted = if plain { "http://" } else { "https://" };
        let scheme = text.get(..wanted.len()).filter(|scheme| scheme.eq_ignore_ascii_case(wanted));
        let rest = &text[scheme.ok_or(UrlError::Scheme)?.len()..];
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, port) = bracketed.split_once(']').ok_or(UrlError::Host)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Host)?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or(UrlError::Port)?),
                };
                (host, port)
            }
            None => {
                let (host, port) = match authority.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (authority, None),
                };
                let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
                if host.is_empty() || host.len() > 253 || !host.bytes().all(is_name) {
                    return Err(UrlError::Host);
                }
                (host, port)
            }
        };
        let port = match port {
            None => {
                if plain {
                    PLAIN_PORT
                } else {
                    PORT
                }
            }
            // `parse` would take a sign.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)?
            }
            Some(_) => return Err(UrlError::Port),
        };
        if !path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`'))
        {
            return Err(UrlError::Path);
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(HttpsUrl { host: host.to_owned(), port, path, plain })
    }

    /// `host[:port]` as the field Host has it (RFC 9110 §7.2).
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = if self.plain { PLAIN_PORT } else { PORT };
        if self.port == port { host } else { format!("{host}:{}", self.port) }
    }

    /// The URL one segment deeper; a `/` at the end of this one is not doubled.
    pub fn child(&self, segment: &str) -> HttpsUrl {
        let path = format!("{}/{segment}", self.path.trim_end_matches('/'));
        HttpsUrl { path, ..self.clone() }
    }

    fn scheme(&self) -> &'static str {
        if self.plain { "http" } else { "https" }
    }

    /// Where a Location field (RFC 9110 §10.2.2) leads, if that is the same host and port by the
    /// same scheme.
    pub fn redirected(&self, location: &str) -> Option<HttpsUrl> {
        let target = match location {
            path if path.starts_with('/') && !path.starts_with("//") => {
                HttpsUrl::of(&format!("{}://{}{path}", self.scheme(), self.authority()), self.plain).ok()?
            }
            absolute => HttpsUrl::of(absolute, self.plain).ok()?,
        };
        (target.host.eq_ignore_ascii_case(&self.host) && target.port == self.port).then_some(target)
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_host_a_port_and_a_path() {
        let url = |text| HttpsUrl::parse(text).map(|url| (url.host.clone(), url.port, url.path.clone()));
        let est = "/.well-known/est/gateways".to_owned();
        assert_eq!(url("https://ca.test:8443/.well-known/est/gateways"), Ok(("ca.test".into(), 8443, est)));
        assert_eq!(url("HTTPS://ca.test"), Ok(("ca.test".into(), 443, "/".into())));
        assert_eq!(url("https://ca.test?a=1"), Ok(("ca.test".into(), 443, "/?a=1".into())));
        assert_eq!(url("https://[::1]:99/x"), Ok(("::1".into(), 99, "/x".into())));
        for (text, error) in [
            ("http://ca.test/", UrlError::Scheme),
            ("https:/", UrlError::Scheme),
            ("größer!", UrlError::Scheme),
            ("https://me:secret@ca.test/", UrlError::UserInfo),
            ("https://ca.test/#a", UrlError::Fragment),
            ("https:///path", UrlError::Host),
            ("https://a b/", UrlError::Host),
            ("https://[::1/", UrlError::Host),
            ("https://[::1]8/", UrlError::Port),
            ("https://ca.test:0/", UrlError::Port),
            ("https://ca.test:+1/", UrlError::Port),
            ("https://ca.test:/", UrlError::Port),
            ("https://ca.test:99999/", UrlError::Port),
            ("https://ca.test/a b", UrlError::Path),
            ("https://ca.test/\r\nX: y", UrlError::Path),
            ("https://ca.test/ä", UrlError::Path),
        ] {
            assert_eq!(HttpsUrl::parse(text), Err(error), "{text}");
        }
        assert_eq!(HttpsUrl::parse(&format!("https://a/{}", "x".repeat(2_000))), Err(UrlError::Length));
    }

    #[test]
    fn what_proves_itself_may_come_without_tls() {
        let url = HttpsUrl::parse_plain_too("http://ca.test/a.crl").unwrap();
        assert_eq!((url.port, url.plain, url.to_string()), (80, true, "http://ca.test/a.crl".to_owned()));
        assert!(!HttpsUrl::parse_plain_too("https://ca.test/").unwrap().plain);
        assert_eq!(url.redirected("/b").unwrap().to_string(), "http://ca.test/b");
        assert_eq!(url.redirected("https://ca.test/b"), None);
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in ["https://ca.test/", "https://ca.test:8443/a/b?c", "https://[::1]/", "https://[::1]:8/x"]
        {
            assert_eq!(HttpsUrl::parse(text).unwrap().to_string(), text);
        }
        let est = HttpsUrl::parse("https://ca.test/est/").unwrap();
        assert_eq!(est.child("cacerts").to_string(), "https://ca.test/est/cacerts");
    }

    #[test]
    fn a_redirect_leads_only_to_the_same_host_by_https() {
        let url = HttpsUrl::parse("https://ca.test:8443/a").unwrap();
        let to = |location| url.redirected(location).map(|url| url.path);
        assert_eq!(to("/b").as_deref(), Some("/b"));
        assert_eq!(to("https://CA.test:8443/c").as_deref(), Some("/c"));
        for other in
            ["//other.test/b", "https://other.test:8443/", "https://ca.test/", "http://ca.test:8443/", "b"]
        {
            assert_eq!(to(other), None, "{other}");
        }
    }
}
