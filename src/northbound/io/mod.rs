//! The uplink's shell: sockets, files, tasks, log lines. All decisions are [`Uplink`]'s.
//!
//! [`Driver::run`] is one future on the path's own thread. It shares the core with [`Handle`]s and
//! the journal with the hub, borrows both only between two awaits, and works in rounds: read what
//! came, fill the output once, write once; then, if anything moved, it sleeps out the tick, so that
//! a busy gateway pays for 200 rounds a second and not for one a record. Reading and writing are
//! polled together: a broker that stops reading is still read from.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

pub mod files;
pub mod jwt;
pub mod kept;
pub mod observer;
pub mod probe;
pub mod separate_trial;
mod small_file;
pub mod socket;
mod tap;
pub mod token;
pub mod transport;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};

use super::advice;
use super::outbox::Outbox;
use super::publisher::Event as PublisherEvent;
use super::reason_code;
use super::settings::Settings;
use super::uplink::{Closed, Event, Inbound, ReadingAnswer, Status, Uplink};
use super::wire::Version;
use crate::clock::{Moment, WallClock};
use crate::message::{Content, RecordId};
use crate::telemetry::limited::{Limiter, Suppressed};
use files::Fingerprints;
use observer::{Direction, Observer};
use socket::Stream;
use tap::Tap;
use transport::{ConnectError, Connected, Transport};

/// Between two rounds while something moves: 5 ms.
const TICK: Duration = Duration::from_millis(5);
/// While every place of the window is taken, the tick is as many milliseconds as the window has
/// hundreds, so that it does not limit what the broker could take.
const PLACES_A_MILLISECOND: u16 = 100;
/// Read at a time, and in one round at most.
const READ_BYTES: usize = 16 * 1024;
const READS_A_ROUND: usize = 16;
/// Recovered records that wait to be asked for; who does not ask misses the others.
const RECOVERED_MAX: usize = 1024;
/// What writing the last bytes, and closing, may take.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// A hold on the uplink for those on the same thread: cheap to clone.
#[derive(Clone)]
pub struct Handle {
    core: Rc<RefCell<Uplink>>,
    wake: Rc<Notify>,
    stopped: Rc<Notify>,
    /// Notified when the broker has something for devices.
    inbound: Rc<Notify>,
    /// Rejected records that the broker has now.
    recovered: Rc<RefCell<Vec<RecordId>>>,
    /// The chain of the broker of the last connection, DER, its own certificate first.
    broker_chain: Rc<RefCell<Vec<Vec<u8>>>>,
    /// Of the files that the last connection was made with.
    files_used: Rc<Cell<Option<Fingerprints>>>,
    observer: Option<Rc<dyn Observer>>,
}

impl Handle {
    /// Takes the core in; [`Driver::new`] drives it.
    pub fn new(uplink: Uplink) -> Handle {
        Handle {
            core: Rc::new(RefCell::new(uplink)),
            wake: Rc::new(Notify::new()),
            stopped: Rc::new(Notify::new()),
            inbound: Rc::new(Notify::new()),
            recovered: Rc::default(),
            broker_chain: Rc::default(),
            files_used: Rc::default(),
            observer: None,
        }
    }

    /// Lets this one follow the uplink. Before [`Driver::new`].
    pub fn observed_by(mut self, observer: Rc<dyn Observer>) -> Handle {
        self.core.borrow_mut().swap_settled(Vec::new());
        self.observer = Some(observer);
        self
    }

    /// Notifies this one when the broker has something for devices. Before [`Driver::new`].
    pub fn notifying(mut self, inbound: Rc<Notify>) -> Handle {
        self.inbound = inbound;
        self
    }

    /// The next thing that the broker has for devices.
    pub fn poll_inbound(&self) -> Option<Inbound> {
        let mut core = self.core.borrow_mut();
        let is_waited_for = !core.may_read();
        let inbound = core.poll_inbound();
        if is_waited_for && core.may_read() {
            self.wake.notify_one();
        }
        inbound
    }

