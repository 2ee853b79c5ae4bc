//! Whether the broker accepts the subscription to commands, which downlink rules need.
//!
//! It is asked for with QoS 2 and, where the broker does not accept that, with QoS 1, as the daemon
//! does. That it is accepted does not prove that commands are delivered: some brokers accept what
//! an account may not read. A command that comes meanwhile is not acknowledged, so the broker sends
//! it again to the daemon.

use super::reading::STOPPED;
use super::talk::{Answered, Talk};
use super::{Failed, Walk, check_client_id, fail, ok, warn};
use crate::northbound::reason_code;

/// A topic filter of commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandTrial {
    /// The filter.
    pub filter: String,
    /// What needs it, such as `rule open of role door`.
    pub of: String,
}

impl CommandTrial {
    fn place(&self) -> String {
        if self.of.is_empty() { self.filter.clone() } else { format!("{} ({})", self.filter, self.of) }
    }
}

impl Walk<'_> {
    /// Subscribes, on another connection where there is none or the broker ends it. `delivers`:
    /// what was published on the check's own topic came back.
    pub(super) async fn try_commands(&mut self, mut talk: Option<Talk>, delivers: bool) -> Option<Talk> {
        let commands = self.trial.commands;
        if commands.is_empty() {
            return talk;
        }
        let filters: Vec<String> = commands.iter().map(|command| command.filter.clone()).collect();
        let mut answer = Answered::Closed;
        for at_least_once in [false, true] {
            let mut one = match talk.take() {
                Some(talk) => talk,
                None => match self.connect().await {
                    Ok(talk) => talk,
                    Err(Failed) => return None, // the reason is among the steps
                },
            };
            answer = one.subscribe_commands(&filters, at_least_once).await;
            if !matches!(answer, Answered::Closed) {
                talk = Some(one);
            }
            match &answer {
                Answered::Closed => {}
                Answered::Codes(codes) if codes.iter().any(|code| reason_code::is_refusal(*code)) => {}
                Answered::Codes(_) | Answered::Silent => break,
            }
        }
        self.judge_commands(&answer, delivers);
        talk
    }

    fn judge_commands(&mut self, answer: &Answered, delivers: bool) {
        let commands = self.trial.commands;
        let all = || commands.iter().map(CommandTrial::place).collect::<Vec<_>>().join(", ");
        let refused: Vec<String> = match answer {
            Answered::Closed => {
                vec![format!("the broker closes the connection over the subscription to {}", all())]
            }
            Answered::Silent => vec![format!("the broker does not answer the subscription to {}", all())],
            Answered::Codes(codes) => commands
                .iter()
                .zip(codes)
                .filter(|(_, code)| reason_code::is_refusal(**code))
                .map(|(command, code)| {
                    let text = reason_code::text(*code);
                    format!(
                        "the broker refuses the subscription to {}: {text} (0x{code:02X})",
                        command.place()
                    )
                })
                .collect(),
        };
        if let Answered::Codes(codes) = answer
            && codes.contains(&0)
        {
            let text = "the broker grants the subscription to commands with QoS 0 only: a command that comes while the \
                        connection is away is lost"
                .to_owned();
            warn(&mut self.steps, "commands", text, "see who may subscribe with QoS 1 at the broker");
        }
        let text = format!("commands do not come: {}", refused.join("; "));
        let allow = "allow this gateway to read that topic at the broker, or take the rule out";
        match (refused.is_empty(), self.trial.beside) {
            (true, _) if delivers => {
                ok(&mut self.steps, "commands", format!("the broker accepts the subscription to {}", all()));
            }
            (true, _) => {
                let text = format!(
                    "not proven that commands come: the broker accepts the subscription to {}, but what the check published on \
                     its own topic did not come back",
                    all()
                );
                let advice = "allow this gateway to read these topics at the broker, or see its log";
                warn(&mut self.steps, "commands", text, advice);
            }
            (false, true) => {
                let id = check_client_id(&self.settings.client_id);
                let text = format!(
                    "not proven: beside the running gateway the check has the client id {id}, and with that {text}"
                );
                warn(&mut self.steps, "commands", text, format!("{allow}; or {STOPPED}"));
            }
            (false, false) => {
                let _ = fail::<()>(&mut self.steps, "commands", text, allow);
            }
        }
    }
}
