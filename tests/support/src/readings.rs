//! Readings for the journal's tests and benches. The journal takes nothing that no gate let pass,
//! and makes no exception for tests: these come from a gate whose rules allow them.

use std::time::{Duration, Instant};

use tombolo::gate::pattern::Pattern;
use tombolo::gate::template::Template;
use tombolo::gate::{Device, DeviceIndex, Gate, Mapped, Quota, Received, Role, Settings, UplinkRule};
use tombolo::message::{Lane, Method, Name, Path, Stamp};

/// A gate that lets `door-7` POST to `t/#`, which goes to the normal lane, and to `high/#`; or
/// several devices.
pub struct Readings {
    gate: Gate,
    device: DeviceIndex,
    now: Instant,
}

impl Default for Readings {
    fn default() -> Self {
        Readings::of(&["door-7"])
    }
}

impl Readings {
    /// Readings of the first of these devices.
    pub fn of(devices: &[&str]) -> Readings {
        let name = |text| Name::parse(text).expect("a name");
        let rule = |rule, pattern, lane| UplinkRule {
            lane,
            ..UplinkRule::new(name(rule), Pattern::parse(pattern).expect("a pattern"))
        };
        let role = Role {
            quota: Quota { messages: u32::MAX, bytes: 1 << 50, per: Duration::from_secs(1), burst: u32::MAX },
            max_sessions: 1,
            uplink: vec![rule("normal", "t/#", Lane::Normal), rule("high", "high/#", Lane::High)],
            ..Role::new(name("sensor"))
        };
        let settings = Settings {
            gateway: name("tb-abcdefgh"),
            prefix: "tombolo/tb-abcdefgh".to_owned(),
            reading: Some(Template::parse("{prefix}/{device}/up/{path}").expect("a template")),
            own: Default::default(),
            reply: None,
            roles: vec![role],
            devices: devices.iter().map(|id| Device::new(name(id), name("sensor")).into()).collect(),
            fleets: Vec::new(),
            withheld: Default::default(),
        };
        let now = Instant::now();
        let gate = Gate::new(settings, now);
        assert_eq!(gate.problems(), []);
        let device = gate.device_by_id(devices[0]).expect("the device is known");
        Readings { gate, device, now }
    }

    /// The next ones are of this device.
    pub fn turn_to(&mut self, device: &str) {
        self.device = self.gate.device_by_id(device).expect("the device is known");
    }

    /// A reading of at most 65,536 bytes that the gate let pass into this lane.
    pub fn pass<'a>(&'a mut self, lane: Lane, payload: &'a [u8]) -> Mapped<'a> {
        let path = Path::parse(if lane == Lane::High { "high/env" } else { "t/env" }).expect("a path");
        let stamp = Stamp { boottime_ms: 123_456_789, wall_ms: Some(1_790_000_000_000) };
        let received = Received {
            path,
            query: None,
            method: Method::Post,
            payload,
            content_format: None,
            blockwise: true,
            stamp,
        };
        let mapped = self.gate.admit(self.now, self.device, received).expect("a rule allows it");
        let mapped = mapped.passed().expect("its rule has no filter");
        assert_eq!(mapped.lane(), lane);
        mapped
    }
}
