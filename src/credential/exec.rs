//! A program that issues certificates: the signing request in PEM on its standard input, the chain
//! in PEM, leaf first or not, on its standard output.
//!
//! | exit status | meaning |
//! |---|---|
//! | 0 | standard output has the chain |
//! | 75 (`EX_TEMPFAIL`) | not yet, for example awaiting approval; standard output may have the seconds to wait |
//! | 77 (`EX_NOPERM`) | refused: asking again soon is of no use |
//! | any other, a signal, the time limit | failed: it is tried again with back-off |
//!
//! The last line of its standard error is the cause that is shown. Its environment is
//! [`environment`]; it is started without a shell, in a process group of its own, inside the
//! service's sandbox. [`io::exec`](super::io::exec) starts it.

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::chain;
use super::est::line;
use super::source::{OrderKind, Outcome};

/// Bytes taken from standard output.
pub const OUTPUT_MAX: usize = 128 * 1024;
/// Bytes kept of the end of standard error.
pub const ERROR_MAX: usize = 4 * 1024;
/// What PEM calls every kind of it (RFC 7468 §10, §11; RFC 5915).
const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";
/// `sysexits.h`
const EX_TEMPFAIL: i32 = 75;
const EX_NOPERM: i32 = 77;
/// The wait after exit status 75 if standard output has no number.
const LATER: Duration = Duration::from_secs(300);
/// Variables of the daemon that the program gets, if they are set.
pub const INHERITED: [&str; 13] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The program and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecSettings {
    /// The program, an absolute path, and its arguments.
    pub command: Vec<String>,
    /// `5 s ..= 10 min`
    pub timeout: Duration,
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

/// What the program is told beside [`INHERITED`]. `folder`: its working directory, removed
/// afterwards; `current`: the present chain and key in it, if there are any.
pub fn environment(
    name: &str,
    kind: OrderKind,
    folder: &Path,
    current: Option<(&Path, &Path)>,
) -> Vec<(&'static str, String)> {
    let kind = match kind {
        OrderKind::Enroll => "enroll",
        OrderKind::Reenroll => "reenroll",
    };
    let mut environment = vec![
        ("TOMBOLO_CERT_NAME", name.to_owned()),
        ("TOMBOLO_CERT_KIND", kind.to_owned()),
        ("TOMBOLO_CERT_FOLDER", folder.display().to_string()),
    ];
    if let Some((certificate, key)) = current {
        environment.push(("TOMBOLO_CERT_CURRENT_FILE", certificate.display().to_string()));
        environment.push(("TOMBOLO_CERT_CURRENT_KEY_FILE", key.display().to_string()));
    }
    environment
}

/// What came of it. `output` is all of standard output, `error` the end of standard error.
pub fn judge(exit: Exit, output: &[u8], error: &[u8], csr: &[u8]) -> Outcome {
    let said = last_line(error);
    let with = |what: String| match &said {
        Some(said) => line(&format!("{what}: {said}")),
        None => line(&what),
    };
    match exit {
        Exit::Status(0) => match read(output, csr) {
            Ok(chain) => Outcome::Issued { chain },
            Err(cause) => Outcome::Failed { cause: line(&cause) },
        },
        Exit::Status(EX_TEMPFAIL) => Outcome::Later { after: seconds(output).unwrap_or(LATER) },
        Exit::Status(EX_NOPERM) => Outcome::Refused { cause: with("the program refuses".to_owned()) },
        Exit::Status(status) => {
            Outcome::Failed { cause: with(format!("the program ended with exit status {status}")) }
        }
        Exit::Signal(signal) => {
            Outcome::Failed { cause: with(format!("the program ended by signal {signal}")) }
        }
    }
}

fn read(output: &[u8], csr: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    // One that was made elsewhere is known elsewhere; the request's is the gateway's own.
    if output.windows(PRIVATE_KEY.len()).any(|window| window == PRIVATE_KEY) {
        return Err(
            "the program's output has a private key; the gateway has made its own, so the program must print the chain \
             alone"
                .to_owned(),
        );
    }
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(output) {
        let certificate = certificate.map_err(|_| "the program's output is no PEM")?;
        if found.len() == super::pkcs7::CERTIFICATES_MAX {
            return Err("the program's output has more than 32 certificates".to_owned());
        }
        found.push(certificate.to_vec());
    }
    if found.is_empty() {
        return Err(
            "the program ended with exit status 0, but its output holds no certificate in PEM".to_owned()
        );
    }
    chain::order(csr, &found, &[]).map_err(|error| {
        format!("the program's output is of no use: {}", error.to_string().replace("the answer", "it"))
    })
}

fn seconds(output: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(output.get(..output.len().min(32))?).ok()?;
    Some(Duration::from_secs(text.trim().parse().ok()?))
}

/// The last line that is not empty.
fn last_line(error: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(error);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::chain::tests::{Pki, pki};
    use crate::proto::pem;

    #[test]
    fn a_chain_on_standard_output_is_issued() {
        let Pki { middle, leaf, csr, .. } = pki();
        let output = pem::chain(&[middle.clone(), leaf.clone()]);
        assert_eq!(
            judge(Exit::Status(0), &output, b"noise", &csr),
            Outcome::Issued { chain: vec![leaf, middle] }
        );
    }

    #[test]
    fn the_exit_status_tells_a_refusal_from_a_fault_and_from_not_yet() {
        let csr = pki().csr;
        let of =
            |status, output: &[u8]| judge(Exit::Status(status), output, b"first\nquota used up\n\n", &csr);
        assert_eq!(of(75, b"90\n"), Outcome::Later { after: Duration::from_secs(90) });
        assert_eq!(of(75, b""), Outcome::Later { after: LATER });
        assert_eq!(of(77, b""), Outcome::Refused { cause: "the program refuses: quota used up".to_owned() });
        let cause = "the program ended with exit status 1: quota used up".to_owned();
        assert_eq!(of(1, b""), Outcome::Failed { cause });
        let killed = judge(Exit::Signal(9), b"", b"", &csr);
        assert_eq!(killed, Outcome::Failed { cause: "the program ended by signal 9".to_owned() });
    }

    #[test]
    fn output_without_our_certificate_is_a_failure() {
        let (ours, other) = (pki(), pki());
        for output in [
            Vec::new(),
            b"<html>".to_vec(),
            pem::chain(&[other.leaf]),
            b"-----BEGIN CERTIFICATE-----\n".to_vec(),
        ] {
            let outcome = judge(Exit::Status(0), &output, b"", &ours.csr);
            assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
        }
    }

    #[test]
    fn a_private_key_in_the_output_is_refused_and_said() {
        let Pki { middle, leaf, csr, .. } = pki();
        for kind in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"] {
            let mut output = pem::chain(&[leaf.clone(), middle.clone()]);
            output.extend(format!("-----BEGIN {kind}-----\nYWJj\n-----END {kind}-----\n").into_bytes());
            let outcome = judge(Exit::Status(0), &output, b"", &csr);
            let Outcome::Failed { cause } = outcome else { panic!("{kind}: {outcome:?}") };
            assert!(cause.contains("private key"), "{cause}");
        }
    }

    #[test]
    fn a_cause_has_no_control_characters() {
        let Outcome::Failed { cause } = judge(Exit::Status(1), b"", b"\x1b[31mred\x1b[0m", b"") else {
            panic!()
        };
        assert!(!cause.contains('\x1b'), "{cause}");
    }
}