    /// Says that records were committed, or read from disk.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Hands over a reading of a `qos = 0` rule.
    pub fn push_volatile(&self, content: &Content<'_>) {
        self.core.borrow_mut().push_volatile(content);
        self.wake();
    }

    /// Does something with the core, between two rounds; wakes the driver.
    pub fn with<T>(&self, act: impl FnOnce(&mut Uplink) -> T) -> T {
        let result = act(&mut self.core.borrow_mut());
        self.wake();
        result
    }

    /// Looks at what the uplink was told.
    pub fn with_settings<T>(&self, look: impl FnOnce(&Settings) -> T) -> T {
        look(self.core.borrow().settings())
    }

    /// How the uplink stands.
    pub fn status(&self) -> Status {
        self.core.borrow().status(Instant::now())
    }

    /// Rejected records that the broker has taken since the last call, by the ids they had when
    /// they were rejected.
    pub fn take_recovered(&self) -> Vec<RecordId> {
        std::mem::take(&mut self.recovered.borrow_mut())
    }

    /// The chain that the broker showed when it was connected to last, DER, its own certificate
    /// first; empty: none yet, or without TLS.
    pub fn broker_chain(&self) -> Vec<Vec<u8>> {
        self.broker_chain.borrow().clone()
    }

    /// What was in the files of [`Settings`] when the last connection was made; `None`: there was
    /// none.
    pub fn files_used(&self) -> Option<Fingerprints> {
        self.files_used.get()
    }

