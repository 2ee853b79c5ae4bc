//! The commands of the command line.
//!
//! | command | works on |
//! |---|---|
//! | `run` | starts the daemon in this process |
//! | `init`, `device` | the files, with or without the daemon; then tells it to reload |
//! | `status`, `usage`, `queue`, `tail`, `trace`, `reload`, `cert`, `send`, `mailbox`, `device test` | the running daemon, over its control socket |
//! | `acl explain`, `check`, `clock`, `health`, `update` | the running daemon, or the files where it does not run |
//! | `config`, `backup`, `restore`, `firstboot` | the files, with or without the daemon |
//! | `serial` | the machine's ports; the running daemon for one that it has |
//! | `demo` | nothing: it brings everything along |
//!
//! Results go to standard output, everything else to standard error. Text from devices is escaped
//! before it is printed. If there is a next step, a command prints it last.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "shell")]

mod acl;
pub mod args;
mod backup;
mod bundle;
mod cert;
pub mod check;
mod clock;
mod colour;
mod complete;
mod config;
mod decommission;
#[cfg(feature = "demo")]
pub mod demo;
mod device;
pub mod error;
mod firstboot;
mod health;
mod help;
mod import_mosquitto;
mod init;
mod input;
mod install;
mod key;
mod mailbox;
pub mod output;
mod pcap;
mod progress;
mod queue;
mod reload;
mod send;
mod serial;
mod socket;
mod status;
mod tail;
mod trace;
mod update;
mod usage;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::config::{Level, Loaded};
use crate::control::io::client::{Client, ClientError};
use crate::telemetry::io::{hinted, shown};
use crate::telemetry::text::without_format;
use args::{Arguments, Command, ImportCommand};
use error::{CommandError, USAGE};
use output::Output;

/// The context of every command.
#[derive(Debug)]
pub struct Context {
    /// The main configuration file.
    pub config: PathBuf,
    /// The output for the result.
    pub out: Output,
}

impl Context {
    /// The places that configuration is read from.
    pub fn options(&self) -> crate::config::io::Options {
        crate::config::io::Options::new(&self.config)
    }

    /// Loads the configuration.
    ///
    /// # Errors
    /// [`CommandError::Configuration`] if it is refused.
    pub fn load(&self) -> Result<Loaded, CommandError> {
        crate::config::io::load(&self.options(), None).map_err(CommandError::Configuration)
    }

    /// As [`load`](Self::load), for a command whose answer depends on what is in the state
    /// directory: without it there would be no devices, and another id.
    ///
    /// # Errors
    /// [`CommandError::Configuration`]; [`CommandError::Failed`] if this user may not read it.
    pub fn load_whole(&self, command: &str) -> Result<Loaded, CommandError> {
        let loaded = self.load()?;
        match &loaded.state.closed {
            None => Ok(loaded),
            Some(closed) => Err(CommandError::Failed(format!(
                "{} may not be read by this user, so the gateway's id and devices are not known; {}",
                closed.display(),
                self.rights_hint(command)
            ))),
        }
    }

    /// A command of ours as it has to be typed here: with the configuration in use.
    pub fn hint(&self, command: &str) -> String {
        match self.is_packaged() {
            true => format!("tombolo {command}"),
            false => {
                format!("tombolo --config {} {command}", key::shell_word(&self.config.display().to_string()))
            }
        }
    }

    /// How the daemon of this configuration is started.
    pub fn start_hint(&self) -> String {
        if self.is_packaged() { "systemctl start tombolo".to_owned() } else { self.hint("run") }
    }

    /// How it is started anew.
    pub fn restart_hint(&self) -> String {
        match self.is_packaged() {
            true => "systemctl restart tombolo".to_owned(),
            false => format!("stop it and start `{}` again", self.hint("run")),
        }
    }

    /// The command for somebody who may read what this user may not.
    pub fn rights_hint(&self, command: &str) -> String {
        match self.is_packaged() {
            true => format!("run `sudo {}`", self.hint(command)),
            false => format!("run `{}` as root or as the user that the gateway runs as", self.hint(command)),
        }
    }

    /// Whether this is the configuration of the package's service.
    pub fn is_packaged(&self) -> bool {
        self.config == std::path::Path::new(args::DEFAULT_CONFIG)
    }

    /// Where the daemon listens for commands. Found also where the configuration is faulty or
    /// closed to this user.
    pub fn socket(&self) -> PathBuf {
        socket::find(&self.options())
    }

    /// A connection to the running daemon.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn daemon(&self) -> Result<Client, ClientError> {
        // Without it, the socket would be that of another gateway, the packaged one.
        if !self.is_packaged() && !socket::is_configured(&self.options()) {
            let near = crate::config::io::near(&self.config);
            let advice = crate::config::io::missing_advice(near.as_deref());
            return Err(ClientError::NoConfiguration { config: self.config.clone(), advice });
        }
        Client::connect(&self.socket()).map_err(|error| match error {
            ClientError::NotRunning { socket, .. } if !self.is_packaged() => {
                ClientError::NotRunning { socket, start: Some(self.start_hint()) }
            }
            other => other,
        })
    }
}

