//! Commands to the gateway itself from the broker: answered as the control socket answers.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Desk;
use crate::config::certificate::parse_key_hash;
use crate::config::registry::io as registry;
use crate::control::api::{Asker, Call, Reply};
use crate::control::protocol::{Code, Failure, Request, Response};
use crate::daemon::commands::RemoteCall;
use crate::daemon::hub::Hub;
use crate::downlink::command::{Outcome, Status};
use crate::downlink::parts::ENVELOPE_MAX;
use crate::downlink::remote::{self, Verb};
use crate::message::ContentFormat;
use crate::proto::coap;

/// An answer that takes longer is `timeout`.
const WITHIN: Duration = Duration::from_secs(300);
/// Commands that are carried out at once; more wait where they came in, and are refused there when
/// too many wait. A disk that hangs keeps no more than these.
const UNDER_WAY_MAX: usize = 16;
/// Longest answer, in bytes.
const ANSWER_MAX: usize = 48 << 10;

/// A change of the registry under way.
pub(super) struct RegistryChange {
    call: RemoteCall,
    job: JoinHandle<Result<(), String>>,
    _under_way: Rc<()>,
}

impl Desk {
    /// Once a second: takes what came, and goes on with changes of the registry that are written.
    pub(super) async fn care_for_remote(&mut self) {
        let (done, waiting) = std::mem::take(&mut self.registry_changes)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.job.is_finished());
        self.registry_changes = waiting;
        for RegistryChange { call, job, .. } in done {
            match job.await {
                Ok(Ok(())) => self.ask(call, Request::Reload {}),
                Ok(Err(why)) => self.answer(&call, &failed(coap::Code::BAD_REQUEST, why)),
                Err(error) => {
                    self.answer(&call, &failed(coap::Code::INTERNAL_SERVER_ERROR, error.to_string()));
                }
            }
        }
        // The desk holds it once itself.
        while Rc::strong_count(&self.remote_under_way) <= UNDER_WAY_MAX {
            let call = self.shared.hub.borrow_mut().commands.poll_remote();
            let Some(call) = call else { break };
            log::info!(verb = call.verb.as_str(), bytes = call.payload.len(), audit = "remote"; "command to the gateway from the broker");
            self.take_remote(call);
        }
    }

    fn take_remote(&mut self, call: RemoteCall) {
        let request = match call.verb {
            Verb::Reload => Request::Reload {},
            Verb::Check => Request::ConfigCheck {},
            Verb::Status => Request::Status {},
            Verb::UpdateCheck => Request::UpdateCheck {},
            Verb::CertRenew => match remote::named(&call.payload) {
                Ok(name) => Request::CertRenew { name },
                Err(why) => return self.answer(&call, &failed(coap::Code::BAD_REQUEST, why)),
            },
            Verb::DeviceAdd => {
                let device = match remote::new_device(&call.payload, parse_key_hash) {
                    Ok(device) => device,
                    Err(why) => return self.answer(&call, &failed(coap::Code::BAD_REQUEST, why)),
                };
                let loaded = self.loaded.clone();
                return self.change(call, move || registry::add(&loaded, &device).map(drop));
            }
            Verb::DeviceRemove => {
                let id = match remote::named(&call.payload) {
                    Ok(id) => id,
                    Err(why) => return self.answer(&call, &failed(coap::Code::BAD_REQUEST, why)),
                };
                let loaded = self.loaded.clone();
                return self.change(call, move || registry::remove(&loaded, &id).map(drop));
            }
            Verb::DeviceRekey => {
                let (id, credential) = match remote::new_credential(&call.payload, parse_key_hash) {
                    Ok(new) => new,
                    Err(why) => return self.answer(&call, &failed(coap::Code::BAD_REQUEST, why)),
                };
                let loaded = self.loaded.clone();
                let work = move || {
                    registry::change(&loaded, id.as_str(), |entry| {
                        let device = &mut entry.device;
                        if device.certificate.is_none() && device.public_key.is_none() {
                            return Err(format!(
                                "has no certificate or public key; on the gateway `tombolo device rekey {} --psk` gives it \
                                 another pre-shared key, and with --password another password",
                                device.id
                            ));
                        }
                        (device.certificate, device.public_key) =
                            (credential.certificate, credential.public_key);
                        Ok(())
                    })
                };
                return self.change(call, move || work().map(drop));
            }
            Verb::SupportBundle => return self.support_bundle(call),
        };
        self.ask(call, request);
    }

    /// Changes the registry away from the path's thread.
    fn change(
        &mut self,
        call: RemoteCall,
        work: impl FnOnce() -> Result<(), Box<crate::config::Finding>> + Send + 'static,
    ) {
        let job = tokio::task::spawn_blocking(move || work().map_err(|finding| finding.to_string()));
        self.registry_changes.push(RegistryChange { call, job, _under_way: self.remote_under_way.clone() });
    }

    /// Asks as over the control socket, and answers when that is answered.
    fn ask(&mut self, call: RemoteCall, request: Request) {
        let (reply, response) = Reply::channel_to(Asker::Broker);
        Call { request, reply }.dispatch(self);
        let (shared, under_way) = (self.shared.clone(), self.remote_under_way.clone());
        let link = self.link.clone();
        tokio::task::spawn_local(async move {
            let _under_way = under_way;
            let outcome = match timeout(WITHIN, response).await {
                Ok(Ok(response)) => outcome(&call, response, link.packet_limit()),
                Ok(Err(_)) => failed(coap::Code::INTERNAL_SERVER_ERROR, "there is no answer"),
                Err(_) => Outcome::of(Status::Timeout, "the gateway did not answer in time"),
            };
            shared.round(|hub: &mut Hub| {
                hub.begin();
                let Hub { commands, pipeline, moment, .. } = hub;
                commands.answer_remote(moment, pipeline, &call, &outcome);
            });
        });
    }

    pub(super) fn answer(&self, call: &RemoteCall, outcome: &Outcome) {
        self.shared.round(|hub: &mut Hub| {
            hub.begin();
            let Hub { commands, pipeline, moment, .. } = hub;
            commands.answer_remote(moment, pipeline, call, outcome);
        });
    }
}

