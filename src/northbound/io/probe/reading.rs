//! Whether readings may be published: each on a topic that the rules map to and no device uses.
//!
//! A topic that a device does use is never published on: its consumers would take the check for a
//! reading. So an access list that names single topics refuses what is tried here and takes what is
//! real. One refusal alone is therefore "not proven"; where several are tried and all are refused,
//! it is a failure, whether or not there is a device yet. So is one topic that the broker calls
//! invalid (0x90): that is about its levels and characters, which a real one has as well. What is
//! sent has no payload, so that nothing in it can be read as a value, and with MQTT 5 the user
//! property `check`. With the retain flag, where the rule has it, an empty payload leaves nothing
//! behind (MQTT 5.0 §3.3.1.3).

use super::talk::{Message, Said, Subscribed, Talk};
use super::{Failed, Step, Walk, check_client_id, fail, least_packet, ok, warn};
use crate::northbound::advice;
use crate::northbound::reason_code;
use crate::northbound::session::Limits;
use crate::northbound::wire::{CHECK_PROPERTY, Version};

/// The level that stands for a wildcard of a rule, and in place of the last level of a topic that
/// has none. Nothing but the check uses it.
pub const LEVEL: &str = "tombolo-check";
/// Topics tried at most.
pub const TRIED_MAX: usize = 12;
/// Refusals after which the rest says nothing new.
pub const REFUSED_MAX: usize = 4;
/// Topics named in one finding.
const NAMED: usize = REFUSED_MAX;

/// A topic to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadingTrial {
    /// The topic; a level of it is [`LEVEL`].
    pub topic: String,
    /// What maps to it, such as `rule alarm of role sensor at tombolo.toml:12`.
    pub of: String,
    /// The rule publishes with the retain flag.
    pub retain: bool,
    /// The rule maps to one topic for each device: this one is beside it.
    pub beside: bool,
    /// No device has the role yet: its place is taken by [`LEVEL`].
    pub no_device: bool,
}

/// What became of one.
pub(super) struct Tried<'a> {
    pub reading: &'a ReadingTrial,
    pub said: Said,
    /// It was acknowledged, and that proves that it was taken.
    pub proven: bool,
}

impl Tried<'_> {
    fn place(&self) -> String {
        let beside = if self.reading.beside { "beside the topic of " } else { "" };
        let yet = if self.reading.no_device { ", which no device has yet" } else { "" };
        format!("{} ({beside}{}{yet})", self.reading.topic, self.reading.of)
    }

    pub fn is_refused(&self) -> bool {
        matches!(self.said, Said::Refused(_) | Said::Closed)
    }

    pub fn words(&self) -> String {
        format!("on {}: {}", self.place(), words(self.said))
    }
}

/// What an answer is called.
pub(super) fn words(said: Said) -> String {
    match said {
        Said::Refused(code) => format!("{} (0x{code:02X})", reason_code::text(code)),
        Said::Closed => "it closes the connection".to_owned(),
        Said::Silent => "no answer".to_owned(),
        Said::Taken { .. } => "taken".to_owned(),
        Said::TooLarge => "too large".to_owned(),
    }
}

