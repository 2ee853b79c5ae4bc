//! What the configuration says of commands, already validated.

use super::filter::{Filter, covers};
use super::remote::Remote;
use super::served::ServedSettings;
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
    /// What is observed and polled of devices.
    pub served: ServedSettings,
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

    /// What needs the subscription to `filter`, one of [`Settings::filters`]: `rule open of role
    /// door`, in role and rule order.
    pub fn needed_by(&self, filter: &str) -> Vec<String> {
        let has = |topic: &str| covers(filter, &Filter::parse(topic).to_mqtt());
        let filled = |text: &str| text.replace("{prefix}", &self.prefix).replace("{gateway}", &self.gateway);
        let rules = self.roles.iter().flat_map(|role| role.rules.iter().map(move |rule| (&role.name, rule)));
        let mut needed: Vec<String> = rules
            .filter(|(_, rule)| !rule.deny && has(&filled(&rule.topic)))
            .map(|(role, rule)| format!("rule {} of role {role}", rule.name))
            .collect();
        if self.command.is_some() && self.request.as_deref().is_some_and(has) {
            needed.push("[topics] request".to_owned());
        }
        let head = self.remote.head.as_ref().filter(|_| !self.remote.allow.is_empty());
        if head.is_some_and(|head| has(&format!("{head}#"))) {
            needed.push("[remote] allow".to_owned());
        }
        needed
    }

    /// The filter of a rule for messages to this device.
    pub fn topic_of(&self, rule: &DownlinkRule, device: &str) -> String {
        let filled = rule.topic.replace("{prefix}", &self.prefix).replace("{gateway}", &self.gateway);
        filled.replace("{device}", device)
    }

    /// A template with its placeholders filled in.
    pub(super) fn filled(template: &str, device: &str, id: &str, path: &str) -> String {
        template.replace("{device}", device).replace("{id}", id).replace("{path}", path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_needed_by_the_rules_whose_topics_it_has_and_by_no_other() {
        let name = |text: &str| Name::parse(text).expect("a name");
        let rule = |id: &str, topic: &str| DownlinkRule::new(name(id), topic, "{rest}");
        let deny = DownlinkRule { deny: true, ..rule("factory", "{prefix}/{device}/down/factory/#") };
        let rules = vec![rule("all", "{prefix}/{device}/down/#"), deny, rule("other", "site/{device}/x")];
        let settings = Settings {
            prefix: "tombolo/gw".to_owned(),
            gateway: "gw".to_owned(),
            command: Some("tombolo/gw/{device}/down/{path}".to_owned()),
            request: Some("tombolo/gw/{device}/request/{id}/{path}".to_owned()),
            roles: vec![RoleDownlink { name: name("door"), rules, mailbox: MailboxLimits::default() }],
            ..Settings::default()
        };
        assert_eq!(settings.needed_by("tombolo/gw/+/down/#"), ["rule all of role door"]);
        assert_eq!(settings.needed_by("site/+/x"), ["rule other of role door"]);
        assert_eq!(settings.needed_by("tombolo/gw/+/request/+/#"), ["[topics] request"]);
    }
}
