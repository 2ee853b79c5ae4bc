//! `tombolo reload`: has the running daemon take the configuration up, and waits for the outcome.
//!
//! The unit's `ExecReload`, so that a refused reload fails there too. The daemon goes on with what
//! it has when it refuses.

use serde_json::Value;

use super::error::CommandError;
use super::output::patiently;
use super::{Context, note};
use crate::control::io::client::{ClientError, SLOW_ANSWER};
use crate::control::protocol::Request;

/// Asks and prints.
///
/// # Errors
/// [`CommandError::Failed`] where the reload is refused, or it leaves the uplink without usable
/// files, or the daemon does not run or answer.
pub fn run(context: &Context) -> Result<(), CommandError> {
    let mut daemon = context.daemon()?;
    let asked = || daemon.ask(&Request::Reload {}, SLOW_ANSWER);
    let answer = match patiently("waiting for the gateway to reload", asked) {
        Ok(answer) => answer,
        Err(ClientError::Failed(failure)) => {
            return Err(CommandError::Failed(format!(
                "the reload is refused, and the gateway goes on with the configuration it has: {failure}"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    let unusable = answer.get("upstream_files").and_then(Value::as_str).map(str::to_owned);
    if context.out.json {
        context.out.object(&answer)?;
    } else {
        context.out.line("reloaded")?;
        let texts = |key: &str| answer.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        for text in texts("disabled").iter().chain(&texts("problems")) {
            note(text.as_str().unwrap_or_default());
        }
    }
    match unusable {
        None => Ok(()),
        Some(reason) => Err(CommandError::Failed(format!(
            "reloaded, but the files of [upstream] cannot be used: {reason}; a connection that stands goes on until it \
             breaks, and there is no other until that is corrected"
        ))),
    }
}
