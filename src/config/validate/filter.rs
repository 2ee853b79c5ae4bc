//! The filter of a rule, of `uplink` and of `local-subscribe`: which readings and messages are held
//! back. The layers have checked each key; here are the conditions on several.

use crate::config::model::{self, Condition, Operand};
use crate::gate::condition::{self, COMPARISONS_MAX, Test, When};
use crate::gate::field::FieldPointer;
use crate::gate::settings::ReadingFilter;

const COMPARISONS: &str = "above, below, at-least, at-most, is, is-not, one-of or present";

/// The keys, as the rule has them.
pub(super) struct Keys<'t> {
    when: Option<&'t [Condition]>,
    on_change: Option<bool>,
    dead_band: Option<f64>,
    dead_band_field: Option<&'t str>,
    min_interval: Option<model::Span>,
}

/// Both kinds of tables have the keys under the same names.
macro_rules! keys_of {
    ($($table:ty),+) => {
        $(impl<'t> From<&'t $table> for Keys<'t> {
            fn from(table: &'t $table) -> Keys<'t> {
                Keys {
                    when: table.when.as_deref(),
                    on_change: table.on_change,
                    dead_band: table.dead_band,
                    dead_band_field: table.dead_band_field.as_deref(),
                    min_interval: table.min_interval,
                }
            }
        })+
    };
}

keys_of!(model::Uplink, model::Local);

/// What is wrong, and the way out.
type Wrong = (String, String);

/// The filter; `fault` takes the key within the rule, message and advice.
pub(super) fn filter(keys: &Keys<'_>, mut fault: impl FnMut(&[&str], String, &str)) -> ReadingFilter {
    let dead_band_field =
        keys.dead_band_field.map(pointer).transpose().unwrap_or_else(|(message, advice)| {
            fault(&["dead-band-field"], message, &advice);
            None
        });
    if keys.dead_band_field.is_some() && keys.dead_band.is_none() {
        fault(&["dead-band-field"], "there is no dead-band".to_owned(), "set dead-band, like 0.5");
    }
    ReadingFilter {
        when: when(keys.when.unwrap_or_default(), &mut fault),
        on_change: keys.on_change.unwrap_or(false),
        dead_band: keys.dead_band,
        dead_band_field,
        min_interval: keys.min_interval.map(|span| span.0),
    }
}

fn pointer(text: &str) -> Result<FieldPointer, Wrong> {
    if text.is_empty() {
        let advice = "take it out to compare the payload itself, or write it like \"/env/temperature\"";
        return Err(("has an empty field".to_owned(), advice.to_owned()));
    }
    FieldPointer::parse(text)
        .map_err(|error| (format!("{text:?}: {error}"), "write it like \"/env/temperature\"".to_owned()))
}

fn when(list: &[Condition], fault: &mut impl FnMut(&[&str], String, &str)) -> When {
    let mut conditions = Vec::with_capacity(list.len());
    for (at, table) in list.iter().enumerate() {
        let number = (at + 1).to_string();
        let mut alternatives = Vec::new();
        let Some(any) = &table.any else {
            match comparison(table) {
                Ok(one) => alternatives.push(one),
                Err((message, advice)) => fault(&["when", &number], message, &advice),
            }
            conditions.push(alternatives);
            continue;
        };
        if table.field.is_some() || !tests(table).is_empty() {
            let advice = "put the comparison into the list any, or into a table of its own beside this one";
            fault(&["when", &number], "has any and a comparison".to_owned(), advice);
        }
        for (at, table) in any.iter().enumerate() {
            match comparison(table) {
                Ok(one) => alternatives.push(one),
                Err((message, advice)) => {
                    fault(&["when", &number, "any", &(at + 1).to_string()], message, &advice);
                }
            }
        }
        conditions.push(alternatives);
    }
    When::new(conditions).unwrap_or_else(|count| {
        let advice = format!("use at most {COMPARISONS_MAX} in a rule, those in any included");
        fault(&["when"], format!("has {count} comparisons"), &advice);
        When::default()
    })
}

/// Warns of two conditions of which never both hold; `warn` takes message and advice.
pub(super) fn warn_of_contradiction(when: &When, warn: impl FnOnce(String, &str)) {
    let Some((at, later)) = when.contradiction() else { return };
    let texts = when.texts();
    let message = format!(
        "conditions {} and {} never hold both ({}; {}): what they can judge is never published",
        at + 1,
        later + 1,
        texts[at],
        texts[later]
    );
    warn(message, "correct one, or put both into one table as any = [ … ] if either is enough");
}

fn comparison(table: &Condition) -> Result<(Option<FieldPointer>, Test), Wrong> {
    let field = table.field.as_deref().map(pointer).transpose()?;
    let mut tests = tests(table);
    match (tests.pop(), tests.first()) {
        (None, _) => Err(("has no comparison".to_owned(), format!("set one of {COMPARISONS}"))),
        (Some((second, _)), Some((first, _))) => Err((
            format!("has two comparisons, {first} and {second}"),
            "write a table for each: all of them have to hold".to_owned(),
        )),
        (Some((_, Test::Present(_))), None) if field.is_none() => Err((
            "has present without field: a payload is always there".to_owned(),
            "set field, like \"/env/temperature\"".to_owned(),
        )),
        (Some((_, test)), None) => Ok((field, test)),
    }
}

/// The comparisons of a table, by their keys.
fn tests(table: &Condition) -> Vec<(&'static str, Test)> {
    let all = [
        ("above", table.above.map(Test::Above)),
        ("below", table.below.map(Test::Below)),
        ("at-least", table.at_least.map(Test::AtLeast)),
        ("at-most", table.at_most.map(Test::AtMost)),
        ("is", table.is.as_ref().map(|value| Test::Is(operand(value)))),
        ("is-not", table.is_not.as_ref().map(|value| Test::IsNot(operand(value)))),
        ("one-of", table.one_of.as_ref().map(|list| Test::OneOf(list.iter().map(operand).collect()))),
        ("present", table.present.map(Test::Present)),
    ];
    all.into_iter().filter_map(|(key, test)| Some((key, test?))).collect()
}

fn operand(value: &Operand) -> condition::Operand {
    match value {
        Operand::Flag(flag) => condition::Operand::Flag(*flag),
        Operand::Number(number) => condition::Operand::Number(*number),
        Operand::Text(text) => condition::Operand::Text(text.as_str().into()),
    }
}
