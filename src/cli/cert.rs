//! `tombolo cert`: the certificates of the running gateway, and how they are renewed.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::args::{CertCommand, CertInstallArguments};
use super::error::CommandError;
use super::output::{patiently, span};
use super::{Context, note};
use crate::control::io::client::{ANSWER, Client, SLOW_ANSWER};
use crate::control::protocol::Request;
use crate::control::snapshot::Certificate;
use crate::credential::leaf::Leaf;
use crate::credential::store::chain_pem;
use crate::proto::der::SEQUENCE;

/// How long `--wait` waits: a source that asks for patience is not waited for any longer.
const WAIT: Duration = Duration::from_secs(600);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

type Certificates = BTreeMap<String, Certificate>;

/// Runs the command.
///
/// # Errors
/// [`CommandError::Failed`] if the daemon does not run or refuses, or the renewal that is waited
/// for fails.
pub fn run(context: &Context, command: &CertCommand) -> Result<(), CommandError> {
    match command {
        CertCommand::Status => status(context),
        CertCommand::Renew(arguments) => {
            let request = Request::CertRenew { name: arguments.name.clone() };
            let begun = "the next certificate is asked for";
            begin(context, &arguments.name, &request, arguments.wait, begun)
        }
        CertCommand::Enroll(arguments) => {
            let request = Request::CertEnroll { name: arguments.name.clone(), cancel: arguments.cancel };
            if arguments.cancel {
                let certificate: Certificate = context.daemon()?.ask_for(&request, ANSWER)?;
                let what = "the enrolment that was asked for is taken back";
                return said(context, &arguments.name, &certificate, what);
            }
            let begun = "a certificate is asked for, as if it were the first";
            begin(context, &arguments.name, &request, arguments.wait, begun)
        }
        CertCommand::Csr(arguments) => {
            let request = Request::CertCsr { name: arguments.name.clone() };
            let value = context.daemon()?.ask(&request, SLOW_ANSWER)?;
            if context.out.json {
                return Ok(context.out.object(&value)?);
            }
            Ok(context.out.text(value["csr"].as_str().unwrap_or_default())?)
        }
        CertCommand::Install(arguments) => install(context, arguments),
        CertCommand::Probe(arguments) => {
            let request = Request::CertProbe { name: arguments.name.clone() };
            begin(context, &arguments.name, &request, true, "")
        }
        CertCommand::Rollback(arguments) => {
            let request = Request::CertRollback { name: arguments.name.clone(), force: arguments.force };
            let certificate: Certificate = context.daemon()?.ask_for(&request, SLOW_ANSWER)?;
            said(context, &arguments.name, &certificate, "the certificate before is in use again")
        }
        CertCommand::History(arguments) => {
            let request = Request::CertHistory { name: arguments.name.clone() };
            let value = context.daemon()?.ask(&request, ANSWER)?;
            if context.out.json {
                return Ok(context.out.object(&value)?);
            }
            let text = |entry: &serde_json::Value, key: &str| entry[key].as_str().map(str::to_owned);
            let rows = value["events"].as_array().into_iter().flatten().map(|entry| {
                let at = text(entry, "at").unwrap_or_else(|| "the clock was not trusted".to_owned());
                vec![at, text(entry, "what").unwrap_or_default()]
            });
            Ok(context.out.table(&rows.collect::<Vec<_>>())?)
        }
    }
}

fn status(context: &Context) -> Result<(), CommandError> {
    let value = context.daemon()?.ask(&Request::CertStatus {}, ANSWER)?;
    if context.out.json {
        return Ok(context.out.object(&value)?);
    }
    let certificates: Certificates = serde_json::from_value(value)
        .map_err(|error| CommandError::failed(format_args!("the daemon's answer cannot be read: {error}")))?;
    if certificates.is_empty() {
        note(
            "no certificate is kept: [certificate.NAME] with certificate in [upstream] or [coap] configures one that renews \
             itself",
        );
        return Ok(());
    }
    let head = ["certificate", "state", "valid until", "days", "due", "serial"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    rows.extend(certificates.iter().map(|(name, of)| {
        let days = of.days_left.map(|days| days.to_string());
        vec![name.clone(), of.state.clone(), or(&of.not_after), or(&days), or(&of.due), or(&of.serial)]
    }));
    context.out.table(&rows)?;
    for (name, of) in &certificates {
        let retry = of.retry_in_s.map(|left| match of.state.as_str() {
            "staged" => format!("the new one is tried in {}", span(left)),
            "committing" => format!("it is written again in {}", span(left)),
            _ => format!("the source is asked again in {}", span(left)),
        });
        for text in of.last_error.iter().chain(&of.next).chain(&retry) {
            note(format_args!("{name}: {text}"));
        }
    }
    Ok(())
}

/// Longest file of a chain.
const CHAIN_MAX: u64 = 60 * 1024;

fn install(context: &Context, arguments: &CertInstallArguments) -> Result<(), CommandError> {
    let file = &arguments.file;
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(CHAIN_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(CHAIN_MAX + 1).read_to_end(&mut bytes))
    };
    let shown = file.display();
    read.map_err(|error| CommandError::failed(format_args!("{shown}: cannot be read: {error}")))?;
    if bytes.len() as u64 > CHAIN_MAX {
        return Err(CommandError::Failed(format!(
            "{shown}: has more than {CHAIN_MAX} bytes; that is no chain"
        )));
    }
    let pem = pem_of(bytes).map_err(|what| CommandError::Failed(format!("{shown}: {what}")))?;
    if pem.contains("PRIVATE KEY") {
        return Err(CommandError::Failed(format!(
            "{shown}: has a private key; the gateway has made its own, so take it out of the file"
        )));
    }
    let name = &arguments.name;
    let request = Request::CertInstall { name: name.clone(), pem };
    begin(context, name, &request, arguments.wait, "it is stored, and proven before it is used")
}

