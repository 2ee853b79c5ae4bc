//! From a CONNECT to a session: who a client is, and what room there is for it.
//!
//! | it shows | is the device |
//! |---|---|
//! | a certificate | that has it |
//! | a token ([`jwt`]) as the password | that the token names (`sub`), or else the client id, or what is behind its last `/`; by a key that is registered for it |
//! | another password | with the user name |
//!
//! Wrong passwords damp the account that they name at the address that they come from, see
//! [`super::verification`]. Tokens are not damped: a signature cannot be guessed. Wrong ones have a
//! budget of processor time, see [`super::signature_rate`].

use super::*;
use crate::gate::jwt::{self, JwtFault, Token, quoted};

/// Who a client is: its device, by what that is proven, and when the proof expires.
struct Proven {
    device: DeviceIndex,
    credential: Credential,
    ends: Option<ProofEnd>,
    /// Of a token: when it would, if its key were taken for ever.
    token_ends: Option<UnixTime>,
}

/// Who a client says that it is, which is not proven.
#[derive(Clone, Copy)]
struct Claim<'h> {
    username: Option<&'h str>,
    device: Option<DeviceIndex>,
}

impl Intake {
    /// The password that [`Intake::poll_verification`] handed out is right, or wrong.
    pub fn handle_verified<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        right: bool,
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(verified) = self.verifications.complete(moment.now, right) else { return };
        let Verified { connections, device, credential } = verified;
        for number in connections {
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            let Some(hello) = connection.hello.take() else { continue };
            let reason = match right {
                false => "wrong password",
                true if credential.is_of(device, &pipeline.gate) => {
                    let credential = credential.clone();
                    let proven = Proven { device, credential, ends: None, token_ends: None };
                    self.accept(moment, number, proven, &hello, pipeline);
                    self.process(moment, number, pipeline);
                    continue;
                }
                true => "its device was removed or got another password while this one was verified",
            };
            let code = ConnectReasonCode::BadUserNameOrPassword;
            let claim = Claim { username: hello.username.as_deref(), device: Some(device) };
            self.refuse(moment.now, number, code, claim, reason, pipeline);
        }
    }

    /// The password of a client is not verified: there is no room for it, or it waited too long.
    pub(super) fn refuse_unverified<S: ReadingStore>(
        &mut self,
        now: Instant,
        number: ConnectionNumber,
        reason: impl Into<String>,
        pipeline: &mut Pipeline<S>,
    ) {
        self.verifications.forget(number);
        let hello = self.connections.get_mut(&number).and_then(|connection| connection.hello.take());
        let username = hello.as_ref().and_then(|hello| hello.username.as_deref());
        let device = username.and_then(|name| pipeline.gate.login(name)).map(|(device, _)| device);
        let claim = Claim { username, device };
        self.busy = (self.busy.0 + 1, Some(now));
        pipeline.counters.count(Counter::MqttConnectsBusy);
        self.refuse(now, number, ConnectReasonCode::ServerBusy, claim, reason, pipeline);
    }

    pub(super) fn handle_connect<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        hello: Box<Hello>,
        pipeline: &mut Pipeline<S>,
    ) {
        use ConnectReasonCode as Code;
        let now = moment.now;
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.version = Some(hello.version);
        connection.wants_reasons = hello.wants_reasons;
        let username = hello.username.clone();
        let username = username.as_deref();
        let device = username.and_then(|name| pipeline.gate.login(name)).map(|(device, _)| device);
        let claim = Claim { username, device };
        if hello.has_method {
            let reason = "an authentication method, which is not offered";
            return self.refuse(now, number, Code::BadAuthenticationMethod, claim, reason, pipeline);
        }
        // MQTT 5.0 §3.1.2.11.10.
        if hello.has_authentication_data {
            let reason = "authentication data without an authentication method";
            return self.refuse(now, number, Code::ProtocolError, claim, reason, pipeline);
        }
        let is_nameless_session =
            hello.client_id.is_empty() && !hello.clean && hello.version == Version::V3_1_1;
        let is_refused = hello.client_id.len() > CLIENT_ID_MAX || !packet::is_text(&hello.client_id);
        if is_refused || is_nameless_session {
            let reason = "client id too long, with a control character, or empty for a session that is kept";
            return self.refuse(now, number, Code::ClientIdentifierNotValid, claim, reason, pipeline);
        }
        let is_invalid = |will: &Will| Path::parse(&will.topic).is_err() && !is_topic(&will.topic);
        if hello.will.as_ref().is_some_and(is_invalid) {
            let reason = "the topic of its will is neither a path nor a topic of a local message";
            return self.refuse(now, number, Code::TopicNameInvalid, claim, reason, pipeline);
        }
        // A certificate identifies by itself; one that is of no device leaves the password.
        let shown = connection.source.identity.as_ref();
        let identified = shown.map(|identity| pipeline.gate.identify(now, identity));
        if let (Some(identity), Some(Ok(device))) = (shown, &identified) {
            let credential = Credential::Certificate(identity.clone());
            let ends = connection.source.expires.map(ProofEnd::Certificate);
            let proven = Proven { device: *device, credential, ends, token_ends: None };
            return self.accept(moment, number, proven, &hello, pipeline);
        }
        if hello.password.as_ref().is_some_and(|password| jwt::is_token(password)) {
            return self.handle_token(moment, number, &hello, pipeline);
        }
        let (Some(name), Some(password)) = (username, &hello.password) else {
            let reason = match identified {
                Some(Err(why)) if hello.password.is_none() => {
                    format!("no password, and its certificate identifies no device: {why}")
                }
                _ if hello.password.is_some() => {
                    "a password without a user name, and it is no token, which needs none".to_owned()
                }
                _ => "neither a password nor a certificate of a device".to_owned(),
            };
            let is_nameless = username.is_none() && hello.password.is_some();
            let code = if is_nameless { Code::BadUserNameOrPassword } else { Code::NotAuthorized };
            return self.refuse(now, number, code, claim, reason, pipeline);
        };
        let Some((device, login)) = pipeline.gate.login(name) else {
            let reason = match pipeline.gate.is_withheld(name) {
                true => format!("the device {name} is switched off or disabled"),
                false => "no device that is enabled has this user name".to_owned(),
            };
            return self.refuse(now, number, Code::BadUserNameOrPassword, claim, reason, pipeline);
        };
        let credential = Credential::Password(login.fingerprint());
        let proven = Proven { device, credential, ends: None, token_ends: None };
        if !login.password.is_costly() {
            return match login.password.verify(password) {
                true => self.accept(moment, number, proven, &hello, pipeline),
                false => {
                    let code = Code::BadUserNameOrPassword;
                    self.refuse(now, number, code, claim, "wrong password", pipeline);
                }
            };
        }
        let (login, password) = (login.clone(), password.clone());
        let verification = Verification { connection: number, device, login, password };
        let requested = self.verifications.request(now, connection.source.address, verification);
        match requested {
            Requested::Right => self.accept(moment, number, proven, &hello, pipeline),
            Requested::Waits { displaced } => {
                connection.hello = Some(hello);
                connection.state = State::Verifying { until: now + VERIFY_WITHIN };
                self.arm_connection(number);
                let reason =
                    "too many passwords wait to be verified, and this one gave way to another account's";
                for other in displaced {
                    self.refuse_unverified(now, other, reason, pipeline);
                }
            }
            Requested::Full | Requested::Occupied => {
                connection.hello = Some(hello);
                let reason = match requested {
                    Requested::Full => "too many passwords wait to be verified",
                    _ => "another password waits to be verified for this user name from this address",
                };
                self.refuse_unverified(now, number, reason, pipeline);
            }
            Requested::Paused => {
                pipeline.counters.count(Counter::MqttConnectsDamped);
                let reason = "too many wrong passwords for this user name from this address";
                self.refuse(now, number, Code::ConnectionRateExceeded, claim, reason, pipeline);
            }
        }
    }

    /// A token is the password: the user name is ignored.
    fn handle_token<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        hello: &Hello,
        pipeline: &mut Pipeline<S>,
    ) {
        use ConnectReasonCode as Code;
        let now = moment.now;
        let mut claim = Claim { username: hello.username.as_deref(), device: None };
        let address = self.connections.get(&number).and_then(|connection| connection.source.address);
        let shown = hello.password.as_deref().map_or(&[][..], Vec::as_slice);
        let reason = match Token::parse(shown) {
            Err(fault) => fault.as_str().to_owned(),
            Ok(token) => {
                let client_id = hello.client_id.as_str();
                let last = client_id.rsplit('/').next().unwrap_or(client_id);
                let (id, by) = token.subject().map_or((last, "client id"), |subject| (subject, "sub"));
                let gate = &pipeline.gate;
                claim.device = gate.device_by_id(id);
                match gate.jwt_keys(id) {
                    None if gate.is_withheld(id) => {
                        format!(
                            "the token's {by} {} names a device that is switched off or disabled",
                            quoted(id)
                        )
                    }
                    None => format!(
                        "the token's {by} {} names no device with a registered key (`tombolo device key add`)",
                        quoted(id)
                    ),
                    Some((device, _)) if !self.signature_rate.may_verify(now, address, device, shown) => {
                        pipeline.counters.count(Counter::MqttConnectsDamped);
                        let reason =
                            "too many tokens with a wrong signature for this device from this address";
                        let code = Code::ConnectionRateExceeded;
                        return self.refuse(now, number, code, claim, reason, pipeline);
                    }
                    Some((device, keys)) => {
                        let audience = self.jwt_audience.as_deref().unwrap_or(gate.gateway().as_str());
                        match token.verify(keys, audience, self.token_clock) {
                            Ok((end, key)) => {
                                let (hash, ends) = (key.hash(), Some(ProofEnd::Token(key.cut(end))));
                                let credential = Credential::Token(hash);
                                let proven = Proven { device, credential, ends, token_ends: Some(end) };
                                self.signature_rate.note_right(device, shown);
                                self.note_key_used((id.to_owned(), hash), device, pipeline);
                                return self.accept(moment, number, proven, hello, pipeline);
                            }
                            Err(fault) => {
                                if fault == JwtFault::Signature {
                                    self.signature_rate.note_wrong(now, address, device, keys.len());
                                }
                                token.explain(fault, keys, audience, self.token_clock)
                            }
                        }
                    }
                }
            }
        };
        self.refuse(now, number, Code::BadUserNameOrPassword, claim, reason, pipeline);
    }

    /// Keys of tokens that a reload has added: the first use of each is told. Of more than
    /// [`NEW_KEYS_MAX`] it is not.
    pub fn note_new_keys(&mut self, keys: impl IntoIterator<Item = (String, [u8; 32])>) {
        let before = self.new_keys.len();
        self.new_keys.extend(keys.into_iter().take(NEW_KEYS_MAX.saturating_sub(before)));
        self.new_keys_revision += u64::from(self.new_keys.len() != before);
    }

    /// Those that were not used yet, by their devices.
    pub fn new_keys(&self) -> impl Iterator<Item = &(String, [u8; 32])> {
        self.new_keys.iter()
    }

    /// Changes when those do.
    pub fn new_keys_revision(&self) -> u64 {
        self.new_keys_revision
    }

    fn note_key_used<S: ReadingStore>(
        &mut self,
        key: (String, [u8; 32]),
        device: DeviceIndex,
        pipeline: &Pipeline<S>,
    ) {
        if !self.new_keys.remove(&key) {
            return;
        }
        self.new_keys_revision += 1;
        if let Some(device) = pipeline.gate.id(device).cloned() {
            self.events.push_back(Event::NewKeyUsed { device, key: key.1 });
        }
    }

    /// Refuses a connect, after [`REFUSE_AFTER`].
    fn refuse<S: ReadingStore>(
        &mut self,
        now: Instant,
        number: ConnectionNumber,
        code: ConnectReasonCode,
        claim: Claim<'_>,
        reason: impl Into<String>,
        pipeline: &mut Pipeline<S>,
    ) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.state = State::Refusing { at: connection.last_received.max(now) + REFUSE_AFTER, code };
        pipeline.counters.count(Counter::MqttConnectsRefused);
        let gate = &pipeline.gate;
        let refused = RefusedConnect {
            at: now,
            address: connection.source.address,
            username: claim.username.map(|name| name.chars().take(128).collect()),
            device: claim.device.and_then(|device| gate.id(device)).cloned(),
            reason: reason.into(),
        };
        let is_known = |device| gate.id(device).is_some();
        self.refused_connects.note(claim.device, refused.clone(), gate.device_count(), is_known);
        self.events.push_back(Event::Refused(refused));
        self.arm_connection(number);
    }

    /// The client is this device, until its proof expires.
    fn accept<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        number: ConnectionNumber,
        proven: Proven,
        hello: &Hello,
        pipeline: &mut Pipeline<S>,
    ) {
        use ConnectReasonCode as Code;
        let now = moment.now;
        let Proven { device, credential, ends: proof_ends, token_ends } = proven;
        let claim = Claim { username: hello.username.as_deref(), device: Some(device) };
        let Some(id) = pipeline.gate.id(device).cloned() else {
            return self.refuse(now, number, Code::NotAuthorized, claim, "device removed", pipeline);
        };
        let connects = self.connects.entry(device).or_insert(Connects { since: now, count: 0 });
        if now.saturating_duration_since(connects.since) >= CONNECTS_PER {
            *connects = Connects { since: now, count: 0 };
        }
        connects.count = connects.count.saturating_add(1);
        let most = pipeline.gate.holder(device).map_or(Holder::HANDSHAKES, |holder| holder.max_handshakes);
        if connects.count > most.max(1) {
            pipeline.gate.note_too_often(now, device);
            let reason = format!("its device connects more than {most} times a minute (max-handshakes)");
            return self.refuse(now, number, Code::ConnectionRateExceeded, claim, reason, pipeline);
        }
        let (client_id, assigned) = match hello.client_id.as_str() {
            "" => (self.free_client_id(device, number), true),
            given => (given.to_owned(), false),
        };
        let sessions = self.by_device.get(&device).into_iter().flatten().copied();
        let before =
            sessions.into_iter().find(|at| self.sessions.get(at).is_some_and(|s| *s.client_id == *client_id));
        if let Some(other) = before.and_then(|at| self.sessions.get(&at)?.connection) {
            if let Some(connection) = self.connections.get_mut(&other) {
                connection.disconnect(DisconnectReasonCode::SessionTakenOver, None);
            }
            self.end(moment, other, Ended::TakenOver, pipeline);
        }
        // A session that does not outlive its connection is gone by now.
        let mut before = before.filter(|at| self.sessions.contains_key(at));
        if let Some(at) = before.filter(|_| hello.clean) {
            // Its will is due when it ends (MQTT 5.0 §3.1.3.2.2).
            self.publish_will(moment, at, pipeline);
            self.remove_session(at);
            before = None;
        }
        if before.is_none() && !self.make_room(moment, device, pipeline) {
            self.full = (self.full.0 + 1, Some(now));
            pipeline.counters.count(Counter::MqttConnectsFull);
            let reason = "as many clients as max-clients are connected";
            return self.refuse(now, number, Code::QuotaExceeded, claim, reason, pipeline);
        }
        let at = before.unwrap_or_else(|| {
            self.next_session += 1;
            let session = Session::new(device, id.as_str(), &client_id, credential.clone());
            self.sessions.insert(self.next_session, Box::new(session));
            self.next_session
        });
        let of_device = self.by_device.entry(device).or_default();
        of_device.retain(|other| *other != at);
        of_device.push(at);
        let expiry = hello.session_expiry.min(SESSION_EXPIRY_MAX);
        let view = pipeline.gate.device(now, device);
        let rights = view.map(|view| allowed(self.local.get(view.role), &view)).unwrap_or_default();
        let source = self.connections.get_mut(&number).map(|connection| &mut connection.source);
        let chain = source.and_then(|source| source.chain.take());
        // A session that ends with its connection is never judged without it.
        let chain = chain.filter(|_| !expiry.is_zero() && matches!(credential, Credential::Certificate(_)));
        if let Some(session) = self.sessions.get_mut(&at) {
            (session.publishes, session.receives) = rights;
            session.connection = Some(number);
            (session.expiry, session.expires_at) = (expiry, None);
            (session.will, session.will_at, session.chain) = (hello.will.clone(), None, chain);
            session.credential = credential;
            session.queue.begin();
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        connection.session = Some(at);
        connection.keep_alive = hello.keep_alive;
        (connection.proof_ends, connection.token_ends) = (proof_ends, token_ends);
        connection.receive_maximum = usize::from(hello.receive_maximum);
        self.proofs_end.extend(proof_ends.map(|end| (end, number)));
        connection.last_received = now;
        let welcome = Welcome {
            session_present: before.is_some(),
            assigned: assigned.then_some(client_id.as_str()),
            session_expiry: (expiry != hello.session_expiry).then_some(expiry),
        };
        let is_welcome = connection.welcome(hello.version, &welcome);
        connection.state = State::Open;
        self.clients += 1;
        let (address, version) = (connection.source.address, hello.version);
        pipeline.gate.seen(now, device);
        pipeline.counters.count(Counter::MqttConnectsAccepted);
        self.events.push_back(Event::Connected { device: id, client_id, address, version });
        self.arm_connection(number);
        self.send_queued(now, number);
        self.announce(number);
        self.follow_bus(at);
        if !is_welcome {
            let what = "its Maximum Packet Size is smaller than a CONNACK".to_owned();
            self.end(moment, number, Ended::Protocol(what), pipeline);
        }
    }

    /// A client id that no session of a device has.
    fn free_client_id(&self, device: DeviceIndex, number: ConnectionNumber) -> String {
        let own: Vec<&str> = (self.by_device.get(&device).into_iter().flatten())
            .filter_map(|at| Some(&*self.sessions.get(at)?.client_id))
            .collect();
        // A device has few sessions, so one of the first ids is free.
        (0..)
            .map(|again| if again == 0 { format!("auto-{number}") } else { format!("auto-{number}-{again}") })
            .find(|id| !own.contains(&id.as_str()))
            .unwrap_or_default()
    }

    /// Makes room for one more session of a device: its own oldest goes if it has as many as it may
    /// have, one without a connection first. Returns whether there is room.
    fn make_room<S: ReadingStore>(
        &mut self,
        moment: &Moment,
        device: DeviceIndex,
        pipeline: &mut Pipeline<S>,
    ) -> bool {
        let holder = pipeline.gate.holder(device);
        let max = holder.map_or(Holder::SESSIONS, |holder| holder.max_sessions).max(1) as usize;
        while let Some(own) = self.by_device.get(&device).filter(|own| own.len() >= max) {
            let absent = |at: &&u64| self.sessions.get(at).is_none_or(|s| s.connection.is_none());
            let Some(oldest) = own.iter().find(absent).or(own.first()).copied() else { break };
            if let Some(other) = self.sessions.get(&oldest).and_then(|session| session.connection) {
                if let Some(connection) = self.connections.get_mut(&other) {
                    connection.disconnect(DisconnectReasonCode::QuotaExceeded, None);
                }
                self.end(moment, other, Ended::Replaced, pipeline);
            }
            self.publish_will(moment, oldest, pipeline);
            self.remove_session(oldest);
        }
        if self.clients >= self.max_clients {
            return false;
        }
        // Sessions without a connection are as many as clients may be; the next to expire goes.
        if self.sessions.len() - self.clients >= self.max_clients {
            let absent = self.sessions.iter().filter(|(_, session)| session.connection.is_none());
            if let Some(at) = absent.min_by_key(|(_, session)| session.expires_at).map(|(at, _)| *at) {
                self.publish_will(moment, at, pipeline);
                self.remove_session(at);
            }
        }
        true
    }
}
