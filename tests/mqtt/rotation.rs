//! Certificates renewed under load, against a real mosquitto that asks for client certificates.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SignatureAlgorithm, date_time_ymd,
};
use tombolo::credential::decision::RenewAt;
use tombolo::credential::io::keeper::{Keeper, Local, Prover, open_store};
use tombolo::credential::leaf::Usage;
use tombolo::credential::renewal::{InPlace, Refusals, Standing, Verdict};
use tombolo::credential::request::{self, Names};
use tombolo::credential::settings::Settings;
use tombolo::credential::source::{Answer, Order, OrderKind, Outcome, Source};
use tombolo::credential::store::{Held, State};
use tombolo::message::Lane;
use tombolo::northbound::io::Handle;
use tombolo::northbound::uplink::TrialVerdict;
use tombolo::proto::dtls::server::DistinguishedName;
use zeroize::Zeroizing;

use crate::mosquitto::store;
use crate::support::mosquitto::{Mosquitto, Running, good_clock, ordinary, run};
use crate::support::pki::Folder;

/// What stands before a P-256 point in a SubjectPublicKeyInfo (RFC 5480 §2.1).
const P256: &[u8] =
    b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";

struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A CA that issues whatever it is asked for.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn authority(name: &str) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2099, 1, 1));
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { issuer: Issuer::new(params, key), pem }
}

/// Each certificate ends a year after the one before.
struct FakeSource {
    good: Authority,
    bad: Authority,
    issued: AtomicU64,
    is_bad: std::sync::atomic::AtomicBool,
    kinds: std::sync::Mutex<Vec<OrderKind>>,
}

impl FakeSource {
    fn issue(&self, csr: &[u8]) -> Vec<u8> {
        let at = csr.windows(P256.len()).position(|window| window == P256).unwrap() + P256.len();
        let point = Point(csr[at..at + 65].to_vec());
        let mut params = CertificateParams::new(vec!["gw-1.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "gw-1");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let year = 2040 + self.issued.fetch_add(1, Ordering::Relaxed) as i32;
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(year, 1, 1));
        let by = if self.is_bad.load(Ordering::Relaxed) { &self.bad } else { &self.good };
        params.signed_by(&point, &by.issuer).unwrap().der().to_vec()
    }
}

impl Source for FakeSource {
    fn order(&self, order: Order) -> Answer<'_, Outcome> {
        self.kinds.lock().unwrap().push(order.kind);
        let chain = vec![self.issue(&order.csr)];
        Box::pin(std::future::ready(Outcome::Issued { chain }))
    }
    fn anchors(&self) -> Answer<'_, Result<Option<Vec<Vec<u8>>>, String>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    fn reach(&self) -> Answer<'_, Result<String, String>> {
        Box::pin(std::future::ready(Ok(String::new())))
    }
}

/// The uplink shows whether a certificate is accepted.
struct ByUplink {
    handle: Handle,
    committed: Cell<u32>,
}

