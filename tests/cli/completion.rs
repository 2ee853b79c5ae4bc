//! The completions of the shells, asked as the shells ask them: bash without its package
//! bash-completion, zsh and fish.
//!
//! A shell that is not installed is passed over, unless `TOMBOLO_TEST_PEERS=all`, as `tests/run`
//! sets it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::place::Place;

fn completions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completions")
}

/// What a shell prints; `None`: it is not installed.
fn shell(place: &Place, shell: &str, arguments: &[&str]) -> Option<String> {
    let program = Path::new(env!("CARGO_BIN_EXE_tombolo")).parent().expect("a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(shell);
    command.args(arguments).env("PATH", path).env("HOME", place.path("")).env("TERM", "dumb");
    match command.current_dir(place.path("")).stdin(Stdio::null()).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.is_empty(), "{shell} {arguments:?}: {said}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(error) if std::env::var_os("TOMBOLO_TEST_PEERS").is_none_or(|peers| peers != "all") => {
            eprintln!("{shell} is passed over: {error}");
            None
        }
        Err(error) => panic!("{shell}: {error}"),
    }
}

const BUS: &str = "[serial.bus]
port = \"/dev/ttyS0\"
framing = \"modbus\"
[serial.bus.unit.3]
id = \"boiler\"
role = \"sensor\"
[serial.bus.unit.3.register.power]
address = 1
";

/// A place with a device, a bus and a file whose name has a space.
fn place() -> Place {
    let place = Place::new();
    place.run("device add door-7 --role sensor --psk").fine();
    place.write("my file.toml", "");
    place.write("conf.d/60-bus.toml", BUS);
    place
}

/// What bash offers for the last of `words`, which are those that bash makes of the line.
fn bash(place: &Place, words: &[&str]) -> Vec<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "set -u; source {}; complete -p tombolo >/dev/null || exit; COMP_WORDS=({}); COMP_CWORD={}; _tombolo; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        completions().join("bash/tombolo").display(),
        quoted.join(" "),
        words.len() - 1
    );
    let said = shell(place, "bash", &["--noprofile", "--norc", "-c", &script]).expect("bash is there");
    said.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

#[test]
fn bash_completes_commands_names_and_files_without_the_package_bash_completion() {
    let place = place();
    let config = place.path("tombolo.toml");
    let config = config.to_str().expect("text");
    assert_eq!(bash(&place, &["tombolo", "dev"]), ["device"]);
    assert_eq!(bash(&place, &["tombolo", "device", "te"]), ["test"]);
    assert_eq!(bash(&place, &["tombolo", "--config", config, "device", "show", "do"]), ["door-7"]);
    assert_eq!(bash(&place, &["tombolo", "--config", "=", config, "device", "show", "do"]), ["door-7"]);
    assert_eq!(
        bash(&place, &["tombolo", "--config", config, "device", "add", "x", "--role", "sen"]),
        ["sensor"]
    );
    assert_eq!(bash(&place, &["tombolo", "--config", "my"]), ["my file.toml"]);
    assert_eq!(bash(&place, &["tombolo", "--config", "=", "my"]), ["my file.toml"]);
    assert_eq!(bash(&place, &["tombolo", "config", "apply", "my"]), ["my file.toml"]);
    assert_eq!(bash(&place, &["tombolo", "config", "apply", "--conf"]), ["--confirm"]);
    assert_eq!(bash(&place, &["tombolo", "nothing-like-it", "x"]), Vec::<String>::new());
    let of = |words: &[&str]| bash(&place, &[&["tombolo", "--config", config], words].concat());
    assert_eq!(of(&["config", "show", "upstream.ca"]), ["upstream.ca-file"]);
    assert_eq!(of(&["config", "show", "metr"]), ["metrics", "metrics.allow-remote", "metrics.listen"]);
    assert_eq!(of(&["serial", "relearn", "b"]), ["boiler"]);
    assert_eq!(of(&["serial", "relearn", "do"]), Vec::<String>::new());
    assert_eq!(of(&["help", "tr"]), ["trace"]);
    assert_eq!(of(&["help", "device", "te"]), ["test"]);
}

#[test]
fn fish_completes_commands_and_names() {
    let place = place();
    let of = |line: &str| {
        let script =
            format!("source {}; complete -C '{line}'", completions().join("fish/tombolo.fish").display());
        let said = shell(&place, "fish", &["--no-config", "-c", &script])?;
        // The word and, behind a tabulator, what it is.
        Some(
            said.lines()
                .map(|line| line.split('\t').next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>(),
        )
    };
    let Some(commands) = of("tombolo dev") else { return };
    assert_eq!(commands, ["device"]);
    let config = place.path("tombolo.toml");
    for command in ["device show", "device test", "tail", "trace"] {
        let names = of(&format!("tombolo --config {} {command} do", config.display())).unwrap_or_default();
        assert_eq!(names, ["door-7"], "{command}");
    }
    let roles = of(&format!("tombolo --config {} device add x --role sen", config.display()));
    assert_eq!(roles.unwrap_or_default(), ["sensor"]);
    let with = |line: &str| of(&format!("tombolo --config {} {line}", config.display())).unwrap_or_default();
    assert_eq!(with("config show upstream.ca"), ["upstream.ca-file"]);
    assert!(!with("config show ").contains(&"door-7".to_owned()));
    assert_eq!(with("serial relearn b"), ["boiler"]);
}

#[test]
fn zsh_completes_commands_and_names() {
    let place = place();
    let of = |line: &str| {
        // An interactive zsh on a pseudo-terminal; what it offers is what it would insert.
        let script = format!(
            r#"zmodload zsh/zpty
zpty z zsh -f -i
z() {{ zpty -w z "$1" }}
z "PS1= PS2=; unsetopt zle_bracketed_paste; fpath=({folder} \$fpath); autoload -Uz compinit; compinit -u -D"
z "null() {{ }}; compadd() {{ local -a found; builtin compadd -O found \"\$@\"; (( \$#found )) && print -rl -- OFFERED:\${{^found}}; builtin compadd \"\$@\" }}"
z "bindkey '^I' complete-word; zle -C all complete-word hand; hand() {{ _main_complete; print -r -- THE-END }}; bindkey '^X' all; print READ''Y"
zpty -r z said '*READY*'
zpty -w -n z '{line}'$'\x18'
zpty -r z said '*THE-END*'
print -r -- "$said""#,
            folder = completions().join("zsh").display()
        );
        let said = shell(&place, "timeout", &["120", "zsh", "-f", "-c", &script])?;
        let offered = said.lines().filter_map(|line| line.trim().split("OFFERED:").nth(1));
        Some(offered.map(|word| word.trim().to_owned()).collect::<Vec<_>>())
    };
    let Some(commands) = of("tombolo dev") else { return };
    assert!(commands.contains(&"device".to_owned()), "{commands:?}");
    let config = place.path("tombolo.toml");
    let names = of(&format!("tombolo --config {} device show do", config.display())).unwrap_or_default();
    assert!(names.contains(&"door-7".to_owned()), "{names:?}");
    let with = |line: &str| of(&format!("tombolo --config {} {line}", config.display())).unwrap_or_default();
    let keys = with("config show upstream.ca");
    assert!(keys.contains(&"upstream.ca-file".to_owned()), "{keys:?}");
    let units = with("serial relearn b");
    assert!(units.contains(&"boiler".to_owned()) && !units.contains(&"bus".to_owned()), "{units:?}");
}
