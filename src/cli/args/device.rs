//! `tombolo device …` and `tombolo acl …`, as far as they change or test many things.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use crate::clock::UnixTime;
use crate::config::registry::credentials::parse_time;
use crate::config::scalar::parse_duration;
use crate::gate::certificate::NameKind;
use crate::gate::tag::Tags;

/// `tombolo device list`
#[derive(Clone, Copy, Debug, Args)]
pub struct DeviceListArguments {
    /// Print each key of the registry with its age and its expiry instead
    #[arg(long)]
    pub key_age: bool,
}

/// `tombolo device set`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  tombolo device set door-7 --role alarm
  tombolo device set door-7 --label \"north door\"         --label= takes it away
  tombolo device set door-7 --offline-after 2h           --offline-after= for that of its role
  tombolo device set probe-3 --parent hub-1              --parent= for none
  tombolo device set door-7 --tag site=north --tag hall= sets site, and takes hall away
  tombolo device set flow --mqtt-username node-red       --mqtt-username= for its id
  tombolo device set door-7 --certificate-dns door-7.example --public-key=
                                                         a certificate in place of a public key

An empty name of a certificate takes the certificate away, an empty --public-key the public key, and
an empty --certificate-issuer stands for every CA; without the option the issuer stays. Sessions of
a certificate, public key or user name that is changed are closed. Its secret keys are
changed by other commands: device rekey ID --psk, device rekey ID --password, and device key
add|remove for tokens. device disable switches it off and keeps its keys. A device of the
configuration is changed in its file, which device show names.")]
#[command(group(ArgGroup::new("certificate").multiple(false)))]
#[command(group(ArgGroup::new("change").required(true).multiple(true).args(CERTIFICATES)
    .args(["certificate_issuer", "public_key"])))]
pub struct DeviceSetArguments {
    /// Device id
    pub id: String,
    /// Its role, which has its rules and limits
    #[arg(long, value_name = "ROLE", group = "change")]
    pub role: Option<String>,
    /// Informational text; empty takes it away
    #[arg(long, value_name = "TEXT", group = "change")]
    pub label: Option<String>,
    /// Time without activity until it is offline, like 1h; empty for that of its role
    #[arg(long, value_name = "TIME", group = "change")]
    pub offline_after: Option<String>,
    /// The device that it is behind, which may forward its readings; empty for none
    #[arg(long, value_name = "ID", group = "change")]
    pub parent: Option<String>,
    /// Its MQTT user name; empty for its id. Its password stays
    #[arg(long, value_name = "TEXT", group = "change")]
    pub mqtt_username: Option<String>,
    /// Its certificate or public key
    #[command(flatten)]
    pub known_by: DeviceCertificateArguments,
    /// A tag, for {tag.NAME} in topics; an empty value takes it away. May be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag, group = "change")]
    pub tags: Vec<(String, String)>,
    // What other commands change: known here, so that the answer can name these.
    /// Of `device rekey`
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "", group = "change")]
    pub psk: Option<String>,
    /// Of `device rekey`
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "", group = "change")]
    pub psk_identity: Option<String>,
    /// Of `device rekey`
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "", group = "change")]
    pub password: Option<String>,
    /// Of `device key add`
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "", group = "change")]
    pub jwt_key: Option<String>,
}

/// The options that name a certificate, of which one is given.
pub const CERTIFICATES: [&str; 3] = ["certificate_uri", "certificate_dns", "certificate_cn"];

/// What a device with a certificate or a public key is known by: of `device add` and `device set`.
#[derive(Debug, Args)]
#[group(skip)]
pub struct DeviceCertificateArguments {
    /// Its certificate has this URI as a subject alternative name
    #[arg(long, value_name = "URI", group = "certificate")]
    pub certificate_uri: Option<String>,
    /// Its certificate has this DNS name as a subject alternative name
    #[arg(long, value_name = "NAME", group = "certificate")]
    pub certificate_dns: Option<String>,
    /// Its certificate's subject has this common name
    #[arg(long, value_name = "TEXT", group = "certificate")]
    pub certificate_cn: Option<String>,
    /// Its certificate is issued by this CA, as `openssl x509 -noout -issuer` prints it [default:
    /// any CA in coap.client-ca-file]
    #[arg(long, value_name = "NAME")]
    pub certificate_issuer: Option<String>,
    /// Its public key: a file with it or with a certificate of it, or sha256: and the key's hash
    #[arg(long, value_name = "KEY")]
    pub public_key: Option<String>,
}

impl DeviceCertificateArguments {
    /// The name that is given, and its kind.
    pub fn name(&self) -> Option<(NameKind, &str)> {
        let given = [
            (NameKind::Uri, &self.certificate_uri),
            (NameKind::Dns, &self.certificate_dns),
            (NameKind::CommonName, &self.certificate_cn),
        ];
        given.into_iter().find_map(|(kind, name)| Some((kind, name.as_deref()?)))
    }
}

/// The value of `--tag`.
pub fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write a tag like site=north")?;
    Tags::default().set(name, value).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

