//! A machine, its clocks, a broker, and what must hold at every step.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tombolo::clock::chain::{self, ChainValidity, Fault};
use tombolo::clock::judge::{Basis, CAP, Judge, Look, Verdict};
use tombolo::clock::saved::Saved;
use tombolo::clock::{Moment, UnixTime, WallClock};
use tombolo::message::Stamp;
use tombolo::northbound::publication::age_ms;
use tombolo::splitmix::SplitMix64;

pub const DAY: u64 = 86_400_000;
const HOUR: u64 = 3_600_000;
/// 2026-01-01
pub const BUILD: u64 = 1_767_225_600_000;
/// Steps of less than a day are not noticed: on either side of a comparison.
const SLACK: u64 = 2 * DAY;

/// What is upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// `mqtt://`
    Plain,
    /// TLS with leaves of 90 days, renewed after 60.
    Short,
    /// TLS with leaves of 398 days, renewed in the last month.
    Year,
    /// TLS with leaves of 20 years.
    Long,
}

impl Broker {
    pub const ALL: [Broker; 4] = [Broker::Plain, Broker::Short, Broker::Year, Broker::Long];

    /// Days a leaf is valid, and after how many it is renewed.
    fn days(self) -> Option<(u64, u64)> {
        match self {
            Broker::Plain => None,
            Broker::Short => Some((90, 60)),
            Broker::Year => Some((398, 368)),
            Broker::Long => Some((7_305, 7_000)),
        }
    }
}

/// A leaf's validity, milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    pub from: u64,
    pub to: u64,
}

impl Leaf {
    /// As the TLS verifier judges it.
    pub fn verify(self, time: UnixTime) -> Result<ChainValidity, Fault<&'static str>> {
        let (from, to) = (UnixTime(self.from), UnixTime(self.to));
        if time < from {
            return Err(Fault::NotYetValid("not yet valid"));
        }
        if time > to {
            return Err(Fault::Expired("expired"));
        }
        let leaf = Duration::from_millis(self.to - self.from);
        Ok(ChainValidity { not_before: from, not_after: to, leaf })
    }
}

/// A record that waits, with what it was stamped with and what is true.
struct Record {
    boot: u64,
    received: u64,
    stamp: Stamp,
    expires_ms: u64,
    /// Stamped by a wrong time that was proven: no promise is made for it.
    misled: bool,
}

/// The judge as the TLS layer sees it.
struct Seen<'a> {
    judge: Mutex<&'a mut Judge>,
    look: Look,
}

impl WallClock for Seen<'_> {
    fn raw(&self) -> UnixTime {
        self.look.raw
    }
    fn trusted(&self) -> bool {
        self.wall().is_some()
    }
    fn floor(&self) -> UnixTime {
        self.judge.lock().unwrap().floor()
    }
    fn wall(&self) -> Option<UnixTime> {
        self.judge.lock().unwrap().wall(self.look.raw, self.look.boottime_ms)
    }
    fn doubted(&self) -> Option<UnixTime> {
        self.judge.lock().unwrap().doubted(self.look.raw, self.look.boottime_ms)
    }
    fn is_refutable(&self) -> bool {
        self.judge.lock().unwrap().is_refutable()
    }
    fn learn(&self, chain: ChainValidity) {
        self.judge.lock().unwrap().learn(chain, self.look);
    }
}

pub struct World {
    seed: u64,
    pub chance: SplitMix64,
    broker: Broker,
    pub leaf: Leaf,
    /// The truth.
    pub now: u64,
    /// How far the wall clock is from it.
    pub lie_ms: i64,
    pub synchronised: bool,
    boot: u64,
    booted_at: u64,
    pub judge: Judge,
    /// What is on disk.
    disk: Option<String>,
    saved_at: u64,
    records: Vec<Record>,
    /// The newest notBefore that was verified since the owner's last reset.
    newest: u64,
    /// A wrong time was proven by a chain or confirmed by the owner, since the last reset.
    pub lie_was_proven: bool,
    changed_broker: bool,
    started: Instant,
}

