//! Merges the layers key by key with the `config` crate, and keeps for every key its place in the
//! layer with the highest precedence.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::config::{Config, ConfigError, Map, Source, Value, ValueKind};

use super::finding::{Finding, Findings, Place};
use super::layer::{BusUnit, Item, Layer};
use super::model::File;

/// The place of each key in dotted form, and the folder for relative paths.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    places: HashMap<String, (Place, u32)>,
    bases: Vec<PathBuf>,
}

impl Index {
    /// The place of the key in the layer with the highest precedence.
    pub(super) fn place(&self, key: &str) -> Option<&Place> {
        self.places.get(key).map(|(place, _)| place)
    }

    /// The order of two keys in the files: first the layer, lowest precedence first, then the line.
    pub(super) fn rank(&self, key: &str) -> (u32, u32) {
        let found = self.places.get(key);
        found.map_or((u32::MAX, u32::MAX), |(place, layer)| (*layer, place.line.unwrap_or(0)))
    }

    /// The part needed after validation: places of tables and their keys, and of rules; of single
    /// devices only that of `enabled`.
    pub(super) fn into_outline(self) -> HashMap<String, Place> {
        let outline = |key: &str| match key.starts_with("device.") {
            true => key.ends_with(".enabled"),
            false => key.matches('.').count() < 2 || key.starts_with("role.") && is_of_rule(key),
        };
        let places = self.places.into_iter().filter(|(key, _)| outline(key));
        let mut places: HashMap<_, _> = places.map(|(key, (place, _))| (key, place)).collect();
        places.shrink_to_fit();
        places
    }

    /// The folder that relative paths at this key are relative to.
    pub(super) fn base(&self, key: &str) -> &Path {
        let layer = self.places.get(key).map_or(usize::MAX, |(_, layer)| *layer as usize);
        self.bases.get(layer).map_or(Path::new(""), PathBuf::as_path)
    }
}

/// Whether a key of a role says where one of its rules is. Rules are few, and what is said of one
/// is told with its place.
fn is_of_rule(key: &str) -> bool {
    let others = [".downlink.", ".local-publish.", ".local-subscribe."];
    let is_place = key.ends_with(".path") || key.ends_with(".topic");
    // Of an on-behalf rule no key is needed.
    let is_whole = [".uplink.", ".on-behalf."].iter().any(|kind| key.contains(kind));
    is_whole || is_place && others.iter().any(|kind| key.contains(kind))
}

/// The merged layers.
pub(super) struct Merged {
    pub(super) file: File,
    pub(super) index: Index,
    /// Items excluded because of a fault in one of their layers.
    pub(super) bad: BTreeSet<Item>,
}

/// Hands a checked layer to the `config` crate, once: a copy of 10,000 devices is large.
#[derive(Debug)]
struct Checked(Mutex<Map<String, Value>>);

impl Checked {
    fn values(&self) -> MutexGuard<'_, Map<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Checked {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(Checked(Mutex::new(self.values().clone())))
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(std::mem::take(&mut *self.values()))
    }
}

/// Merges checked layers, lowest precedence first. `None` after a finding.
pub(super) fn merge(layers: Vec<Layer>, findings: &mut Findings) -> Option<Merged> {
    let mut index = Index::default();
    let mut bad = BTreeSet::new();
    let mut bad_units = BTreeSet::<BusUnit>::new();
    let mut builder = Config::builder();
    for (number, layer) in layers.into_iter().enumerate() {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        index.bases.push(layer.base);
        index.places.extend(layer.places.into_iter().map(|(key, place)| (key, (place, number))));
        bad.extend(layer.bad);
        bad_units.extend(layer.bad_units);
        builder = builder.add_source(Checked(Mutex::new(layer.values)));
    }
    let file = builder.build().and_then(|mut config| {
        if let ValueKind::Table(root) = &mut config.cache.kind {
            for (port, unit) in &bad_units {
                switch_off(root, ["serial", port, "unit", unit]);
            }
            for (table, item) in &bad {
                if let Some(ValueKind::Table(items)) = root.get_mut(table).map(|value| &mut value.kind) {
                    items.remove(item);
                }
            }
        }
        config.try_deserialize::<File>()
    });
    match file {
        Ok(file) => Some(Merged { file, index, bad }),
        Err(error) => {
            // Every layer passed the schema, so this is a disagreement between schema and model.
            // The error's own text may quote a value, so only the key is taken from it.
            let key = match &error {
                ConfigError::At { key: Some(key), .. } | ConfigError::Type { key: Some(key), .. } => {
                    key.clone()
                }
                _ => "configuration".to_owned(),
            };
            let finding = Finding::fail("configuration", "cannot be taken together with the other layers");
            findings.fatal(
                finding.at(index.place(&key)).key(key).advice("compare the layers' types for this key"),
            );
            None
        }
    }
}

/// Reduces an item to its id and `enabled = false`: the id stays reserved, and its table does not
/// count as empty.
fn switch_off(root: &mut Map<String, Value>, path: [&str; 4]) {
    let [outer @ .., item] = path;
    let mut table = root;
    for name in outer {
        let Some(ValueKind::Table(inner)) = table.get_mut(name).map(|value| &mut value.kind) else { return };
        table = inner;
    }
    let mut off = Map::from_iter([("enabled".to_owned(), Value::new(None, false))]);
    if let Some(ValueKind::Table(inner)) = table.get(item).map(|value| &value.kind)
        && let Some(id) = inner.get("id")
    {
        off.insert("id".to_owned(), id.clone());
    }
    table.insert(item.to_owned(), Value::new(None, off));
}
