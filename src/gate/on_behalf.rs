//! Readings that a device forwards for another one behind it, at `~CHILD/path`: which device such a
//! reading is of.
//!
//! The child is a device of its own whose `parent` is the sender. Two have to allow the reading: an
//! `on-behalf` rule of the sender's role, and then the rules of the child's role, which decide as
//! if the child had sent it. So it has the child's quota, presence and topics; the sender only
//! chooses which of its own children it speaks for. [`Gate::speaker`] comes before the first stage;
//! all that follows knows the child alone.
//!
//! ```text
//! hub-1 ~probe-3/t/env ── on-behalf rule of hub-1's role ── parent of probe-3? ──> probe-3 t/env
//! ```

use std::time::Instant;

use super::Gate;
use super::identity::Entry;
use super::policy::Role;
use super::settings::OnBehalfRule;
use super::stage::{DeviceIndex, Malformed, OnBehalfFault, Refusal};
use crate::message::{Name, Path, PathError};

/// Most `on-behalf` rules of a role.
pub const RULES_MAX: usize = 64;
/// Most children of one device.
pub const CHILDREN_MAX: usize = 1_000;

/// A reading that a device may forward.
#[derive(Debug)]
pub(super) struct Forwarded<'g, 'p> {
    pub(super) child: DeviceIndex,
    /// The path within the child.
    pub(super) path: Path<'p>,
    /// The rule of the sender's role.
    pub(super) rule: &'g OnBehalfRule,
}

impl Role {
    /// The rule that lets its devices speak for a child of role `child` at `path`: a deny rule that
    /// matches has precedence.
    fn on_behalf(&self, child: &Name, path: Path<'_>) -> Result<&OnBehalfRule, OnBehalfFault> {
        let of_child = |rule: &&OnBehalfRule| rule.roles.is_empty() || rule.roles.contains(child);
        let matching = || self.on_behalf.iter().filter(of_child).filter(|rule| rule.path.matches(path));
        match matching().find(|rule| rule.deny) {
            Some(denies) => Err(OnBehalfFault::Denied { rule: denies.name.clone() }),
            None => matching().next().ok_or(OnBehalfFault::NoRule),
        }
    }
}

impl Gate {
    /// Whose reading it is that `device` sends at `path`, and the path there: its own, or with
    /// `~CHILD/…` that of a child of it. The sender counts as active; a refusal is counted for it.
    ///
    /// # Errors
    /// [`Refusal`]: it may not speak for that child, or not there. A device that does not exist and
    /// one that is not its child are refused alike.
    pub fn speaker<'p>(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        path: Path<'p>,
    ) -> Result<(DeviceIndex, Path<'p>), Refusal> {
        if path.of_child().is_none() {
            return Ok((device, path));
        }
        let refusal = match self.forwarded(device, path) {
            Ok(Forwarded { child, path, .. }) => {
                self.seen(now, device);
                return Ok((child, path));
            }
            Err(refusal) => refusal,
        };
        let Gate { devices, presence, totals, .. } = self;
        totals.refused.count(refusal.reason());
        if let Some(Entry { state, .. }) = devices.entry_mut(device) {
            presence.seen(device.slot() as u32, &mut state.presence, now);
            state.refused.count(refusal.reason());
            let rule = match &refusal {
                Refusal::OnBehalf(OnBehalfFault::Denied { rule }) => Some(rule),
                _ => None,
            };
            state.note_refusal(now, path.as_str(), &refusal, rule);
        }
        Err(refusal)
    }

    /// The same without a trace, for a path that begins with `~`.
    pub(super) fn forwarded<'p>(
        &self,
        device: DeviceIndex,
        path: Path<'p>,
    ) -> Result<Forwarded<'_, 'p>, Refusal> {
        let (entry, role) = self.entry_and_role(device).ok_or(Refusal::UnknownDevice)?;
        // A role without such a rule has nothing there, as before there were any.
        let (id, within) = path.of_child().filter(|_| !role.on_behalf.is_empty()).ok_or(Refusal::Reserved)?;
        let path = within.ok_or(Refusal::Malformed(Malformed::Path(PathError::Empty)))?;
        let child = self.devices.by_id(id).and_then(|index| {
            let (child, role) = self.entry_and_role(index)?;
            (child.described.parent.as_ref() == Some(&entry.described.id)).then_some((index, &role.name))
        });
        let (child, child_role) = child.ok_or(Refusal::OnBehalf(OnBehalfFault::NoChild))?;
        let rule = role.on_behalf(child_role, path).map_err(Refusal::OnBehalf)?;
        Ok(Forwarded { child, path, rule })
    }
}