/// What a CA issued, in PEM: one certificate in DER is taken, too.
fn pem_of(bytes: Vec<u8>) -> Result<String, &'static str> {
    if bytes.first() == Some(&SEQUENCE) {
        return match Leaf::parse(&bytes) {
            Some(_) => Ok(chain_pem(&[bytes])),
            None => Err(
                "is DER, and not one certificate; write the chain as PEM (of a PKCS #7 file: `openssl pkcs7 -inform \
                         DER -print_certs`)",
            ),
        };
    }
    String::from_utf8(bytes).map_err(|_| "is neither PEM nor a certificate in DER")
}

/// Whether the certificate with this serial number is in the chain.
fn has_serial(pem: &str, serial: Option<&str>) -> bool {
    let mut found = CertificateDer::pem_slice_iter(pem.as_bytes()).flatten();
    found.any(|der| Leaf::parse(&der).is_some_and(|of| Some(&*of.serial_text()) == serial))
}

/// Asks for it, and waits until the certificate is in use if `wait` says so.
fn begin(
    context: &Context,
    name: &str,
    request: &Request,
    wait: bool,
    what: &str,
) -> Result<(), CommandError> {
    let mut daemon = context.daemon()?;
    let before: Certificates = daemon.ask_for(&Request::CertStatus {}, ANSWER)?;
    let serial = before.get(name).and_then(|of| of.serial.clone());
    let begun: Certificate = daemon.ask_for(request, SLOW_ANSWER)?;
    if !context.out.json
        && let Some(next) = &begun.next
    {
        note(format_args!("{name}: {next}"));
    }
    match wait {
        true => {
            // The one in use with another chain keeps its serial number.
            let is_again = match request {
                Request::CertInstall { pem, .. } => has_serial(pem, serial.as_deref()),
                _ => false,
            };
            let text = format!("waiting until the new certificate {name} is in use");
            patiently(&text, || until_in_use(context, daemon, name, (serial, is_again), begun))
        }
        false => said(context, name, &begun, what),
    }
}

/// `serial`: of the one that was in use before, and whether it is that again.
fn until_in_use(
    context: &Context,
    mut daemon: Client,
    name: &str,
    (serial, is_again): (Option<String>, bool),
    begun: Certificate,
) -> Result<(), CommandError> {
    let until = Instant::now() + WAIT;
    let mut certificate = begun;
    loop {
        let failed = |what: String| Err(CommandError::Failed(format!("certificate {name}: {what}")));
        let reason = certificate.last_error.as_deref().unwrap_or("it is not asked for yet");
        match certificate.state.as_str() {
            "valid" | "committed"
                if certificate.serial != serial || is_again && certificate.last_error.is_none() =>
            {
                return said(context, name, &certificate, "the new certificate is in use");
            }
            "ordering" | "staged" | "probing" | "comparing" | "committing" if Instant::now() < until => {}
            state @ ("ordering" | "staged" | "probing" | "comparing" | "committing") => {
                let why = certificate.last_error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                return failed(format!(
                    "still {state} after {} s{why}; it goes on by itself",
                    WAIT.as_secs()
                ));
            }
            _ => return failed(format!("no new certificate: {reason}")),
        }
        std::thread::sleep(LOOK_EVERY);
        let mut now: Certificates = daemon.ask_for(&Request::CertStatus {}, ANSWER)?;
        certificate = now.remove(name).ok_or_else(|| {
            CommandError::Failed(format!("certificate {name}: it is not configured any more"))
        })?;
    }
}

fn said(context: &Context, name: &str, certificate: &Certificate, what: &str) -> Result<(), CommandError> {
    if context.out.json {
        let value = serde_json::to_value(certificate).map_err(CommandError::failed)?;
        return Ok(context.out.object(&value)?);
    }
    let until = certificate.not_after.as_deref().map(|at| format!(", valid until {at}")).unwrap_or_default();
    let serial = certificate.serial.as_deref().map(|of| format!(" (serial {of}{until})")).unwrap_or_default();
    Ok(context.out.line(format!("{name}: {what}{serial}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_certificate_in_der_is_taken_and_what_is_neither_der_nor_pem_is_named() {
        let key = rcgen::KeyPair::generate().unwrap();
        let der = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
        let pem = pem_of(der.clone()).unwrap();
        let serial = Leaf::parse(&der).unwrap().serial_text();
        assert!(has_serial(&pem, Some(&serial)) && !has_serial(&pem, Some("00")) && !has_serial(&pem, None));
        assert_eq!(pem_of(pem.clone().into_bytes()), Ok(pem));
        assert!(pem_of(key.serialize_der()).unwrap_err().contains("not one certificate"));
        assert!(pem_of(vec![0xff, 0xfe]).unwrap_err().contains("neither PEM nor"));
    }
}
