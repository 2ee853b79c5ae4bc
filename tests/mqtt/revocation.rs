//! Revocation lists of `openssl ca`, and CAs that roll over, against a real mosquitto.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tombolo::clock::UnixTime;
use tombolo::northbound::settings::Settings;

use crate::support::mosquitto::{FakeClock, Mosquitto, Running, run};
use crate::support::pki::{Authority, Folder, Identity, LONG};

/// The real time, in which `openssl ca` works.
fn real_clock(trusted: bool, days: i64) -> Arc<FakeClock> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let raw = UnixTime::from_secs(now.saturating_add_signed(days * 86_400));
    Arc::new(FakeClock { raw, trusted, floor: UnixTime::from_secs(1_700_000_000) })
}

/// A CA of openssl's own, with an intermediate that issues.
struct OpenSslCa {
    folder: Folder,
}

impl OpenSslCa {
    fn new() -> OpenSslCa {
        let ca = OpenSslCa { folder: Folder::new() };
        let place = ca.folder.path().display().to_string();
        for name in ["root", "issuing"] {
            ca.folder.write(&format!("{name}.index"), "");
            ca.folder.write(&format!("{name}.serial"), "1000\n");
            ca.folder.write(&format!("{name}.crlnumber"), "01\n");
            ca.folder.write(
                &format!("{name}.cnf"),
                &format!(
                    "[ca]\ndefault_ca=own\n[own]\ndatabase={place}/{name}.index\nserial={place}/{name}.serial\n\
                     crlnumber={place}/{name}.crlnumber\nnew_certs_dir={place}\ncertificate={place}/{name}.pem\n\
                     private_key={place}/{name}.key\ndefault_md=sha256\ndefault_days=300\ndefault_crl_days=30\n\
                     policy=any\nunique_subject=no\ncrl_extensions=list\n[any]\ncommonName=supplied\n\
                     [list]\nauthorityKeyIdentifier=keyid\n[ca_cert]\nbasicConstraints=critical,CA:true\n\
                     keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n\
                     [leaf]\nsubjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n"
                ),
            );
        }
        ca.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3000 -subj /CN=Root -keyout root.key -out root.pem -config root.cnf -extensions ca_cert");
        ca.request("issuing", "Issuing");
        ca.openssl("ca -batch -notext -startdate 20200101000000Z -config root.cnf -extensions ca_cert -days 2000 -in issuing.csr -out issuing.pem");
        ca.issue("broker");
        ca
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.folder.path())
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn request(&self, file: &str, name: &str) {
        // Without a section for distinguished names in the configuration.
        self.folder.write("req.cnf", "[req]\ndistinguished_name=dn\n[dn]\n");
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} -keyout {file}.key -out {file}.csr -config req.cnf"
        ));
    }

    fn issue(&self, name: &str) {
        self.request(name, name);
        self.openssl(&format!(
            "ca -batch -notext -startdate 20200101000000Z -config issuing.cnf -extensions leaf -in {name}.csr -out {name}.pem"
        ));
    }

    fn identity(&self, name: &str) -> Identity {
        let read = |file: &str| std::fs::read_to_string(self.path(file)).unwrap();
        let certificate = read(&format!("{name}.pem")) + &read("issuing.pem");
        Identity { certificate, key: read(&format!("{name}.key")) }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// The lists of both CAs in one file; `days` until the next update of the issuing one.
    fn lists(&self, days: u32) -> PathBuf {
        self.openssl("ca -gencrl -config root.cnf -out root.crl");
        self.openssl(&format!("ca -gencrl -config issuing.cnf -crldays {days} -out issuing.crl"));
        let read = |file: &str| std::fs::read_to_string(self.path(file)).unwrap();
        self.folder.write("lists.pem", &(read("root.crl") + &read("issuing.crl")))
    }

    fn broker(&self) -> Mosquitto {
        Mosquitto::start(|_| self.identity("broker"), "")
    }

    fn settings(&self, mosquitto: &Mosquitto, lists: Option<&Path>) -> Settings {
        let mut settings = mosquitto.settings();
        let tls = settings.tls.as_mut().unwrap();
        tls.ca_file = Some(self.path("root.pem"));
        tls.revocation.file = lists.map(Path::to_owned);
        settings
    }
}

