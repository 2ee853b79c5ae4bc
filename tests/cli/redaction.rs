//! The support bundle against the list of all configuration keys: whatever key names a secret, what
//! is in its file is in no part of the bundle.

use std::fmt::Write as _;
use std::fs;

use tombolo::config::schema::{Key, Kind, ROOT};

use crate::place::Place;

/// A secret for each key that has one, and a configuration that names them all.
#[derive(Default)]
struct Secrets {
    text: String,
    /// Key, where its secret is: a file, or the configuration itself.
    all: Vec<(String, String, bool)>,
}

impl Secrets {
    fn add(&mut self, keys: &[Key], table: &str) {
        let mut own = String::new();
        for key in keys {
            let name = if table.is_empty() { key.name.to_owned() } else { format!("{table}.{}", key.name) };
            let secret = format!("kept-from-everybody-{:03}", self.all.len());
            match key.kind {
                Kind::Secret => {
                    let _ = writeln!(own, "{} = \"secret-{}\"", key.name, self.all.len());
                    self.all.push((name, secret, true));
                }
                // The secret itself, which is refused and must not be shown for it.
                Kind::Forbidden(_) => {
                    let _ = writeln!(own, "{} = \"{secret}\"", key.name);
                    self.all.push((name, secret, false));
                }
                Kind::Url => {
                    let _ = writeln!(own, "{} = \"mqtts://user:{secret}@broker.example.com\"", key.name);
                    self.all.push((name, secret, false));
                }
                Kind::Table(inner) => self.add(inner, &name),
                Kind::Named(inner) => self.add(inner, &format!("{name}.x")),
                _ => {}
            }
        }
        if !own.is_empty() {
            let _ = write!(self.text, "[{table}]\n{own}");
        }
    }
}

#[test]
fn no_secret_that_a_key_of_the_schema_names_is_in_a_support_bundle() {
    let place = Place::new();
    let mut secrets = Secrets::default();
    secrets.add(ROOT, "");
    assert!(secrets.all.iter().filter(|(.., in_file)| *in_file).count() >= 7, "{:?}", secrets.all);
    for wanted in ["upstream.password-file", "upstream.key-file", "coap.key-file", "device.x.psk-file"] {
        assert!(secrets.all.iter().any(|(key, ..)| key == wanted), "{wanted}");
    }
    // Each secret stands once more where the bundle looks: as the name of a file in the state
    // directory, which it lists.
    for (number, (_, secret, in_file)) in secrets.all.iter().enumerate() {
        if *in_file {
            place.write(&format!("conf.d/secret-{number}"), &format!("{secret}\n"));
            place.write(&format!("state/before-{secret}-after"), "");
        }
    }
    for (number, text) in [(1, secrets.text.as_str()), (2, "[broken\n")] {
        // The second time the configuration cannot be parsed at all beside it.
        if number == 1 {
            place.write("conf.d/50-secrets.toml", text);
        } else {
            place.write("conf.d/60-broken.toml", text);
        }
        let file = format!("bundle-{number}.tar");
        place.run(&format!("support-bundle {file} --offline")).fine();
        let bundle = fs::read(place.path(&file)).unwrap();
        let bundle = String::from_utf8_lossy(&bundle);
        assert!(bundle.contains("upstream.password-file"), "the key itself is shown");
        assert!(bundle.contains("before-"), "the files are listed");
        for (key, secret, _) in &secrets.all {
            let at = bundle.find(secret.as_str());
            let around = at.map(|at| &bundle[at.saturating_sub(200)..(at + 60).min(bundle.len())]);
            assert!(around.is_none(), "{key}: {around:?}");
        }
    }
    // Neither are they in what the commands print that people paste into a report.
    fs::remove_file(place.path("conf.d/60-broken.toml")).unwrap();
    for line in
        ["config show", "config show --json", "check --offline", "check --offline --json", "check --security"]
    {
        let ran = place.run(line);
        for (key, secret, _) in &secrets.all {
            assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "{line}: {key}");
        }
    }
}
