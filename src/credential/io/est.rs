//! Certificates from an EST server: each order is a few questions by HTTPS, each on a connection of
//! its own, all within one time limit.
//!
//! ```text
//!  fingerprint pinned: GET cacerts, unverified ──> the CA with that SHA-256
//!                                                        │
//!  GET cacerts (for intermediates) <── server verified <─┘
//!        │
//!  POST simple(re)enroll, with the client certificate ──401 Basic──> again, with the password
//! ```
//!
//! The certificate asked for comes last, so that a one-time password is spent only when the rest
//! has worked.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::clock::WallClock;
use crate::credential::anchors::FILE;
use crate::credential::csr_attributes::CsrAttributes;
use crate::credential::est::{self, ANSWER_MAX, EstSettings, EstTrust, Operation, line};
use crate::credential::leaf::{Leaf, Usage};
use crate::credential::source::{Answer, Identity, Order, OrderKind, Outcome, Source};
use crate::durable::io::regular;
use crate::https::io::{Client, ClientCertificate, Trust};
use crate::https::message::{Basic, Failure, Limits, Response};
use crate::https::wording::Keys;
use crate::northbound::certificate::Certificate;
use crate::northbound::io::{files, kept};
use crate::northbound::tls::Pem;

/// The longest silence of the server.
const IDLE: Duration = Duration::from_secs(20);
/// Bytes of an answer's header.
const HEAD_MAX: usize = 16 * 1024;
const KEYS: Keys = Keys {
    url: "est-url",
    ca_file: "est-ca-file",
    certificate: "bootstrap-certificate-file and bootstrap-key-file",
};

/// An EST server.
pub struct EstSource {
    settings: EstSettings,
    clock: Arc<dyn WallClock>,
    idle: Duration,
    /// CAs beside those of `est-ca-file`.
    further: Option<PathBuf>,
}

impl EstSource {
    /// Takes the settings in; nothing is read or asked yet.
    pub fn new(settings: EstSettings, clock: Arc<dyn WallClock>) -> EstSource {
        let idle = IDLE.min(settings.timeout);
        EstSource { settings, clock, idle, further: None }
    }

    /// The same with another limit for the server's silence.
    #[must_use]
    pub fn with_idle(self, idle: Duration) -> EstSource {
        EstSource { idle, ..self }
    }

    /// The same that believes a server of the CAs in this file too, beside those of `est-ca-file`:
    /// the explicit anchors that the server itself has handed over (RFC 7030 §4.1.2).
    #[must_use]
    pub fn believing_too(self, file: PathBuf) -> EstSource {
        EstSource { further: Some(file), ..self }
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        let limit = self.settings.timeout;
        let over =
            || Trouble::Failed(format!("the EST server did not complete within {} s", limit.as_secs_f32()));
        timeout(limit, work).await.unwrap_or_else(|_| Err(over()))
    }

    /// A client that believes `trust` and shows `identity`.
    async fn client(&self, trust: Trust, identity: Option<Identity>) -> Result<Client, Trouble> {
        let clock = self.clock.clone();
        let limits =
            Limits { total: self.settings.timeout, idle: self.idle, head: HEAD_MAX, body: ANSWER_MAX };
        let made = tokio::task::spawn_blocking(move || {
            let identity = identity.map(|Identity { chain, key, token }| ClientCertificate {
                label: "the certificate shown to the EST server".to_owned(),
                chain,
                key,
                token,
            });
            Client::new(&trust, identity.as_ref(), clock, limits, KEYS)
        });
        match made.await {
            Ok(made) => made.map_err(|failure| Trouble::Failed(failure.to_string())),
            Err(_) => Err(Trouble::Failed("the thread that reads the TLS files failed".to_owned())),
        }
    }

