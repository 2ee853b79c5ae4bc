//! Commands named in messages, as they have to be typed here.
//!
//! Messages are written for the packaged gateway: `tombolo check`, `systemctl reload tombolo`. A
//! gateway in a folder of its own has another configuration file and is no service of systemd, so
//! where a message leaves the process its commands are turned into those that work there.

use std::borrow::Cow;

/// The commands that take `--config`, first words only. A test holds them against the command line.
pub const COMMANDS: [&str; 26] = [
    "acl",
    "backup",
    "cert",
    "check",
    "clock",
    "config",
    "decommission",
    "device",
    "firstboot",
    "health",
    "import",
    "init",
    "mailbox",
    "metrics",
    "queue",
    "reload",
    "restore",
    "run",
    "send",
    "serial",
    "status",
    "support-bundle",
    "tail",
    "trace",
    "update",
    "usage",
];

/// What stands before the name of one of our commands.
const PROGRAM: &str = "tombolo ";

/// The text with its commands made for the configuration `config` (quoted for a shell); `None`: the
/// packaged one, for which they are written.
///
/// ```
/// use tombolo::telemetry::hint::localise;
/// assert_eq!(localise("run tombolo check", Some("a.toml")), "run tombolo --config a.toml check");
/// assert_eq!(localise("run tombolo check", None), "run tombolo check");
/// let restart = "`systemctl restart tombolo` takes it up";
/// assert_eq!(
///     localise(restart, Some("a.toml")),
///     "stop it and start `tombolo --config a.toml run` again: that takes it up"
/// );
/// ```
pub fn localise<'t>(text: &'t str, config: Option<&str>) -> Cow<'t, str> {
    let is_concerned = text.contains("tombolo") || text.contains("sudo");
    let Some(config) = config.filter(|_| is_concerned) else { return Cow::Borrowed(text) };
    let mut text = text.to_owned();
    let as_user = "as the user that the gateway runs as, or as root";
    for (written, instead) in [
        ("`systemctl disable --now tombolo`", format!("end `tombolo --config {config} run`")),
        ("systemctl disable --now tombolo", format!("end `tombolo --config {config} run`")),
        (
            "use sudo, or join its group with `adduser $USER tombolo` and log in again",
            format!("try {as_user}"),
        ),
        ("use sudo, or join its group with `adduser $USER tombolo`", format!("try {as_user}")),
        (
            "`systemctl restart tombolo` takes",
            format!("stop it and start `tombolo --config {config} run` again: that takes"),
        ),
        (
            "systemctl restart tombolo takes",
            format!("stop it and start `tombolo --config {config} run` again: that takes"),
        ),
        ("`systemctl restart tombolo`", format!("stop it and start `tombolo --config {config} run` again")),
        ("systemctl restart tombolo", format!("stop it and start `tombolo --config {config} run` again")),
        ("`systemctl stop tombolo`", "stop it".to_owned()),
        ("systemctl stop tombolo", "stop it".to_owned()),
        (
            "start it with `systemctl start tombolo`, or `tombolo run` in a terminal",
            format!("start it with `tombolo --config {config} run`"),
        ),
        ("systemctl start tombolo", format!("tombolo --config {config} run")),
        ("systemctl reload tombolo", format!("tombolo --config {config} reload")),
        (
            "`systemctl status tombolo-update.service` says why; `sudo tombolo update apply` does it by hand",
            format!("`tombolo --config {config} update apply` as root does it by hand"),
        ),
        ("`sudo tombolo check`", format!("`tombolo check` {as_user}")),
        ("sudo tombolo ", "tombolo ".to_owned()),
        ("use sudo", format!("try {as_user}")),
        ("try sudo", format!("try {as_user}")),
        ("below /etc/tombolo", "beside the configuration file".to_owned()),
        ("to /etc/tombolo and", "beside the configuration file and".to_owned()),
        ("`journalctl -u tombolo`", "the output of the gateway".to_owned()),
        ("journalctl -u tombolo", "the output of the gateway".to_owned()),
    ] {
        if text.contains(written) {
            text = text.replace(written, &instead);
        }
    }
    let mut done = String::with_capacity(text.len() + config.len() + 16);
    let mut rest = text.as_str();
    while let Some(at) = rest.find(PROGRAM) {
        let (before, after) = (&rest[..at], &rest[at + PROGRAM.len()..]);
        done.push_str(before);
        done.push_str(PROGRAM);
        // Part of a path or of another name it is no command.
        let whole = !done[..done.len() - PROGRAM.len()]
            .ends_with(|c: char| c.is_alphanumeric() || "/._-{".contains(c));
        let word = after.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or_default();
        if whole && COMMANDS.contains(&word) {
            done.push_str(&format!("--config {config} "));
        }
        rest = after;
    }
    done.push_str(rest);
    Cow::Owned(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(text: &str) -> String {
        localise(text, Some("/srv/gw/tombolo.toml")).into_owned()
    }

    #[test]
    fn commands_of_ours_get_the_configuration_and_nothing_else_does() {
        let check = "tombolo --config /srv/gw/tombolo.toml check";
        assert_eq!(local("tombolo check"), check);
        assert_eq!(
            local("run `tombolo check`; then tombolo check."),
            format!("run `{check}`; then {check}.")
        );
        assert_eq!(local(&local("tombolo check")), check, "once is enough");
        for other in [
            "tombolo is not running",
            "tombolo demo",
            "/usr/share/tombolo check",
            "adduser $USER tombolo",
            "another tombolo answers on run/control.sock",
            "tombolo 0.1.0",
        ] {
            assert_eq!(local(other), other);
            assert_eq!(localise(other, None), other);
        }
    }

    #[test]
    fn what_systemd_does_for_a_service_is_done_by_hand() {
        assert_eq!(
            local("write it anew, then systemctl reload tombolo"),
            "write it anew, then tombolo --config /srv/gw/tombolo.toml reload"
        );
        assert_eq!(local("systemctl start tombolo"), "tombolo --config /srv/gw/tombolo.toml run");
        assert_eq!(
            local("run `sudo tombolo check`"),
            "run `tombolo --config /srv/gw/tombolo.toml check` as the user that the gateway runs as, or as root"
        );
        assert!(local("see `journalctl -u tombolo`").ends_with("see the output of the gateway"));
        let restart = local("systemctl restart tombolo");
        assert!(!restart.contains("systemctl") && restart.contains("tombolo.toml run`"), "{restart}");
    }

    /// The string literals of Rust source, without its comments; good enough for ours.
    fn literals(source: &str) -> Vec<String> {
        let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        // Tests may say what they want.
        let code = code.split("#[cfg(test)]").next().unwrap_or_default().replace("'\"'", "");
        let mut found = Vec::new();
        let mut rest = code.as_str();
        while let Some(at) = rest.find('"') {
            let mut escaped = false;
            let end = rest[at + 1..].find(|c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let Some(end) = end else { break };
            found.push(rest[at + 1..at + 1 + end].replace("\\\n", ""));
            rest = &rest[at + 2 + end..];
        }
        found
    }

    #[test]
    fn no_text_of_ours_names_systemd_or_root_to_a_gateway_in_a_folder() {
        // What is said of the packaged service only, is no text, or is true of the machine.
        const FINE: [(&str, &str); 15] = [
            // The machine boots, not the gateway; a unit is asked for the service alone.
            ("cli/install.rs", "systemctl"),
            ("cli/clock.rs", "systemctl status tombolo-clock"),
            ("update/io/apply.rs", "systemctl reboot"),
            ("daemon/update/installing.rs", "systemctl reboot"),
            // The image's own, not the gateway's.
            ("cli/check/update.rs", "into /etc/os-release"),
            ("cli/health.rs", "systemctl"),
            ("cli/check/service.rs", "systemctl edit tombolo"),
            ("cli/check/system.rs", "systemctl edit tombolo"),
            ("cli/check/serial.rs", "systemctl mask serial-getty@"),
            ("cli/bundle/mod.rs", "journalctl"),
            ("cli/mod.rs", "run `sudo {}`"),
            // A folder of root is there for the packaged service alone.
            ("cli/decommission.rs", "sudo rm -r"),
            ("cli/demo/mod.rs", "sudo {program}"),
            ("southbound/serial/io/mod.rs", "adduser USER dialout"),
            ("telemetry/hint.rs", ""),
        ];
        const WORDS: [&str; 8] =
            ["systemctl", "journalctl", "sudo", "adduser", "addgroup", "usermod", "below /etc", "to /etc"];
        let top = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
        let (mut folders, mut looked_at, mut faults) = (vec![top.to_owned()], 0, Vec::new());
        while let Some(folder) = folders.pop() {
            for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(top).unwrap().display().to_string();
                for text in literals(&std::fs::read_to_string(&path).unwrap()) {
                    if !WORDS.iter().any(|word| text.contains(word)) || name.ends_with("tests.rs") {
                        continue;
                    }
                    looked_at += 1;
                    let said = local(&text);
                    let is_fine = FINE.iter().any(|(file, part)| name == *file && text.contains(part));
                    if !is_fine && WORDS.iter().any(|word| said.contains(word)) {
                        faults.push(format!("{name}: {said}"));
                    }
                }
            }
        }
        assert!(faults.is_empty(), "{faults:#?}");
        assert!(looked_at > 25, "{looked_at}");
    }
}
