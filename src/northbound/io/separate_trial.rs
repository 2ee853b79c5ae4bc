//! A certificate is tried with a connection of its own, beside the one that stands: for brokers
//! that let this gateway have a second client id ([`Settings::probe_client_id`]). Files that were
//! changed under a connection that stands are tried in the same way.
//!
//! It says CONNECT, waits for CONNACK and leaves. It has no will, subscribes to nothing and
//! publishes nothing, so that the broker's rules need to allow it only to connect.
//!
//! Under the gateway's own client id it keeps the session that the broker has for it. If the broker
//! refuses it, which it decides before the client id counts (MQTT 5.0 §3.1.4), the connection that
//! stands goes on; if it accepts it, that one ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::transport::{self, ConnectError, Connected, Transport};
use super::{LAST_WORDS_WITHIN, classify};
use crate::clock::WallClock;
use crate::northbound::ending::{Closed, Ending};
use crate::northbound::reason_code::{self, CodeClass};
use crate::northbound::session::{Ended, Event, Opening, Session};
use crate::northbound::settings::{Protocol, Settings};
use crate::northbound::uplink::{TRIAL_WITHIN, TrialVerdict, of_session, of_transport};
use crate::northbound::wire::Version;

/// Tries `identity`, a chain and its key, or without it the one of `settings`, under the client id
/// `client_id`. `spoken`: the MQTT that the connection speaks, if it has ever stood.
pub async fn separate_trial(
    settings: &Settings,
    clock: Arc<dyn WallClock>,
    client_id: &str,
    identity: Option<(PathBuf, PathBuf)>,
    spoken: Option<Version>,
) -> TrialVerdict {
    let keeps_session = settings.client_id == client_id && !settings.commands.is_empty();
    let mut settings = settings.clone();
    settings.client_id = client_id.to_owned();
    if let (Some(tls), Some(identity)) = (&mut settings.tls, identity) {
        (tls.identity, tls.key_password) = (Some(identity), None);
    }
    let version = match (spoken, settings.protocol) {
        (_, Protocol::V5) | (None, Protocol::Auto) => Version::V5,
        (_, Protocol::V3_1_1) => Version::V3_1_1,
        (Some(version), Protocol::Auto) => version,
    };
    let tried = async {
        match one(&settings, clock.clone(), version, keeps_session).await {
            // It does not say anything of the certificate.
            Err(Refusal::Version) if settings.protocol == Protocol::Auto && version == Version::V5 => {
                one(&settings, clock, Version::V3_1_1, keeps_session).await
            }
            tried => tried,
        }
    };
    match timeout(TRIAL_WITHIN, tried).await {
        Ok(Ok(())) => TrialVerdict::Accepted,
        Ok(Err(Refusal::Verdict(verdict))) => verdict,
        Ok(Err(Refusal::Version)) => {
            TrialVerdict::Fault("the broker does not take this version of MQTT".to_owned())
        }
        Err(_) => TrialVerdict::Fault(format!("no CONNACK within {} s", TRIAL_WITHIN.as_secs())),
    }
}

enum Refusal {
    Version,
    Verdict(TrialVerdict),
}

async fn one(
    settings: &Settings,
    clock: Arc<dyn WallClock>,
    version: Version,
    keeps_session: bool,
) -> Result<(), Refusal> {
    let Connected { transport, password, .. } = match transport::connect(settings, clock, &[]).await {
        Ok(connected) => connected,
        Err(ConnectError { text, unwelcome, alert, .. }) => {
            return Err(Refusal::Verdict(match unwelcome || alert {
                true => TrialVerdict::Refused(text),
                false => TrialVerdict::Fault(text),
            }));
        }
    };
    let opening = Opening {
        version,
        client_id: settings.client_id.clone(),
        keep_alive: settings.keep_alive,
        username: settings.username.clone(),
        password,
        will: None,
        session_expiry: Some(settings.session_expiry).filter(|_| keeps_session),
    };
    match transport {
        Transport::Plain(stream) => converse(stream, &opening, &settings.host).await,
        Transport::Tls(stream) => converse(*stream, &opening, &settings.host).await,
    }
}

async fn converse<S>(mut stream: S, opening: &Opening, host: &str) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = Session::new(Instant::now(), opening);
    let mut input = [0u8; 4096];
    loop {
        let out = std::mem::take(session.outgoing());
        // So little is written that it fits; a failure shows when reading.
        let _ = async {
            stream.write_all(&out).await?;
            stream.flush().await
        }
        .await;
        let closed = match stream.read(&mut input).await {
            Ok(0) => Closed::ByPeer,
            Ok(length) => {
                session.handle_bytes(Instant::now(), &input[..length]);
                match outcome(&mut session) {
                    None => continue,
                    Some(Err(refusal)) => return Err(refusal),
                    Some(Ok(())) => {
                        session.disconnect(false);
                        let out = std::mem::take(session.outgoing());
                        let goodbye = async {
                            stream.write_all(&out).await?;
                            stream.shutdown().await
                        };
                        let _ = timeout(LAST_WORDS_WITHIN, goodbye).await; // a courtesy
                        return Ok(());
                    }
                }
            }
            // An alert is the broker's word on the certificate, whatever it is called.
            Err(error) if transport::is_alert(&error) => match classify(Some(error), host) {
                Closed::Failed(what) => Closed::Unwelcome(what),
                other => other,
            },
            Err(error) => classify(Some(error), host),
        };
        let what = Ending::of_transport(closed.clone(), None, false).what;
        return Err(Refusal::Verdict(of_transport(&closed, &what)));
    }
}

/// `None`: the broker has not decided yet.
fn outcome(session: &mut Session) -> Option<Result<(), Refusal>> {
    while let Some(event) = session.poll_event() {
        match event {
            Event::Accepted { .. } => return Some(Ok(())),
            Event::Ended(ended) => {
                if matches!(&ended, Ended::Refused(answer) if reason_code::class(answer.code) == CodeClass::Version)
                {
                    return Some(Err(Refusal::Version));
                }
                let what = Ending::of_session(ended.clone(), None).what;
                return Some(Err(Refusal::Verdict(of_session(&ended, &what))));
            }
            _ => {}
        }
    }
    None
}
