//! `includes` of roles: the rules that a role has, its own and those of the roles it includes.
//!
//! The order of precedence is the role itself, then what it includes in the order written, each
//! followed by what that includes in turn; a role that is reached twice counts where it is first.
//! A rule replaces those of the same name, and of the same path or topic, in roles farther away.
//! Deny rules are never replaced: one whose name is taken is an error, so that no role loses a
//! prohibition by accident.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::model;
use crate::config::scalar::did_you_mean;
use crate::gate::{DownlinkRule, OnBehalfRule, UplinkRule};
use crate::message::Name;
use crate::southbound::mqtt::bus::LocalRule;

/// `[role.*]` as written.
pub(super) type Tables = BTreeMap<String, model::Role>;

/// Most roles that one includes, directly and through others.
pub(super) const INCLUDES_MAX: usize = 16;

/// Why `includes` cannot be followed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum IncludeError {
    /// There is no such role; one with a similar name, if there is.
    Unknown(String, Option<String>),
    /// The role is switched off.
    SwitchedOff(String),
    /// The role includes itself, through these.
    Circle(Vec<String>),
    /// More than [`INCLUDES_MAX`].
    TooMany,
}

impl fmt::Display for IncludeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IncludeError::Unknown(name, _) => write!(f, "there is no role {name:?}"),
            IncludeError::SwitchedOff(name) => write!(f, "the role {name:?} is switched off"),
            IncludeError::Circle(names) => write!(f, "it includes itself: {}", names.join(" includes ")),
            IncludeError::TooMany => {
                write!(f, "a role includes at most {INCLUDES_MAX} others, those they include counted too")
            }
        }
    }
}

impl IncludeError {
    pub(super) fn advice(&self) -> String {
        match self {
            IncludeError::Unknown(_, Some(near)) => format!("did you mean {near:?}?"),
            IncludeError::SwitchedOff(name) => {
                format!("take it out, or enabled = false out of [role.{name}]")
            }
            IncludeError::Unknown(_, None) | IncludeError::Circle(_) | IncludeError::TooMany => {
                "take it out".to_owned()
            }
        }
    }
}

/// The roles whose rules a role has, in the order of precedence: itself first.
pub(super) fn order<'t>(tables: &'t Tables, name: &'t str) -> Result<Vec<&'t str>, IncludeError> {
    let (mut found, mut way) = (Vec::new(), Vec::new());
    visit(tables, name, &mut found, &mut way)?;
    Ok(found)
}

/// A role that another includes, and what stands between the two.
pub(super) struct Farther<'t> {
    /// Its name.
    pub(super) name: &'t str,
    /// The tables of those that go before it, the including one first.
    nearer: Vec<&'t model::Role>,
}

/// The roles that a role includes, directly and through others, in the order of precedence.
pub(super) fn farther<'t>(tables: &'t Tables, name: &'t str) -> Result<Vec<Farther<'t>>, IncludeError> {
    let order = order(tables, name)?;
    let of = |at: usize| order[..at].iter().filter_map(|name| tables.get(*name)).collect();
    Ok(order.iter().enumerate().skip(1).map(|(at, name)| Farther { name, nearer: of(at) }).collect())
}

impl Farther<'_> {
    /// Adds to `rules`, those of the nearer roles, those of this one that they do not replace, also
    /// by one that is switched off. `tables`: where a role has such rules.
    pub(super) fn add<R: Rule, T: Table>(
        &self,
        rules: &mut Vec<R>,
        (role, farther): (&Name, &[R]),
        tables: impl Fn(&model::Role) -> &BTreeMap<String, T>,
    ) -> Result<(), Replaced> {
        add(rules, role, farther, |rule| is_off(self.nearer.iter().map(|table| tables(table)), rule))
    }
}

fn visit<'t>(
    tables: &'t Tables,
    name: &'t str,
    found: &mut Vec<&'t str>,
    way: &mut Vec<&'t str>,
) -> Result<(), IncludeError> {
    if let Some(at) = way.iter().position(|known| *known == name) {
        let circle = way[at..].iter().chain([&name]);
        return Err(IncludeError::Circle(circle.map(|name| (*name).to_owned()).collect()));
    }
    if found.contains(&name) {
        return Ok(());
    }
    let Some(table) = tables.get(name) else {
        let near = did_you_mean(name, tables.keys().map(String::as_str)).map(str::to_owned);
        return Err(IncludeError::Unknown(name.to_owned(), near));
    };
    if table.enabled == Some(false) {
        return Err(IncludeError::SwitchedOff(name.to_owned()));
    }
    if found.len() > INCLUDES_MAX {
        return Err(IncludeError::TooMany);
    }
    found.push(name);
    way.push(name);
    for included in table.includes.iter().flatten() {
        visit(tables, included, found, way)?;
    }
    way.pop();
    Ok(())
}

/// A rule that a role may have from another.
pub(super) trait Rule: Clone {
    fn name(&self) -> &Name;
    /// Its path or topic.
    fn place(&self) -> &str;
    fn denies(&self) -> bool;
    /// The same, as a rule of this role.
    fn of(self, role: &Name) -> Self;
}

