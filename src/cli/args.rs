//! The command line and its `--help` texts.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};

mod device;
mod maintenance;

pub use device::{
    AclTestArguments, CERTIFICATES, DeviceCertificateArguments, DeviceImportArguments, DeviceKeyAddArguments,
    DeviceKeyCommand, DeviceKeyRemoveArguments, DeviceKeygenArguments, DeviceListArguments,
    DeviceRekeyArguments, DeviceSetArguments, ImportCommand, ImportMosquittoArguments, KeyKind, date,
};

pub use maintenance::{
    ApplyArguments, ApplyUpdateArguments, BackupArguments, BundleArguments, CertCommand,
    CertInstallArguments, CertNameArgument, CertRenewArguments, CompleteArguments, ConfigCommand,
    DecommissionArguments, DeniedCommand, DeniedVersionArgument, DevicesArguments, DownloadArguments,
    FirstbootArguments, HealthArguments, HelpArguments, MigrateArguments, Names, RestoreArguments,
    ShowArguments, UpdateCommand, VerifyArguments,
};

/// The default of `--config`.
pub const DEFAULT_CONFIG: &str = "/etc/tombolo/tombolo.toml";

/// Gateway from CoAP/DTLS, serial and Modbus devices to one MQTT broker
#[derive(Debug, Parser)]
#[command(
    name = "tombolo",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "First steps:
  tombolo init --url mqtts://BROKER
  tombolo check
  tombolo reload, or tombolo run where it does not run yet
  tombolo device add door-7 --role sensor --psk
  tombolo tail, and the coap-client line that was printed

Exit status: 0 success, 1 failure, 2 invalid command line, 3 done but part of the configuration
is disabled by a fault (reload), 78 invalid configuration."
)]
pub struct Arguments {
    /// The configuration file; conf.d/ is read from the same directory
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,

    /// Print JSON: one object, or one object per line for streams
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground, as the systemd unit does
    Run(RunArguments),
    /// Check everything that could be wrong: one line per finding, and what to do about it
    Check(CheckArguments),
    /// Set the upstream broker and its credentials
    Init(InitArguments),
    /// Add, list, show or remove devices
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Send a command to a device, and print its answer
    Send(SendArguments),
    /// List, show or drop the commands that are held for devices
    #[command(subcommand)]
    Mailbox(MailboxCommand),
    /// Print readings as they arrive, and the result of each
    Tail(TailArguments),
    /// Print the state of the uplink, the journal and the devices
    Status(StatusArguments),
    /// Print what each device has sent within 30 days
    Usage(UsageArguments),
    /// Apply the configuration files, and wait until they are in use or refused
    Reload,
    /// Print what the rules say about a reading
    #[command(subcommand)]
    Acl(AclCommand),
    /// Make a configuration of what another program had
    #[command(subcommand)]
    Import(ImportCommand),
    /// Print what waits for the broker
    #[command(args_conflicts_with_subcommands = true)]
    Queue(QueueArguments),
    /// Print whether the clock is trusted, in doubt or not trusted, and why
    #[command(args_conflicts_with_subcommands = true)]
    Clock(ClockArguments),
    /// Show and steer the certificates that renew themselves
    #[command(subcommand)]
    Cert(CertCommand),
    /// Print whether the gateway works and reaches its broker; wait for it, and judge an update
    Health(HealthArguments),
    /// Look for newer firmware of this gateway, fetch it, install it
    #[command(subcommand)]
    Update(UpdateCommand),
    /// Print the decrypted messages of a device, or the packets of the uplink
    Trace(TraceArguments),
    /// List serial ports, print the bytes of one, or forget what a unit taught
    #[command(subcommand)]
    Serial(SerialCommand),
    /// Show the configuration in force, and where each value comes from
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write what somebody who helps needs to see into one file, without secrets and payloads
    SupportBundle(BundleArguments),
    /// Write configuration, devices and credentials into one file, with its secrets
    Backup(BackupArguments),
    /// Put a backup in the place of configuration, devices and credentials
    Restore(RestoreArguments),
    /// Give a copied card a gateway id and keys of its own, where it is marked as a copy
    Firstboot(FirstbootArguments),
    /// Take this gateway out of service: clear its retained topics, wipe its keys and state
    Decommission(DecommissionArguments),
    /// Print the help of a command
    Help(HelpArguments),
    /// Names for the completion of the shells
    #[command(hide = true)]
    Complete(CompleteArguments),
    /// Run a demonstration: broker, devices and gateway in one process
    Demo(DemoArguments),
}

