//! Whether the certificates that the gateway renews by itself will be renewed: the source can be
//! reached, what enrols after an expiry is there and valid, and a renewal comes before the expiry.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::credential::is_closed;
use crate::clock::{UnixTime, WallClock};
use crate::config::{Certificate, Finding, Level, Settings};
use crate::control::snapshot;
use crate::credential::decision::{self, Validity};
use crate::credential::expiry;
use crate::credential::io::watch::PairFiles;
use crate::credential::source_settings::SourceSettings;
use crate::credential::store::Held;
use crate::durable::io::regular;
use crate::northbound::io::files::NOT_ENROLLED;

/// Greatest file of the certificate in use.
const PRESENT_MAX: u64 = 1 << 20;
/// Less than this between the renewal and the expiry leaves no time for a second attempt.
const MARGIN: Duration = Duration::from_secs(600);
/// A source that is silent is waited for so long.
const REACH_WITHIN: Duration = Duration::from_secs(20);

/// Judges each. It reads files and, unless `offline`, asks the sources; it orders nothing. `told`:
/// what the running gateway says of them.
pub fn judge(
    settings: &Settings,
    clock: Arc<dyn WallClock>,
    offline: bool,
    told: &BTreeMap<String, snapshot::Certificate>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for certificate in &settings.certificates {
        let (present, mut found) = present(certificate, &*clock, offline);
        let mut others = bootstrap(certificate, &*clock, present);
        if !offline {
            others.extend(source(settings, certificate, clock.clone(), present));
        }
        if let Some(missing) = found.first_mut().filter(|_| is_missing(certificate)) {
            let reason = told.get(&certificate.settings.name).and_then(|of| of.last_error.as_deref());
            give_cause(missing, &mut others, reason);
        }
        findings.extend(found.into_iter().chain(others));
    }
    if !settings.certificates.is_empty() && !clock.trusted() {
        let message = "nothing is renewed while the clock is not trusted, and no expiry is noticed";
        findings.push(
            Finding::warn("certificate", message)
                .advice("`tombolo clock` shows why; it matters only if it stays so"),
        );
    }
    findings
}

/// That one is missing, with the reason and its way out: one finding for one cause.
fn give_cause(missing: &mut Finding, others: &mut Vec<Finding>, reason: Option<&str>) {
    if let Some(at) = others.iter().position(|finding| finding.level == Level::Fail) {
        let cause = others.remove(at);
        missing.message = format!("{NOT_ENROLLED}: {}", cause.message);
        missing.advice = cause.advice;
    } else if let Some(reason) = reason {
        missing.message = format!("{NOT_ENROLLED}: {reason}");
    }
}

/// Whether there is none in use, as far as this user may see.
pub fn is_missing(certificate: &Certificate) -> bool {
    let file = certificate.settings.current();
    !is_hidden(certificate) && !file.exists()
}

fn is_hidden(certificate: &Certificate) -> bool {
    let settings = &certificate.settings;
    let above = settings.folder.parent();
    is_closed(&settings.current()) || above.is_some_and(|above| above.exists() && is_closed(above))
}

/// How the certificate in use stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Present {
    /// It is valid, and not due yet.
    Valid,
    /// It is due, has expired or is missing.
    Wanted,
}

fn subject(certificate: &Certificate) -> String {
    format!("certificate {}", certificate.settings.name)
}

fn files(certificate: &Certificate, chain: PathBuf, key: PathBuf) -> PairFiles {
    PairFiles { certificate: chain, key, key_password: None, usage: certificate.settings.usage }
}

fn now(clock: &dyn WallClock) -> UnixTime {
    clock.wall().unwrap_or_else(|| clock.floor())
}

fn present(certificate: &Certificate, clock: &dyn WallClock, offline: bool) -> (Present, Vec<Finding>) {
    let settings = &certificate.settings;
    let (file, name, subject) = (settings.current(), settings.name.as_str(), subject(certificate));
    if is_hidden(certificate) {
        let message = format!("{} may not be read by this user", file.display());
        return (Present::Valid, vec![Finding::warn(subject, message).advice("run `sudo tombolo check`")]);
    }
    if is_missing(certificate) {
        let advice = match (settings.by_hand, settings.decision().may_enroll) {
            (true, _) => format!(
                "`tombolo cert csr {name}` prints its signing request, `tombolo cert install {name} FILE` takes the answer"
            ),
            (false, true) => {
                format!("the running gateway enrols; `tombolo cert enroll {name} --wait` asks at once")
            }
            (false, false) => {
                "set bootstrap-certificate-file and bootstrap-key-file, or username and password-file"
                    .to_owned()
            }
        };
        let finding = match offline {
            true => Finding::warn(subject, NOT_ENROLLED),
            false => Finding::fail(subject, NOT_ENROLLED),
        };
        return (Present::Wanted, vec![finding.advice(advice)]);
    }
    let read = regular::read(&file, PRESENT_MAX).map_err(|fault| format!("{}: {fault}", file.display()));
    let held = read.and_then(|bytes| {
        // As the daemon reads it: its key may be a reference to one in a token.
        Held::parse(&Zeroizing::new(bytes)).map_err(|why| format!("{}: {why}", file.display()))
    });
    let validity = match held {
        Ok(held) => held.leaf.validity,
        Err(why) => {
            let advice = "the daemon takes its copy or the certificate before; see `tombolo cert status`";
            return (Present::Wanted, vec![Finding::fail(subject, why).advice(advice)]);
        }
    };
    let (stands, finding) = judge_dates(certificate, validity, now(clock));
    (stands, vec![finding])
}