async fn fails(running: &Running, parts: &[&str]) {
    let says = |running: &Running| {
        let said = running.handle.status().failure;
        said.is_some_and(|said| parts.iter().all(|part| said.contains(part)))
    };
    running.until(&format!("it fails with {parts:?}"), says).await;
}

async fn connects(running: &Running) {
    running.until("it connects", |running| running.handle.status().connected).await;
}

#[test]
fn a_revoked_broker_is_refused_and_named_and_another_certificate_is_accepted() {
    let ca = OpenSslCa::new();
    let mut mosquitto = ca.broker();
    let lists = ca.lists(30);
    let settings = ca.settings(&mosquitto, Some(&lists));
    run(settings, real_clock(true, 0), async |running| {
        connects(&running).await;
        ca.openssl("ca -config issuing.cnf -revoke broker.pem");
        ca.lists(30);
        mosquitto.restart();
        fails(&running, &["\"broker\"", "1000", "revoked by \"Issuing\""]).await;
        // Its owner replaces it.
        ca.issue("next");
        let next = ca.identity("next");
        mosquitto.folder.write("server.pem", &next.certificate);
        mosquitto.folder.write("server.key", &next.key);
        mosquitto.restart();
        running.handle.with(|core| core.retry_now(std::time::Instant::now()));
        connects(&running).await;
    });
}

#[test]
fn a_revoked_intermediate_refuses_what_it_issued() {
    let ca = OpenSslCa::new();
    let mosquitto = ca.broker();
    ca.openssl("ca -config root.cnf -revoke issuing.pem");
    let lists = ca.lists(30);
    run(ca.settings(&mosquitto, Some(&lists)), real_clock(true, 0), async |running| {
        fails(&running, &["\"Issuing\"", "revoked by \"Root\""]).await;
    });
}

#[test]
fn an_expired_list_is_used_unless_it_is_to_refuse_and_an_untrusted_clock_expires_nothing() {
    let ca = OpenSslCa::new();
    let mosquitto = ca.broker();
    let lists = ca.lists(1);
    let accepting = ca.settings(&mosquitto, Some(&lists));
    let mut refusing = accepting.clone();
    refusing.tls.as_mut().unwrap().revocation.refuse_expired = true;
    run(refusing.clone(), real_clock(true, 0), async |running| connects(&running).await);
    run(accepting, real_clock(true, 3), async |running| connects(&running).await);
    run(refusing.clone(), real_clock(true, 3), async |running| {
        fails(&running, &["revocation list", "expired", "crl-expired"]).await;
    });
    run(refusing, real_clock(false, 3), async |running| connects(&running).await);
}

#[test]
fn a_file_that_is_no_list_or_is_forged_or_missing_is_named_and_its_repair_is_enough() {
    let ca = OpenSslCa::new();
    let mosquitto = ca.broker();
    let garbage = ca.folder.write("lists.pem", "hello");
    run(ca.settings(&mosquitto, Some(&garbage)), real_clock(true, 0), async |running| {
        fails(&running, &["lists.pem", "holds no revocation list"]).await;
        let other = OpenSslCa::new();
        other.lists(30);
        std::fs::copy(other.path("root.crl"), &garbage).unwrap();
        running.handle.with(|core| core.retry_now(std::time::Instant::now()));
        running
            .until("it says that it is not signed", |running| {
                running
                    .handle
                    .status()
                    .failure
                    .is_some_and(|said| said.contains("is not signed by the key of that CA"))
            })
            .await;
        std::fs::remove_file(&garbage).unwrap();
        running.handle.with(|core| core.retry_now(std::time::Instant::now()));
        running
            .until("it says that there is none", |running| {
                running.handle.status().failure.is_some_and(|said| said.contains("cannot be read"))
            })
            .await;
        ca.lists(30);
        running.handle.with(|core| core.retry_now(std::time::Instant::now()));
        connects(&running).await;
    });
}

