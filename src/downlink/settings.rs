//! What the configuration says of commands, already validated.

use super::remote::Remote;
use crate::gate::{DownlinkRule, MailboxLimits};
use crate::message::Name;

/// Topics, and rules by role.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `{prefix}` and `{gateway}`, by which the filters of rules are filled in.
    pub prefix: String,
    /// The gateway's own id.
    pub gateway: String,
    /// `[topics] command`, with `{device}` and `{path}`: where `tombolo send` and the topic of
    /// requests are looked up in the rules. `None`: switched off.
    pub command: Option<String>,
    /// `[topics] request`, with `{device}`, `{id}` and `{path}`; `None`: switched off.
    pub request: Option<String>,
    /// `[topics] reply`, with `{device}` and `{path}`; `None`: only where a response topic is
    /// named.
    pub reply: Option<String>,
    /// Commands to the gateway itself.
    pub remote: Remote,
    /// The filters to subscribe to; empty where no rule allows anything.
    pub filters: Vec<String>,
    /// The roles, in name order.
    pub roles: Vec<RoleDownlink>,
}

/// What a role's devices may be told.
#[derive(Clone, Debug)]
pub struct RoleDownlink {
    /// The role's name.
    pub name: Name,
    /// Its rules, in name order.
    pub rules: Vec<DownlinkRule>,
    /// The limits of each of its devices.
    pub mailbox: MailboxLimits,
}

impl Settings {
    /// Whether any rule allows a command.
    pub fn is_wanted(&self) -> bool {
        self.roles.iter().any(|role| role.rules.iter().any(|rule| !rule.deny))
    }

    /// A template with its placeholders filled in.
    pub(super) fn filled(template: &str, device: &str, id: &str, path: &str) -> String {
        template.replace("{device}", device).replace("{id}", id).replace("{path}", path)
    }
}