impl World {
    pub fn new(seed: u64, broker: Broker) -> World {
        let mut chance = SplitMix64::new(seed);
        let now = BUILD + chance.below(400) * DAY;
        let mut world = World {
            seed,
            leaf: Leaf { from: 0, to: 0 },
            now,
            lie_ms: 0,
            synchronised: chance.below(2) == 0,
            boot: 1,
            booted_at: now - 30_000,
            judge: Judge::new(UnixTime(BUILD), Some(boot_id(1)), false, None),
            disk: None,
            saved_at: now,
            records: Vec::new(),
            newest: 0,
            lie_was_proven: false,
            changed_broker: false,
            started: Instant::now(),
            chance,
            broker,
        };
        world.renew();
        world.observe();
        world
    }

    pub fn look(&self) -> Look {
        let raw = self.now.saturating_add_signed(self.lie_ms);
        Look { boottime_ms: self.now - self.booted_at, raw: UnixTime(raw), synchronised: self.synchronised }
    }

    pub fn verdict(&self) -> Verdict {
        self.judge.verdict()
    }

    fn moment(&self) -> Moment {
        let Look { boottime_ms, raw, .. } = self.look();
        let wall = self.judge.wall(raw, boottime_ms);
        let ages_from = wall.and_then(|_| self.judge.ages_from());
        Moment { now: self.started, boottime_ms, wall, ages_from }
    }

    /// The broker has a leaf of its kind that is valid now.
    fn renew(&mut self) {
        let Some((valid, renewed)) = self.broker.days() else { return };
        let age = self.now.saturating_sub(self.leaf.from) / DAY;
        if self.leaf.from == 0 {
            // In the middle of its life; a few minutes in the past as CAs do it.
            let from = self.now - self.chance.below(renewed) * DAY - 300_000;
            self.leaf = Leaf { from, to: from + valid * DAY };
        } else if age >= renewed {
            self.leaf = Leaf { from: self.now - 300_000, to: self.now - 300_000 + valid * DAY };
        }
    }

    /// One look, and what must hold after it.
    pub fn observe(&mut self) {
        self.judge.observe(self.look());
        self.check();
    }

    fn is_lying(&self) -> bool {
        self.lie_ms.unsigned_abs() > DAY
    }

    /// A wrong time is proven now.
    fn is_misled(&self) -> bool {
        self.is_lying() && matches!(self.verdict(), Verdict::Trusted(Basis::Certificate | Basis::Owner))
    }

    fn check(&mut self) {
        let seed = self.seed;
        self.lie_was_proven |= self.is_misled();
        let floor = self.judge.floor().0;
        assert!(floor <= BUILD + CAP.as_millis() as u64, "seed {seed}: the floor is beyond its cap");
        assert!(floor >= self.newest.max(BUILD), "seed {seed}: the floor sank below a verified notBefore");
        if !self.lie_was_proven {
            assert!(floor <= self.now + DAY, "seed {seed}: the floor {floor} is after {}", self.now);
        }
        let moment = self.moment();
        if let Some(wall) = moment.wall {
            assert!(wall.0 >= self.newest.max(BUILD), "seed {seed}: an impossible time is trusted");
        }
        for record in &self.records {
            let age = age_ms(record.stamp, record.boot == self.boot, &moment);
            let true_age = self.now - record.received;
            if age.is_some_and(|age| age >= record.expires_ms) && true_age + SLACK < record.expires_ms {
                let excused = record.boot != self.boot && (record.misled || self.is_misled());
                assert!(
                    excused,
                    "seed {seed}: expired after {} h of {} h: {:?} {:?}",
                    true_age / HOUR,
                    record.expires_ms / HOUR,
                    self.verdict(),
                    self.judge.saved()
                );
            }
        }
    }