    /// Publishes the gateway's status anew and waits for its acknowledgement.
    pub async fn check(&self, patience: Duration) -> Checked {
        let begun = Instant::now();
        while !self.with(Uplink::begin_check) {
            // A connection that was only just accepted subscribes first.
            let soon = self.core.borrow().may_check_soon();
            if !soon || begun.elapsed() >= patience {
                return Checked { asked: soon, took: None };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let took = self.answered(begun, patience).await;
        Checked { asked: true, took }
    }

    /// Publishes on a topic that no reading has, alone on the connection, and waits for what
    /// becomes of it. `None`: there is no connection that could show it.
    pub async fn try_reading(&self, topic: &str, retain: bool, patience: Duration) -> Option<ReadingAnswer> {
        let tried = async {
            loop {
                let (began, may_soon) = self.with(|core| {
                    let began = core.begin_reading(Instant::now(), topic, retain);
                    (began, core.may_try_readings())
                });
                match (began, may_soon) {
                    (true, _) => break,
                    (false, true) => tokio::time::sleep(Duration::from_millis(10)).await,
                    (false, false) => return None,
                }
            }
            loop {
                let answer = self.core.borrow_mut().take_reading_answer();
                if answer.is_some() {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(patience, tried).await.unwrap_or(Some(ReadingAnswer::Unsent))
    }

    async fn answered(&self, begun: Instant, patience: Duration) -> Option<Duration> {
        let done = async {
            while !self.core.borrow().is_check_done() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(patience, done).await.ok()?;
        self.core.borrow().is_connected().then(|| begun.elapsed())
    }

    /// Says goodbye and waits until [`Driver::run`] has returned; about a second at most.
    pub async fn stop(&self) {
        self.with(|core| core.stop(Instant::now()));
        self.stopped.notified().await;
        self.stopped.notify_one(); // for whoever else waits
    }
}

/// What became of [`Handle::check`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The broker was asked for an answer. `false`: there is no connection, or no status topic.
    pub asked: bool,
    /// How long the acknowledgement took; `None`: there was none in time, or the connection ended.
    pub took: Option<Duration>,
}

/// Runs the uplink.
pub struct Driver<M> {
    handle: Handle,
    clock: Arc<dyn WallClock>,
    moment: M,
    /// A broker that refuses a million records does not write a million lines.
    limiter: RefCell<Limiter<&'static str>>,
    tap: RefCell<Tap>,
}

impl<M: Fn() -> Moment> Driver<M> {
    /// `clock` judges certificates; `moment` reads all clocks at once.
    pub fn new(handle: Handle, clock: Arc<dyn WallClock>, moment: M) -> Driver<M> {
        let limiter = RefCell::new(Limiter::new(Default::default()));
        Driver { handle, clock, moment, limiter, tap: RefCell::default() }
    }

    /// Connects, publishes, reconnects, until [`Handle::stop`]. `outbox` is borrowed only within a
    /// round.
    pub async fn run<O: Outbox>(&self, outbox: &RefCell<O>) {
        loop {
            let now = (self.moment)().now;
            let due = self.handle.core.borrow_mut().poll_connect(now);
            if due {
                self.attempt(outbox).await;
                self.log_events(outbox);
                continue;
            }
            let (stopped, next) = {
                let core = self.handle.core.borrow();
                (core.is_stopped(), core.poll_timeout())
            };
            if stopped {
                break;
            }
            tokio::select! {
                () = wait_until(next) => {}
                () = self.handle.wake.notified() => {}
            }
        }
        self.handle.stopped.notify_one();
    }

    async fn attempt<O: Outbox>(&self, outbox: &RefCell<O>) {
        let (settings, avoid, until, trial) = {
            let core = self.handle.core.borrow();
            let mut settings = core.settings().clone();
            // A certificate on trial takes the place of the configured one. Each connection has a
            // TLS configuration of its own, so that nothing is resumed.
            let trial = core.trial_identity().cloned();
            if let (Some(tls), Some(identity)) = (&mut settings.tls, &trial) {
                (tls.identity, tls.key_password) = (Some(identity.clone()), None);
            }
            (settings, core.avoid().to_vec(), core.poll_timeout(), trial.is_some())
        };
        log::debug!(broker = settings.host.as_str(), port = settings.port; "connecting to the broker");
        let connected = tokio::select! {
            connected = transport::connect(&settings, self.clock.clone(), &avoid) => connected,
            () = wait_until(until) => {
                let moment = (self.moment)();
                self.handle.core.borrow_mut().handle_timeout(&moment, &mut *outbox.borrow_mut());
                return; // the core has given it up
            }
            () = self.stopping() => Err(ConnectError::from("stopping".to_owned())),
        };
        let now = (self.moment)().now;
        match connected {
            Ok(Connected { transport, password, password_life, dialed, fingerprints }) => {
                self.handle.files_used.set(Some(fingerprints));
                *self.handle.broker_chain.borrow_mut() = transport.peer_chain();
                {
                    let mut core = self.handle.core.borrow_mut();
                    core.handle_connected(now, password, dialed);
                    core.set_password_life(now, password_life);
                }
                match transport {
                    Transport::Plain(stream) => self.serve(stream, outbox, &settings.host).await,
                    Transport::Tls(stream) => self.serve(*stream, outbox, &settings.host).await,
                }
            }
            Err(ConnectError { text, unwelcome, alert, .. }) => {
                // For a certificate on trial each alert is a refusal: the present one decides.
                let unwelcome = unwelcome || trial && alert;
                self.handle.core.borrow_mut().handle_connect_failed(now, text, unwelcome);
            }
        }
    }

    async fn stopping(&self) {
        while !self.handle.core.borrow().is_stopping() {
            self.handle.wake.notified().await;
        }
    }

    /// One connection, from CONNECT to its end.
    async fn serve<S, O>(&self, mut stream: S, outbox: &RefCell<O>, host: &str)
    where
        S: Stream,
        O: Outbox,
    {
        let core = &self.handle.core;
        let mut input = vec![0u8; READ_BYTES];
        let mut closed = None;
        // From its first byte on.
        self.tap.borrow_mut().stop();
        self.tap.borrow_mut().handle_written(0, 0);
        while closed.is_none() && !core.borrow().is_over() {
            let began = (self.moment)().now;
            let mut progress = Progress::default();
            if stream.socket().is_watched() {
                self.turn(outbox);
                if core.borrow().is_over() {
                    break; // nothing more comes, and nothing would wake us
                }
                let next = {
                    let core = core.borrow();
                    // More than one fill takes: on with it as soon as this one is written.
                    if core.has_more() { Some(began) } else { core.poll_timeout() }
                };
                let ready = poll_fn(|cx| {
                    progress.merge(self.exchange(cx, &mut stream, &mut input, outbox));
                    if progress.is_ready() { Poll::Ready(()) } else { Poll::Pending }
                });
                tokio::select! {
                    biased;
                    () = ready => {}
                    () = self.handle.wake.notified() => {}
                    () = wait_until(next) => {}
                }
            } else {
                progress =
                    poll_fn(|cx| Poll::Ready(self.exchange(cx, &mut stream, &mut input, outbox))).await;
            }
            let moved = progress.received || progress.written;
            closed = progress.closed.map(|error| self.classify(error, host));
            self.log_events(outbox);
            let tick = self.tick();
            if closed.is_none() && moved && !tick.is_zero() {
                stream.socket().rest();
                sleep_until((began + tick).into()).await;
            } else {
                stream.socket().watch();
            }
        }
        stream.socket().watch();
        if let Some(Closed::Broken(_)) = closed {
            // Writing failed, perhaps because the broker has said why and gone: what it said is
            // still to be read.
            closed = Some(self.last_words(&mut stream, &mut input, outbox, host, closed.take()).await);
        }
        let left = core.borrow_mut().outgoing().map(std::mem::take).unwrap_or_default();
        if let Some((observer, broker, version)) = self.tapped(&mut stream) {
            let show = |packet: &[u8]| observer.packet(broker, version, Direction::Out, packet);
            self.tap.borrow_mut().handle_output(&left, show);
        }
        let goodbye = async {
            if closed.is_none() {
                stream.write_all(&left).await?;
            }
            stream.shutdown().await
        };
        let _ = timeout(LAST_WORDS_WITHIN, goodbye).await; // it is over either way
        let moment = (self.moment)();
        let closed = closed.unwrap_or(Closed::ByPeer);
        core.borrow_mut().handle_closed(&moment, &mut *outbox.borrow_mut(), closed);
    }

    /// What the end of a stream means. For a certificate on trial each alert is a refusal: the
    /// present one decides.
    fn classify(&self, error: Option<std::io::Error>, host: &str) -> Closed {
        let alert = error.as_ref().is_some_and(transport::is_alert);
        match classify(error, host) {
            Closed::Failed(what) if alert && self.handle.core.borrow().trial_identity().is_some() => {
                Closed::Unwelcome(what)
            }
            other => other,
        }
    }

    /// How long to leave a busy connection alone.
    fn tick(&self) -> Duration {
        let core = self.handle.core.borrow();
        if core.is_window_full() {
            TICK.min(Duration::from_millis((core.window() / PLACES_A_MILLISECOND).into()))
        } else {
            TICK
        }
    }

    /// Acts on deadlines and appends what may be published.
    fn turn<O: Outbox>(&self, outbox: &RefCell<O>) {
        let moment = (self.moment)();
        let (mut core, mut outbox) = (self.handle.core.borrow_mut(), outbox.borrow_mut());
        core.handle_timeout(&moment, &mut *outbox);
        core.fill(&moment, &mut *outbox);
    }

    /// Reads, fills and writes what can be without waiting.
    fn exchange<S, O>(
        &self,
        cx: &mut Context<'_>,
        stream: &mut S,
        input: &mut [u8],
        outbox: &RefCell<O>,
    ) -> Progress
    where
        S: Stream,
        O: Outbox,
    {
        let core = &self.handle.core;
        let mut progress = Progress::default();
        let tapped = self.tapped(stream);
        for _ in 0..READS_A_ROUND {
            if !core.borrow().may_read() {
                break;
            }
            let mut buffer = ReadBuf::new(input);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    progress.closed = Some(None);
                    return progress;
                }
                Poll::Ready(Ok(())) => {
                    progress.received = true;
                    if let Some((observer, broker, version)) = tapped {
                        let at_boundary = core.borrow().is_between_packets();
                        self.tap.borrow_mut().handle_received(at_boundary, buffer.filled(), |packet| {
                            observer.packet(broker, version, Direction::In, packet);
                        });
                    }
                    let moment = (self.moment)();
                    core.borrow_mut().handle_bytes(&moment, &mut *outbox.borrow_mut(), buffer.filled());
                }
                Poll::Ready(Err(error)) => {
                    progress.closed = Some(Some(error));
                    return progress;
                }
            }
        }
        // Answers make room for more; at rest nobody else asks.
        if progress.received || !stream.socket().is_watched() {
            self.turn(outbox);
        }
        let mut core = core.borrow_mut();
        let Some(out) = core.outgoing() else {
            return progress;
        };
        let mut tap = self.tap.borrow_mut();
        if let Some((observer, broker, version)) = tapped {
            tap.handle_output(out, |packet| observer.packet(broker, version, Direction::Out, packet));
        }
        while !out.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, out) {
                Poll::Pending => return progress,
                Poll::Ready(Ok(written)) => {
                    out.drain(..written);
                    tap.handle_written(written, out.len());
                    progress.written = true;
                }
                Poll::Ready(Err(error)) => {
                    progress.closed = Some(Some(error));
                    return progress;
                }
            }
        }
        if let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_flush(cx) {
            progress.closed = Some(Some(error));
        }
        progress
    }

    /// The observer and the broker's address, if packets are wanted.
    fn tapped(&self, stream: &mut impl Stream) -> Option<(&dyn Observer, SocketAddr, Version)> {
        let observer = self.handle.observer.as_deref().filter(|observer| observer.wants_packets());
        let version = self.handle.core.borrow().spoken();
        let tapped = observer.and_then(|observer| Some((observer, stream.socket().peer()?, version?)));
        if tapped.is_none() {
            // What is shown later begins at a boundary again, which an empty output is.
            let mut tap = self.tap.borrow_mut();
            let empty = self.handle.core.borrow_mut().outgoing().is_none_or(|out| out.is_empty());
            tap.stop();
            tap.handle_written(0, usize::from(!empty));
        }
        tapped
    }

    /// Tells the observer what became of records.
    fn tell_settled(&self) {
        let Some(observer) = &self.handle.observer else { return };
        let mut settled = self.handle.core.borrow_mut().swap_settled(Vec::new());
        if !settled.is_empty() {
            observer.settled(&settled);
            settled.clear();
            // The memory is used again, unless something was decided meanwhile.
            let meanwhile = self.handle.core.borrow_mut().swap_settled(settled);
            if !meanwhile.is_empty() {
                observer.settled(&meanwhile);
            }
        }
    }

    /// Reads to the end of a stream that can no more be written to.
    async fn last_words<S, O>(
        &self,
        stream: &mut S,
        input: &mut [u8],
        outbox: &RefCell<O>,
        host: &str,
        closed: Option<Closed>,
    ) -> Closed
    where
        S: AsyncRead + AsyncWrite + Unpin,
        O: Outbox,
    {
        let reading = poll_fn(|cx| {
            loop {
                let mut buffer = ReadBuf::new(input);
                match std::task::ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
                    Ok(()) if buffer.filled().is_empty() => return Poll::Ready(None),
                    Ok(()) => {
                        let moment = (self.moment)();
                        let mut core = self.handle.core.borrow_mut();
                        core.handle_bytes(&moment, &mut *outbox.borrow_mut(), buffer.filled());
                    }
                    Err(error) => return Poll::Ready(Some(error)),
                }
            }
        });
        match timeout(LAST_WORDS_WITHIN, reading).await {
            Ok(Some(error)) => match self.classify(Some(error), host) {
                said @ Closed::Unwelcome(_) => said,
                other => closed.unwrap_or(other),
            },
            _ => closed.unwrap_or(Closed::ByPeer),
        }
    }

