//! The firmware version that a device reports in a reading.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use crate::gate::Gate;
use crate::gate::field::FieldPointer;
use crate::gate::pattern::Pattern;
use crate::gate::stage::{DeviceIndex, Received};
use crate::message::{ContentFormat, Method, Name, is_firmware_version};

/// Which readings of a role have the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Their paths.
    pub path: Pattern,
    /// The version stands there in their document: CBOR if its Content-Format says so, else JSON.
    /// `None`: it is the payload, as text.
    pub field: Option<FieldPointer>,
}

/// A device and the version that it reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The device.
    pub device: DeviceIndex,
    /// The version.
    pub version: String,
}

/// Which readings have one, by role; and what was reported in this round.
#[derive(Debug, Default)]
pub struct Reports {
    roles: BTreeMap<Name, Report>,
    reported: VecDeque<Reported>,
}

impl Reports {
    /// Looks at these readings from now on.
    pub fn replace(&mut self, roles: BTreeMap<Name, Report>) {
        self.roles = roles;
    }

    /// The version in a reading that was not decided about yet.
    pub(super) fn look(
        &self,
        gate: &Gate,
        now: Instant,
        device: DeviceIndex,
        received: &Received<'_>,
    ) -> Option<String> {
        if self.roles.is_empty() || received.method == Method::Delete {
            return None;
        }
        let report = self.roles.get(gate.device(now, device)?.role.as_str())?;
        if !report.path.matches(received.path) {
            return None;
        }
        let version = match &report.field {
            Some(field) if received.content_format == Some(ContentFormat::CBOR) => {
                field.text_of_cbor(received.payload)?
            }
            Some(field) => field.text(received.payload)?,
            None => std::str::from_utf8(received.payload).ok()?.trim().to_owned(),
        };
        is_firmware_version(&version).then_some(version)
    }

    /// It was taken.
    pub(super) fn push(&mut self, device: DeviceIndex, version: String) {
        self.reported.push_back(Reported { device, version });
    }

    pub(super) fn poll(&mut self) -> Option<Reported> {
        self.reported.pop_front()
    }
}