impl<'a> Walk<'a> {
    /// Tries them one after the other, on another connection where the broker ends one.
    pub(super) async fn try_readings(&mut self, mut talk: Option<Talk>) -> (Option<Talk>, Vec<Tried<'a>>) {
        let mut tried = Vec::new();
        let trial = self.trial;
        // Some close the connection over a subscription that they do not allow.
        let mut may_subscribe = true;
        let (version, limit) = (self.version(), u64::from(self.limits().packet_size));
        // What is tried has no payload: that it passes shows nothing where no real one fits.
        let fits = |reading: &&ReadingTrial| least_packet(&reading.topic, version) <= limit;
        for reading in trial.readings.iter().filter(fits).take(TRIED_MAX) {
            let mut one = match talk.take() {
                Some(talk) => talk,
                None => match self.connect().await {
                    Ok(talk) => talk,
                    Err(Failed) => break, // the reason is among the steps
                },
            };
            let (version, limits) = (self.version(), self.limits());
            let has_codes = version == Version::V5 && limits.at_least_once;
            let mut readable = false;
            if !has_codes && may_subscribe {
                match self.subscribe_to(&mut one, &reading.topic).await {
                    Subscribed::Yes => readable = true,
                    Subscribed::Refused(_) | Subscribed::Silent => {}
                    Subscribed::Closed => {
                        may_subscribe = false;
                        one = match self.connect().await {
                            Ok(talk) => talk,
                            Err(Failed) => break,
                        };
                    }
                }
            }
            let said = publish(&mut one, reading, version, limits, readable).await;
            let proven = matches!(said, Said::Taken { echoed, .. } if echoed || has_codes);
            tried.push(Tried { reading, said, proven });
            // Some end the connection only after they have refused.
            if !matches!(said, Said::Refused(_) | Said::Closed) {
                talk = Some(one);
            } else if matches!(said, Said::Refused(_)) {
                one.goodbye().await;
            }
            let refused = tried.iter().filter(|tried: &&Tried<'_>| tried.is_refused()).count();
            if said == Said::Silent || refused >= REFUSED_MAX {
                break;
            }
        }
        (talk, tried)
    }

    /// What they prove. `own`: what became of the publish on a topic of the gateway's own.
    pub(super) fn judge_readings(&mut self, own: Said, tried: &[Tried<'_>]) {
        let (beside, own_taken) = (self.trial.beside, self.trial.own_taken);
        let limit = u64::from(self.limits().packet_size);
        // Those that do not fit are named already.
        let fits = |reading: &&ReadingTrial| least_packet(&reading.topic, self.version()) <= limit;
        let untried = self.trial.readings.iter().filter(fits).count().saturating_sub(tried.len());
        let id = check_client_id(&self.settings.client_id);
        let version = self.version();
        let steps: &mut Vec<Step> = &mut self.steps;
        let of = |wanted: &dyn Fn(&Tried<'_>) -> bool| -> Vec<&Tried<'_>> {
            tried.iter().filter(|tried| wanted(tried)).collect()
        };
        let proven = of(&|tried| tried.proven);
        let invalid = of(&|tried| tried.said == Said::Refused(reason_code::TOPIC_NAME_INVALID));
        let refused = of(&|tried| tried.is_refused() && !invalid.iter().any(|one| std::ptr::eq(*one, tried)));
        let unproven = of(&|tried| !tried.proven && matches!(tried.said, Said::Taken { .. }));
        let silent = of(&|tried| matches!(tried.said, Said::Silent | Said::TooLarge));
        if !proven.is_empty() {
            let more = match untried {
                0 => String::new(),
                more => format!("; {more} more not tried"),
            };
            ok(steps, "readings", format!("taken on {}{more}", list(&proven, |tried| tried.place())));
        }
        if let Some(first) = unproven.first() {
            let why = match version {
                Version::V3_1_1 => "over MQTT 3.1.1 a PUBACK does not say whether it was taken",
                Version::V5 => "the broker takes QoS 0 only, and does not acknowledge it",
            };
            let text = format!(
                "not proven that readings are taken: {why}, and what was sent on {} did not come back",
                list(&unproven, |tried| tried.place())
            );
            let advice = format!(
                "{}; if the gateway may also read it, this check sees it come back",
                allow(&first.reading.topic)
            );
            warn(steps, "readings", text, advice);
        }
        if let Some(first) = silent.first() {
            let text = format!("the broker does not take a reading: {}", first.words());
            let _ = fail::<()>(steps, "readings", text, allow(&first.reading.topic));
        }
        if !invalid.is_empty() {
            let text = format!(
                "the broker takes no such topic, and readings of it will be set aside: {}",
                list(&invalid, |tried| tried.words())
            );
            let advice = "change the rule's topic, or [topics] reading: the broker limits levels, length or characters, or allows \
                          a list of topics alone; its log says which";
            let _ = fail::<()>(steps, "readings", text, advice);
        }
        let Some(first) = refused.first() else { return };
        let mut said = list(&refused, |tried| tried.words());
        if untried > 0 && proven.is_empty() {
            said.push_str(&format!("; {untried} more not tried"));
        }
        let own_refused = matches!(own, Said::Refused(_) | Said::Closed);
        if beside && own_taken && own_refused {
            let rules = list(&refused, |tried| tried.reading.of.clone());
            let text = format!(
                "not proven that readings are taken, of {rules}: beside the running gateway the check has the client id \
                 {id}, with which the broker refuses them, and also what the gateway itself may publish"
            );
            let advice =
                format!("`tombolo device test ID` sends a reading through the gateway itself; or {STOPPED}");
            return warn(steps, "readings", text, advice);
        }
        let alone = proven.is_empty() && unproven.is_empty() && silent.is_empty() && invalid.is_empty();
        let several = refused.len() > 1;
        // What another code says is not about this topic.
        let because = match first.said {
            Said::Refused(code) if code != reason_code::NOT_AUTHORIZED => advice::of_puback(code).to_owned(),
            _ => allow_all(&refused),
        };
        let advice = format!(
            "{because}; if it allows each topic by its whole name, `tombolo device test ID` proves it with a reading"
        );
        if alone && several {
            let text = format!("the broker refuses readings: {said}");
            let _ = fail::<()>(steps, "readings", text, advice);
        } else {
            let text = format!(
                "not proven that these readings are taken: the broker refuses what was tried in their place, {said}"
            );
            warn(steps, "readings", text, advice);
        }
    }
}

/// How the check has the gateway's own client id.
pub const STOPPED: &str =
    "`systemctl stop tombolo`, then `tombolo check` tries it with the gateway's own client id";

async fn publish(
    talk: &mut Talk,
    reading: &ReadingTrial,
    version: Version,
    limits: Limits,
    readable: bool,
) -> Said {
    let properties: &[u8] = match version {
        Version::V5 => CHECK_PROPERTY,
        Version::V3_1_1 => b"",
    };
    let message = Message { topic: &reading.topic, retain: reading.retain, properties, payload: b"" };
    talk.publish(&message, limits, readable).await
}

fn list(tried: &[&Tried<'_>], words: impl Fn(&Tried<'_>) -> String) -> String {
    let mut text = tried.iter().take(NAMED).map(|tried| words(tried)).collect::<Vec<_>>().join("; ");
    if tried.len() > NAMED {
        text.push_str(&format!(" and {} more", tried.len() - NAMED));
    }
    text
}

/// What to allow at the broker for a topic with [`LEVEL`] in it.
fn allow(topic: &str) -> String {
    format!("allow {} at the broker, and so for each device", filter(topic))
}

/// What to allow for all of them: what is above them, if that is three levels or more, or each.
fn allow_all(tried: &[&Tried<'_>]) -> String {
    let mut filters: Vec<String> = tried.iter().map(|tried| filter(&tried.reading.topic)).collect();
    filters.sort();
    filters.dedup();
    let mut common: Vec<&str> = filters.first().map_or_else(Vec::new, |first| first.split('/').collect());
    for filter in &filters {
        let same = common.iter().zip(filter.split('/')).take_while(|(a, b)| **a == *b).count();
        common.truncate(same);
    }
    let what = match filters.len() {
        2.. if common.len() > 2 => format!("{}/#", common.join("/")),
        _ => filters.join(", "),
    };
    format!("allow {what} at the broker, and so for each device")
}

/// The topic filter of what a topic with [`LEVEL`] in it stands for.
fn filter(topic: &str) -> String {
    let levels = topic.split('/').map(|level| if level.contains(LEVEL) { "+" } else { level });
    let filter = levels.collect::<Vec<_>>().join("/");
    match filter.strip_suffix("/+") {
        Some(above) => format!("{above}/#"),
        None => filter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_allowed_covers_all_that_is_refused() {
        let all = |topics: &[&str]| {
            let trials: Vec<ReadingTrial> = topics
                .iter()
                .map(|topic| ReadingTrial {
                    topic: (*topic).to_owned(),
                    of: "rule a of role b".to_owned(),
                    retain: false,
                    beside: false,
                    no_device: false,
                })
                .collect();
            let said = Said::Refused(reason_code::NOT_AUTHORIZED);
            let tried: Vec<Tried<'_>> =
                trials.iter().map(|reading| Tried { reading, said, proven: false }).collect();
            let text = allow_all(&tried.iter().collect::<Vec<_>>());
            text.trim_start_matches("allow ")
                .trim_end_matches(" at the broker, and so for each device")
                .to_owned()
        };
        let up = |device: &str, path: &str| format!("tombolo/gw/{device}/up/{path}/tombolo-check");
        assert_eq!(all(&[&up("door-7", "t")]), "tombolo/gw/door-7/up/t/#");
        assert_eq!(all(&[&up("door-7", "t"), &up("door-7", "alarm")]), "tombolo/gw/door-7/up/#");
        assert_eq!(all(&[&up(LEVEL, "t"), &up(LEVEL, "alarm")]), "tombolo/gw/+/up/#");
        assert_eq!(
            all(&[&up("door-7", "t"), &up("lamp", "t")]),
            "tombolo/gw/door-7/up/t/#, tombolo/gw/lamp/up/t/#"
        );
        assert_eq!(all(&["door-7/x/tombolo-check/y", "z"]), "door-7/x/+/y, z");
    }
}
