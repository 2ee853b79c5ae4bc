//! What is installed, out of what the system says: os-release, dpkg, RAUC, apt.
//!
//! Each reader is given the text a program or file gave, and takes out what counts. None of them
//! trusts the text to be short or well formed.

use super::version::Scheme;

/// `IMAGE_VERSION` of an os-release file (os-release(5)).
pub fn image_version(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.trim().strip_prefix("IMAGE_VERSION="))?;
    let value = value.trim();
    let unquoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    plausible(unquoted.unwrap_or(value))
}

/// The version dpkg has installed, out of `dpkg-query --show --showformat '${db:Status-Status}
/// ${Version}' tombolo`.
pub fn dpkg_version(output: &str) -> Option<String> {
    let (status, version) = output.trim().split_once(' ')?;
    (status == "installed").then(|| plausible(version)).flatten()
}

/// Version and compatible of the system that runs, out of `rauc status --detailed
/// --output-format=json`.
pub fn rauc_status(output: &str) -> (Option<String>, Option<String>) {
    let Ok(status) = serde_json::from_str::<serde_json::Value>(output) else {
        return (None, None);
    };
    let text = |value: &serde_json::Value| value.as_str().and_then(plausible);
    let booted = &status["booted"];
    let slots = status["slots"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_object);
    let mut slots = slots.flat_map(|slot| slot.values());
    let running =
        slots.find(|slot| slot["state"] == "booted" || (!booted.is_null() && &slot["bootname"] == booted));
    let version = running.and_then(|slot| text(&slot["slot_status"]["bundle"]["version"]));
    (version, text(&status["compatible"]))
}

/// What apt would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AptPolicy {
    /// The version installed.
    pub installed: Option<String>,
    /// The version apt would install; equal to `installed` where nothing is newer.
    pub candidate: Option<String>,
}

impl AptPolicy {
    /// Reads what `LC_ALL=C apt-cache policy tombolo` prints; `None` if apt knows no such package.
    pub fn parse(output: &str) -> Option<AptPolicy> {
        let field = |name: &str| {
            let value = output.lines().find_map(|line| line.trim_start().strip_prefix(name))?.trim();
            Some(if value == "(none)" { None } else { plausible(value) })
        };
        Some(AptPolicy { installed: field("Installed:")?, candidate: field("Candidate:")? })
    }
}

fn plausible(version: &str) -> Option<String> {
    let version = version.trim();
    Scheme::Debian.accepts(version).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_version_is_read_with_and_without_quotes() {
        for line in ["IMAGE_VERSION=2026.11", "IMAGE_VERSION=\"2026.11\"", "  IMAGE_VERSION='2026.11' "] {
            let file = format!("NAME=\"Gateway OS\"\nVERSION_ID=1\n{line}\n");
            assert_eq!(image_version(&file).as_deref(), Some("2026.11"));
        }
        assert_eq!(image_version("VERSION_ID=1\n"), None);
        assert_eq!(image_version("IMAGE_VERSION=\n"), None);
        assert_eq!(image_version("IMAGE_VERSION=a b\n"), None);
    }

    #[test]
    fn dpkg_says_a_version_only_of_what_is_installed() {
        assert_eq!(dpkg_version("installed 0.1.0-1").as_deref(), Some("0.1.0-1"));
        assert_eq!(dpkg_version("config-files 0.1.0-1"), None);
        assert_eq!(dpkg_version(""), None);
    }

    #[test]
    fn rauc_says_what_runs() {
        // As rauc 1.8 and later print it, shortened.
        let output = r#"{"compatible":"acme-gw2","variant":"","booted":"B","boot_primary":"rootfs.1","slots":[
            {"rootfs.1":{"class":"rootfs","device":"/dev/mmcblk0p3","type":"ext4","bootname":"B","state":"booted",
              "slot_status":{"bundle":{"compatible":"acme-gw2","version":"2.4.1"},"status":"ok"}}},
            {"rootfs.0":{"class":"rootfs","bootname":"A","state":"inactive","slot_status":{"bundle":{"version":"2.3.0"}}}}]}"#;
        assert_eq!(rauc_status(output), (Some("2.4.1".to_owned()), Some("acme-gw2".to_owned())));
        assert_eq!(rauc_status("no such command"), (None, None));
        assert_eq!(rauc_status("{\"slots\":[1,{}]}"), (None, None));
    }

    #[test]
    fn apt_says_what_it_would_install() {
        let output = "tombolo:\n  Installed: 0.1.0\n  Candidate: 0.2.0\n  Version table:\n     0.2.0 500\n";
        let policy = AptPolicy { installed: Some("0.1.0".to_owned()), candidate: Some("0.2.0".to_owned()) };
        assert_eq!(AptPolicy::parse(output), Some(policy));
        let none = "tombolo:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(AptPolicy::parse(none), Some(AptPolicy { installed: None, candidate: None }));
        assert_eq!(AptPolicy::parse(""), None);
        assert_eq!(AptPolicy::parse("N: Unable to locate package tombolo\n"), None);
    }
}
