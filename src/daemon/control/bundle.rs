//! The support bundle for the broker: `tombolo support-bundle`, as a process of its own, writes it
//! to the state directory; from there it is published in numbered
//! [parts](crate::downlink::parts).
//!
//! One at a time, one each [`EVERY`], at most [`SIZE_MAX`] bytes. A part is handed to the journal
//! when the one before is, at most one each [`PART_EVERY`], so that readings have the most of it.
//! With a full journal a part waits. A stop meanwhile ends it: the consumer misses parts, and asks
//! again.
//!
//! Parts are as large as the broker's Maximum Packet Size lets them be, and as the command asks. A
//! broker that tells no limit may refuse them all the same, or close the connection over one: what
//! became of each part is followed for [`FOLLOWED_FOR`], and the answer says so. The next bundle
//! need not wait then.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::Desk;
use super::remote::failed;
use crate::daemon::commands::RemoteCall;
use crate::daemon::deliveries::{Deliveries, Parts};
use crate::daemon::hub::Hub;
use crate::daemon::round::Shared;
use crate::downlink::command::{Outcome, Status};
use crate::downlink::parts::{PART_BYTES, PART_MIN, Part, SIZE_MAX, Whole, part_bytes};
use crate::downlink::remote;
use crate::hex::format_hex;
use crate::journal::Refused;
use crate::message::ContentFormat;
use crate::northbound::reason_code::{self, Cause};
use crate::pipeline::ReplyFault;
use crate::proto::coap;
use crate::system::io::{ProcessGroup, read_last};

/// The file in the state directory, while there is one.
const NAME: &str = "support-bundle.tar";
/// From the beginning of one to that of the next, at least.
const EVERY: Duration = Duration::from_secs(600);
/// How long it may take to make: seven commands of up to a minute each, of which mostly none takes
/// more than a second.
const MADE_WITHIN: Duration = Duration::from_secs(480);
/// From one part to the next, at least.
const PART_EVERY: Duration = Duration::from_millis(200);
/// From one try to the next while the journal takes nothing.
const FULL_REST: Duration = Duration::from_secs(1);
/// How long the journal may take nothing.
const FULL_MAX: Duration = Duration::from_secs(300);
/// How long it is waited for the broker's answers to the parts, from the last of them on.
const FOLLOWED_FOR: Duration = Duration::from_secs(600);
/// Bytes kept of what the process says, from the end.
const SAID_MAX: usize = 1_024;
/// What tells systemd about this process alone.
const OF_THE_SERVICE: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"];

/// Which there were.
#[derive(Default)]
pub(super) struct Bundles {
    /// Held once more by the one under way.
    under_way: Rc<()>,
    begun: Rc<Cell<Option<Instant>>>,
}

impl Bundles {
    /// What one holds until it is over; or why it is not begun.
    fn begin(&mut self, now: Instant) -> Result<Rc<()>, Outcome> {
        if Rc::strong_count(&self.under_way) > 1 {
            let why = "a support bundle is being made or published; wait for its parts";
            return Err(failed(coap::Code::SERVICE_UNAVAILABLE, why));
        }
        let left = self.begun.get().and_then(|begun| EVERY.checked_sub(now.saturating_duration_since(begun)));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            let seconds = left.as_secs() + 1;
            let why = format!(
                "a support bundle is made once in {} min; ask again in {seconds} s",
                EVERY.as_secs() / 60
            );
            return Err(failed(coap::Code::TOO_MANY_REQUESTS, why));
        }
        self.begun.set(Some(now));
        Ok(self.under_way.clone())
    }
}

/// Removes what a stop has left.
pub(super) fn clear(state_dir: &Path) {
    let file = state_dir.join(NAME);
    spawn_blocking(move || std::fs::remove_file(file));
}