/// Parses the command line of this process, runs the command, and returns the exit status.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            name_configuration(&configuration_given());
            return usage(&error);
        }
    };
    match &arguments.command {
        // What the daemon says is read anywhere.
        Command::Run(_) => {
            let config = std::path::absolute(&arguments.config);
            name_configuration(config.as_deref().unwrap_or(&arguments.config));
        }
        _ => name_configuration(&arguments.config),
    }
    let context = Context { config: arguments.config, out: Output { json: arguments.json } };
    let progress = progress::Progress::begin(doing(&arguments.command), context.out.json);
    let result = dispatch(&context, arguments.command);
    drop(progress);
    match result {
        Ok(status) => status,
        Err(error) => {
            say(&error, context.out.json);
            ExitCode::from(error.status())
        }
    }
}

/// What is shown while a command takes long; `None` for one that streams, or that waits for input.
fn doing(command: &Command) -> Option<&'static str> {
    match command {
        Command::Check(_) => Some("checking"),
        Command::Init(_) => Some("trying the configuration"),
        Command::Reload => Some("waiting for the gateway to reload"),
        Command::Queue(_) => Some("reading the journal"),
        Command::Clock(args::ClockArguments { command: Some(args::ClockCommand::Watch) }) => None,
        Command::Send(_) => Some("waiting for the device"),
        Command::Mailbox(_) => Some("waiting for the gateway"),
        Command::Status(_) | Command::Usage(_) | Command::Acl(_) | Command::Clock(_) => {
            Some("waiting for the gateway")
        }
        Command::Config(_) => Some("waiting"),
        Command::Cert(_) => Some("waiting for the gateway"),
        Command::Update(args::UpdateCommand::Check) => Some("looking for newer firmware"),
        Command::Update(args::UpdateCommand::Verify(_)) => Some("verifying"),
        Command::Health(_) => Some("waiting for the gateway"),
        Command::SupportBundle(_) => Some("collecting"),
        Command::Restore(_) => Some("restoring"),
        Command::Decommission(_) => Some("waiting for the broker"),
        _ => None,
    }
}

/// Commands in messages of this process name this configuration, unless it is the packaged one.
fn name_configuration(config: &std::path::Path) {
    if config != std::path::Path::new(args::DEFAULT_CONFIG) {
        crate::telemetry::io::name_configuration(key::shell_word(&config.display().to_string()));
    }
}

/// `--config` of a command line that cannot be parsed.
fn configuration_given() -> PathBuf {
    let arguments: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let behind = arguments.windows(2).find(|pair| pair[0] == "--config").map(|pair| pair[1].clone());
    let joined = arguments.iter().find_map(|word| word.strip_prefix("--config=").map(str::to_owned));
    behind.or(joined).map_or_else(|| args::DEFAULT_CONFIG.into(), PathBuf::from)
}

fn dispatch(context: &Context, command: Command) -> Result<ExitCode, CommandError> {
    if context.config.is_dir() {
        let shown = context.config.display();
        let file = context.config.join("tombolo.toml");
        return Err(CommandError::Usage(format!(
            "{shown} is a folder; name the file in it: --config {}",
            key::shell_word(&file.display().to_string())
        )));
    }
    match command {
        Command::Run(arguments) => {
            let (options, json) = (context.options(), context.out.json);
            return Ok(crate::daemon::run::run(&options, json, arguments.until_input_ends));
        }
        Command::Help(arguments) => help::run(context, &arguments)?,
        Command::Complete(arguments) => complete::run(context, &arguments)?,
        Command::Config(command) => config::run(context, command)?,
        Command::Decommission(arguments) => decommission::run(context, &arguments)?,
        Command::Backup(arguments) => backup::run(context, &arguments)?,
        Command::Restore(arguments) => backup::restore::run(context, &arguments)?,
        Command::Firstboot(arguments) => firstboot::run(context, &arguments)?,
        Command::SupportBundle(arguments) => bundle::run(context, &arguments)?,
        Command::Check(arguments) => check::run(context, &arguments)?,
        Command::Init(arguments) => init::run(context, arguments)?,
        Command::Device(command) => device::run(context, command)?,
        Command::Send(arguments) => send::run(context, arguments)?,
        Command::Mailbox(command) => mailbox::run(context, command)?,
        Command::Tail(arguments) => tail::run(context, arguments)?,
        Command::Status(arguments) => status::run(context, arguments)?,
        Command::Usage(arguments) => usage::run(context, arguments)?,
        Command::Acl(command) => acl::run(context, command)?,
        Command::Import(ImportCommand::Mosquitto(arguments)) => import_mosquitto::run(context, &arguments)?,
        Command::Reload => reload::run(context)?,
        Command::Queue(arguments) => queue::run(context, arguments.command)?,
        Command::Clock(arguments) => clock::run(context, arguments.command)?,
        Command::Cert(command) => cert::run(context, &command)?,
        Command::Health(arguments) => return health::run(context, &arguments),
        Command::Update(command) => update::run(context, command)?,
        Command::Trace(arguments) => trace::run(context, arguments)?,
        Command::Serial(command) => serial::run(context, command)?,
        #[cfg(not(feature = "demo"))]
        Command::Demo(_) => {
            let why = "this program was built without its broker and its sensors";
            return Err(CommandError::Failed(format!("{why}; build it with the cargo feature demo")));
        }
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => {
            let options = demo::Options { seconds: arguments.seconds, json: context.out.json };
            if !demo::run(options).map_err(CommandError::Failed)? {
                return Ok(ExitCode::from(error::FAILED));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the result of clap: help and version are results, everything else is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed output is not a failure.
        let _ = std::io::stdout().write_all(shown(&error.to_string()).as_bytes());
        return ExitCode::SUCCESS;
    }
    let is_json = std::env::args_os().any(|argument| argument == "--json");
    let own = if let Some(id) = mistaken_key(error) {
        Some(format!(
            "the device's id comes before --psk, which takes its key: tombolo device add {id} --role ROLE --psk"
        ))
    } else if is_json {
        let text = error.to_string();
        // The first paragraph: an argument that is missing is named in its second line.
        let lines = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
        let message = lines.collect::<Vec<_>>().join(" ");
        Some(match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                "a command is missing; `tombolo help` lists them".to_owned()
            }
            _ => message.trim_start_matches("error: ").to_owned(),
        })
    } else {
        None
    };
    match own {
        Some(text) => say(&CommandError::Usage(text), is_json),
        None => {
            let _ = std::io::stderr().write_all(shown(&error.to_string()).as_bytes());
        }
    }
    ExitCode::from(USAGE)
}