    /// Which CAs the server's certificate must lead to.
    async fn trust(&self) -> Result<Trust, Trouble> {
        let fingerprint = match &self.settings.trust {
            EstTrust::System => return Ok(Trust::System),
            EstTrust::File(path) => {
                // One that cannot be read takes nothing away from those of the configuration.
                let further = self.further.as_ref().and_then(|file| kept::read(file).ok());
                let Some(bytes) = further else { return Ok(Trust::File(path.clone())) };
                let own = files::pem(path).map_err(Trouble::Failed)?;
                let further = Pem { file: FILE.to_owned(), bytes };
                return Ok(Trust::Certificates(files::certificates(&[own, further])));
            }
            EstTrust::Fingerprint(fingerprint) => fingerprint,
        };
        let client = self.client(Trust::Unverified, None).await?;
        let offered = self.ca_certificates(&client).await?;
        let is_pinned = |der: &Vec<u8>| digest::digest(&digest::SHA256, der).as_ref() == fingerprint;
        match offered.into_iter().find(is_pinned) {
            Some(pinned) => Ok(Trust::Certificates(vec![pinned])),
            None => {
                let text = "cacerts: no CA certificate of the EST server has the SHA-256 in est-ca-sha256";
                Err(Trouble::Failed(text.to_owned()))
            }
        }
    }

    async fn ca_certificates(&self, client: &Client) -> Result<Vec<Vec<u8>>, Trouble> {
        let response = self.ask(client, Operation::CaCerts, &[], None).await?;
        if response.status != 200 {
            return Err(Trouble::Failed(format!("cacerts: {}", est::refusal(&response))));
        }
        est::read_certificates(&response).map_err(|text| Trouble::Failed(format!("cacerts: {text}")))
    }

    async fn ask(
        &self,
        client: &Client,
        operation: Operation,
        csr: &[u8],
        basic: Option<&Basic>,
    ) -> Result<Response, Trouble> {
        let mut request = est::request(&self.settings.url, operation, csr);
        request.basic = basic;
        client.send(&request).await.map_err(|failure| {
            let text = format!("{}: {failure}", operation.segment());
            match failure {
                Failure::Tls { unwelcome: true, .. } => Trouble::Refused(text),
                Failure::Unreachable(_) | Failure::Tls { .. } => Trouble::Unreachable(text),
                _ => Trouble::Failed(text),
            }
        })
    }

    async fn enrol(&self, mut order: Order) -> Result<Outcome, Trouble> {
        // One for devices may not be for TLS clients: where there is a password, that proves.
        let leaf = order.identity.as_ref().and_then(|identity| Leaf::parse(identity.chain.first()?));
        if self.settings.username.is_some() && leaf.is_some_and(|leaf| !leaf.allows(Usage::Client)) {
            (order.identity, order.kind) = (None, OrderKind::Enroll);
        }
        let trust = self.trust().await?;
        let has_certificate = order.identity.is_some();
        let client = self.client(trust, order.identity).await?;
        // Without them a chain may be incomplete, which the renewal notices.
        let known = match self.ca_certificates(&client).await {
            Ok(known) => known,
            Err(trouble @ (Trouble::Unreachable(_) | Trouble::Refused(_))) => return Err(trouble),
            Err(Trouble::Failed(_)) => Vec::new(),
        };
        let operation = Operation::from(order.kind);
        // With a certificate the password is given only if it is asked for; without one it would
        // be.
        let first = if has_certificate { None } else { self.basic().await? };
        let mut response = self.ask(&client, operation, &order.csr, first.as_ref()).await?;
        if response.status == 401 && first.is_none() {
            let challenges = &response.challenges;
            if !challenges.is_empty() && !challenges.has_basic() {
                let text = format!(
                    "the EST server asks for {} authentication; Basic alone is supported",
                    challenges.names()
                );
                return Err(Trouble::Refused(text));
            }
            if let Some(basic) = self.basic().await? {
                response = self.ask(&client, operation, &order.csr, Some(&basic)).await?;
            }
        }
        match est::judge(&response, &order.csr, &known) {
            Outcome::Refused { cause } => {
                let wanted = match response.status {
                    400 | 422 => self.attributes_by(&client).await.ok().flatten(),
                    _ => None,
                };
                let wanted = wanted.and_then(|attributes| attributes.wanted());
                let wanted = wanted.map(|wanted| format!("; it wants {wanted}")).unwrap_or_default();
                Err(Trouble::Refused(format!("{}: {cause}{wanted}", operation.segment())))
            }
            Outcome::Failed { cause } => Err(Trouble::Failed(format!("{}: {cause}", operation.segment()))),
            outcome => Ok(outcome),
        }
    }