impl Desk {
    /// Makes one and publishes it.
    pub(super) fn support_bundle(&mut self, call: RemoteCall) {
        let wish = match remote::bundle_wish(&call.payload) {
            Ok(wish) => wish,
            Err(why) => return self.answer(&call, &failed(coap::Code::BAD_REQUEST, why)),
        };
        if !call.has_reply_topic() {
            let why = "there is no topic for the parts: name a response topic, or set topics.reply";
            return self.answer(&call, &failed(coap::Code::BAD_REQUEST, why));
        }
        let limit = self.link.packet_limit();
        let part_bytes = match part_bytes(limit, call.bytes_around(), call.is_wrapped()) {
            Ok(room) => room.min(wish.part_bytes.unwrap_or(PART_BYTES)),
            Err(least) => {
                let why = format!(
                    "the broker takes packets of {} bytes (Maximum Packet Size), and a part makes one of {least} at least: \
                     raise it, or use a shorter response topic and less correlation data",
                    limit.unwrap_or_default()
                );
                return self.answer(&call, &failed(coap::Code::INTERNAL_SERVER_ERROR, why));
            }
        };
        let held = match self.bundles.begin(Instant::now()) {
            Ok(held) => held,
            Err(outcome) => return self.answer(&call, &outcome),
        };
        let (shared, under_way) = (self.shared.clone(), self.remote_under_way.clone());
        let file = self.loaded.settings.paths.state_dir.join(NAME);
        let config = self.options.config.clone();
        let (deliveries, begun) = (self.deliveries.clone(), self.bundles.begun.clone());
        deliveries.follow_parts();
        tokio::task::spawn_local(async move {
            let _held = (held, under_way);
            let published = match make(&config, &file, wish.hide_names, part_bytes).await {
                Ok((bundle, whole)) => {
                    let followed = publish(&shared, &deliveries, &call, bundle, &whole).await;
                    followed.map(|parts| (whole, parts))
                }
                Err(why) => Err(why),
            };
            let _ = spawn_blocking(move || std::fs::remove_file(file)).await;
            match published {
                Ok((whole, parts)) if parts.open.is_empty() => log::info!(
                    verb = call.verb.as_str(), status = "2.05", parts = whole.count(), bytes = whole.size,
                    sha256 = format_hex(&whole.sha256), audit = "remote"; "command to the gateway answered"
                ),
                Ok((whole, Parts { taken, .. })) => log::warn!(
                    verb = call.verb.as_str(), parts = whole.count(), taken, bytes = whole.size,
                    sha256 = format_hex(&whole.sha256), audit = "remote";
                    "the answer to a command to the gateway waits in the journal: the broker has not taken all parts yet"
                ),
                Err(why) => {
                    // What it says to do need not wait.
                    begun.set(None);
                    log::warn!(verb = call.verb.as_str(), reason = why.as_str(); "no support bundle for the broker");
                    let outcome = failed(coap::Code::INTERNAL_SERVER_ERROR, why);
                    shared.round(|hub: &mut Hub| {
                        hub.begin();
                        let Hub { commands, pipeline, moment, .. } = hub;
                        commands.answer_remote(moment, pipeline, &call, &outcome);
                    });
                }
            }
        });
    }
}

