//! Revocation lists fetched by HTTP, and over HTTPS from `openssl s_server`: taken, refused, kept.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tombolo::clock::{UnixTime, WallClock};
use tombolo::credential::io::revocation::CrlKeeper;
use tombolo::credential::revocation::{Anchors, Fetching, Side, parse_url};
use tombolo::northbound::io::kept;
use tombolo_test_support::http::FileServer;
use tombolo_test_support::{Folder, Pki, free_tcp_port};

/// A clock that was never set: lists are fetched all the same.
struct Never;

impl WallClock for Never {
    fn raw(&self) -> UnixTime {
        UnixTime(0)
    }
    fn trusted(&self) -> bool {
        false
    }
    fn floor(&self) -> UnixTime {
        UnixTime(0)
    }
}

struct Site {
    folder: Folder,
    pki: Pki,
    server: FileServer,
}

fn site(name: &str) -> Site {
    let folder = Folder::new(name);
    let pki = Pki::new(folder.path());
    let server = FileServer::start(folder.path());
    Site { folder, pki, server }
}

impl Site {
    fn fetching(&self, url: &str) -> Fetching {
        Fetching {
            side: Side::Coap,
            url: parse_url(url).unwrap(),
            period: Duration::from_secs(86_400),
            folder: self.folder.join("revocation"),
            anchors: Anchors::File(self.pki.ca()),
            seed: "gw".to_owned(),
        }
    }

    /// As after a restart.
    fn open(&self, url: &str) -> Rc<CrlKeeper> {
        kept::forget(&self.fetching(url).file());
        CrlKeeper::open(Instant::now(), self.fetching(url), Arc::new(Never))
    }

    /// Asks once; a keeper that finds something in store would wait first.
    fn fetch(&self, url: &str) -> Result<usize, String> {
        self.ask(&self.open(url))
    }

    fn ask(&self, keeper: &Rc<CrlKeeper>) -> Result<usize, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            keeper.ask();
            keeper.care();
            let give_up = Instant::now() + Duration::from_secs(60);
            while keeper.is_busy() {
                assert!(Instant::now() < give_up, "it never ends");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        keeper.last_error().map_or(Ok(keeper.stored().len()), Err)
    }

    fn stored(&self) -> usize {
        self.open("http://x/").stored().len()
    }
}

#[test]
fn a_list_is_fetched_and_is_there_after_a_restart_also_if_its_file_is_damaged() {
    let site = site("crl-kept");
    assert_eq!(site.stored(), 0);
    site.folder.write("list.pem", site.pki.revoke(&[7]));
    assert_eq!(site.fetch(&site.server.url("list.pem")), Ok(1));
    assert_eq!(site.stored(), 1);
    let file = site.folder.join("revocation/coap.pem");
    let openssl =
        Command::new("openssl").args(["crl", "-noout", "-text", "-in"]).arg(&file).output().unwrap();
    assert!(String::from_utf8_lossy(&openssl.stdout).contains("Serial Number: 07"), "{openssl:?}");
    std::fs::write(&file, "junk").unwrap();
    assert_eq!(site.stored(), 1, "its copy counts");
}

#[test]
fn der_is_taken_as_well_as_pem() {
    let site = site("crl-der");
    let pem = site.folder.write("list.pem", site.pki.revoke(&[7]));
    let der = site.folder.join("list.crl");
    let converted = Command::new("openssl")
        .args(["crl", "-outform", "der", "-in"])
        .arg(&pem)
        .arg("-out")
        .arg(&der)
        .status();
    assert!(converted.unwrap().success());
    assert_eq!(site.fetch(&site.server.url("list.crl")), Ok(1));
}