/// `tombolo device rekey`
#[derive(Debug, Args)]
#[command(
    override_usage = "tombolo device rekey <ID> --psk [<KEY>] [--psk-identity <TEXT>] [--overlap <TIME>]
       tombolo device rekey <ID> --password [<PASSWORD>]"
)]
pub struct DeviceRekeyArguments {
    /// Device id
    pub id: String,
    /// Its new pre-shared key: text:…, hex:…, or - for standard input; without a value a key of 22
    /// characters is generated, with hex alone one of 16 bytes
    #[arg(long, value_name = "KEY", num_args = 0..=1, default_missing_value = "",
        required_unless_present = "password")]
    pub psk: Option<String>,
    /// The identity of the new key: text, or hex:… [default: as before; with --overlap ID.2]
    #[arg(long, value_name = "TEXT", requires = "psk")]
    pub psk_identity: Option<String>,
    /// Take the key before too, until the new one is used or this time has passed, like 7d
    #[arg(long, value_name = "TIME", requires = "psk", value_parser = overlap)]
    pub overlap: Option<Duration>,
    /// Its new password for MQTT: text:…, or - for standard input; without a value one is generated
    #[arg(long, value_name = "PASSWORD", num_args = 0..=1, default_missing_value = "", conflicts_with = "psk")]
    pub password: Option<String>,
}

/// `tombolo device key …`
#[derive(Debug, Subcommand)]
pub enum DeviceKeyCommand {
    /// Add a public key whose tokens the device may show as its MQTT password
    Add(DeviceKeyAddArguments),
    /// Remove one; clients that used it are disconnected
    Remove(DeviceKeyRemoveArguments),
    /// List the public keys of a device
    List(super::DeviceNameArgument),
}

/// `tombolo device key add`
#[derive(Debug, Args)]
pub struct DeviceKeyAddArguments {
    /// Device id
    pub id: String,
    /// A file with the public key, or with a certificate of it (PEM or DER)
    pub file: PathBuf,
    /// The key is not taken any more from then on: 2027-01-31, or 2027-01-31T12:00:00Z
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub until: Option<UnixTime>,
}

/// `tombolo device key remove`
#[derive(Debug, Args)]
pub struct DeviceKeyRemoveArguments {
    /// Device id
    pub id: String,
    /// The beginning of the key's hash, as `tombolo device key list` shows it
    pub key: String,
}

/// `tombolo device import`
#[derive(Debug, Args)]
pub struct DeviceImportArguments {
    /// CSV with a header line, or JSON: an array of objects, or one object a line; - for standard
    /// input
    pub file: PathBuf,
    /// The role of devices that name none
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// Check everything, and add nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `tombolo device keygen`
#[derive(Debug, Args)]
pub struct DeviceKeygenArguments {
    /// The ids of the devices
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// What each gets
    #[arg(long, value_enum, default_value_t = KeyKind::Psk)]
    pub kind: KeyKind,
    /// The folder for the devices' private keys, each ID.key
    #[arg(long, value_name = "FOLDER", required_if_eq("kind", "jwt"))]
    pub keys: Option<PathBuf>,
    /// Their role
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
}

/// What `tombolo device keygen` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// A pre-shared key for DTLS, of 22 characters
    Psk,
    /// A pre-shared key for DTLS, of 16 bytes
    PskHex,
    /// A password for MQTT
    Password,
    /// A key pair (P-256) for tokens as the MQTT password
    Jwt,
}

/// `tombolo acl test`
#[derive(Debug, Args)]
pub struct AclTestArguments {
    /// The table: a line each with device, method, path, and allow or deny; - for standard input
    ///
    /// A device is an id, or role:NAME for one of [role.NAME], named some-device. Behind allow or
    /// deny may follow, of the answer: rule=, topic=, reason= (of deny), qos= (of allow); of the
    /// question: content-format=, bytes=, of a publish retain=true, and of role:NAME tag.NAME=
    pub file: PathBuf,
}

/// `tombolo import …`
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Users, ACL and bridge topics of a mosquitto, as files for conf.d and for device import
    Mosquitto(ImportMosquittoArguments),
}

/// `tombolo import mosquitto`
#[derive(Debug, Args)]
pub struct ImportMosquittoArguments {
    /// Its password_file; this, --acl-file or --conf is needed
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Its acl_file
    #[arg(long, value_name = "FILE")]
    pub acl_file: Option<PathBuf>,
    /// Its mosquitto.conf, for the topics of bridges
    #[arg(long, value_name = "FILE")]
    pub conf: Option<PathBuf>,
    /// The folder for the two files that are made
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub output: PathBuf,
}

/// The value of `--overlap`.
fn overlap(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_secs(60)..=Duration::from_secs(366 * 86_400);
    let overlap = parse_duration(text).filter(|overlap| allowed.contains(overlap));
    overlap.ok_or_else(|| "write a time from 1min to 1 year, like 7d".to_owned())
}

/// A date or a time in UTC.
pub fn date(text: &str) -> Result<UnixTime, String> {
    let time = parse_time(text).or_else(|| parse_time(&format!("{text}T00:00:00Z")));
    time.ok_or_else(|| "write a date like 2027-01-31, or a time like 2027-01-31T12:00:00Z".to_owned())
}