#[test]
fn where_lists_are_fetched_and_none_came_the_policy_decides() {
    let ca = OpenSslCa::new();
    let mosquitto = ca.broker();
    let mut settings = ca.settings(&mosquitto, None);
    let fetched = ca.path("fetched.pem");
    settings.tls.as_mut().unwrap().revocation.fetched = Some(fetched.clone());
    run(settings.clone(), real_clock(true, 0), async |running| connects(&running).await);
    settings.tls.as_mut().unwrap().revocation.refuse_expired = true;
    run(settings, real_clock(true, 0), async |running| {
        fails(&running, &["no revocation list could be fetched"]).await;
        let lists = ca.lists(30);
        std::fs::copy(lists, &fetched).unwrap();
        running.handle.with(|core| core.retry_now(std::time::Instant::now()));
        connects(&running).await;
    });
}

/// The broker's CA changes: both in ca-file, then the broker's certificate, then the old one goes.
#[test]
fn a_ca_rolls_over_with_both_in_the_file_and_no_moment_without_a_connection() {
    let (old, new) = (Authority::new("Old CA"), Authority::new("New CA"));
    let mut mosquitto = Mosquitto::start(|_| old.server("localhost", &LONG), "");
    let folder = Folder::new();
    let ca_file = folder.write("ca.pem", &old.pem);
    let mut settings = mosquitto.settings();
    settings.tls.as_mut().unwrap().ca_file = Some(ca_file);
    run(settings, real_clock(true, 0), async |running| {
        connects(&running).await;
        folder.write("ca.pem", &(old.pem.clone() + &new.pem));
        let next = new.server("localhost", &LONG);
        mosquitto.folder.write("server.pem", &next.certificate);
        mosquitto.folder.write("server.key", &next.key);
        mosquitto.restart();
        connects(&running).await;
        folder.write("ca.pem", &new.pem);
        mosquitto.restart();
        connects(&running).await;
        // Without the new one it would not have been.
        folder.write("ca.pem", &old.pem);
        mosquitto.restart();
        fails(&running, &["which is not trusted"]).await;
    });
}

/// With `trust = "est"`: the file that the keeper writes.
#[test]
fn cas_of_the_est_server_are_trusted_beside_the_file_and_the_chain_shows_which_suffice() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use tombolo::credential::anchors::AnchorSet;
    use tombolo::northbound::tls::leads_to;

    let (old, new) = (Authority::new("Old CA"), Authority::new("New CA"));
    let mosquitto = Mosquitto::start(|_| new.server("localhost", &LONG), "");
    let folder = Folder::new();
    let anchors = folder.path().join("anchors.pem");
    let mut settings = mosquitto.settings();
    let tls = settings.tls.as_mut().unwrap();
    tls.ca_file = None;
    tls.est_anchors = Some(anchors.clone());
    let der = |ca: &Authority| CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap().to_vec();
    run(settings, real_clock(true, 0), async |running| {
        fails(&running, &["no CA of the broker is known yet", "upstream.ca-file"]).await;
        let mut set = AnchorSet::default();
        set.offer(None, &[der(&old), der(&new)]).unwrap();
        std::fs::write(&anchors, set.to_bytes()).unwrap();
        running.handle.with(|core| core.retry_now(std::time::Instant::now()));
        connects(&running).await;
        let chain = running.handle.broker_chain();
        let clock = real_clock(true, 0);
        assert!(leads_to(&chain, &[der(&new)], "localhost", &*clock));
        assert!(!leads_to(&chain, &[der(&old)], "localhost", &*clock));
        assert!(!leads_to(&chain, &[der(&new)], "other.test", &*clock));
        assert!(!leads_to(&[], &[der(&new)], "localhost", &*clock));
    });
}
