//! Enrolment over Secure Transport (RFC 7030, RFC 8951): what is asked, and what an answer means.
//!
//! | operation | question | answer |
//! |---|---|---|
//! | [`Operation::CaCerts`] | GET | PKCS#7 certs-only |
//! | [`Operation::CsrAttributes`] | GET | 204, or what the request should have |
//! | [`Operation::SimpleEnroll`], [`Operation::SimpleReenroll`] | POST PKCS#10 | PKCS#7 certs-only, or 202 |
//!
//! `serverkeygen` (RFC 7030 §4.4) is not asked for: a private key does not leave the place where it
//! is used. Bodies are base64; white space in them counts for nothing, and a body in DER is taken.
//!
//! [`io::est`](super::io::est) has the connection.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::chain;
use super::csr_attributes::CsrAttributes;
use super::pkcs7;
use super::source::{OrderKind, Outcome};
use crate::https::message::{Body, Method, Request, Response};
pub use crate::https::url::HttpsUrl as EstUrl;

/// Greatest answer taken: a bundle of 32 certificates of 8 KiB in base64.
pub const ANSWER_MAX: usize = 384 * 1024;
/// How long a 202 without Retry-After is taken to mean.
const LATER: Duration = Duration::from_secs(300);
/// Characters of base64 a line (RFC 2045 §6.8).
const LINE: usize = 76;
/// The path of every EST server (RFC 7030 §3.2.2).
const WELL_KNOWN: &str = "/.well-known/est";
/// The names of operations, which are no labels (RFC 7030 §3.2.2).
const OPERATIONS: [&str; 6] =
    ["cacerts", "csrattrs", "fullcmc", "serverkeygen", "simpleenroll", "simplereenroll"];
const PKCS7: &str = "application/pkcs7-mime";

/// Where the EST server is, and how both sides know each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EstSettings {
    /// `https://HOST:PORT/.well-known/est[/LABEL]`
    pub url: EstUrl,
    /// Which server is believed.
    pub trust: EstTrust,
    /// For a server that asks for Basic authentication, beside or instead of a certificate.
    pub username: Option<String>,
    /// Its password; read for each request; one trailing line end is dropped.
    pub password_file: Option<PathBuf>,
    /// All of one order, `5 s ..= 10 min`.
    pub timeout: Duration,
}

/// Which EST server is believed: the explicit trust anchors of RFC 7030 §3.6.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EstTrust {
    /// The system's CAs.
    System,
    /// The CAs in this file alone.
    File(PathBuf),
    /// The CA certificate with this SHA-256, which is fetched from the server (RFC 7030 §4.1.1).
    Fingerprint([u8; 32]),
}

/// An operation of EST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// RFC 7030 §4.1
    CaCerts,
    /// RFC 7030 §4.5
    CsrAttributes,
    /// RFC 7030 §4.2.1
    SimpleEnroll,
    /// RFC 7030 §4.2.2
    SimpleReenroll,
}

impl Operation {
    /// The last segment of its path (RFC 7030 §3.2.2).
    pub const fn segment(self) -> &'static str {
        match self {
            Operation::CaCerts => "cacerts",
            Operation::CsrAttributes => "csrattrs",
            Operation::SimpleEnroll => "simpleenroll",
            Operation::SimpleReenroll => "simplereenroll",
        }
    }
}

impl From<OrderKind> for Operation {
    fn from(kind: OrderKind) -> Operation {
        match kind {
            OrderKind::Enroll => Operation::SimpleEnroll,
            OrderKind::Reenroll => Operation::SimpleReenroll,
        }
    }
}

/// The URL of an EST server: `https://HOST[:PORT]/.well-known/est[/LABEL]` (RFC 7030 §3.2.2).
///
/// # Errors
/// What is wrong with it.
pub fn parse_url(text: &str) -> Result<EstUrl, String> {
    let url = EstUrl::parse(text).map_err(|error| error.to_string())?;
    let label = url.path.strip_prefix(WELL_KNOWN).map(|rest| rest.trim_end_matches('/'));
    let is_label = |label: &str| {
        let name = label.strip_prefix('/');
        label.is_empty() || name.is_some_and(|name| !name.is_empty() && !name.contains(['/', '?']))
    };
    if let Some(operation) =
        label.and_then(|label| label.strip_prefix('/')).filter(|label| OPERATIONS.contains(label))
    {
        return Err(format!(
            "the operation {operation:?} does not belong in the URL; the gateway appends it"
        ));
    }
    match label.is_some_and(is_label) {
        true => Ok(url),
        false => Err(format!("the path of an EST server is {WELL_KNOWN}, or that and one label")),
    }
}