pub(super) fn failed(code: coap::Code, why: impl Into<String>) -> Outcome {
    Outcome::of(Status::Code(code.0), why)
}

fn outcome(call: &RemoteCall, response: Response, packet_limit: Option<u32>) -> Outcome {
    let value = match response {
        Response::Ok(value) => value,
        // Only streams have items.
        Response::Item(_) | Response::Missed(_) => {
            return failed(coap::Code::INTERNAL_SERVER_ERROR, "no answer");
        }
        Response::Error(Failure { code, message }) => {
            let code = match code {
                Code::BadRequest => coap::Code::BAD_REQUEST,
                Code::NotFound => coap::Code::NOT_FOUND,
                Code::Denied => coap::Code::FORBIDDEN,
                Code::Busy | Code::Unavailable => coap::Code::SERVICE_UNAVAILABLE,
                Code::Failed => coap::Code::INTERNAL_SERVER_ERROR,
            };
            return failed(code, message);
        }
    };
    let code = match call.verb {
        Verb::Status | Verb::Check | Verb::SupportBundle => coap::Code::CONTENT,
        Verb::Reload | Verb::UpdateCheck | Verb::CertRenew | Verb::DeviceRekey => coap::Code::CHANGED,
        Verb::DeviceAdd => coap::Code::CREATED,
        Verb::DeviceRemove => coap::Code::DELETED,
    };
    let payload = value.to_string().into_bytes();
    if payload.len() > ANSWER_MAX {
        let why = format!(
            "done; the answer has {} bytes, more than {ANSWER_MAX}: ask for support-bundle, which comes in parts and has it, or \
             on the gateway",
            payload.len()
        );
        return failed(code, why);
    }
    // Of JSON a beginning is of no use.
    let around = ENVELOPE_MAX as usize + call.bytes_around();
    if let Some(limit) = packet_limit.filter(|limit| payload.len() + around > *limit as usize) {
        let why = format!(
            "done; the answer has {} bytes, and the broker takes packets of {limit} (Maximum Packet Size): raise it, or ask \
             for support-bundle, which comes in parts and has it",
            payload.len()
        );
        return failed(code, why);
    }
    let content_format = Some(ContentFormat::JSON);
    Outcome { status: Status::Code(code.0), content_format, payload, partial: false }
}