    /// Time passes, looked at every hour at least.
    pub fn pass(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            self.now = end.min(self.now + HOUR);
            self.renew();
            self.observe();
            if self.now - self.saved_at >= HOUR {
                self.save();
            }
        }
    }

    fn save(&mut self) {
        self.saved_at = self.now;
        self.disk = Some(self.judge.saved().encode());
    }

    /// The machine is off for a time; `clean`: it was shut down.
    fn reboot(&mut self, off: u64, clean: bool) {
        if clean {
            self.save();
        }
        self.now += off;
        self.renew();
        self.boot += 1;
        self.booted_at = self.now - 30_000;
        let saved = self.disk.as_deref().map(|text| Saved::parse(text).expect("it reads back"));
        // Beyond what is on disk nothing is known of certificates either.
        self.newest = self.newest.min(saved.map_or(0, |saved| saved.certain.0));
        self.judge = Judge::new(UnixTime(BUILD), Some(boot_id(self.boot)), false, saved);
        self.observe();
    }

    /// The daemon alone is started anew.
    fn restart(&mut self) {
        self.save();
        let saved = self.disk.as_deref().and_then(Saved::parse);
        self.judge = Judge::new(UnixTime(BUILD), Some(boot_id(self.boot)), false, saved);
        self.observe();
    }

    /// The peer shows this leaf, and has its key. Whether it is accepted.
    pub fn handshake(&mut self, leaf: Leaf) -> bool {
        let look = self.look();
        let seen = Seen { judge: Mutex::new(&mut self.judge), look };
        let accepted = chain::accept(&seen, [UnixTime(leaf.from)], |time| leaf.verify(time));
        if let Ok(accepted) = &accepted {
            accepted.teach(&seen);
        }
        let accepted = accepted.is_ok();
        if accepted {
            self.newest = self.newest.max(leaf.from);
        }
        self.check();
        accepted
    }

    /// Connects to the broker.
    pub fn connect(&mut self) {
        if self.broker == Broker::Plain {
            return;
        }
        let before = self.verdict();
        let believed =
            matches!(before, Verdict::Trusted(Basis::Certificate | Basis::Owner | Basis::Duration));
        let excused = self.lie_ms != 0 && believed || self.changed_broker;
        let accepted = self.handshake(self.leaf);
        assert!(
            accepted || excused,
            "seed {}: refused, though no wrong time is believed: {before:?}, floor {:?}, {:?}",
            self.seed,
            self.judge.floor(),
            self.leaf
        );
    }

    /// Every connection from now on is accepted.
    pub fn assert_online(&mut self) {
        if self.broker != Broker::Plain {
            assert!(self.handshake(self.leaf), "seed {}: refused", self.seed);
        }
    }

    fn store(&mut self) {
        let (stamp, misled) = (self.moment().stamp(), self.is_misled());
        let expires_ms = self.chance.pick(&[7, 30, 365]) * DAY;
        self.records.push(Record { boot: self.boot, received: self.now, stamp, expires_ms, misled });
    }

    pub fn tell_the_truth(&mut self) {
        self.lie_ms = 0;
        self.synchronised = true;
        self.observe();
    }

    pub fn change_broker(&mut self, broker: Broker) {
        self.broker = broker;
        self.leaf = Leaf { from: 0, to: 0 };
        self.changed_broker = true;
        self.renew();
    }

    /// One of the things that happen; `wrong` = the lies there may be, in days.
    pub fn random_step(&mut self, wrong: &[i64]) {
        match self.chance.below(100) {
            0..15 => {
                let time = self.chance.pick(&[1_000, 60_000, HOUR, 10 * HOUR]);
                self.pass(time);
            }
            15..25 => {
                let time = self.chance.pick(&[DAY, 2 * DAY, 9 * DAY, 40 * DAY]);
                self.pass(time);
            }
            25..40 => {
                self.lie_ms = match self.chance.below(3) {
                    0 => 0,
                    1 => self.chance.pick(&[-20, -1, 1, 20]) * HOUR as i64,
                    _ => self.chance.pick(wrong) * DAY as i64,
                };
                // Something may happen before anybody looks.
                if self.chance.below(2) == 0 {
                    self.observe();
                }
            }
            40..48 => {
                self.synchronised = self.chance.below(3) != 0;
                self.observe();
            }
            48..65 => self.connect(),
            65..80 => {
                let off = self.chance.pick(&[0, 20_000, HOUR, 12 * HOUR, 3 * DAY, 40 * DAY]);
                let clean = self.chance.below(2) == 0;
                if self.chance.below(3) == 0 {
                    self.lie_ms = self.chance.pick(wrong) * DAY as i64;
                }
                self.synchronised = self.chance.below(2) == 0;
                self.reboot(off, clean);
            }
            80..83 => self.restart(),
            83..98 => self.store(),
            98 => {
                if !self.is_lying() {
                    let _ = self.judge.trust(self.look());
                    self.check();
                }
            }
            _ => {
                self.newest = 0;
                self.judge.reset(self.look());
                self.check();
            }
        }
    }
}

fn boot_id(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}