    async fn attributes_by(&self, client: &Client) -> Result<Option<CsrAttributes>, Trouble> {
        let response = self.ask(client, Operation::CsrAttributes, &[], None).await?;
        Ok(est::read_csr_attributes(&response))
    }

    /// The user name and its password, read now.
    async fn basic(&self) -> Result<Option<Basic>, Trouble> {
        let (Some(username), Some(file)) = (&self.settings.username, &self.settings.password_file) else {
            return Ok(None);
        };
        let (username, path) = (username.clone(), file.clone());
        let read = tokio::task::spawn_blocking(move || password(&path)).await;
        let password = read.unwrap_or_else(|_| Err("the thread that reads the password failed".to_owned()));
        Ok(Some(Basic { username, password: password.map_err(Trouble::Failed)? }))
    }
}

/// Greatest password file.
const PASSWORD_MAX: usize = 4_096;
/// Greatest file read for it, in bytes.
const PASSWORD_FILE_MAX: u64 = 65_536;

fn password(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    let read = regular::read(path, PASSWORD_FILE_MAX).map_err(|fault| format!("{shown}: {fault}"))?;
    let mut bytes = Zeroizing::new(read);
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    match bytes.len() {
        0 => Err(format!("{shown}: is empty")),
        1..=PASSWORD_MAX => Ok(bytes),
        length => Err(format!("{shown}: has {length} bytes; that is no password")),
    }
}

/// What went wrong.
#[derive(Debug)]
enum Trouble {
    /// The server refuses us.
    Refused(String),
    /// There is no connection to the server, or not to the right one.
    Unreachable(String),
    /// Anything else.
    Failed(String),
}

impl Trouble {
    fn text(self) -> String {
        let (Trouble::Refused(text) | Trouble::Unreachable(text) | Trouble::Failed(text)) = self;
        line(&text)
    }
}

impl Source for EstSource {
    fn order(&self, order: Order) -> Answer<'_, Outcome> {
        Box::pin(async move {
            match self.within(self.enrol(order)).await {
                Ok(outcome) => outcome,
                Err(Trouble::Refused(text)) => Outcome::Refused { cause: line(&text) },
                Err(trouble) => Outcome::Failed { cause: trouble.text() },
            }
        })
    }

    fn anchors(&self) -> Answer<'_, Result<Option<Vec<Vec<u8>>>, String>> {
        Box::pin(async move {
            let work = async {
                let client = self.client(self.trust().await?, None).await?;
                self.ca_certificates(&client).await
            };
            self.within(work).await.map(Some).map_err(Trouble::text)
        })
    }

    fn attributes(&self) -> Answer<'_, Result<Option<CsrAttributes>, String>> {
        Box::pin(async move {
            let work = async {
                let client = self.client(self.trust().await?, None).await?;
                self.attributes_by(&client).await
            };
            self.within(work).await.map_err(Trouble::text)
        })
    }

    fn reach(&self) -> Answer<'_, Result<String, String>> {
        Box::pin(async move {
            let found = self.anchors().await?.unwrap_or_default();
            let name = found.first().and_then(|der| Certificate::parse(der)).and_then(|read| read.subject);
            let name = name.unwrap_or_else(|| "a CA without a common name".to_owned());
            let others = match found.len() {
                0 | 1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            Ok(line(&format!(
                "the EST server at {} answers; it offers {name}{others}",
                self.settings.url.authority()
            )))
        })
    }
}