fn judge_dates(certificate: &Certificate, validity: Validity, now: UnixTime) -> (Present, Finding) {
    let settings = &certificate.settings;
    let (subject, name, ends) = (subject(certificate), settings.name.as_str(), validity.not_after);
    if validity.has_expired(now) {
        let advice =
            format!("`tombolo cert status` shows why no newer one is there; `tombolo cert history {name}`");
        return (Present::Wanted, Finding::fail(subject, format!("expired on {ends}")).advice(advice));
    }
    if settings.by_hand {
        let finding = match expiry::step(validity, now) {
            Some(_) => Finding::warn(subject, format!("expires on {ends}"))
                .advice(format!("`tombolo cert csr {name}` prints the request for the next one")),
            None => Finding::ok(subject, format!("valid until {ends}; the next one comes by hand")),
        };
        return (Present::Valid, finding);
    }
    let due = decision::due(validity, None, &settings.decision());
    let margin = Duration::from_millis(ends.0.saturating_sub(due.0));
    if expiry::step(validity, now).is_some() {
        let message = format!("expires on {ends}, and the next one, due on {due}, is not there");
        let advice =
            format!("`tombolo cert status` shows why; `tombolo cert renew {name} --wait` asks at once");
        return (Present::Wanted, Finding::warn(subject, message).advice(advice));
    }
    if margin < MARGIN {
        let message = format!("valid until {ends}, and renewed only {} s before, on {due}", margin.as_secs());
        let advice = "set renew-at or renew-before so that a failed attempt can be repeated, or have it issued for longer";
        return (Present::Valid, Finding::warn(subject, message).advice(advice));
    }
    let stands = if due <= now { Present::Wanted } else { Present::Valid };
    (stands, Finding::ok(subject, format!("valid until {ends}; the next one is asked for on {due}")))
}

fn bootstrap(certificate: &Certificate, clock: &dyn WallClock, present: Present) -> Vec<Finding> {
    let settings = &certificate.settings;
    let Some((chain, key)) = settings.bootstrap.clone() else { return Vec::new() };
    if is_closed(&chain) || is_closed(&key) || !chain.exists() || !key.exists() {
        return Vec::new(); // the configuration's finding
    }
    let (subject, shown) = (subject(certificate), chain.display().to_string());
    let mut pair = files(certificate, chain, key);
    pair.usage = crate::credential::leaf::Usage::Client;
    let finding = match pair.read(None) {
        Err(why) => Finding::fail(subject, why).advice("without it nothing enrols after an expiry"),
        Ok(held) if held.leaf.validity.has_expired(now(clock)) => {
            let ends = held.leaf.validity.not_after;
            let message = format!("the bootstrap certificate ({shown}) expired on {ends}");
            let advice = "many CAs take it all the same; if yours does not, nothing enrols once the certificate in use has \
                          expired: have a new one issued, or set username and password-file";
            match present {
                Present::Valid => Finding::warn(subject, message).advice(advice),
                Present::Wanted => Finding::fail(subject, message).advice(advice),
            }
        }
        Ok(held) => {
            let ends = held.leaf.validity.not_after;
            Finding::ok(subject, format!("the bootstrap certificate ({shown}) is valid until {ends}"))
        }
    };
    vec![finding]
}

fn source(
    settings: &Settings,
    certificate: &Certificate,
    clock: Arc<dyn WallClock>,
    present: Present,
) -> Option<Finding> {
    let kind = match &certificate.source {
        SourceSettings::Est(_) => "the EST server",
        SourceSettings::Exec(_) => "the program",
        SourceSettings::Manual => return None,
    };
    let source =
        crate::credential::io::source(certificate.source.clone(), clock, &settings.paths.runtime_dir)?;
    let subject = subject(certificate);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Some(Finding::fail(subject, format!("cannot be looked at: {error}"))),
    };
    let reached = runtime.block_on(async { tokio::time::timeout(REACH_WITHIN, source.reach()).await });
    runtime.shutdown_background();
    let why = match reached {
        Ok(Ok(said)) => {
            return Some(Finding::ok(subject, said));
        }
        Ok(Err(why)) => why,
        Err(_) => format!("no answer within {} s", REACH_WITHIN.as_secs()),
    };
    let message = format!("{kind} cannot be used: {why}");
    Some(match present {
        Present::Valid => Finding::warn(subject, message).advice("it is needed at the next renewal"),
        Present::Wanted => Finding::fail(subject, message)
            .advice("no certificate can be had until it is; it is asked again by itself"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> Finding {
        Finding::fail("certificate uplink", NOT_ENROLLED).advice("`tombolo cert enroll uplink --wait`")
    }

    #[test]
    fn a_certificate_that_was_never_issued_is_one_failure_with_its_cause_and_one_way_out() {
        let source = Finding::fail("certificate uplink", "the EST server cannot be used: no route");
        let mut others = vec![
            Finding::ok("certificate uplink", "the bootstrap certificate is valid"),
            source.advice("it is asked again by itself"),
        ];
        let mut found = missing();
        give_cause(&mut found, &mut others, Some("no route"));
        assert_eq!(found.message, format!("{NOT_ENROLLED}: the EST server cannot be used: no route"));
        assert_eq!(found.advice, "it is asked again by itself");
        assert!(others.len() == 1 && others[0].level == Level::Ok, "{others:?}");
        // Where nothing fails here, the running gateway knows why.
        let mut found = missing();
        give_cause(&mut found, &mut others, Some("the source refuses: 403"));
        assert_eq!(found.message, format!("{NOT_ENROLLED}: the source refuses: 403"));
        assert_eq!((found.level, found.advice), (Level::Fail, missing().advice));
        let mut found = missing();
        give_cause(&mut found, &mut others, None);
        assert_eq!(found, missing());
    }
}
