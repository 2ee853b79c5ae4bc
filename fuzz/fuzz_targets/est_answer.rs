//! Answers of an EST server: any body with any of the types and statuses that EST has, a PKCS#7
//! as it is, and attributes. No panic; what is issued is a chain for the key of the request, of at
//! most eight certificates; every cause is one line of at most 200 bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tombolo::credential::csr_attributes::CsrAttributes;
use tombolo::credential::source::Outcome;
use tombolo::credential::{chain, est, pkcs7};
use tombolo::https::challenge::Challenges;
use tombolo::https::message::Response;
use tombolo::https::retry_after;
use tombolo::https::url::HttpsUrl;
use tombolo::proto::dtls::server::outline::Outline;

/// A signing request and, in PKCS#7, the certificate issued for it.
const REQUEST: &[u8] = include_bytes!("../corpus/est_request.der");
const STATUSES: [u16; 8] = [200, 200, 200, 202, 204, 401, 403, 503];
const TYPES: [&str; 4] = ["application/pkcs7-mime", "application/pkcs7-mime", "text/plain", "application/csrattrs"];

fuzz_target!(|data: &[u8]| {
    let Some((&first, body)) = data.split_first() else { return };
    let response = Response {
        status: STATUSES[usize::from(first & 7)],
        content_type: TYPES[usize::from(first >> 3 & 3)].to_owned(),
        body: body.to_vec(),
        ..Response::default()
    };
    match est::judge(&response, REQUEST, &[]) {
        Outcome::Issued { chain } => {
            assert!((1..=chain::CHAIN_MAX).contains(&chain.len()));
            let leaf = Outline::read(&chain[0]).expect("it was read");
            assert_eq!(Some(leaf.key), chain::request_key(REQUEST));
        }
        Outcome::Later { .. } => {}
        Outcome::Refused { cause } | Outcome::Failed { cause } => {
            assert!(cause.len() <= 200 && !cause.chars().any(char::is_control));
        }
    }
    let _ = est::read_csr_attributes(&response);
    let _ = CsrAttributes::parse(body);
    if let Some(found) = pkcs7::certificates(body) {
        assert!(found.len() <= pkcs7::CERTIFICATES_MAX);
    }
    let _ = (chain::request_key(body), chain::request_attributes(body));
    if let Ok(text) = std::str::from_utf8(body) {
        let _ = retry_after::parse(text, Some("Wed, 21 Oct 2015 07:28:00 GMT"));
        let mut challenges = Challenges::default();
        challenges.add(text);
        if let Ok(url) = HttpsUrl::parse(text) {
            assert_eq!(HttpsUrl::parse(&url.to_string()).as_ref(), Ok(&url));
        }
    }
});
