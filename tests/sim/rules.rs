//! The site: devices, roles and rules, as the gate is told them, and a naive reading of the same
//! rules that shares no code with the gate.

use std::time::Duration;

use crate::product::*;

pub const PREFIX: &str = "tombolo/gw";

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub path: &'static str,
    pub deny: bool,
    /// `None`: the template of all readings.
    pub topic: Option<&'static str>,
    /// `qos = 1`.
    pub stored: bool,
    pub lane: Lane,
    pub expires_s: Option<u64>,
}

impl Rule {
    pub const fn allow(path: &'static str) -> Rule {
        Rule { path, deny: false, topic: None, stored: true, lane: Lane::Normal, expires_s: None }
    }

    pub const fn deny(path: &'static str) -> Rule {
        Rule { deny: true, ..Rule::allow(path) }
    }

    pub const fn alarm(path: &'static str) -> Rule {
        Rule { lane: Lane::High, ..Rule::allow(path) }
    }

    pub const fn live(path: &'static str) -> Rule {
        Rule { stored: false, ..Rule::allow(path) }
    }

    pub const fn expiring(path: &'static str, seconds: u64) -> Rule {
        Rule { expires_s: Some(seconds), ..Rule::allow(path) }
    }

    pub const fn to(path: &'static str, topic: &'static str) -> Rule {
        Rule { topic: Some(topic), ..Rule::allow(path) }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct RoleText {
    pub name: &'static str,
    /// Messages in `per_s` seconds, and at once.
    pub messages: u32,
    pub per_s: u64,
    pub burst: u32,
    pub max_sessions: u32,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub id: String,
    pub role: &'static str,
    pub key: String,
}

impl Member {
    pub fn new(id: &str, role: &'static str) -> Member {
        Member { id: id.to_owned(), role, key: format!("key of {id}") }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    pub roles: Vec<RoleText>,
    pub members: Vec<Member>,
    /// The device of all plain CoAP senders.
    pub insecure: Option<String>,
}

/// What a naive reading of the rules makes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    pub topic: String,
    pub stored: bool,
    pub lane: Lane,
    pub expires_s: Option<u64>,
}

impl Site {
    /// Sensors, alarms and live values; generous quotas.
    pub fn usual(ids: &[&str]) -> Site {
        let rules = vec![
            Rule::allow("t/#"),
            Rule::alarm("alarm/+"),
            Rule::live("live/#"),
            Rule::deny("t/secret/#"),
            Rule::to("log/+/#", "{prefix}/logs/{device}/{1}/{rest}"),
            Rule::expiring("soon/#", 3_600),
            Rule::allow("data"),
        ];
        let sensor =
            RoleText { name: "sensor", messages: 600, per_s: 60, burst: 200, max_sessions: 4, rules };
        let members = ids.iter().map(|id| Member::new(id, "sensor")).collect();
        Site { roles: vec![sensor], members, insecure: None }
    }

    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    pub fn role_of(&self, id: &str) -> Option<&RoleText> {
        let role = self.member(id)?.role;
        self.roles.iter().find(|other| other.name == role)
    }

    /// The naive reading. A deny that matches wins; of several that allow, the one that is literal
    /// where the others are not, from the left.
    pub fn allows(&self, device: &str, path: &str) -> Option<Allowed> {
        let rules = &self.role_of(device)?.rules;
        let mut best: Option<(Vec<u8>, &Rule, Vec<String>)> = None;
        for rule in rules {
            let Some((ranks, captured)) = matches(rule.path, path) else { continue };
            if rule.deny {
                return None;
            }
            if best.as_ref().is_none_or(|(others, ..)| ranks < *others) {
                best = Some((ranks, rule, captured));
            }
        }
        let (_, rule, captured) = best?;
        let mut topic = rule.topic.unwrap_or("{prefix}/{device}/up/{path}").to_owned();
        let rest = captured.last().cloned().unwrap_or_default();
        for (place, text) in [("{prefix}", PREFIX), ("{device}", device), ("{path}", path), ("{rest}", &rest)]
        {
            topic = topic.replace(place, text);
        }
        for (number, text) in captured.iter().enumerate() {
            topic = topic.replace(&format!("{{{}}}", number + 1), text);
        }
        let topic = topic.trim_end_matches('/').to_owned();
        Some(Allowed { topic, stored: rule.stored, lane: rule.lane, expires_s: rule.expires_s })
    }

    /// The same for the gate.
    pub fn settings(&self) -> gate::Settings {
        let name = |text: &str| Name::parse(text).unwrap();
        let role = |role: &RoleText| Role {
            quota: Quota {
                messages: role.messages,
                bytes: 1 << 30,
                per: Duration::from_secs(role.per_s),
                burst: role.burst,
            },
            max_sessions: role.max_sessions,
            uplink: role.rules.iter().enumerate().map(|(number, rule)| uplink_rule(number, rule)).collect(),
            ..Role::new(name(role.name))
        };
        let device = |member: &Member| Device {
            psk: Some(Psk {
                identity: member.id.clone().into_bytes(),
                key: member.key.clone().into_bytes().into(),
            }),
            ..Device::new(name(&member.id), name(member.role))
        };
        let mut members = self.members.clone();
        members.sort_by(|one, other| one.id.cmp(&other.id));
        gate::Settings {
            gateway: name("gw"),
            prefix: PREFIX.to_owned(),
            reading: Some(Template::parse("{prefix}/{device}/up/{path}").unwrap()),
            own: Default::default(),
            reply: None,
            roles: self.roles.iter().map(role).collect(),
            devices: members.iter().map(device).map(Device::into).collect(),
            fleets: Vec::new(),
            withheld: Default::default(),
        }
    }

    pub fn keyring(&self) -> Keyring {
        Keyring::new(
            self.members
                .iter()
                .map(|member| (member.id.clone().into_bytes(), member.key.clone().into_bytes())),
        )
    }
}

fn uplink_rule(number: usize, rule: &Rule) -> UplinkRule {
    UplinkRule {
        deny: rule.deny,
        topic: rule.topic.map(|topic| Template::parse(topic).unwrap()),
        qos: if rule.stored { QoS::AtLeastOnce } else { QoS::AtMostOnce },
        lane: rule.lane,
        expires: rule.expires_s.map(Duration::from_secs),
        ..UplinkRule::new(Name::parse(&format!("r{number}")).unwrap(), Pattern::parse(rule.path).unwrap())
    }
}

/// Whether an MQTT filter matches a path: how literal it is at each level (0 literal, 1 `+`, 2
/// `#`), and what its wildcards stand for.
fn matches(filter: &str, path: &str) -> Option<(Vec<u8>, Vec<String>)> {
    let (mut ranks, mut captured) = (Vec::new(), Vec::new());
    let mut levels = path.split('/');
    for want in filter.split('/') {
        match want {
            "#" => {
                ranks.push(2);
                captured.push(levels.by_ref().collect::<Vec<_>>().join("/"));
                return Some((ranks, captured));
            }
            "+" => {
                ranks.push(1);
                captured.push(levels.next()?.to_owned());
            }
            literal => {
                ranks.push(0);
                if levels.next()? != literal {
                    return None;
                }
            }
        }
    }
    levels.next().is_none().then_some((ranks, captured))
}
