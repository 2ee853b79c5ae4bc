//! Files in `conf.d` that are not read because of their names.

use std::path::Path;

use crate::config::{Finding, Paths, Place};

/// Most entries that are looked at.
const LOOKED_AT: usize = 1_000;
/// Endings by which a file is set aside on purpose, or by a package manager.
const SET_ASIDE: [&str; 11] =
    ["bak", "old", "orig", "save", "off", "disabled", "example", "sample", "rpmnew", "rpmsave", "md"];

/// Those that somebody may have meant to be read.
pub fn judge(paths: &Paths) -> Vec<Finding> {
    let folder = Paths::conf_d(&paths.config_file);
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(LOOKED_AT);
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.retain(|path| is_meant(path));
    files.sort();
    files.iter().map(|path| told(path)).collect()
}

/// Whether a file is not read, and nothing in its name says that this is on purpose.
fn is_meant(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned()).unwrap_or_default();
    // Editors keep hidden copies with endings of their own beside a file.
    let is_hidden = name.starts_with('.');
    if is_hidden {
        return ending == "toml";
    }
    let is_aside = name.ends_with('~')
        || name.starts_with("README")
        || ending.starts_with("dpkg-")
        || ending.starts_with("ucf-")
        || SET_ASIDE.contains(&ending.as_str());
    ending != "toml" && !is_aside
}

fn told(path: &Path) -> Finding {
    let place = Place { file: path.display().to_string().into(), line: None };
    let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let message = match is_hidden {
        true => "is not read: a file in conf.d whose name begins with a dot is hidden",
        false => "is not read: a file in conf.d needs a name that ends in .toml",
    };
    let finding = Finding::warn("configuration", message);
    finding.at(Some(&place)).advice("rename it, or let its name end in .disabled where that is meant")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_ending_is_meant_unless_its_name_says_otherwise() {
        let meant =
            ["30-mqtt.tml", "30-mqtt.toml.txt", "30-mqtt", "30-mqtt.conf", "30-mqtt.TOML", ".30-mqtt.toml"];
        assert!(meant.iter().all(|name| is_meant(Path::new(name))));
        let aside = [
            "30-mqtt.toml",
            ".30-mqtt.toml.swp",
            ".gitkeep",
            "30-mqtt.toml~",
            "30-mqtt.toml.bak",
            "30-mqtt.toml.disabled",
            "30-mqtt.toml.dpkg-old",
            "README",
        ];
        assert!(aside.iter().all(|name| !is_meant(Path::new(name))));
        let said = told(Path::new("/etc/tombolo/conf.d/30-mqtt.tml")).to_string();
        assert!(
            said.starts_with("warn  /etc/tombolo/conf.d/30-mqtt.tml: configuration: is not read"),
            "{said}"
        );
        let hidden = told(Path::new("/etc/tombolo/conf.d/.30-mqtt.toml")).to_string();
        assert!(hidden.contains("begins with a dot"), "{hidden}");
    }
}
