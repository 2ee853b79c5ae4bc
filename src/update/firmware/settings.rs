//! What `[role.*]` and `[update]` say about firmware for sensors, validated.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::message::Name;
use crate::update::rollout::Share;

/// Most classes.
pub const CLASSES_MAX: usize = 16;
/// Most steps of a roll-out.
pub const STEPS_MAX: usize = 16;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SensorFirmware {
    /// The roles whose devices get firmware.
    pub roles: BTreeMap<Name, RoleFirmware>,
    /// Most bytes of all images, the one that comes included; default 64 MiB.
    pub disk: u64,
    /// How a version goes out.
    pub rollout: Rollout,
}

/// What a role has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleFirmware {
    /// The class of its targets.
    pub class: Name,
}

/// How a version goes out to the devices of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Rising shares of the devices, at least one; default all at once. The target's own share
    /// bounds each.
    pub steps: Vec<Share>,
    /// How long each step lasts at least; default 1 day.
    pub step_after: Duration,
    /// How long a device may take from the last block to the report of the new version; default 1
    /// day.
    pub report_within: Duration,
    /// So many devices that do not report in time stop the version; default 3.
    pub failures: u32,
}

impl Default for Rollout {
    fn default() -> Rollout {
        let day = Duration::from_secs(86_400);
        Rollout { steps: vec![Share::ALL], step_after: day, report_within: day, failures: 3 }
    }
}

impl Default for SensorFirmware {
    fn default() -> SensorFirmware {
        SensorFirmware { roles: BTreeMap::new(), disk: SensorFirmware::DISK, rollout: Rollout::default() }
    }
}

impl SensorFirmware {
    /// Default of `disk`.
    pub const DISK: u64 = 64 << 20;

    /// The classes that a role names.
    pub fn classes(&self) -> BTreeSet<Name> {
        self.roles.values().map(|role| role.class.clone()).collect()
    }
}
