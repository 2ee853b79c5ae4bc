//! The shipped device templates: each is sound, names its source, and stays within what a role lets
//! pass by default.

use std::collections::BTreeSet;

use tombolo::proto::serial::modbus::model::TemplateTable;
use tombolo::proto::serial::modbus::plan::{Block, blocks, probes};
use tombolo::proto::serial::modbus::validate;

use crate::support::unit;

fn shipped() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/modbus");
    let mut found: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    found.sort();
    found
}

#[test]
fn every_template_is_sound_and_can_be_polled() {
    let templates = shipped();
    assert!(templates.len() >= 4, "{templates:?}");
    for (name, text) in templates {
        let table = TemplateTable::parse(&text).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let (registers, limits) =
            validate::template(&name, &table).unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
        assert!(table.label.is_some() && table.source.is_some_and(|source| source.len() > 20), "{name}");
        assert!(registers.len() >= 5, "{name}");
        let plan = blocks(&registers, limits);
        let all: Vec<&Block> = plan.iter().collect();
        assert!(probes(&registers, &all, &all)[0].1, "{name}: a late answer can be told from a probe's");
        assert!(plan.len() <= 8, "{name} takes {} requests", plan.len());
        let mut unit = unit(1);
        (unit.registers, unit.limits) = (registers, limits);
        // A role lets 1,024 bytes pass unless it says otherwise. Real readings take about half of
        // the bound.
        assert!(unit.payload_max() < 2 * 1024, "{name}: up to {} bytes", unit.payload_max());
        let words: BTreeSet<&str> = unit.registers.iter().map(|register| register.name.as_str()).collect();
        assert!(
            words
                .iter()
                .all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
    }
}