/// A question without credentials; `csr` goes with an enrolment.
pub fn request(url: &EstUrl, operation: Operation, csr: &[u8]) -> Request<'static> {
    let url = url.child(operation.segment());
    match operation {
        Operation::CaCerts => Request { redirects: 2, ..Request::get(url, PKCS7) },
        Operation::CsrAttributes => Request::get(url, "application/csrattrs"),
        Operation::SimpleEnroll | Operation::SimpleReenroll => Request {
            method: Method::Post,
            body: Some(Body {
                content_type: "application/pkcs10",
                transfer_encoding: Some("base64"),
                bytes: encode(csr),
            }),
            ..Request::get(url, PKCS7)
        },
    }
}

/// Base64 in lines that end with CR LF.
fn encode(der: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(LINE);
    lines.flat_map(|line| line.iter().chain(b"\r\n")).copied().collect()
}

/// The DER of a body: base64 with white space anywhere, or DER itself. `None` if it is neither.
fn decode(body: &[u8]) -> Option<Vec<u8>> {
    // No base64 of a SEQUENCE begins with `0`: DER of up to 4 GiB begins with `M`.
    if body.first() == Some(&0x30) {
        return Some(body.to_vec());
    }
    let text: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok()
}

/// The certificates of an answer with status 200.
///
/// # Errors
/// What is wrong with it, one line.
pub fn read_certificates(response: &Response) -> Result<Vec<Vec<u8>>, String> {
    match response.content_type.as_str() {
        PKCS7 => {}
        // RFC 7030 §4.4.2: a key and its certificate, which nobody asked for.
        "multipart/mixed" => return Err("the server sends a private key, which is never taken".to_owned()),
        "" => return Err(format!("the answer has no content type; {PKCS7} is expected")),
        other => {
            return Err(format!(
                "the answer is of type {other}, not {PKCS7}; is the URL that of an EST server?"
            ));
        }
    }
    let der = decode(&response.body).ok_or("the answer is neither base64 nor DER, or incomplete")?;
    let found =
        pkcs7::certificates(&der).ok_or("the answer is no PKCS#7 with certificates, or incomplete")?;
    if found.is_empty() {
        return Err("the answer holds no certificate".to_owned());
    }
    Ok(found.into_iter().map(<[u8]>::to_vec).collect())
}

/// What an EST server wants of a request; `None` if it wants nothing, or cannot be understood.
pub fn read_csr_attributes(response: &Response) -> Option<CsrAttributes> {
    // 204 and 404: nothing is wanted (RFC 7030 §4.5.2).
    if response.status != 200 || response.content_type != "application/csrattrs" {
        return None;
    }
    CsrAttributes::parse(&decode(&response.body)?)
}

/// What the answer to an enrolment means. `known`: certificates out of `cacerts`, which complete
/// the chain.
pub fn judge(response: &Response, csr: &[u8], known: &[Vec<u8>]) -> Outcome {
    match response.status {
        200 => {
            let chain = read_certificates(response)
                .and_then(|issued| chain::order(csr, &issued, known).map_err(|error| error.to_string()));
            match chain {
                Ok(chain) => Outcome::Issued { chain },
                Err(cause) => Outcome::Failed { cause: line(&cause) },
            }
        }
        202 => Outcome::Later { after: response.retry_after.unwrap_or(LATER) },
        429 | 503 if response.retry_after.is_some() => {
            Outcome::Later { after: response.retry_after.unwrap_or(LATER) }
        }
        408 | 429 | 500.. => Outcome::Failed { cause: line(&refusal(response)) },
        400..500 => Outcome::Refused { cause: line(&refusal(response)) },
        204 => Outcome::Failed { cause: "the server answers 204 without a certificate".to_owned() },
        _ => Outcome::Failed { cause: line(&refusal(response)) },
    }
}

/// A refusal in words: the status, what it means here, and what the server says.
pub fn refusal(response: &Response) -> String {
    let meaning = match response.status {
        400 => "the server finds the request bad",
        401 => "the server wants a user name and password, or refuses those it was given",
        403 => "the server does not allow this certificate or user to enrol",
        404 => "the server has nothing at this path; is the label in est-url right?",
        405 | 501 => "the server does not offer this operation",
        429 => "the server has too many requests",
        500..600 => "the server has a fault of its own",
        _ => "an answer EST does not have",
    };
    let said = said(response).map(|said| format!(": {said}")).unwrap_or_default();
    format!("{} {meaning}{said}", response.status)
}

/// What a refusal says in its body, if that is plain text.
fn said(response: &Response) -> Option<String> {
    if !matches!(
        response.content_type.as_str(),
        "text/plain" | "application/json" | "application/problem+json"
    ) {
        return None;
    }
    let text = String::from_utf8_lossy(&response.body);
    let first = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line(first))
}