/// A deny rule whose name a role nearer to the device has, too.
pub(super) struct Replaced {
    pub(super) rule: Name,
    pub(super) role: Name,
}

impl fmt::Display for Replaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Replaced { rule, role } = self;
        write!(
            f,
            "the rule {rule} of role {role}, which it includes, denies, and a rule of that name would replace it"
        )
    }
}

/// What is said of a role that includes one with faults.
pub(super) fn disabled(role: &str) -> String {
    format!("the role {role:?}, which it includes, is disabled by its own faults")
}

/// What there is to do about that.
pub(super) const CORRECT: &str = "correct that role";

/// What there is to do about [`Replaced`].
pub(super) const RENAME: &str = "give one of the two another name";

/// Adds to `rules`, those of the nearer roles, those of `role` that they do not replace. `is_off`:
/// whether a nearer role has a rule of this name that is switched off, which replaces it, too.
fn add<R: Rule>(
    rules: &mut Vec<R>,
    role: &Name,
    farther: &[R],
    is_off: impl Fn(&str) -> bool,
) -> Result<(), Replaced> {
    let nearer = rules.len();
    for rule in farther {
        let is_named = rules[..nearer].iter().any(|known| known.name() == rule.name());
        let is_replaced = is_named || is_off(rule.name().as_str());
        if rule.denies() && is_replaced {
            return Err(Replaced { rule: rule.name().clone(), role: role.clone() });
        }
        let same = |known: &R| !known.denies() && known.place() == rule.place();
        if !is_replaced && (rule.denies() || !rules[..nearer].iter().any(same)) {
            rules.push(rule.clone().of(role));
        }
    }
    Ok(())
}

/// A table of a rule.
pub(super) trait Table {
    fn enabled(&self) -> Option<bool>;
}

/// Whether a rule of this name is switched off in one of these.
fn is_off<'t, T: Table + 't>(mut nearer: impl Iterator<Item = &'t BTreeMap<String, T>>, name: &str) -> bool {
    nearer.any(|tables| tables.get(name).is_some_and(|table| table.enabled() == Some(false)))
}

macro_rules! tables {
    ($($table:ident),*) => {
        $(impl Table for model::$table {
            fn enabled(&self) -> Option<bool> {
                self.enabled
            }
        })*
    };
}

tables!(Uplink, Downlink, OnBehalf, Local);

macro_rules! rules {
    ($($rule:ty: $place:expr;)*) => {
        $(impl Rule for $rule {
            fn name(&self) -> &Name {
                &self.name
            }

            fn place(&self) -> &str {
                let place: fn(&$rule) -> &str = $place;
                place(self)
            }

            fn denies(&self) -> bool {
                self.deny
            }

            fn of(self, role: &Name) -> $rule {
                Self { from: Some(role.clone()), ..self }
            }
        })*
    };
}

rules! {
    UplinkRule: |rule| rule.path.as_str();
    DownlinkRule: |rule| &rule.topic;
    // Those of one path may be for different children, so none replaces another by it.
    OnBehalfRule: |rule| rule.name.as_str();
    LocalRule: |rule| &rule.topic;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(all: &[(&str, &[&str])]) -> Tables {
        let table = |includes: &[&str]| model::Role {
            includes: Some(includes.iter().map(|name| (*name).to_owned()).collect()),
            ..model::Role::default()
        };
        all.iter().map(|(name, includes)| ((*name).to_owned(), table(includes))).collect()
    }

    #[test]
    fn a_role_comes_first_and_then_what_it_includes_each_once_and_in_order() {
        let all = tables(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d", "e"]), ("d", &[]), ("e", &[])]);
        assert_eq!(order(&all, "a"), Ok(vec!["a", "b", "d", "c", "e"]));
        assert_eq!(order(&all, "d"), Ok(vec!["d"]));
    }

    #[test]
    fn circles_unknown_roles_and_too_many_are_told() {
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all = tables(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("self", &["self"])]);
        assert_eq!(order(&all, "a"), Err(IncludeError::Circle(text(&["b", "c", "b"]))));
        assert_eq!(order(&all, "self"), Err(IncludeError::Circle(text(&["self", "self"]))));
        let all = tables(&[("sensor", &["sensorz"]), ("a", &["nothing"])]);
        let unknown = IncludeError::Unknown("sensorz".to_owned(), Some("sensor".to_owned()));
        assert_eq!(order(&all, "sensor"), Err(unknown));
        assert_eq!(order(&all, "a"), Err(IncludeError::Unknown("nothing".to_owned(), None)));
        let names: Vec<String> = (0..=INCLUDES_MAX).map(|number| format!("r{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut all: Vec<(&str, &[&str])> = names.iter().map(|name| (*name, &[][..])).collect();
        all.push(("a", &names[..INCLUDES_MAX]));
        all.push(("b", &names));
        let all = tables(&all);
        assert_eq!(order(&all, "a").map(|found| found.len()), Ok(INCLUDES_MAX + 1));
        assert_eq!(order(&all, "b"), Err(IncludeError::TooMany));
    }
}
