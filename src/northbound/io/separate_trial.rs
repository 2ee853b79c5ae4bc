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

/// What came of such a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeparateVerdict {
    /// Whether the broker accepts it.
    pub verdict: TrialVerdict,
    /// It says that it does not admit the client id (0x85, or 2 in MQTT 3.1.1).
    pub refuses_client_id: bool,
}

impl From<TrialVerdict> for SeparateVerdict {
    fn from(verdict: TrialVerdict) -> SeparateVerdict {
        SeparateVerdict { verdict, refuses_client_id: false }
    }
}

/// Tries `identity`, a chain and its key, or without it the one of `settings`, under the client id
/// `client_id`. `spoken`: the MQTT that the connection speaks, if it has ever stood.
pub async fn separate_trial(
    settings: &Settings,
    clock: Arc<dyn WallClock>,
    client_id: &str,
    identity: Option<(PathBuf, PathBuf)>,
    spoken: Option<Version>,
) -> SeparateVerdict {
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
        Ok(Ok(())) => TrialVerdict::Accepted.into(),
        Ok(Err(Refusal::Verdict(verdict))) => verdict.into(),
        Ok(Err(Refusal::ClientId(verdict))) => SeparateVerdict { verdict, refuses_client_id: true },
        Ok(Err(Refusal::Version)) => {
            TrialVerdict::Fault("the broker does not take this version of MQTT".to_owned()).into()
        }
        Err(_) => TrialVerdict::Fault(format!("no CONNACK within {} s", TRIAL_WITHIN.as_secs())).into(),
    }
}

enum Refusal {
    Version,
    /// It is the client id that is not admitted.
    ClientId(TrialVerdict),
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
        session_expiry: match keeps_session {
            true => Some(settings.session_expiry),
            false => settings.session_beside(version),
        },
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
                let verdict = of_session(&ended, &what);
                let is_of_id =
                    matches!(&ended, Ended::Refused(answer) if reason_code::is_bad_client_id(answer.code));
                return Some(Err(if is_of_id {
                    Refusal::ClientId(verdict)
                } else {
                    Refusal::Verdict(verdict)
                }));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What a broker says that answers CONNECT with these bytes.
    fn of_connack(version: Version, connack: &[u8]) -> Result<(), Refusal> {
        let opening = Opening {
            version,
            client_id: "probe".to_owned(),
            keep_alive: Duration::from_secs(60),
            username: None,
            password: None,
            will: None,
            session_expiry: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, mut broker) = tokio::io::duplex(4096);
            let answers = async {
                let mut connect = [0; 256];
                assert!(broker.read(&mut connect).await.unwrap() > 0);
                broker.write_all(connack).await.unwrap();
                // Until we are gone.
                while broker.read(&mut connect).await.is_ok_and(|length| length > 0) {}
            };
            let (tried, ()) = tokio::join!(
                async {
                    let mut ours = ours;
                    converse(&mut ours, &opening, "broker").await
                },
                answers
            );
            tried
        })
    }

    #[test]
    fn a_client_id_that_is_not_admitted_is_told_from_every_other_refusal() {
        for (version, connack) in [
            (Version::V5, &[0x20, 3, 0, reason_code::CLIENT_IDENTIFIER_NOT_VALID, 0][..]),
            (Version::V3_1_1, &[0x20, 2, 0, reason_code::return_code::IDENTIFIER_REJECTED]),
        ] {
            let tried = of_connack(version, connack);
            assert!(matches!(tried, Err(Refusal::ClientId(TrialVerdict::Refused(_)))), "{version:?}");
        }
        for code in [reason_code::BAD_USER_NAME_OR_PASSWORD, reason_code::NOT_AUTHORIZED, reason_code::BANNED]
        {
            let tried = of_connack(Version::V5, &[0x20, 3, 0, code, 0]);
            assert!(matches!(tried, Err(Refusal::Verdict(TrialVerdict::Refused(_)))), "{code:#x}");
        }
        assert!(of_connack(Version::V5, &[0x20, 3, 0, 0, 0]).is_ok());
    }
}