/// `tombolo run`
#[derive(Clone, Copy, Debug, Args)]
pub struct RunArguments {
    /// End as at SIGTERM when standard input ends: the demo's gateway ends with the demo, however
    /// that ends
    #[arg(long, hide = true)]
    pub until_input_ends: bool,
}

/// `tombolo send`
#[derive(Debug, Args)]
pub struct SendArguments {
    /// Device id
    pub device: String,
    /// The path at the device, like lock/state
    pub path: String,
    /// The payload; - reads it from standard input
    #[arg(default_value = "")]
    pub payload: String,
    /// The CoAP method: GET, POST, PUT, DELETE, FETCH, PATCH or IPATCH
    #[arg(long, default_value = "PUT",
        value_parser = ["GET", "POST", "PUT", "DELETE", "FETCH", "PATCH", "IPATCH"], ignore_case = true)]
    pub method: String,
    /// How long to wait for the answer, 1s to 2min; the command stays in the mailbox after that
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = wait)]
    pub wait: std::time::Duration,
    /// The content format of the payload: a number, or a media type like application/json
    #[arg(long, value_name = "FORMAT")]
    pub content_format: Option<String>,
}

/// The value of `--wait`.
fn wait(text: &str) -> Result<std::time::Duration, String> {
    let wait = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let allowed = std::time::Duration::from_secs(1)..=std::time::Duration::from_secs(120);
    if allowed.contains(&wait) { Ok(wait) } else { Err("it is from 1s to 2min".to_owned()) }
}

/// `tombolo mailbox …`
#[derive(Debug, Subcommand)]
pub enum MailboxCommand {
    /// List the commands that are held, oldest first
    List(MailboxListArguments),
    /// Print one of them, with its payload
    Show(MailboxNumberArgument),
    /// Drop one that was not sent yet
    Drop(MailboxNumberArgument),
}

/// `tombolo mailbox list`
#[derive(Debug, Args)]
pub struct MailboxListArguments {
    /// Only those of this device
    pub device: Option<String>,
}

/// A command that is held.
#[derive(Debug, Args)]
pub struct MailboxNumberArgument {
    /// Its number, as `tombolo mailbox list` shows it
    pub number: u64,
}

/// `tombolo usage`
#[derive(Debug, Args)]
pub struct UsageArguments {
    /// Day by day of this device
    pub device: Option<String>,
}

/// `tombolo status`
#[derive(Clone, Copy, Debug, Args)]
pub struct StatusArguments {
    /// Print each DTLS session instead
    #[arg(long)]
    pub sessions: bool,
}

/// `tombolo check`
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Do not use the network
    #[arg(long)]
    pub offline: bool,
    /// Look at what could be abused instead: open listeners, weak or old keys, rules too wide
    #[arg(long, conflicts_with = "offline")]
    pub security: bool,
}

/// `tombolo init`
#[derive(Debug, Args)]
pub struct InitArguments {
    /// The broker: mqtts://HOST or mqtts://HOST:PORT; mqtt:// only with --insecure
    #[arg(long)]
    pub url: String,
    /// Trust only this CA instead of the system's (PEM)
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// This gateway's certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub certificate_file: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate_file")]
    pub key_file: Option<PathBuf>,
    /// MQTT user name
    #[arg(long)]
    pub username: Option<String>,
    /// A file with the MQTT password
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// This gateway's id [default: generated at the first start]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Accept mqtt://, which can be read and forged on the path to the broker
    #[arg(long)]
    pub insecure: bool,
    /// Replace what an earlier init wrote
    #[arg(long)]
    pub force: bool,
}

/// `tombolo device …`
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Add a device, and print the command that sends a first reading
    Add(Box<DeviceAddArguments>),
    /// List all devices
    List(DeviceListArguments),
    /// Show a device; its key only with --key
    Show(DeviceShowArguments),
    /// Change what a device is and what it is known by, but for its keys and password
    Set(Box<DeviceSetArguments>),
    /// Let a disabled device in again
    Enable(DeviceNameArgument),
    /// Disable a device, and keep its keys; its sessions end at once
    Disable(DeviceNameArgument),
    /// Give a device a new key or password, with --overlap beside the one before
    Rekey(DeviceRekeyArguments),
    /// The public keys of a device for tokens as its MQTT password
    #[command(subcommand)]
    Key(DeviceKeyCommand),
    /// Add the devices of a file, all or none
    Import(DeviceImportArguments),
    /// Make keys for devices, as a file for import; reads and changes nothing of the gateway
    Keygen(DeviceKeygenArguments),
    /// Remove a device; its sessions end at once
    Remove(DeviceNameArgument),
    /// Send a reading in the place of a device to the broker, and print each step on the way
    Test(DeviceTestArguments),
}

