//! Keys that were renamed. The old name stays an alias for one major version: it is read as the
//! new one, with a warning, and `tombolo config migrate` rewrites the files. Pure.

use toml::de::{DeTable, DeValue};

/// One renamed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The tables that it is in; `*` stands for a name chosen by the user.
    pub tables: &'static [&'static str],
    /// Its name before.
    pub old: &'static str,
    /// Its name.
    pub new: &'static str,
    /// The version that renamed it; the next major version refuses the old name.
    pub since: &'static str,
}

/// All renamed keys. There are none yet; the tests have some.
#[cfg(not(test))]
pub const ALIASES: &[Alias] = &[];
/// Those of the tests.
#[cfg(test)]
pub const ALIASES: &[Alias] = &[
    Alias { tables: &["clock"], old: "source", new: "trust", since: "test" },
    Alias { tables: &["role", "*", "uplink", "*"], old: "pattern", new: "path", since: "test" },
];

/// The alias with this name in the table at `path`.
pub fn find<S: AsRef<str>>(path: &[S], name: &str) -> Option<&'static Alias> {
    ALIASES.iter().find(|alias| {
        let fits = |(table, part): (&&str, &S)| *table == "*" || *table == part.as_ref();
        alias.old == name && alias.tables.len() == path.len() && alias.tables.iter().zip(path).all(fits)
    })
}

/// A name that was rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// The line, from 1.
    pub line: usize,
    /// The line before.
    pub before: String,
    /// The line after.
    pub after: String,
}

/// The text with the present names of renamed keys, and which they are; all else, comments too, is
/// as it was. A text that is no TOML is left as it is.
pub fn rewrite(text: &str) -> (String, Vec<Renamed>) {
    let Ok(table) = DeTable::parse(text) else { return (text.to_owned(), Vec::new()) };
    let mut found = Vec::new();
    collect(table.get_ref(), &mut Vec::new(), &mut found);
    found.sort_by_key(|(span, _)| span.start);
    let mut out = text.to_owned();
    for (span, alias) in found.iter().rev() {
        // In quotes or not.
        let quoted =
            text.get(span.clone()).and_then(|key| key.chars().next()).filter(|c| matches!(c, '"' | '\''));
        let new = quoted.map_or_else(|| alias.new.to_owned(), |quote| format!("{quote}{}{quote}", alias.new));
        out.replace_range(span.clone(), &new);
    }
    let mut renamed: Vec<Renamed> = Vec::new();
    for (number, (before, after)) in text.lines().zip(out.lines()).enumerate() {
        if before != after {
            let (before, after) = (before.to_owned(), after.to_owned());
            renamed.push(Renamed { line: number + 1, before, after });
        }
    }
    (out, renamed)
}

type Found = (std::ops::Range<usize>, &'static Alias);

fn collect<'t>(table: &'t DeTable<'_>, path: &mut Vec<&'t str>, found: &mut Vec<Found>) {
    for (key, value) in table {
        // The new name beside the old one: nobody knows which is meant, and the loader says so.
        if let Some(alias) = find(path, key.get_ref()).filter(|alias| !table.contains_key(alias.new)) {
            found.push((key.span(), alias));
        }
        if let DeValue::Table(inner) = value.get_ref() {
            path.push(key.get_ref());
            collect(inner, path, found);
            path.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_is_of_its_table_only() {
        assert_eq!(find(&["clock"], "source").map(|alias| alias.new), Some("trust"));
        assert_eq!(find(&["role", "x", "uplink", "y"], "pattern").map(|alias| alias.new), Some("path"));
        assert_eq!(find(&["role", "x", "uplink"], "pattern"), None);
        assert_eq!(find::<&str>(&[], "source"), None);
        assert_eq!(find(&["coap"], "source"), None);
    }

    #[test]
    fn old_names_are_rewritten_and_all_else_stays() {
        let text = "# source = here\n[clock] # a\nsource = \"always\" # source\n\n[role.s.uplink.t]\n\"pattern\"  = 't/#'\n";
        let (new, renamed) = rewrite(text);
        assert_eq!(
            new,
            "# source = here\n[clock] # a\ntrust = \"always\" # source\n\n[role.s.uplink.t]\n\"path\"  = 't/#'\n"
        );
        assert_eq!(renamed.len(), 2);
        assert_eq!((renamed[0].line, renamed[1].line), (3, 6));
        assert_eq!(rewrite(&new), (new.clone(), Vec::new()));
        // Dotted, and inline.
        assert_eq!(rewrite("clock.source = \"kernel\"\n").0, "clock.trust = \"kernel\"\n");
        assert_eq!(rewrite("clock = { source = \"kernel\" }\n").0, "clock = { trust = \"kernel\" }\n");
    }

    #[test]
    fn what_is_no_toml_or_has_both_names_is_left() {
        for text in ["[clock\nsource = 1\n", "[clock]\nsource = \"always\"\ntrust = \"kernel\"\n"] {
            assert_eq!(rewrite(text), (text.to_owned(), Vec::new()));
        }
    }
}