/// `device add --psk door-7 --role sensor`: what was given as the key is the id that is missing.
fn mistaken_key(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return None;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let adds = arguments.windows(2).any(|pair| pair == ["device", "add"]);
    let missing = error.to_string().contains("<ID>");
    let key =
        arguments.iter().position(|argument| argument == "--psk").and_then(|at| arguments.get(at + 1))?;
    // The word that asks for a key of 16 bytes.
    let is_word = key == "hex";
    (adds && missing && !is_word && crate::message::Name::parse(key).is_ok()).then(|| key.clone())
}

/// The error on standard error, as text or as one JSON object.
fn say(error: &CommandError, json: bool) {
    match error {
        CommandError::Gone(output::Gone(fault)) if json && fault.kind() != std::io::ErrorKind::BrokenPipe => {
            let message = format!("the output cannot be written: {fault}");
            note_object(&serde_json::json!({ "error": { "code": "failed", "message": message } }));
        }
        CommandError::Usage(text) | CommandError::Failed(text) | CommandError::Partly(text) if json => {
            let code = match error {
                CommandError::Usage(_) => "usage",
                CommandError::Partly(_) => "partly",
                _ => "failed",
            };
            note_object(&serde_json::json!({ "error": { "code": code, "message": hinted(text) } }));
        }
        CommandError::Faults(text, faults) if json => {
            let error = serde_json::json!({ "code": "failed", "message": hinted(text), "faults": faults });
            note_object(&serde_json::json!({ "error": error }));
        }
        CommandError::Configuration(findings) if json => {
            let findings: Vec<_> = findings.iter().cloned().map(localised).collect();
            let mut object = crate::config::findings_to_json(&findings);
            object["code"] = "configuration".into();
            object["message"] = "the configuration cannot be used".into();
            note_object(&serde_json::json!({ "error": object }));
        }
        CommandError::Usage(text)
        | CommandError::Failed(text)
        | CommandError::Faults(text, _)
        | CommandError::Partly(text) => {
            note(format_args!("tombolo: {}", crate::telemetry::text::Escaped(text)));
        }
        CommandError::Configuration(findings) => {
            for finding in findings.iter().filter(|finding| finding.level == Level::Fail) {
                note(finding);
            }
            note("tombolo: the configuration cannot be used; `tombolo check` shows all findings");
        }
        CommandError::Said | CommandError::SaidOfConfiguration => {}
        CommandError::Gone(output::Gone(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        CommandError::Gone(output::Gone(error)) => {
            note(format_args!("tombolo: the output cannot be written: {error}"))
        }
    }
}

/// The finding with its commands as they have to be typed here.
pub(crate) fn localised(mut finding: crate::config::Finding) -> crate::config::Finding {
    finding.message = hinted(&finding.message).into_owned();
    finding.advice = hinted(&finding.advice).into_owned();
    finding
}

/// An object of JSON on standard error. A closed output is not a failure.
fn note_object(object: &serde_json::Value) {
    progress::around(|| {
        let _ = std::io::stderr().write_all(format!("{object}\n").as_bytes());
    });
}

/// A line on standard error, beside the result, with its commands as they have to be typed here. A
/// closed output is not a failure.
pub fn note(text: impl std::fmt::Display) {
    let text = format!("{text}\n");
    progress::around(|| {
        let _ = std::io::stderr().write_all(shown(&without_format(&hinted(&text))).as_bytes());
    });
}