/// `tombolo device add`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("proof").required(true).multiple(true).arg("psk").args(CERTIFICATES)
    .args(["public_key", "password", "jwt_key", "parent"])))]
#[command(group(ArgGroup::new("certificate").multiple(false)))]
#[command(mut_arg("certificate_issuer", |issuer| issuer.requires("certificate")))]
pub struct DeviceAddArguments {
    /// Its id: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a digit
    pub id: String,
    /// Its role, which has its rules and limits
    #[arg(long)]
    pub role: String,
    /// Its pre-shared key: text:…, hex:…, or - for standard input (arguments are visible to other
    /// users); without a value a key of 22 characters is generated, with hex alone one of 16 bytes,
    /// for devices that take no longer one
    #[arg(long, value_name = "KEY", num_args = 0..=1, default_missing_value = "")]
    pub psk: Option<String>,
    /// The identity of its pre-shared key: text, or hex:… for other bytes [default: its id]
    #[arg(long, value_name = "TEXT", requires = "psk")]
    pub psk_identity: Option<String>,
    /// Its certificate or public key
    #[command(flatten)]
    pub known_by: DeviceCertificateArguments,
    /// Its password for MQTT: text:…, or - for standard input; without a value one is generated
    #[arg(long, value_name = "PASSWORD", num_args = 0..=1, default_missing_value = "")]
    pub password: Option<String>,
    /// Its MQTT user name [default: its id]
    #[arg(long, value_name = "TEXT", requires = "password")]
    pub mqtt_username: Option<String>,
    /// A file with a public key whose tokens (JWT) it may show as its MQTT password
    #[arg(long, value_name = "FILE")]
    pub jwt_key: Option<PathBuf>,
    /// Informational text
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// The device that it is behind, which may forward its readings: it needs no key then
    #[arg(long, value_name = "ID")]
    pub parent: Option<String>,
    /// A tag, for {tag.NAME} in topics. May be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = device::tag)]
    pub tags: Vec<(String, String)>,
}

/// `tombolo device show`
#[derive(Debug, Args)]
pub struct DeviceShowArguments {
    /// Device id
    pub id: String,
    /// Print its key too
    #[arg(long)]
    pub key: bool,
}

/// `tombolo device test`
#[derive(Debug, Args)]
pub struct DeviceTestArguments {
    /// Device id
    pub id: String,
    /// The path within the device [default: that of the only rule without lane high and retain]
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Show the rule and the topic, and send nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A device.
#[derive(Debug, Args)]
pub struct DeviceNameArgument {
    /// Device id
    pub id: String,
}

/// `tombolo tail`
#[derive(Debug, Args)]
pub struct TailArguments {
    /// Only readings of this device
    pub device: Option<String>,
    /// Begin with the last N readings and failed handshakes, at most 128
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = readings)]
    pub last: u32,
}

/// `tombolo trace`
#[derive(Debug, Args)]
pub struct TraceArguments {
    /// A device id, or `uplink` for the connection to the broker
    pub target: String,
    /// Write to this file instead, which must not exist yet, for Wireshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// With payloads
    #[arg(long)]
    pub payload: bool,
}

/// `tombolo acl …`
#[derive(Debug, Subcommand)]
pub enum AclCommand {
    /// Print which rule allows a reading, a subscription or a command, or why it is refused
    Explain(ExplainArguments),
    /// Compare the rules in the files with a table of what they are to allow and refuse
    Test(AclTestArguments),
}

/// `tombolo acl explain`
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// Device id
    pub device: String,
    /// POST, PUT or DELETE of a reading; or publish, subscribe of an MQTT client; or command
    #[arg(value_parser = ["POST", "PUT", "DELETE", "publish", "subscribe", "command"], ignore_case = true)]
    pub method: String,
    /// The path, like t/temperature; the topic of a publish; the filter of a subscription
    pub path: String,
    /// Of a reading: the content format of its payload, as a number or a media type, or none
    /// [default: one that its rule takes]
    #[arg(long, value_name = "TYPE")]
    pub content_format: Option<String>,
    /// Of a reading: the bytes of its payload
    #[arg(long, value_name = "N")]
    pub bytes: Option<u64>,
    /// Of a reading: its payload, to see whether a filter would hold it back now; - reads it from
    /// standard input
    #[arg(long, value_name = "TEXT", conflicts_with = "bytes", allow_hyphen_values = true)]
    pub payload: Option<String>,
    /// Of a publish: it has RETAIN; with --payload "" it is one that deletes what is retained
    #[arg(long)]
    pub retain: bool,
}

