//! What the gateway asks devices with: queries, and texts on serial lines. They are in the
//! configuration itself and may have a password or a token in them, so a bundle has only the names
//! in a query. Pure.

use serde_json::Value;

use crate::config::show::Shown;

/// What stands for what is not shown.
const REMOVED: &str = "[removed]";
/// A value of at least so many bytes is looked for in all texts; a shorter one only if its name
/// announces a secret, because it may be a word of other texts.
const LONG: usize = 8;

/// One that is set.
pub(super) struct Question {
    key: String,
    text: String,
    is_query: bool,
}

/// All that are set.
pub(super) fn questions(shown: &[Shown]) -> Vec<Question> {
    let question = |one: &Shown| {
        one.place.as_ref()?;
        let text = one.value.as_ref()?.as_str()?;
        let parts: Vec<&str> = one.key.split('.').collect();
        // A name in quotation marks may have points in it.
        let (first, table, last) = (*parts.first()?, parts.get(2).copied(), *parts.last()?);
        let is_query = last == "query"
            && matches!(first, "role" | "device")
            && parts[1..parts.len() - 1].iter().any(|part| matches!(*part, "observe" | "poll"));
        let is_text = first == "serial" && matches!(last, "poll" | "wake") && table.is_some();
        (is_query || is_text).then(|| Question { key: one.key.clone(), text: text.to_owned(), is_query })
    };
    shown.iter().filter_map(question).collect()
}

impl Question {
    /// What the bundle shows: the names of a query's arguments, and nothing of a text.
    fn shown(&self) -> String {
        if !self.is_query {
            return REMOVED.to_owned();
        }
        let argument = |argument: &str| match argument.split_once('=') {
            Some((name, _)) => format!("{name}={REMOVED}"),
            None => REMOVED.to_owned(),
        };
        self.text.split('&').map(argument).collect::<Vec<_>>().join("&")
    }

    /// What is taken out of all other texts.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        let pieces: Vec<&str> = match self.is_query {
            true => self.text.split('&').collect(),
            false => vec![self.text.as_str()],
        };
        let is_query = self.is_query;
        pieces.into_iter().filter_map(move |piece| {
            let (name, value) = piece.split_once('=').filter(|_| is_query).unwrap_or(("", piece));
            (value.len() >= LONG || super::redact::announces(name)).then_some(value)
        })
    }
}

/// `config show` without them, of either form.
pub(super) fn without_questions(text: &str, questions: &[Question]) -> String {
    if let Ok(mut value) = serde_json::from_str::<Value>(text) {
        let mut settings = value.get_mut("settings").and_then(Value::as_object_mut);
        for question in questions {
            let one = settings.as_mut().and_then(|settings| settings.get_mut(&question.key));
            if let Some(value) = one.and_then(|one| one.get_mut("value")) {
                *value = question.shown().into();
            }
        }
        return value.to_string() + "\n";
    }
    let line = |line: &str| {
        let is_of = |question: &&Question| {
            line.strip_prefix(question.key.as_str()).is_some_and(|rest| rest.starts_with(' '))
        };
        match questions.iter().find(is_of) {
            Some(question) => {
                let written = Value::from(question.text.as_str()).to_string();
                let shown = Value::from(question.shown()).to_string();
                match line.contains(&written) {
                    true => line.replacen(&written, &shown, 1),
                    // Cut for its length, or written otherwise.
                    false => format!("{}  {shown}\n", question.key),
                }
            }
            None => line.to_owned(),
        }
    };
    text.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Place;

    fn shown(key: &str, value: &str) -> Shown {
        let place = Some(Place { file: "tombolo.toml".into(), line: Some(1) });
        Shown { key: key.to_owned(), value: Some(value.into()), words: None, place }
    }

    #[test]
    fn of_a_query_the_names_are_shown_and_of_a_text_on_a_line_nothing() {
        let all = [
            shown("role.meter.poll.energy.query", "unit=kWh&token=abcd&bare"),
            shown("device.\"a.b\".observe.x.query", "pin=77"),
            shown("serial.scale.poll", "LOGIN sesame\r"),
            shown("serial.scale.wake", "U"),
            shown("serial.scale.poll-period", "10s"),
            shown("role.meter.query", "refuse"),
        ];
        let found = questions(&all);
        let wanted = ["unit=[removed]&token=[removed]&[removed]", "pin=[removed]", "[removed]", "[removed]"];
        assert_eq!(found.iter().map(Question::shown).collect::<Vec<_>>(), wanted);
        let secrets: Vec<&str> = found.iter().flat_map(Question::secrets).collect();
        assert_eq!(secrets, ["abcd", "77", "LOGIN sesame\r"]);
        let text = "role.meter.poll.energy.query  \"unit=kWh&token=abcd&bare\"  f:1\nserial.scale.poll  \"LOGIN sesame\\r\"  f:2\n\
                    serial.scale.poll-period  \"10s\"  f:3\nrole.meter.query  \"refuse\"  f:4\n";
        assert_eq!(
            without_questions(text, &found),
            "role.meter.poll.energy.query  \"unit=[removed]&token=[removed]&[removed]\"  f:1\nserial.scale.poll  \"[removed]\"  f:2\n\
             serial.scale.poll-period  \"10s\"  f:3\nrole.meter.query  \"refuse\"  f:4\n"
        );
        let one = |value: &str| json!({"value": value, "line": 1});
        let text = json!({"settings": {"serial.scale.poll": one("LOGIN sesame\r"), "role.meter.query": one("refuse")}});
        let without = without_questions(&text.to_string(), &found);
        assert!(!without.contains("sesame") && without.contains("refuse"), "{without}");
    }
}
