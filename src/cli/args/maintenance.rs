//! The arguments of the commands for configuration and upkeep.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::config::scalar::parse_duration;

/// `tombolo help`
#[derive(Debug, Args)]
pub struct HelpArguments {
    /// The command, like `device add`
    pub command: Vec<String>,
}

/// `tombolo complete`
#[derive(Debug, Args)]
pub struct CompleteArguments {
    /// What is completed
    pub what: Names,
}

/// Names that are completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Names {
    /// Devices of the configuration and the registry.
    Devices,
    /// Roles.
    Roles,
    /// Serial ports.
    Ports,
    /// Units of Modbus buses, by the ids of their devices.
    Units,
    /// Keys of the configuration, and tables of them.
    Keys,
}

/// `tombolo config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print each value by the files as they are now, and the file and line it comes from
    Show(ShowArguments),
    /// Put a file in place, reload, and go back if the gateway refuses it; with --confirm also if
    /// it loses its broker
    Apply(ApplyArguments),
    /// Rewrite the names of renamed keys in the files
    Migrate(MigrateArguments),
    /// Keep the file that is on trial
    Confirm,
    /// Go back to the file before the one that is on trial
    Revert,
}

/// `tombolo config show`
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// Only this key, or the keys of this table: upstream.url, role.sensor
    pub key: Option<String>,
    /// Only what is not the default
    #[arg(long)]
    pub changed: bool,
}

/// `tombolo config apply`
#[derive(Debug, Args)]
pub struct ApplyArguments {
    /// The new file
    pub file: PathBuf,
    /// Its name in conf.d/ [default: that of FILE]
    #[arg(long = "as", value_name = "NAME", conflicts_with = "main")]
    pub name: Option<String>,
    /// It replaces the main configuration file
    #[arg(long)]
    pub main: bool,
    /// Apply it although devices, roles, ports or listeners stop working by it
    #[arg(long)]
    pub accept_removal: bool,
    /// Return to the file before unless the uplink is connected within this time, like 10min
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub confirm: Option<Duration>,
}

fn time(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_secs(10)..=Duration::from_secs(86_400);
    let parsed = parse_duration(text).filter(|time| bounds.contains(time));
    parsed.ok_or_else(|| "use a time from 10s to 1day, like 10min".to_owned())
}

/// `tombolo config migrate`
#[derive(Debug, Args)]
pub struct MigrateArguments {
    /// Only print what would change
    #[arg(long)]
    pub dry_run: bool,
}

/// `tombolo cert …`
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Print each certificate, until when it is valid, and when it is renewed
    Status,
    /// Ask for the next certificate now
    Renew(CertRenewArguments),
    /// Ask for a certificate as if it were the first
    Enroll(CertEnrollArguments),
    /// Print the signing request, for a CA that is asked by hand
    Csr(CertNameArgument),
    /// Take what a CA issued for that request; it is proven before it is used
    Install(CertInstallArguments),
    /// Prove the new certificate now that waits for it
    Probe(CertNameArgument),
    /// Take the certificate before into use again, if it is accepted
    Rollback(CertRollbackArguments),
    /// Print what happened to a certificate lately
    History(CertNameArgument),
}

/// `tombolo cert enroll`
#[derive(Debug, Args)]
pub struct CertEnrollArguments {
    /// The name of a [certificate.NAME]
    pub name: String,
    /// Return when it is in use; exit status 1 if it does not come to that
    #[arg(long, conflicts_with = "cancel")]
    pub wait: bool,
    /// Take back what was asked for in this way
    #[arg(long)]
    pub cancel: bool,
}

/// `tombolo cert install`
#[derive(Debug, Args)]
pub struct CertInstallArguments {
    /// The name of a [certificate.NAME]
    pub name: String,
    /// The chain, PEM, its own certificate first; - reads standard input
    pub file: PathBuf,
    /// Return when it is in use; exit status 1 if it does not come to that
    #[arg(long)]
    pub wait: bool,
}

/// `tombolo cert rollback`
#[derive(Debug, Args)]
pub struct CertRollbackArguments {
    /// The name of a [certificate.NAME]
    pub name: String,
    /// As it is: without looking at its dates and its key, and without a proof
    #[arg(long)]
    pub force: bool,
}

/// `tombolo cert renew` and `enroll`
#[derive(Debug, Args)]
pub struct CertRenewArguments {
    /// The name of a [certificate.NAME]
    pub name: String,
    /// Return when the certificate is in use; exit status 1 if it does not come to that
    #[arg(long)]
    pub wait: bool,
}

/// A certificate.
#[derive(Debug, Args)]
pub struct CertNameArgument {
    /// The name of a [certificate.NAME]
    pub name: String,
}

