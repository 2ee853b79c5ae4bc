//! Loads a configuration from texts, without files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tombolo::config::registry::FileText;
use tombolo::config::{
    Content, FileError, Files, Finding, LayerText, Level, Loaded, Looked, Material, Origin, Registry,
    Sources, load,
};
use zeroize::Zeroizing;

/// Files that exist only here.
#[derive(Clone, Default)]
pub struct Fake(pub HashMap<PathBuf, (Vec<u8>, Looked)>);

impl Fake {
    pub fn with(mut self, path: &str, text: &str) -> Fake {
        self.0.insert(path.into(), (text.as_bytes().to_vec(), Looked::default()));
        self
    }
}

impl Files for Fake {
    fn read(&self, path: &Path, max_bytes: u64) -> Result<Content, FileError> {
        let (bytes, looked) = self.0.get(path).ok_or(FileError::Missing)?;
        if bytes.len() as u64 > max_bytes {
            return Err(FileError::TooLarge);
        }
        Ok(Content { bytes: Zeroizing::new(bytes.clone()), looked: looked.clone() })
    }

    fn look(&self, path: &Path) -> Result<Looked, FileError> {
        self.0.get(path).map(|(_, looked)| looked.clone()).ok_or(FileError::Missing)
    }
}

/// What is to be loaded.
#[derive(Clone, Default)]
pub struct Case {
    pub layers: Vec<LayerText>,
    pub environment: Vec<(String, String)>,
    pub credentials: Option<PathBuf>,
    pub gateway_id: Option<String>,
    pub registry: Arc<Registry>,
    pub certificates: Option<Arc<Material>>,
    pub files: Fake,
    pub template_folders: Vec<PathBuf>,
    /// The main file; `None` = the packaged one.
    pub main: Option<PathBuf>,
}

/// A main file of that text.
pub fn main_file(text: &str) -> Case {
    let template_folders = vec!["/etc/tombolo/modbus".into(), "/usr/share/tombolo/modbus".into()];
    Case { gateway_id: Some("tb-abcdefgh\n".into()), template_folders, ..Case::default() }.layer(
        Origin::Main,
        "/etc/tombolo/tombolo.toml",
        text,
    )
}

impl Case {
    pub fn layer(mut self, origin: Origin, path: &str, text: &str) -> Case {
        self.layers.push(LayerText { origin, path: path.into(), text: text.into() });
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Case {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn file(mut self, path: &str, text: &str) -> Case {
        self.files = self.files.with(path, text);
        self
    }

    pub fn device(mut self, id: &str, text: &str) -> Case {
        let file = FileText {
            id: id.into(),
            file: format!("/var/lib/tombolo/devices/{id}.toml").into(),
            text: Ok(Zeroizing::new(text.into())),
        };
        let mut files: Vec<FileText> = self.registry.entries().map(written).collect();
        files.push(file);
        self.registry = Arc::new(Registry::assemble(files, None));
        self
    }

    pub fn load(&self) -> Result<Loaded, Vec<Finding>> {
        load(&Sources {
            main: self.main.clone().unwrap_or_else(|| "/etc/tombolo/tombolo.toml".into()),
            layers: self.layers.clone(),
            environment: self.environment.clone(),
            credentials_directory: self.credentials.clone(),
            gateway_id: self.gateway_id.clone(),
            registry: self.registry.clone(),
            certificates: self.certificates.clone(),
            template_folders: self.template_folders.clone(),
            files: &self.files,
        })
    }

    /// It loads.
    pub fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|findings| panic!("refused:\n{}", lines(&findings)))
    }

    /// Whether it loads, and what there was to complain about, one a line.
    pub fn complaints(&self) -> (bool, Vec<String>) {
        let (loads, findings) = match self.load() {
            Ok(loaded) => (true, loaded.findings),
            Err(findings) => (false, findings),
        };
        let complaints = findings.iter().filter(|f| f.level != Level::Ok);
        (
            loads,
            complaints
                .map(Finding::to_string)
                .filter(|line| !line.contains("there is no upstream broker"))
                .collect(),
        )
    }
}

fn written(entry: &tombolo::config::registry::Entry) -> FileText {
    FileText {
        id: entry.device.id.to_string(),
        file: entry.file.clone(),
        text: Ok(tombolo::config::registry::render(&entry.device)),
    }
}

pub fn lines(findings: &[Finding]) -> String {
    tombolo::config::findings_to_lines(findings)
}