/// One line of at most 200 bytes without control characters, for causes.
pub fn line(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars() {
        let harmless = crate::telemetry::text::is_harmless(character);
        let character = if harmless { character } else { ' ' };
        if line.len() + character.len_utf8() > 200 {
            break;
        }
        line.push(character);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::chain::tests::{Pki, pki};
    use crate::credential::pkcs7::tests::definite;

    fn answer(status: u16, content_type: &str, body: Vec<u8>) -> Response {
        Response { status, content_type: content_type.to_owned(), body, ..Response::default() }
    }

    fn issued(certificates: &[Vec<u8>]) -> Response {
        answer(200, PKCS7, encode(&definite(certificates)))
    }

    fn cause(outcome: &Outcome) -> &str {
        match outcome {
            Outcome::Refused { cause } | Outcome::Failed { cause } => cause,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_base64_in_lines_under_its_path() {
        let url = EstUrl::parse("https://ca.test/.well-known/est/gateways").unwrap();
        let asked = request(&url, Operation::SimpleEnroll, &[7; 100]);
        assert_eq!(asked.url.path, "/.well-known/est/gateways/simpleenroll");
        let body = asked.body.unwrap();
        assert_eq!(body.content_type, "application/pkcs10");
        assert!(body.bytes.split(|byte| *byte == b'\n').all(|line| line.len() <= LINE + 1));
        assert_eq!(decode(&body.bytes).unwrap(), [7; 100]);
        assert_eq!(request(&url, Operation::CaCerts, &[]).url.path, "/.well-known/est/gateways/cacerts");
    }

    #[test]
    fn a_leaf_alone_is_completed_from_cacerts() {
        let Pki { root, middle, leaf, csr } = pki();
        let outcome = judge(&issued(std::slice::from_ref(&leaf)), &csr, &[root, middle.clone()]);
        assert_eq!(outcome, Outcome::Issued { chain: vec![leaf.clone(), middle] });
        let der = answer(200, PKCS7, definite(std::slice::from_ref(&leaf)));
        assert_eq!(judge(&der, &csr, &[]), Outcome::Issued { chain: vec![leaf] }, "DER without base64");
    }

    #[test]
    fn what_is_no_certificate_for_our_key_is_a_failure_with_its_cause() {
        let (ours, other) = (pki(), pki());
        let whole = issued(std::slice::from_ref(&ours.leaf)).body;
        for (answer, expected) in [
            (issued(&[other.leaf]), "no certificate in the answer has the key of the request"),
            (issued(&[]), "the answer holds no certificate"),
            (answer(200, PKCS7, Vec::new()), "PKCS#7"),
            (answer(200, PKCS7, whole[..whole.len() / 2].to_vec()), "incomplete"),
            (answer(200, PKCS7, b"<html>login</html>".to_vec()), "neither base64 nor DER"),
            (answer(200, "text/html", b"<html>".to_vec()), "of type text/html"),
            (answer(200, "", whole.clone()), "no content type"),
            (answer(200, "multipart/mixed", whole.clone()), "private key"),
            (answer(204, "", Vec::new()), "204"),
            (answer(500, "text/plain", b"database\nline 2".to_vec()), "a fault of its own: database"),
            (answer(503, "", Vec::new()), "503"),
            (answer(302, "", Vec::new()), "302"),
        ] {
            let outcome = judge(&answer, &ours.csr, &[]);
            assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
            assert!(cause(&outcome).contains(expected), "{outcome:?}");
        }
    }

    #[test]
    fn a_refusal_is_told_from_a_fault_and_from_not_yet() {
        let csr = pki().csr;
        for status in [400, 401, 403, 404, 405, 422] {
            let outcome = judge(&answer(status, "text/plain", b"no\x1b[2J".to_vec()), &csr, &[]);
            assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
            assert!(!cause(&outcome).contains('\x1b'));
        }
        let wait = Some(Duration::from_secs(7));
        for (status, after) in [(202, 7), (503, 7), (429, 7)] {
            let answer = Response { retry_after: wait, ..answer(status, "", Vec::new()) };
            assert_eq!(judge(&answer, &csr, &[]), Outcome::Later { after: Duration::from_secs(after) });
        }
        assert_eq!(judge(&answer(202, "", Vec::new()), &csr, &[]), Outcome::Later { after: LATER });
    }

    #[test]
    fn a_cause_is_one_line_of_200_bytes() {
        let text = "ä\n".repeat(500);
        let cause = line(&text);
        assert!(cause.len() <= 200 && !cause.contains('\n'));
        let long = answer(403, "text/plain", b"x".repeat(5_000));
        assert!(cause_of(&long).len() <= 200);
    }

    fn cause_of(response: &Response) -> String {
        cause(&judge(response, &pki().csr, &[])).to_owned()
    }
}
