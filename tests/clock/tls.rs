//! What the clock learns from a TLS handshake: of the path that was verified, after the key was
//! proven.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConnection, ServerConfig, ServerConnection, SupportedProtocolVersion};

use tombolo::clock::chain::ChainValidity;
use tombolo::clock::{UnixTime, WallClock};
use tombolo::northbound::settings::{TlsSettings, TlsVersion};
use tombolo::northbound::tls::{Pem, client_config, server_name};

type Issuer = CertifiedIssuer<'static, KeyPair>;

const DAY: u64 = 86_400;
/// 2026-07-01, in seconds
const NOW: u64 = 1_782_864_000;

/// A clock that is in doubt, or not trusted, and writes down what it is taught.
struct Pupil {
    floor: u64,
    doubted: Option<u64>,
    learned: Mutex<Vec<ChainValidity>>,
}

impl WallClock for Pupil {
    fn raw(&self) -> UnixTime {
        UnixTime::from_secs(self.doubted.unwrap_or(0))
    }
    fn trusted(&self) -> bool {
        false
    }
    fn floor(&self) -> UnixTime {
        UnixTime::from_secs(self.floor)
    }
    fn doubted(&self) -> Option<UnixTime> {
        self.doubted.map(UnixTime::from_secs)
    }
    fn learn(&self, chain: ChainValidity) {
        self.learned.lock().unwrap().push(chain);
    }
}

fn limited(from: u64, to: u64) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["broker.test".to_owned()]).unwrap();
    let time = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    (params.not_before, params.not_after) = (time(from), time(to));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn authority(name: &str, from: u64, to: u64) -> CertificateParams {
    let mut params = limited(from, to);
    params.subject_alt_names.clear();
    params.extended_key_usages.clear();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn root() -> Issuer {
    CertifiedIssuer::self_signed(authority("Root", 0, 4_000_000_000), KeyPair::generate().unwrap()).unwrap()
}

fn leaf(issuer: &Issuer, from: u64, to: u64) -> (CertificateDer<'static>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (limited(from, to).signed_by(&key, issuer).unwrap().der().clone(), key)
}

/// Shakes hands with a peer that shows `chain` and signs with `key`; what the clock has learned.
fn handshake(
    root: &Issuer,
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
    version: &'static SupportedProtocolVersion,
    pupil: Pupil,
) -> (Result<(), String>, Vec<ChainValidity>) {
    #[derive(Debug)]
    struct Always(Arc<CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Always {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(self.0.clone())
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let certified = CertifiedKey::new(chain, provider.key_provider.load_private_key(private).unwrap());
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(Arc::new(certified))));
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let pupil = Arc::new(pupil);
    let settings = TlsSettings {
        ca_file: None,
        pins: Vec::new(),
        identity: None,
        key_password: None,
        alpn: Vec::new(),
        minimum: TlsVersion::V1_2,
        revocation: Default::default(),
        est_anchors: None,
        token: None,
    };
    let anchor = Pem { file: "ca.pem".to_owned(), bytes: root.pem().into_bytes() };
    let client = client_config(&settings, &[anchor], "ca.pem", None, pupil.clone()).unwrap();
    let mut client = ClientConnection::new(client, server_name("broker.test").unwrap()).unwrap();
    let mut result = Ok(());
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        while !bytes.is_empty() {
            let mut rest = &bytes[..];
            server.read_tls(&mut rest).unwrap();
            bytes = rest.to_vec();
            let _ = server.process_new_packets();
        }
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        while !bytes.is_empty() && result.is_ok() {
            let mut rest = &bytes[..];
            client.read_tls(&mut rest).unwrap();
            bytes = rest.to_vec();
            result = client.process_new_packets().map(|_| ()).map_err(|error| error.to_string());
        }
    }
    if result.is_ok() {
        assert!(!client.is_handshaking(), "the handshake is over");
    }
    let learned = pupil.learned.lock().unwrap().clone();
    (result, learned)
}

fn untrusted(floor: u64) -> Pupil {
    Pupil { floor, doubted: None, learned: Mutex::default() }
}