    fn log_events<O: Outbox>(&self, outbox: &RefCell<O>) {
        self.tell_settled();
        let mut core = self.handle.core.borrow_mut();
        if core.has_inbound() {
            self.handle.inbound.notify_one();
        }
        let mut limiter = self.limiter.borrow_mut();
        let now = (self.moment)().now;
        while let Some(mut event) = core.poll_event() {
            if let Event::Publisher(PublisherEvent::Recovered { original }) = &event {
                let mut recovered = self.handle.recovered.borrow_mut();
                if recovered.len() < RECOVERED_MAX {
                    recovered.push(*original);
                }
            }
            // An attempt that the stop ends did not fail.
            let is_ended = matches!(event, Event::Failed { .. }) && core.is_stopping();
            if !is_ended && limiter.permit(now, kind(&event)) {
                if let Event::Publisher(event) = &mut event {
                    rename(event, &*outbox.borrow());
                }
                let settings = core.settings();
                log_event(&settings.host, settings.port, &settings.client_id, &event);
            }
        }
        while let Some(Suppressed { kind, count }) = limiter.poll_event(now) {
            log::warn!(kind, count; "more lines of this kind were left out");
        }
    }
}

#[derive(Default)]
struct Progress {
    received: bool,
    written: bool,
    /// The end of the stream, or why it broke.
    closed: Option<Option<std::io::Error>>,
}