#[test]
fn whatever_else_comes_is_refused_with_a_reason_and_the_stored_list_stays() {
    let site = site("crl-refused");
    site.folder.write("list.pem", site.pki.revoke(&[7]));
    assert_eq!(site.fetch(&site.server.url("list.pem")), Ok(1));
    let other = Folder::new("crl-refused-other");
    site.folder.write("foreign.pem", Pki::new(other.path()).revoke(&[1]));
    site.folder.write("page.html", "<html>Not here</html>");
    site.folder.write("empty.pem", "");
    site.folder.write("huge.pem", vec![b'A'; 10 << 20]);
    let list = site.pki.revoke(&[7]);
    site.folder.write("cut.pem", &list[..list.len() - 30]);
    for (name, said) in [
        ("foreign.pem", "none of the configured CAs"),
        ("page.html", "holds no revocation list"),
        ("empty.pem", "holds no revocation list"),
        ("huge.pem", "longer than 4194304 bytes"),
        ("cut.pem", "is not complete PEM"),
        ("none.pem", "the server answers 404"),
        ("503", "the server answers 503"),
    ] {
        let error = site.fetch(&site.server.url(name)).unwrap_err();
        assert!(error.contains(said), "{name}: {error}");
        assert_eq!(site.stored(), 1, "{name}");
    }
    let error = site.fetch(&format!("http://127.0.0.1:{}/", free_tcp_port())).unwrap_err();
    assert!(error.contains("no connection"), "{error}");
}

#[test]
fn a_list_that_the_disk_does_not_take_is_in_use_and_stored_once_it_does() {
    let site = site("crl-disk");
    site.folder.write("list.pem", site.pki.revoke(&[7]));
    let in_the_way = site.folder.write("revocation", "a file where the folder would be");
    let url = site.server.url("list.pem");
    let keeper = site.open(&url);
    assert_eq!(site.ask(&keeper), Ok(1));
    assert!(keeper.take_changed());
    let problem = keeper.problem().expect("it is named");
    assert!(problem.contains("are in use, but") && problem.contains("revocation/coap.pem"), "{problem}");
    let in_use = kept::read(&site.fetching(&url).file()).expect("it is known");
    assert!(String::from_utf8_lossy(&in_use).contains("X509 CRL"));
    // Other settings for the same lists go on with them.
    let other = CrlKeeper::open(Instant::now(), site.fetching("http://x/"), Arc::new(Never));
    assert_eq!(other.stored().len(), 1);
    std::fs::remove_file(in_the_way).unwrap();
    keeper.store_soon();
    assert_eq!(site.ask(&keeper), Ok(1));
    assert_eq!(keeper.problem(), None);
    assert_eq!(site.stored(), 1, "after a restart, too");
}

/// `openssl s_server`, which ends with this.
struct OpenSsl(Child);

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn s_server(folder: &Path, port: u16) -> OpenSsl {
    let child = Command::new("openssl")
        .args(["s_server", "-WWW", "-quiet", "-cert", "server.pem", "-key", "server.key"])
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    OpenSsl(child)
}

/// The list is signed, so whose certificate the server has does not matter.
#[test]
fn over_https_the_list_is_believed_and_not_the_server() {
    let site = site("crl-https");
    let strange = Folder::new("crl-https-strange");
    let (certificate, key) = Pki::new(strange.path()).issue("server", &["elsewhere.test"]);
    std::fs::copy(certificate, site.folder.join("server.pem")).unwrap();
    std::fs::copy(key, site.folder.join("server.key")).unwrap();
    site.folder.write("list.pem", site.pki.revoke(&[7]));
    site.folder.write("foreign.pem", Pki::new(strange.path()).revoke(&[1]));
    let port = free_tcp_port();
    let _server = s_server(site.folder.path(), port);
    tombolo_test_support::wait_for("openssl s_server", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    assert_eq!(site.fetch(&format!("https://127.0.0.1:{port}/list.pem")), Ok(1));
    let error = site.fetch(&format!("https://127.0.0.1:{port}/foreign.pem")).unwrap_err();
    assert!(error.contains("none of the configured CAs"), "{error}");
}