/// `tombolo queue`
#[derive(Debug, Args)]
pub struct QueueArguments {
    /// What to do with it
    #[command(subcommand)]
    pub command: Option<QueueCommand>,
}

/// `tombolo queue …`
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Read every file of the journal, and print its state and what is missing from it
    Verify,
    /// Import the records of a file that was set aside and can be read again
    Import(ImportArguments),
    /// List, send again, export or drop what the broker rejected permanently
    #[command(subcommand)]
    Rejected(RejectedCommand),
    /// Move waiting records to the rejected store
    Skip(SkipArguments),
}

/// `tombolo queue skip`
#[derive(Debug, Args)]
pub struct SkipArguments {
    /// Record ids, as `tombolo queue` shows them
    #[arg(value_name = "RECORD", required = true)]
    pub records: Vec<String>,
}

/// `tombolo queue import`
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// The file, in the journal's directory: a path, or a name as `tombolo queue verify` shows it
    pub file: PathBuf,
    /// Import every record in the file, including those that were already delivered
    #[arg(long)]
    pub all: bool,
}

/// `tombolo queue rejected …`
#[derive(Debug, Subcommand)]
pub enum RejectedCommand {
    /// List the rejected records, oldest first
    List,
    /// Send rejected records again: those given, or all
    Retry(RetryArguments),
    /// Write all rejected records to a file, one JSON object per line, with payloads
    Export(ExportArguments),
    /// Drop rejected records, counted as a loss: those given, or --all
    Drop(DropArguments),
}

/// `tombolo queue rejected export`
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// The file, which must not exist yet; - is standard output
    pub file: PathBuf,
}

/// `tombolo queue rejected retry`
#[derive(Debug, Args)]
pub struct RetryArguments {
    /// Record ids, as `list` shows them; none = all
    #[arg(value_name = "RECORD", conflicts_with = "all")]
    pub records: Vec<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
}

/// `tombolo queue rejected drop`
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct DropArguments {
    /// Record ids, as `list` shows them
    #[arg(value_name = "RECORD")]
    pub records: Vec<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
}

/// `tombolo clock`
#[derive(Debug, Args)]
pub struct ClockArguments {
    /// What to say about it
    #[command(subcommand)]
    pub command: Option<ClockCommand>,
}

/// `tombolo clock …`
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ClockCommand {
    /// Confirm that the present time is right
    Trust,
    /// Lower the floor, a time that has certainly passed, to the build date
    Reset,
    /// Write again and again whether the kernel's clock is synchronised, for tombolo-clock.service
    #[command(hide = true)]
    Watch,
}

/// `tombolo serial …`
#[derive(Debug, Subcommand)]
pub enum SerialCommand {
    /// Print the serial ports of this machine, their persistent names, and a block for the
    /// configuration
    List,
    /// Print the bytes of a port as they arrive, with their time
    Trace(SerialTraceArguments),
    /// Forget what a Modbus unit was found to want, and ask it as configured again
    Relearn(SerialRelearnArguments),
}

/// `tombolo serial relearn`
#[derive(Debug, Args)]
pub struct SerialRelearnArguments {
    /// The id of a [serial.NAME.unit.ADDRESS]
    pub unit: String,
}

/// `tombolo serial trace`
#[derive(Debug, Args)]
pub struct SerialTraceArguments {
    /// The name of a [serial.NAME], or a device like /dev/ttyUSB0
    pub port: String,
    /// Open the port at this rate, if the daemon does not have it open
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(50..=4_000_000))]
    pub baud: Option<u32>,
    /// Write to this file instead of the screen
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Begin a new file before this one grows larger
    #[arg(long, value_name = "N", default_value_t = 1 << 20, requires = "file")]
    pub max_bytes: u64,
    /// Number of full files that are kept, as FILE.1, FILE.2, …
    #[arg(long, value_name = "N", default_value_t = 4, requires = "file")]
    pub keep: u32,
}

/// A number of seconds of which there is at least one.
fn seconds(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "write a whole number of seconds, from 1, like 30".to_owned())
}

/// A number of readings.
fn readings(text: &str) -> Result<u32, String> {
    let count = text.parse().map_err(|_| "write a whole number, like 10".to_owned())?;
    // The daemon remembers no more.
    if count > 128 { Err("the gateway remembers the last 128".to_owned()) } else { Ok(count) }
}