impl Progress {
    fn merge(&mut self, other: Progress) {
        self.received |= other.received;
        self.written |= other.written;
        self.closed = self.closed.take().or(other.closed);
    }

    fn is_ready(&self) -> bool {
        self.received || self.written || self.closed.is_some()
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What the end of a stream means.
pub(super) fn classify(error: Option<std::io::Error>, host: &str) -> Closed {
    use std::io::ErrorKind as K;
    let Some(error) = error else {
        return Closed::ByPeer;
    };
    if let Some(explained) = transport::explain_tls(&error, host) {
        return if explained.unwelcome {
            Closed::Unwelcome(explained.text)
        } else {
            Closed::Failed(explained.text)
        };
    }
    match error.kind() {
        K::UnexpectedEof => Closed::Broken("the broker's end of the connection is gone".to_owned()),
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => {
            Closed::Broken("the broker reset the connection".to_owned())
        }
        _ => Closed::Failed(format!("the connection failed: {error}")),
    }
}

/// What lines are limited by.
fn kind(event: &Event) -> &'static str {
    match event {
        Event::Connected { .. } | Event::PasswordRenewal => "connected",
        Event::Failed { .. } | Event::Lost { .. } => "disconnected",
        Event::FellBack { .. }
        | Event::WillLeftOut { .. }
        | Event::Confirming { .. }
        | Event::ClosedAgain { .. }
        | Event::EndedForCheck
        | Event::ClientIdElsewhere => "protocol",
        Event::StatusRepaired | Event::SubscriptionRefused { .. } | Event::SubscriptionLeftOut => "status",
        Event::HintRefused { .. } | Event::HintLeftOut => "hint",
        Event::CommandsRefused { .. } | Event::CommandsLeftOut => "commands",
        Event::Publisher(PublisherEvent::Rejected { .. }) => "rejected",
        Event::Publisher(PublisherEvent::OutcomeRefused { .. }) => "outcomes",
        Event::Publisher(PublisherEvent::OutcomeCut { .. }) => "cut outcomes",
        Event::Publisher(PublisherEvent::Suspected { .. }) => "suspected",
        Event::Publisher(PublisherEvent::Recovered { .. }) => "recovered",
        Event::Publisher(PublisherEvent::Unanswered { .. }) => "unanswered",
        Event::Publisher(PublisherEvent::Throttled { .. } | PublisherEvent::RateLowered { .. }) => "rate",
        Event::Publisher(PublisherEvent::OwnRefused { .. } | PublisherEvent::OwnPaused { .. }) => {
            "own topics"
        }
        Event::Publisher(_) => "refused",
    }
}

fn log_event(broker: &str, port: u16, own_id: &str, event: &Event) {
    match event {
        Event::Connected { version, limits, assigned_client_id } => {
            log::info!(broker, port, protocol = version.as_str(), receive_maximum = limits.receive_maximum;
                "connected to the broker");
            if let Some(id) = assigned_client_id {
                log::warn!(broker, client_id = id.as_str(); "the broker gave us another client id");
            }
        }
        Event::Failed { what, retry_in } => {
            let retry_s = retry_in.as_secs();
            log::warn!(broker, port, reason = what.as_str(), retry_s; "no connection to the broker");
        }
        Event::Lost { what, retry_in } => {
            let retry_s = retry_in.as_secs();
            log::warn!(broker, port, reason = what.as_str(), retry_s; "connection to the broker lost");
        }
        Event::PasswordRenewal => {
            log::info!(broker, port; "the password is about to expire: reconnecting with a new one");
        }
        Event::EndedForCheck => {
            log::info!(broker, port; "the broker ended the connection for that of tombolo check; another one follows it");
        }
        Event::Confirming { accepted } => {
            log::debug!(broker, protocol = accepted.version.as_str(), will = accepted.will;
                "the broker takes this; before it is used, what it refused is tried once more");
        }
        Event::FellBack { why } => {
            log::warn!(broker, reason = why.as_str();
                "the broker does not take MQTT 5: going on with 3.1.1, which cannot say that it refuses a message; 5 is tried again at every reconnect");
        }
        Event::WillLeftOut { why } => {
            log::warn!(broker, reason = why.as_str();
                "the broker does not take the will on [topics] gateway-status: it is left out, and tried again with the first connection after an hour; allow it, or switch the topic off");
        }
        Event::SubscriptionLeftOut => {
            log::warn!(broker;
                "the broker closes the connection over the subscription to [topics] gateway-status: it is left out for an hour; allow it, or switch the topic off");
        }
        Event::ClientIdElsewhere => {
            log::error!(broker, client_id = own_id; "our client id is probably used by another client: trying only every few minutes; give each gateway an id of its own");
        }
        Event::ClosedAgain { times } => {
            log::warn!(broker, times, client_id = own_id;
                "the broker closed the connection again and again within 10 min and gave no reason: its log may say why; it or a load balancer may restart, or refuse what is sent, or another client may use our client id");
        }
        Event::HintRefused { code } => {
            log::info!(broker, reason = reason_code::text(*code), code;
                "the broker does not let us read [topics] update-hint; newer firmware is looked for at its times");
        }
        Event::HintLeftOut => {
            log::warn!(broker;
                "the broker closes the connection over the subscription to [topics] update-hint: it is left out for an hour; allow it, or switch the topic off");
        }
        Event::CommandsRefused { filter, code } => {
            log::warn!(broker, filter = filter.as_str(), reason = reason_code::text(*code), code;
                "the broker refuses the subscription to commands: no device is told anything by it; allow it, or take the downlink rules out");
        }
        Event::CommandsLeftOut => {
            log::warn!(broker;
                "the broker closes the connection over the subscription to commands: it is left out for an hour; allow it, or take the downlink rules out");
        }
        Event::StatusRepaired => log::debug!(broker; "our status topic showed us offline; set right"),
        Event::SubscriptionRefused { code } => {
            log::info!(broker, reason = reason_code::text(*code), code; "the broker does not let us read our own status");
        }
        Event::Publisher(event) => log_publisher(broker, event),
    }
}

/// Gives the record of an event the id under which it is published.
fn rename(event: &mut PublisherEvent, outbox: &impl Outbox) {
    match event {
        PublisherEvent::Rejected { lane, id, .. }
        | PublisherEvent::Suspected { lane, id, .. }
        | PublisherEvent::Blocked { lane, id }
        | PublisherEvent::Unanswered { record: Some((lane, id)), .. } => {
            *id = outbox.published_id(*lane, *id)
        }
        _ => {}
    }
}

fn log_publisher(broker: &str, event: &PublisherEvent) {
    match event {
        PublisherEvent::Rejected { lane, id, cause } => {
            log::error!(broker, lane = lane.as_str(), record:% = id, reason:% = cause;
                "the broker does not take this record, and takes others: it is kept aside; see `tombolo queue rejected list`");
        }
        PublisherEvent::Suspected { lane, id, cause } => {
            log::warn!(broker, lane = lane.as_str(), record:% = id, reason:% = cause;
                "the broker refuses this record, or is silent or closes over it: it is tried again, and compared with others");
        }
        PublisherEvent::Throttled { code, wait } => {
            let retry_s = wait.as_secs();
            log::warn!(broker, reason = reason_code::text(*code), code, retry_s; "the broker has too much: all wait");
        }
        PublisherEvent::RateLowered { cause, limit } => {
            log::warn!(broker, reason:% = cause, limit;
                "the broker cannot follow: fewer publishes a second from now on; [upstream] max-publish-rate sets a bound");
        }
        PublisherEvent::Unanswered { record, waited, unanswered } => {
            let waited_s = waited.as_secs();
            match record {
                Some((lane, id)) => {
                    log::warn!(broker, lane = lane.as_str(), record:% = id, waited_s, unanswered;
                    "the broker does not answer this publish: the connection is replaced and it is sent again")
                }
                None => log::warn!(broker, waited_s, unanswered;
                    "the broker does not answer a publish of the gateway's own: the connection is replaced"),
            }
        }
        PublisherEvent::Recovered { original } => {
            log::info!(broker, record:% = original; "a record that came again was delivered");
        }
        PublisherEvent::RejectedFull { lane, wait } => {
            let retry_s = wait.as_secs();
            log::error!(broker, lane = lane.as_str(), retry_s;
                "the store of rejected records is full, or cannot be written: the lane waits; see `tombolo queue rejected list`");
        }
        PublisherEvent::Blocked { lane, id } => {
            log::error!(broker, lane = lane.as_str(), record:% = id;
                "the lane takes no more until this record is decided; `tombolo queue skip ID` sets it aside");
        }
        PublisherEvent::OutcomeRefused { topic, cause } => {
            log::warn!(broker, topic = topic.as_str(), reason:% = cause, advice = advice::of_outcome(*cause);
                "the broker refuses the outcome of a command: it is given up");
        }
        PublisherEvent::OutcomeCut { topic, limit } => {
            let limit = limit.map_or_else(|| "not told".to_owned(), |limit| limit.to_string());
            log::warn!(broker, topic = topic.as_str(), maximum_packet_size = limit.as_str();
                "the outcome of a command is published without all of its payload, because the broker takes only smaller messages: raise its limit of message sizes");
        }
        PublisherEvent::OwnRefused { topic, code } => {
            log::warn!(broker, topic = topic.as_str(), reason = reason_code::text(*code), code;
                "the broker refuses a topic of the gateway's own: it is tried ever more seldom; allow it, or switch it off in [topics]");
        }
        PublisherEvent::OwnPaused { class } => {
            log::warn!(broker, topics = class.key();
                "the broker refuses a topic of the gateway's own, or closes the connection over it: it pauses for an hour; allow it, or switch it off in [topics]");
        }
        PublisherEvent::VolatilePaused => {
            log::warn!(broker;
                "the broker closes the connection after readings of qos = 0 rules: they are dropped for five minutes");
        }
    }
}