impl Prover for ByUplink {
    fn probe(&self, candidate: &Path, _: InPlace) -> Local<Verdict> {
        let (handle, file) = (self.handle.clone(), candidate.to_path_buf());
        Box::pin(async move {
            handle.with(|core| core.begin_trial(Instant::now(), (file.clone(), file)));
            loop {
                match handle.with(|core| core.poll_trial()) {
                    Some(TrialVerdict::Accepted) => return Verdict::Accepted,
                    Some(TrialVerdict::Refused(why)) => return Verdict::Refused(why),
                    Some(TrialVerdict::Closed(why)) => return Verdict::Closed(why),
                    Some(TrialVerdict::Fault(why)) => return Verdict::Fault(why),
                    None => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        })
    }

    fn standing(&self) -> Standing {
        self.handle.with(|core| match (core.is_connected(), core.is_unwelcome()) {
            (true, _) => Standing::Accepted,
            (false, true) => Standing::Refused,
            (false, false) => Standing::Unknown,
        })
    }

    fn refusals(&self) -> Refusals {
        let found = self.handle.with(|core| core.refusals().clone());
        Refusals { times: found.times, closes: found.closes, why: found.why, as_expired: false }
    }

    fn handle_committed(&self) {
        self.committed.set(self.committed.get() + 1);
        self.handle.with(|core| {
            core.forget_refusals();
            if !core.is_connected() {
                core.retry_now(Instant::now());
            }
        });
    }
}

struct Bench {
    mosquitto: Mosquitto,
    folder: Folder,
    source: Arc<FakeSource>,
}

impl Bench {
    fn new() -> Bench {
        let good = authority("Client CA");
        let folder = Folder::new();
        let file = folder.write("client-ca.pem", &good.pem);
        let extra =
            format!("cafile {}\nrequire_certificate true\nuse_identity_as_username true", file.display());
        let mosquitto = Mosquitto::start(ordinary, &extra);
        let source = FakeSource {
            good,
            bad: authority("Client CA"),
            issued: AtomicU64::new(0),
            is_bad: false.into(),
            kinds: Default::default(),
        };
        Bench { mosquitto, folder, source: Arc::new(source) }
    }

    fn settings(&self) -> Settings {
        Settings {
            name: "upstream".to_owned(),
            usage: Usage::Client,
            folder: self.folder.path().join("certificates/upstream"),
            names: Names::new(
                DistinguishedName::parse("CN=gw-1").unwrap().to_der(),
                &["gw-1.example".to_owned()],
                &[],
            ),
            reuse_key: false,
            renew_at: RenewAt::default(),
            seed: "gw-1/upstream".to_owned(),
            bootstrap: None,
            by_hand: false,
            token: None,
            may_enroll: true,
        }
    }

    /// These two are there at the start: one before, and one in use. Whether they are of the CA
    /// that the broker knows.
    fn keeps(&self, before: bool, present: bool) -> [String; 2] {
        let settings = self.settings();
        let mut store = open_store(&settings.folder).unwrap();
        let serials = [before, present].map(|good| {
            let key = Arc::new(Zeroizing::new(KeyPair::generate().unwrap().serialize_der()));
            let csr = request::make(&key, &settings.names).unwrap();
            self.source.is_bad.store(!good, Ordering::Relaxed);
            let held = Held::new(vec![self.source.issue(&csr)], key).unwrap();
            store.stage(held.clone()).unwrap();
            store.commit(None).unwrap();
            held.leaf.serial_text()
        });
        self.source.is_bad.store(false, Ordering::Relaxed);
        serials
    }

    fn run<F: AsyncFnOnce(Running, Rc<Keeper>, Rc<ByUplink>)>(&self, test: F) {
        let settings = self.settings();
        let mut upstream = self.mosquitto.settings();
        let current = settings.current();
        upstream.tls.as_mut().unwrap().identity = Some((current.clone(), current));
        let source: Arc<dyn Source> = self.source.clone();
        run(upstream, good_clock(), async |running| {
            let prover = Rc::new(ByUplink { handle: running.handle.clone(), committed: Cell::new(0) });
            let opened = Keeper::open(Instant::now(), settings, Some(source), prover.clone(), good_clock());
            let keeper = opened.unwrap();
            let caring = keeper.clone();
            let care = tokio::task::spawn_local(async move {
                loop {
                    caring.care();
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
            test(running, keeper, prover).await;
            care.abort();
        });
    }
}

async fn until_valid(running: &Running, keeper: &Rc<Keeper>, prover: &Rc<ByUplink>, committed: u32) {
    running
        .until("the certificate is in use", |_| {
            prover.committed.get() == committed && keeper.state() == "valid"
        })
        .await;
}

#[test]
fn a_certificate_enrols_and_renews_under_load_and_nothing_is_lost() {
    let bench = Bench::new();
    let watcher = bench.mosquitto.watch("%t|%p");
    const RECORDS: usize = 400;
    bench.run(async |running, keeper, prover| {
        until_valid(&running, &keeper, &prover, 1).await;
        let mut sent = 0;
        for round in 2..=4 {
            let connections = running.handle.status().connections;
            while sent < RECORDS * (round - 1) / 3 {
                store(&running, "tombolo/g/door-7/up/t/env", &format!("n{sent}."));
                sent += 1;
                if sent % 40 == 20 {
                    keeper.ask();
                }
                tokio::task::yield_now().await;
            }
            keeper.ask();
            running.until("another one", |_| prover.committed.get() >= round as u32).await;
            assert!(running.handle.status().connections > connections);
        }
        running.until("drains", |running| running.outbox.borrow().waiting(Lane::Normal) == 0).await;
        running
            .until("all are seen", |_| {
                let lines = watcher.lines();
                (0..sent).all(|n| lines.iter().any(|line| line.ends_with(&format!("|n{n}."))))
            })
            .await;
        let kinds = bench.source.kinds.lock().unwrap().clone();
        assert_eq!(kinds[0], OrderKind::Enroll);
        assert!(kinds[1..].iter().all(|kind| *kind == OrderKind::Reenroll), "{kinds:?}");
        assert!(keeper.shown().previous.is_some());
    });
    let log = bench.mosquitto.log();
    assert!(!log.contains("already connected"), "no take-over: {log}");
}

#[test]
fn a_candidate_that_the_broker_refuses_is_given_up_and_the_old_one_serves_on() {
    let bench = Bench::new();
    bench.run(async |running, keeper, prover| {
        until_valid(&running, &keeper, &prover, 1).await;
        let serial = keeper.shown().current.unwrap().serial_text();
        bench.source.is_bad.store(true, Ordering::Relaxed);
        assert!(keeper.ask());
        running
            .until("it is refused", |_| {
                keeper.with_renewal(|renewal| renewal.last_error().is_some_and(|e| e.contains("refused")))
            })
            .await;
        running.until("the old one connects", |running| running.handle.status().connected).await;
        running.until("the candidate goes", |_| keeper.shown().candidate.is_none()).await;
        assert_eq!(keeper.shown().current.unwrap().serial_text(), serial);
        store(&running, "tombolo/g/door-7/up/t/env", "after");
        running.until("drains", |running| running.outbox.borrow().waiting(Lane::Normal) == 0).await;
        // And a good one comes through later.
        bench.source.is_bad.store(false, Ordering::Relaxed);
        assert!(keeper.ask());
        until_valid(&running, &keeper, &prover, 2).await;
    });
}

#[test]
fn a_certificate_that_the_broker_refuses_later_gives_way_to_the_one_before() {
    let bench = Bench::new();
    let [before, _] = bench.keeps(true, false);
    bench.run(async |running, keeper, prover| {
        running
            .until("the broker refuses it twice", |running| {
                let times = prover.refusals().times;
                // Something may have been changed: that is what brings the second attempt forward.
                running.handle.with(|core| {
                    if times == 1 && core.is_unwelcome() {
                        core.retry_now(Instant::now());
                    }
                });
                prover.committed.get() == 1
            })
            .await;
        assert_eq!(keeper.shown().current.unwrap().serial_text(), before);
        running.until("it connects", |running| running.handle.status().connected).await;
        let said = keeper.with_renewal(|renewal| renewal.last_error().map(str::to_owned));
        assert!(said.is_some_and(|said| said.contains("refuses our client certificate")));
        assert!(keeper.shown().previous.is_some(), "the newer one is kept");
        // A restart begins with what the disk has.
        let file = bench.settings().folder.join("state");
        let stored =
            || std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        running.until("it is stored", |_| stored().is_some_and(|state| state.asked)).await;
        let kept = stored().unwrap().kept();
        assert_eq!((kept.returns, kept.refusals.times), (1, 0));
        assert!(kept.last_error.is_some_and(|said| said.contains("refuses our client certificate")));
    });
}

#[test]
fn a_certificate_before_that_the_broker_refuses_is_not_taken_into_use_again() {
    let bench = Bench::new();
    let [_, present] = bench.keeps(false, true);
    bench.run(async |running, keeper, prover| {
        running.until("it connects", |_| keeper.state() == "valid").await;
        let why = keeper.roll_back().await.unwrap_err();
        assert!(why.contains("refuses our client certificate"), "{why}");
        assert_eq!(keeper.shown().current.unwrap().serial_text(), present);
        running.until("the present one connects", |running| running.handle.status().connected).await;
        assert_eq!((keeper.state(), prover.committed.get()), ("valid", 0));
        assert!(keeper.shown().previous.is_some(), "its owner may insist");
        keeper.roll_back_unproven().await.unwrap();
        assert_ne!(keeper.shown().current.unwrap().serial_text(), present);
    });
    let bench = Bench::new();
    let [before, _] = bench.keeps(true, true);
    bench.run(async |running, keeper, _| {
        running.until("it connects", |_| keeper.state() == "valid").await;
        keeper.roll_back().await.unwrap();
        assert_eq!(keeper.shown().current.unwrap().serial_text(), before);
        running.until("it is confirmed", |_| keeper.state() == "valid").await;
    });
}