/// `tombolo update …`
#[derive(Debug, Subcommand)]
pub enum UpdateCommand {
    /// Look for a newer version now; exit status 0 also when there is none
    Check,
    /// Fetch the image of the newer version, and wait until it is here and verified
    Download(DownloadArguments),
    /// Install the newer version, as root: it is verified anew, and runs at once or after a reboot
    Apply(ApplyUpdateArguments),
    /// Bring back the version before, as root; the one that runs is denied
    Rollback,
    /// Print what became of versions
    History,
    /// Have no version installed until `update release`
    Hold,
    /// End the hold
    Release,
    /// Print, add or clear versions that are never installed
    #[command(subcommand)]
    Denied(DeniedCommand),
    /// Print the firmware of sensors, and how far each device is
    Devices(DevicesArguments),
    /// Verify a repository's folder before it is published; needs no gateway
    Verify(VerifyArguments),
    /// Fetch and verify metadata for the daemon, which says on standard input from where
    #[command(hide = true)]
    Metadata,
}

/// `tombolo update devices`
#[derive(Debug, Args)]
pub struct DevicesArguments {
    /// Go on with the version of this class, which was stopped
    #[arg(long, value_name = "CLASS")]
    pub resume: Option<String>,
}

/// `tombolo update download`
#[derive(Debug, Args)]
pub struct DownloadArguments {
    /// Return once it is begun
    #[arg(long)]
    pub no_wait: bool,
}

/// `tombolo update apply`
#[derive(Debug, Args)]
pub struct ApplyUpdateArguments {
    /// Only inside the maintenance window, and reboot if that is needed: for the unit
    #[arg(long)]
    pub in_window: bool,
}

/// `tombolo health`
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// Wait until the gateway works, at most so long; as root, judge an update [default: the
    /// health-timeout of update]
    #[arg(long, value_name = "TIME", value_parser = wait)]
    pub wait: Option<Option<Duration>>,
    /// So long the service must work without a break, less than --wait [default: 5s, or 1min where
    /// an update is judged; at most half of --wait]
    #[arg(long, value_name = "TIME", value_parser = wait, requires = "wait")]
    pub steady: Option<Duration>,
}

fn wait(text: &str) -> Result<Duration, String> {
    let parsed = parse_duration(text).filter(|time| *time <= Duration::from_secs(86_400));
    parsed.ok_or_else(|| "use a time of at most 1day, like 30min".to_owned())
}

/// `tombolo update denied …`
#[derive(Debug, Subcommand)]
pub enum DeniedCommand {
    /// Print the versions
    List,
    /// Never install this version, or never offer it to the sensors of its class
    Add(DeniedVersionArgument),
    /// Allow this version again, its failures forgotten; without one, all
    Clear {
        /// The version
        version: Option<String>,
    },
}

/// A version.
#[derive(Debug, Args)]
pub struct DeniedVersionArgument {
    /// The version; of the firmware of sensors CLASS/VERSION
    pub version: String,
}

/// `tombolo update verify`
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The folder with metadata/ and targets/
    pub folder: PathBuf,
    /// The root.json that gateways have [default: the oldest in metadata/]
    #[arg(long, value_name = "FILE")]
    pub root: Option<PathBuf>,
}

/// `tombolo support-bundle`
#[derive(Debug, Args)]
pub struct BundleArguments {
    /// The archive [default: tombolo-support-TIME.tar here]
    pub file: Option<PathBuf>,
    /// Take out MQTT user names, device ids and labels too
    #[arg(long)]
    pub hide_names: bool,
    /// Do not use the network
    #[arg(long)]
    pub offline: bool,
    /// At most so many bytes, 64 KiB or more: the longest parts are cut
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(65_536..))]
    pub max_bytes: Option<u64>,
}

/// `tombolo backup`
#[derive(Debug, Args)]
pub struct BackupArguments {
    /// The file, which must not exist yet; - is standard output
    pub file: PathBuf,
}

/// `tombolo restore`
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The backup; - is standard input
    pub file: PathBuf,
    /// This machine becomes the gateway of the backup, whatever its id was: for a new board or card
    #[arg(long)]
    pub take_id: bool,
    /// Leave the files of the configuration out, as where /etc is read-only
    #[arg(long)]
    pub state_only: bool,
}

/// `tombolo firstboot`
#[derive(Debug, Args)]
pub struct FirstbootArguments {
    /// Mark this card as one that will be copied: the next boot of each copy makes the identity
    #[arg(long)]
    pub mark: bool,
}

/// `tombolo decommission`
#[derive(Debug, Args)]
pub struct DecommissionArguments {
    /// Confirm it: the keys and the state are gone after it
    #[arg(long)]
    pub yes: bool,
    /// Leave the broker out: retained topics stay there
    #[arg(long)]
    pub offline: bool,
    /// Wipe readings too that were not delivered
    #[arg(long)]
    pub discard: bool,
}
