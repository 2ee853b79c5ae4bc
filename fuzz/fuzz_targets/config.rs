//! Configuration texts, environment values and registry files: any content is checked without a
//! panic, findings contain no secret, and schema and model agree.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tombolo::config::gateway_id;
use tombolo::config::registry::FileText;
use tombolo::config::{
    Content, FileError, Files, Finding, LayerText, Looked, Origin, Registry, Sources, load,
};
use tombolo::message::Name;

/// Stands in the registry file and in the key file.
const SECRET: &str = "kNXz7qVhW2mB9tRd";

/// A template of Modbus devices.
const TEMPLATE: &str = "[register.power]\naddress = 12\ntype = \"f32\"\n";

struct Keys;

impl Files for Keys {
    fn read(&self, path: &Path, _: u64) -> Result<Content, FileError> {
        let text = match path.file_name().and_then(|name| name.to_str()) {
            Some("k") => format!("text:{SECRET}"),
            Some("t.toml") => TEMPLATE.to_owned(),
            _ => SECRET.to_owned(),
        };
        Ok(Content { bytes: text.into_bytes().into(), looked: Looked::default() })
    }

    fn look(&self, _: &Path) -> Result<Looked, FileError> {
        Ok(Looked::default())
    }
}

// The parts are separated by a NUL: main file, drop-in, one of the state's, a registry file, then
// variables NAME=VALUE.
fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let layer = |origin, path: &str, text| LayerText { origin, path: path.into(), text };
    let main = layer(Origin::Main, "/e/tombolo.toml", next());
    let drop_in = layer(Origin::DropIn, "/e/conf.d/a.toml", next());
    let state = layer(Origin::State, "/s/conf.d/a.toml", next());
    // The id's files are judged on their own: what one of them accepts is a name.
    if let Ok(made) = gateway_id::parse_copy(data) {
        assert_eq!(gateway_id::parse_copy(made.checked().as_bytes()), Ok(made));
    }
    assert!(gateway_id::parse_plain(data).is_err() || Name::parse(text.trim()).is_ok());
    let device = format!("{}\npsk = \"text:{SECRET}\"\n", next());
    let file = |id: &str, text: String| FileText { id: id.into(), file: id.into(), text: Ok(text.into()) };
    let registry = Registry::assemble([file("d", device)], None);
    let environment = parts
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| (format!("TOMBOLO_{name}"), value.to_owned()))
        .collect();
    let outcome = load(&Sources {
        main: "/e/tombolo.toml".into(),
        layers: vec![state, main, drop_in],
        environment,
        credentials_directory: None,
        gateway_id: Some("tb-abcdefgh".to_owned()),
        registry: Arc::new(registry),
        certificates: None,
        template_folders: vec!["/m".into()],
        files: &Keys,
    });
    let findings = match &outcome {
        Ok(loaded) => {
            // What was accepted compares with itself as unchanged.
            let changes = tombolo::config::reload::compare(loaded, loaded).expect("nothing changed");
            assert_eq!(changes, tombolo::config::reload::Changes::default());
            assert!(text.contains(SECRET) || !format!("{loaded:?}").contains(SECRET));
            &loaded.findings
        }
        Err(findings) => findings,
    };
    for line in findings.iter().map(Finding::to_string) {
        assert!(!line.contains('\n') && !line.contains("cannot be taken together"), "{line}");
        assert!(text.contains(SECRET) || !line.contains(SECRET), "{line}");
    }
});