/// The bundle, open, and what it is.
async fn make(
    config: &Path,
    file: &Path,
    hide_names: bool,
    part_bytes: u64,
) -> Result<(Arc<File>, Whole), String> {
    let old = file.to_owned();
    let _ = spawn_blocking(move || std::fs::remove_file(old)).await;
    // Also that of a program whose file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg("--config").arg(config).arg("support-bundle").arg(file);
    command.args(["--offline", "--max-bytes", &SIZE_MAX.to_string()]);
    if hide_names {
        command.arg("--hide-names");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    for name in OF_THE_SERVICE {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(|error| format!("the program cannot be started: {error}"))?;
    let group = child.id().map(ProcessGroup);
    let mut said = Vec::new();
    let stderr = child.stderr.take();
    let ended = timeout(MADE_WITHIN, async {
        read_last::<SAID_MAX>(stderr, &mut said).await;
        child.wait().await
    })
    .await;
    drop(group);
    match ended {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => {
            return Err(format!(
                "support-bundle failed: {status}: {}",
                String::from_utf8_lossy(&said).trim()
            ));
        }
        Ok(Err(error)) => return Err(format!("support-bundle cannot be waited for: {error}")),
        Err(_) => return Err(format!("it was not made within {} s", MADE_WITHIN.as_secs())),
    }
    let path = file.to_owned();
    let measured = spawn_blocking(move || measure(&path, part_bytes)).await;
    let measured = measured.unwrap_or_else(|_| Err(io::Error::other("its thread failed")));
    measured.map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

fn measure(path: &Path, part_bytes: u64) -> io::Result<(Arc<File>, Whole)> {
    let file = File::open(path)?;
    let (mut digest, mut size) = (digest::Context::new(&digest::SHA256), 0);
    let mut piece = vec![0; 16 << 10];
    let mut bounded = (&file).take(SIZE_MAX + 1);
    loop {
        let length = bounded.read(&mut piece)?;
        if length == 0 {
            break;
        }
        digest.update(&piece[..length]);
        size += length as u64;
    }
    if !(1..=SIZE_MAX).contains(&size) {
        return Err(io::Error::other(format!("it has {size} bytes, not 1 to {SIZE_MAX}")));
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest.finish().as_ref());
    Ok((Arc::new(file), Whole { size, sha256, part_bytes }))
}

/// Hands part after part to the journal, and follows what becomes of them at the broker.
async fn publish(
    shared: &Shared,
    deliveries: &Deliveries,
    call: &RemoteCall,
    file: Arc<File>,
    whole: &Whole,
) -> Result<Parts, String> {
    for Part { offset, length, properties } in whole.parts() {
        let of = file.clone();
        let read = spawn_blocking(move || {
            let mut payload = vec![0; length];
            of.read_exact_at(&mut payload, offset).map(|()| payload)
        });
        let read = read.await.unwrap_or_else(|_| Err(io::Error::other("its thread failed")));
        let payload = read.map_err(|error| format!("{NAME} cannot be read: {error}"))?;
        let outcome = Outcome {
            status: Status::Code(coap::Code::CONTENT.0),
            content_format: Some(ContentFormat::OCTET_STREAM),
            payload,
            partial: whole.count() > 1,
        };
        let mut waited = Duration::ZERO;
        loop {
            let taken = shared.round(|hub: &mut Hub| {
                hub.begin();
                let Hub { commands, pipeline, moment, .. } = hub;
                commands.answer_part(moment, pipeline, call, &outcome, &properties)
            });
            match taken {
                Ok(record) => {
                    record.into_iter().for_each(|record| deliveries.follow_part(record));
                    break;
                }
                Err(ReplyFault::Unstored(refused)) if refused != Refused::TooLarge && waited < FULL_MAX => {
                    waited += FULL_REST;
                    sleep(FULL_REST).await;
                }
                Err(ReplyFault::Unstored(refused)) => {
                    return Err(format!("the journal does not take a part: {refused}"));
                }
                Err(ReplyFault::Topic(fault)) => {
                    return Err(format!("parts may not be published there: {fault:?}"));
                }
            }
        }
        sleep(PART_EVERY).await;
        refused(&deliveries.parts(), whole)?;
    }
    let mut waited = Duration::ZERO;
    loop {
        let parts = deliveries.parts();
        refused(&parts, whole)?;
        if parts.open.is_empty() || waited >= FOLLOWED_FOR {
            return Ok(parts);
        }
        waited += PART_EVERY;
        sleep(PART_EVERY).await;
    }
}

/// Whether the broker does not take the parts, and what to do then.
fn refused(parts: &Parts, whole: &Whole) -> Result<(), String> {
    if parts.refused == 0 {
        return Ok(());
    }
    let (count, why) = (whole.count(), parts.cause.map(|cause| cause.to_string()));
    let why = why.unwrap_or_else(|| "it is not known why".to_owned());
    let smaller = (whole.part_bytes / 2).max(PART_MIN);
    let for_size = matches!(
        parts.cause,
        Some(Cause::Code(reason_code::PACKET_TOO_LARGE) | Cause::Closed | Cause::Silent)
    );
    let advice = match (for_size, smaller < whole.part_bytes) {
        (true, true) => {
            format!(
                "ask again with the payload part-bytes={smaller}, or raise the broker's limit of message sizes"
            )
        }
        (true, false) => "raise the broker's limit of message sizes".to_owned(),
        (false, _) => "see the broker's log, and ask again".to_owned(),
    };
    Err(format!(
        "the broker does not take the parts, of {} bytes each and {count} in all: {} taken, {} refused: {why}; {advice}",
        whole.part_bytes, parts.taken, parts.refused
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(begun: Result<Rc<()>, Outcome>) -> String {
        begun.unwrap_err().status.to_string()
    }

    #[test]
    fn one_bundle_is_made_at_a_time_and_the_next_after_a_while() {
        let (mut bundles, now) = (Bundles::default(), Instant::now());
        let first = bundles.begin(now).unwrap();
        assert_eq!(code(bundles.begin(now + EVERY)), "5.03", "it is still under way");
        drop(first);
        let early = bundles.begin(now + EVERY - Duration::from_secs(9));
        assert!(String::from_utf8_lossy(&early.as_ref().unwrap_err().payload).contains("in 10 s"));
        assert_eq!(code(early), "4.29");
        assert!(bundles.begin(now + EVERY).is_ok());
        assert_eq!(code(bundles.begin(now + EVERY)), "4.29", "from the beginning of the last on");
    }

    #[test]
    fn parts_that_the_broker_refuses_are_said_to_be_so_with_what_to_do() {
        let whole = Whole { size: 100_000, sha256: [0; 32], part_bytes: PART_BYTES };
        let mut parts = Parts { taken: 2, ..Parts::default() };
        assert_eq!(refused(&parts, &whole), Ok(()));
        parts.refused = 1;
        for cause in [Cause::Code(reason_code::PACKET_TOO_LARGE), Cause::Closed] {
            parts.cause = Some(cause);
            let said = refused(&parts, &whole).unwrap_err();
            assert!(said.contains("2 taken, 1 refused") && said.contains("part-bytes=16384"), "{said}");
            let least = Whole { part_bytes: PART_MIN, ..whole.clone() };
            let said = refused(&parts, &least).unwrap_err();
            assert!(!said.contains("part-bytes=") && said.contains("raise the broker's limit"), "{said}");
        }
        parts.cause = Some(Cause::Code(reason_code::QUOTA_EXCEEDED));
        let said = refused(&parts, &whole).unwrap_err();
        assert!(!said.contains("part-bytes=") && said.contains("quota exceeded"), "{said}");
    }

    #[test]
    fn a_bundle_that_is_empty_or_too_large_is_not_published() {
        let folder = std::env::temp_dir().join(format!("tombolo-bundle-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(NAME);
        std::fs::write(&path, b"").unwrap();
        assert!(measure(&path, PART_BYTES).is_err());
        std::fs::write(&path, vec![7; SIZE_MAX as usize + 1]).unwrap();
        assert!(measure(&path, PART_BYTES).unwrap_err().to_string().contains("1048577"));
        std::fs::write(&path, b"abc").unwrap();
        let (_, whole) = measure(&path, PART_BYTES).unwrap();
        assert_eq!(whole.size, 3);
        assert!(format_hex(&whole.sha256).starts_with("ba7816bf8f01cfea"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
