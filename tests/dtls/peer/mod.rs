//! Real clients over loopback: what our own client agrees with us on need not be what others do.
//!
//! A client that is not installed is passed over, unless `TOMBOLO_TEST_PEERS=all`, as `tests/run`
//! sets it. What `tests/run peers` builds is found in `target/peers/bin`: clients in Python, and
//! those of `foreign/`.

mod coap;
#[cfg(feature = "dimpl")]
mod dimpl;
mod gnutls;
mod mbedtls;
mod openssl;
mod restart;
mod server;
mod tinydtls;
mod wolfssl;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rcgen::{KeyPair, PublicKeyData as _};
use tombolo::proto::dtls::server::{Certificates, Settings, Trust};
use tombolo::proto::dtls::{CloseCause, HandshakeFailure, PeerIdentity};
use tombolo_test_support::dtls::{Chain, device_params, hash, key_algorithm, server_key_of};
use tombolo_test_support::{Folder, PATIENCE};

use server::{Server, Shown, shown};

/// Starts a client; `None` if it is not installed and need not be.
fn start(program: &str, arguments: &[&str]) -> Option<Child> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin").join(program);
    let child = Command::new(if built.exists() { built.as_os_str() } else { program.as_ref() })
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match child {
        Ok(child) => Some(child),
        Err(error) if std::env::var_os("TOMBOLO_TEST_PEERS").is_none_or(|peers| peers != "all") => {
            eprintln!("passed over: {program}: {error}");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

/// A client that sends what comes in on its standard input, and prints what comes back.
struct Talk {
    client: Child,
    lines: mpsc::Receiver<String>,
    reader: JoinHandle<()>,
    called: String,
}

impl Talk {
    /// Starts a client, if there is one, and sees it through its handshake.
    fn begin(server: &Server, program: &str, arguments: &[&str]) -> Option<Talk> {
        let mut client = start(program, arguments)?;
        let output = BufReader::new(client.stdout.take().unwrap());
        let (line, lines) = mpsc::channel();
        let reader = std::thread::spawn(move || {
            let _ = output.lines().map_while(Result::ok).try_for_each(|text| line.send(text));
        });
        let talk = Talk { client, lines, reader, called: format!("{program} {arguments:?}") };
        server.wait(|seen| !seen.identities.is_empty() || !seen.failed.is_empty());
        let failed = format!("{:?}", server.seen().failed);
        let is_in = !server.seen().identities.is_empty();
        if !is_in {
            talk.give_up(&format!("no handshake: {failed}"));
        }
        Some(talk)
    }

    /// It sends a line of its own, and prints what the server echoes.
    fn echo(mut self, server: &Server, line: &str) -> Talk {
        let data = format!("{line}\n").into_bytes();
        self.client.stdin.as_mut().unwrap().write_all(&data).unwrap();
        if !server.wait(|seen| seen.data.contains(&data)) {
            self.give_up(&format!("{line:?} did not come"));
        }
        let mut text = String::new();
        while !text.contains(line) {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(more) => text += &more,
                Err(_) => self.give_up(&format!("{line:?} did not come back, but {text:?}")),
            }
        }
        self
    }

    /// Its input ends, and so does it. Returns what it said on standard error.
    fn end(mut self) -> String {
        drop(self.client.stdin.take());
        let output = self.client.wait_with_output().unwrap();
        self.reader.join().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// For a client that does not go by itself.
    fn kill(mut self) -> String {
        let _ = self.client.kill();
        self.end()
    }

    fn give_up(self, why: &str) -> ! {
        let called = self.called.clone();
        panic!("{called}: {why}: {}", self.kill())
    }
}

/// One line there and back. Returns whether there is such a client.
fn echo(server: &Server, program: &str, arguments: &[&str]) -> bool {
    let talk = Talk::begin(server, program, arguments);
    talk.map(|talk| talk.echo(server, "hello tombolo").end()).is_some()
}

/// Does all of them at once: most clients wait more than they work.
fn at_once<T: Send>(all: impl IntoIterator<Item = T>, each: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for one in all {
            scope.spawn(|| each(one));
        }
    });
}

/// The key of dev-1.
const KEY: &str = "30313233343536373839616263646566";

/// Files of a device: a chain of four certificates under the root, and its key. The server has such
/// a chain too.
struct Files {
    folder: Folder,
    certificates: Certificates,
}

impl Files {
    fn new(p384: bool) -> Files {
        let folder = Folder::new("dtls");
        let chain = Chain::new();
        let key = KeyPair::generate_for(key_algorithm(p384)).unwrap();
        let device = device_params("door-7").signed_by(&key, chain.lowest()).unwrap();
        let above: String = chain.above.iter().map(|authority| authority.pem()).collect();
        folder.write("chain.pem", device.pem() + &above);
        // For clients that take the device's own apart.
        folder.write("above.pem", above);
        folder.write("device.key", key.serialize_pem());
        folder.write("root.pem", chain.root.pem());
        folder.write("public.pem", key.public_key_pem());
        let server = server_key_of("localhost", chain.lowest(), &chain.above_der(), p384);
        let raw = [hash(&key.subject_public_key_info())];
        let trust = Trust::new(vec![chain.root.der().to_vec()], Vec::new(), &[], raw).unwrap();
        let certificates = Certificates { key: Some(server), trust: Arc::new(trust) };
        Files { folder, certificates }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }
}
