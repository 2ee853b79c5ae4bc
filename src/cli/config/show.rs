//! `tombolo config show`: each value by the files, and where it comes from. Secrets are never
//! shown: none is in a configuration, only the paths of their files.

use serde_json::{Map, Value, json};

use crate::cli::Context;
use crate::cli::args::ShowArguments;
use crate::cli::error::CommandError;
use crate::cli::note;
use crate::config::io::texts;
use crate::config::scalar::did_you_mean;
use crate::config::show::{Shown, show};
use crate::config::{Finding, IdSource, Level, Loaded};

/// Prints it, also where the configuration has faults.
///
/// # Errors
/// [`CommandError::Failed`] if there is no such key, or no file can be read.
pub fn run(context: &Context, arguments: &ShowArguments) -> Result<(), CommandError> {
    let options = context.options();
    let read = texts(&options);
    if read.layers.is_empty() {
        return Err(CommandError::Configuration(read.unread));
    }
    let loaded = crate::config::io::load(&options, None);
    let (mut shown, faults) = show(&read.layers, &options.environment);
    if let Ok(loaded) = &loaded {
        complete(&mut shown, loaded);
    }
    if let Some(key) = arguments.key.as_ref().filter(|key| !shown.iter().any(|one| is_within(&one.key, key)))
    {
        let advice = match did_you_mean(key, shown.iter().map(|one| one.key.as_str())) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("`{}` lists them", context.hint("config show")),
        };
        return Err(CommandError::Failed(format!("there is no key {key:?} here; {advice}")));
    }
    shown.retain(|one| arguments.key.as_ref().is_none_or(|key| is_within(&one.key, key)));
    shown.retain(|one| !arguments.changed || one.place.is_some());
    if context.out.json {
        let settings: Map<String, Value> = shown.iter().map(|one| (one.key.clone(), object(one))).collect();
        context.out.object(&json!({ "settings": settings }))?;
    } else {
        context.out.table(&shown.iter().map(row).collect::<Vec<_>>())?;
        remark(context, &read.unread, &faults, loaded.is_err());
    }
    Ok(())
}

/// Beside the result: what is not in it.
fn remark(context: &Context, unread: &[Finding], faults: &[Finding], refused: bool) {
    unread.iter().for_each(note);
    faults.iter().filter(|finding| finding.level == Level::Fail).for_each(note);
    if refused {
        let check = context.hint("check");
        note(format_args!("this configuration cannot be used as it is; `{check}` shows all findings"));
    }
}

/// Defaults that only the whole configuration has.
fn complete(shown: &mut [Shown], loaded: &Loaded) {
    let settings = &loaded.settings;
    let mut set = |key: &str, value: String, words: &str| {
        let of = shown.iter_mut().find(|one| one.key == key && one.place.is_none());
        if let Some(one) = of {
            one.value = Some(value.into());
            one.words = Some(words.to_owned());
        }
    };
    if settings.gateway.id_source == IdSource::Stored {
        let file = settings.paths.gateway_id();
        set("gateway.id", settings.gateway.id.to_string(), &format!("generated, {}", file.display()));
    }
    // Without the state directory the generated id is not known.
    let unknown = loaded.state.closed.is_some() && settings.gateway.id_source == IdSource::Missing;
    if let Some(upstream) = settings.upstream.as_ref().filter(|_| !unknown) {
        set("upstream.client-id", upstream.client_id.clone(), "the gateway's id");
    }
}

fn is_within(key: &str, wanted: &str) -> bool {
    key.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn object(shown: &Shown) -> Value {
    json!({
        "value": shown.value,
        "default": shown.place.is_none(),
        "words": shown.words,
        "file": shown.place.as_ref().map(|place| place.file.to_string()),
        "line": shown.place.as_ref().and_then(|place| place.line),
    })
}

fn row(shown: &Shown) -> Vec<String> {
    let value = match (&shown.value, &shown.words) {
        (Some(value), _) => value.to_string(),
        (None, Some(words)) => format!("({words})"),
        (None, None) => "(none)".to_owned(),
    };
    let from = match (&shown.place, &shown.words, &shown.value) {
        (Some(place), ..) => place.to_string(),
        (None, Some(words), Some(_)) => format!("default: {words}"),
        (None, ..) => "default".to_owned(),
    };
    vec![shown.key.clone(), value, from]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_by_whole_parts_of_its_keys() {
        assert!(is_within("role.sensor.quota.per", "role.sensor"));
        assert!(is_within("role.sensor", "role.sensor"));
        assert!(!is_within("role.sensor2.enabled", "role.sensor"));
    }
}