#[test]
fn only_certificates_on_the_verified_path_count() {
    let root = root();
    let middle = CertifiedIssuer::signed_by(
        authority("Middle", NOW - 20 * DAY, NOW + 300 * DAY),
        KeyPair::generate().unwrap(),
        &root,
    )
    .unwrap();
    let (certificate, key) = leaf(&middle, NOW - 30 * DAY, NOW + 60 * DAY);
    // Not on the path: one of another CA, one that calls itself as the issuer does, one of the
    // root's for another name.
    let year_2040 = 2_208_988_800;
    let stranger = CertifiedIssuer::self_signed(
        authority("Elsewhere", year_2040, year_2040 + DAY),
        KeyPair::generate().unwrap(),
    );
    let namesake = CertifiedIssuer::self_signed(
        authority("Middle", year_2040, year_2040 + DAY),
        KeyPair::generate().unwrap(),
    );
    let sister = CertifiedIssuer::signed_by(
        authority("Sister", year_2040, year_2040 + DAY),
        KeyPair::generate().unwrap(),
        &root,
    );
    let chain = vec![
        certificate,
        stranger.unwrap().der().clone(),
        namesake.unwrap().der().clone(),
        sister.unwrap().der().clone(),
        middle.der().clone(),
    ];
    for floor in [NOW - 400 * DAY, NOW - 25 * DAY, NOW] {
        let (result, learned) =
            handshake(&root, chain.clone(), &key, &rustls::version::TLS13, untrusted(floor));
        assert_eq!(result, Ok(()), "floor {floor}");
        let expected = ChainValidity {
            not_before: UnixTime::from_secs(NOW - 20 * DAY),
            not_after: UnixTime((NOW + 60 * DAY) * 1000 + 999),
            leaf: Duration::from_secs(90 * DAY),
        };
        assert_eq!(learned, [expected], "floor {floor}");
    }
}

#[test]
fn nothing_is_learned_from_a_peer_without_the_key() {
    let root = root();
    let (certificate, key) = leaf(&root, NOW - 30 * DAY, NOW + 60 * DAY);
    let other = KeyPair::generate().unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (result, learned) = handshake(&root, vec![certificate.clone()], &key, version, untrusted(NOW));
        assert_eq!((result, learned.len()), (Ok(()), 1), "{version:?}");
        let (result, learned) = handshake(&root, vec![certificate.clone()], &other, version, untrusted(NOW));
        assert!(result.is_err() && learned.is_empty(), "{version:?}: {result:?}");
    }
}

#[test]
fn nothing_is_learned_from_a_chain_that_is_refused() {
    let root = root();
    let (certificate, key) = leaf(&root, NOW - 90 * DAY, NOW - DAY);
    // In doubt at a time at which it was valid, and expired at the floor.
    let pupil = Pupil { floor: NOW, doubted: Some(NOW - 30 * DAY), learned: Mutex::default() };
    let (result, learned) = handshake(&root, vec![certificate], &key, &rustls::version::TLS13, pupil);
    assert!(result.unwrap_err().contains("expired") && learned.is_empty());
}

#[test]
fn a_clock_in_doubt_is_proven_by_a_path_that_is_valid_then_be_it_another_one() {
    let root = root();
    // The same issuer twice, as after a renewal: one ended, one begins later.
    let key = KeyPair::generate().unwrap();
    let of = |from, to| {
        let key = KeyPair::try_from(key.serialize_der()).unwrap();
        CertifiedIssuer::signed_by(authority("Middle", from, to), key, &root).unwrap()
    };
    let (old, new) = (of(NOW - 400 * DAY, NOW - 10 * DAY), of(NOW - 15 * DAY, NOW + 400 * DAY));
    let (certificate, key) = leaf(&old, NOW - 30 * DAY, NOW + 60 * DAY);
    let chain = vec![certificate, old.der().clone(), new.der().clone()];
    let pupil = Pupil { floor: NOW - 20 * DAY, doubted: Some(NOW), learned: Mutex::default() };
    let (result, learned) = handshake(&root, chain, &key, &rustls::version::TLS13, pupil);
    assert_eq!(result, Ok(()));
    let starts: Vec<u64> = learned.iter().map(|path| path.not_before.as_secs()).collect();
    assert_eq!(starts, [NOW - 30 * DAY, NOW - 15 * DAY]);
    assert!(!learned[0].contains(UnixTime::from_secs(NOW)) && learned[1].contains(UnixTime::from_secs(NOW)));
}
