//! The folders as the packaged service may use them, judged from outside it.
//!
//! A root shell may write anywhere; the unit runs as another user with most of the system
//! read-only. Single files are judged where the configuration names them.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::config::sandbox::Sandbox;
use crate::config::{Finding, Paths};

/// What keeps the service from its state directory. Nothing, for a configuration that is not the
/// packaged service's.
pub fn state_dir(paths: &Paths) -> Vec<Finding> {
    if paths.config_file != Path::new(crate::config::io::CONFIG_FILE) {
        return Vec::new();
    }
    let sandbox = crate::config::io::sandbox();
    let user = sandbox.user.as_deref().and_then(|name| nix::unistd::User::from_name(name).ok().flatten());
    let owner = std::fs::metadata(&paths.state_dir).ok().map(|metadata| metadata.uid());
    let user = user.map(|user| (user.name, user.uid.as_raw()));
    judge(&paths.state_dir, &sandbox, user.as_ref(), owner)
}

/// `user`: the service's name and number; `owner`: the folder's, if there is one.
fn judge(folder: &Path, sandbox: &Sandbox, user: Option<&(String, u32)>, owner: Option<u32>) -> Vec<Finding> {
    let shown = folder.display();
    let subject = "state directory";
    let mut findings = Vec::new();
    if let Some(hidden) = sandbox.hides(folder) {
        let message = format!(
            "{shown} is below {}, which the service does not see ({}= in its unit)",
            hidden.folder, hidden.setting
        );
        findings.push(Finding::fail(subject, message).key("paths.state-dir").advice("choose another folder"));
    } else if !sandbox.lets_write(folder) {
        let message = format!("the service may not write to {shown} (ProtectSystem= in its unit)");
        let advice = format!(
            "`systemctl edit tombolo`, add the two lines [Service] and ReadWritePaths={shown}, then systemctl restart tombolo"
        );
        findings.push(Finding::fail(subject, message).key("paths.state-dir").advice(advice));
    }
    if let (Some((name, uid)), Some(owner)) = (user, owner)
        && *uid != owner
    {
        let message = format!("{shown} does not belong to the service's user, {name}");
        let advice = format!("chown -R {name}: {shown}; chmod 0750 {shown}");
        findings.push(Finding::fail(subject, message).key("paths.state-dir").advice(advice));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_on_another_disk_needs_a_drop_in_and_its_owner() {
        let unit = Sandbox::packaged();
        let user = Some(("tombolo".to_owned(), 990));
        let said = |folder: &str, sandbox: &Sandbox, owner| {
            let findings = judge(Path::new(folder), sandbox, user.as_ref(), owner);
            findings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(said("/var/lib/tombolo", &unit, Some(990)), Vec::<String>::new());
        let elsewhere = said("/data/tombolo", &unit, Some(0));
        assert_eq!(elsewhere.len(), 2);
        assert!(elsewhere[0].contains("ReadWritePaths=/data/tombolo"), "{elsewhere:?}");
        assert!(elsewhere[1].contains("chown -R tombolo: /data/tombolo"), "{elsewhere:?}");
        let opened = Sandbox::parse([
            include_str!("../../../systemd/tombolo.service"),
            "[Service]\nReadWritePaths=/data\n",
        ]);
        assert_eq!(said("/data/tombolo", &opened, Some(990)), Vec::<String>::new());
        assert!(said("/home/x", &unit, None)[0].contains("ProtectHome"));
    }
}
