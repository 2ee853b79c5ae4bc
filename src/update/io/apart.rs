//! Metadata fetched and verified by a process of its own, which ends with it: TLS, HTTP and the
//! parser take several megabytes of code and heap, which a daemon that needs them every six hours
//! would keep; and what the network sends is parsed where it can bring down nothing else. (They
//! share the memory of one service, whose unit goes on when the kernel kills one of its processes.)
//!
//! It is this program again, `tombolo update metadata`: the [`Order`] comes on its standard input,
//! what it found goes to its standard output, both in JSON. It judges nothing and writes nothing
//! but working files: the floor, and what follows from the offers, are the daemon's.
//!
//! | meets | then |
//! |---|---|
//! | this program cannot be started again | the daemon fetches by itself |
//! | it dies, or says what cannot be read | [`Fault::Local`], and the next check tries again |
//! | it takes longer than the check may, or nobody wants it any more | it is killed |

use std::io::Read as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{client, tuf};
use crate::clock::{UnixTime, WallClock};
use crate::system::io::ProcessGroup;
use crate::update::check::{Fault, Metadata};
use crate::update::settings::Place;

/// This very program, also when another version was installed over it.
const PROGRAM: &str = "/proc/self/exe";
/// Longest order: four paths and addresses.
const ORDER_MAX: u64 = 64 * 1024;
/// Most of what it says: all offers of the longest targets.json, written anew.
const SAID_MAX: u64 = 16 << 20;

/// What is to be fetched, and by what it is verified.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    metadata: String,
    targets: String,
    root_file: PathBuf,
    ca_file: Option<PathBuf>,
    /// For working files; made for that.
    scratch: PathBuf,
    /// The wall time, which is trusted.
    now: UnixTime,
    /// A time that has certainly passed.
    floor: UnixTime,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Verified(Box<Metadata>),
    Unreachable(String),
    Invalid(String),
    Local(String),
}

impl Order {
    /// Of this place, judged by that clock.
    pub fn new(place: &Place, scratch: PathBuf, clock: &dyn WallClock) -> Order {
        Order {
            metadata: place.metadata.to_string(),
            targets: place.targets.to_string(),
            root_file: place.root_file.clone(),
            ca_file: place.ca_file.clone(),
            scratch,
            now: clock.raw(),
            floor: clock.floor(),
        }
    }

    /// Fetches and verifies here.
    async fn work(&self) -> Result<Metadata, Fault> {
        let clock: Arc<dyn WallClock> =
            Arc::new(Given { now: self.now, floor: self.floor, at: Instant::now() });
        let place = tuf::Place { metadata: self.metadata.clone(), targets: self.targets.clone() };
        let root = tuf::read_root(&self.root_file)?;
        let asks = client::client(self.ca_file.as_deref(), &clock)?;
        tuf::load(&place, &root, asks, Some(&self.scratch)).await
    }
}

/// Fetches and verifies in a process of its own; it ends when this future does.
///
/// # Errors
/// As [`tuf::load`].
pub async fn load(order: &Order) -> Result<Metadata, Fault> {
    let local = |what: String| Fault::Local(format!("the program that fetches the metadata {what}"));
    let mut command = Command::new(PROGRAM);
    command.args(["update", "metadata"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.process_group(0).kill_on_drop(true);
    let Ok(mut child) = command.spawn() else { return order.work().await };
    let _group = child.id().map(ProcessGroup);
    if let Some(mut input) = child.stdin.take() {
        // One that has ended says so below.
        let _ = input.write_all(&serde_json::to_vec(order).unwrap_or_default()).await;
    }
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        let read = output.take(SAID_MAX + 1).read_to_end(&mut said).await;
        read.map_err(|error| local(format!("cannot be read: {error}")))?;
    }
    if said.len() as u64 > SAID_MAX {
        return Err(local(format!("says more than {SAID_MAX} bytes")));
    }
    let ended = child.wait().await.map_err(|error| local(format!("cannot be waited for: {error}")))?;
    match serde_json::from_slice(&said) {
        Ok(Said::Verified(metadata)) => Ok(*metadata),
        Ok(Said::Unreachable(text)) => Err(Fault::Unreachable(text)),
        Ok(Said::Invalid(text)) => Err(Fault::Invalid(text)),
        Ok(Said::Local(text)) => Err(Fault::Local(text)),
        Err(_) => Err(local(format!("came to no answer ({ended}); the next check tries again"))),
    }
}

/// The process itself: what it says on its standard output, in JSON. It blocks.
///
/// # Errors
/// One sentence: what comes on standard input is no order.
pub fn serve() -> Result<impl Serialize, String> {
    let none = |error: String| format!("this is for the daemon, which says what it wants: {error}");
    let mut order = Vec::new();
    let read = std::io::stdin().take(ORDER_MAX).read_to_end(&mut order);
    read.map_err(|error| none(error.to_string()))?;
    let order: Order = serde_json::from_slice(&order).map_err(|error| none(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    // Also where nobody is there any more to end it.
    let asked = runtime.block_on(async { tokio::time::timeout(client::WITHIN, order.work()).await });
    runtime.shutdown_background();
    Ok(match asked.unwrap_or_else(|_| Err(client::late())) {
        Ok(metadata) => Said::Verified(Box::new(metadata)),
        Err(Fault::Unreachable(text)) => Said::Unreachable(text),
        Err(Fault::Invalid(text)) => Said::Invalid(text),
        Err(Fault::Local(text)) => Said::Local(text),
        Err(other) => Said::Local(other.to_string()),
    })
}

/// The daemon's clock, as it was and from then on.
struct Given {
    now: UnixTime,
    floor: UnixTime,
    at: Instant,
}

impl WallClock for Given {
    fn raw(&self) -> UnixTime {
        let since = u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        UnixTime(self.now.0.saturating_add(since))
    }

    fn trusted(&self) -> bool {
        true
    }

    fn floor(&self) -> UnixTime {
        self.floor
    }
}