/// `tombolo demo`
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// End after this many seconds [default: on Ctrl-C]
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    /// Commands in the texts of a source file as they are printed, with `1` for what is filled
    /// in.
    fn printed(source: &str) -> Vec<String> {
        let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let mut found = Vec::new();
        for (at, start) in code.match_indices("`tombolo ") {
            let Some(end) = code[at + start.len()..].find('`') else { continue };
            let mut command = String::new();
            let mut depth = 0;
            for part in code[at + 1..at + start.len() + end].replace("\\\n", " ").chars() {
                match part {
                    '{' => depth += 1,
                    '}' => {
                        depth -= 1;
                        command.push('1');
                    }
                    other if depth == 0 => command.push(other),
                    _ => {}
                }
            }
            found.push(command.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        found
    }

    #[test]
    fn each_command_that_a_text_names_can_be_typed_as_it_is_printed() {
        // These name a command, and are no advice to type it; or a choice of several follows.
        const NAMED: [&str; 18] = [
            "tombolo init",
            "tombolo update",
            "tombolo device",
            "tombolo device add 1",
            "tombolo device set 1",
            "tombolo device rekey 1",
            "tombolo queue skip",
            "tombolo device add",
            "tombolo device rekey",
            "tombolo device key add",
            "tombolo device keygen",
            "tombolo import mosquitto",
            "tombolo config show …",
            "tombolo cert …",
            "tombolo queue rejected",
            "tombolo queue rejected …",
            "tombolo device key …",
            "tombolo serial …",
        ];
        // A program of the tests that is named beside ours.
        const OTHER: &str = "tombolo fleet-devices";
        let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let (mut bad, mut count) = (Vec::new(), 0);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                for command in printed(&std::fs::read_to_string(&path).unwrap()) {
                    count += 1;
                    if command != OTHER && !NAMED.contains(&command.as_str()) && parse(&command).is_err() {
                        bad.push(format!("{}: {command}", path.display()));
                    }
                }
            }
        }
        assert!(count > 50 && bad.is_empty(), "{count}\n{}", bad.join("\n"));
    }

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_key_is_asked_for_without_a_value_too() {
        let psk = |line: &str| match parse(line).unwrap().command {
            Command::Device(DeviceCommand::Add(add)) => add.psk,
            other => panic!("{other:?}"),
        };
        assert_eq!(psk("tombolo device add a --role r --psk").as_deref(), Some(""));
        assert_eq!(psk("tombolo device add a --psk --role r").as_deref(), Some(""));
        assert_eq!(psk("tombolo device add a --role r --psk text:x").as_deref(), Some("text:x"));
        assert_eq!(psk("tombolo device add a --role r --psk -").as_deref(), Some("-"));
        assert!(parse("tombolo device add a --role r").is_err());
    }

    #[test]
    fn a_device_is_added_with_one_or_more_proofs_and_one_certificate_at_most() {
        let add = |rest: &str| parse(&format!("tombolo device add a --role r {rest}")).is_ok();
        assert!(add("--certificate-dns a.example --certificate-issuer CN=x"));
        assert!(add("--certificate-cn a --psk --public-key sha256:00"));
        assert!(!add("--certificate-cn a --certificate-uri b"));
        assert!(!add("--certificate-issuer CN=x --psk"));
        assert!(!add("--psk-identity x --public-key k.pem"));
        assert!(!add("--label x"));
    }

    #[test]
    fn global_options_stand_anywhere() {
        for line in ["tombolo --json --config x status", "tombolo status --json --config x"] {
            let arguments = parse(line).unwrap();
            assert!(arguments.json);
            assert_eq!(arguments.config.to_str(), Some("x"));
        }
        assert_eq!(parse("tombolo status").unwrap().config.to_str(), Some(DEFAULT_CONFIG));
    }

    #[test]
    fn what_goes_together_is_asked_for_together() {
        assert!(parse("tombolo init --url mqtts://b --certificate-file a").is_err());
        assert!(parse("tombolo init --url mqtts://b --password-file a").is_err());
        assert!(parse("tombolo init --url mqtts://b --username u").is_ok());
        assert!(parse("tombolo init").is_err());
        assert!(parse("tombolo queue rejected retry").is_ok());
        assert!(parse("tombolo queue rejected drop").is_err());
        assert!(parse("tombolo queue rejected drop --all x").is_err());
        assert!(parse("tombolo queue rejected retry --all x").is_err());
        assert!(parse("tombolo queue rejected retry x y").is_ok());
        assert!(parse("tombolo queue").is_ok());
        assert!(parse("tombolo clock").is_ok());
        assert!(parse("tombolo clock trust").is_ok());
        assert!(parse("tombolo clock reset --json").is_ok());
        assert!(parse("tombolo queue skip").is_err());
        assert!(parse("tombolo queue skip x y").is_ok());
        assert!(parse("tombolo queue rejected export").is_err());
        assert!(parse("tombolo queue rejected export -").is_ok());
    }
}
