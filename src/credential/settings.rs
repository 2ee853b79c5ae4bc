//! What the configuration says of one certificate, already validated.

use std::path::{Path, PathBuf};

use super::decision::RenewAt;
use super::leaf::Usage;
use super::request::Names;
use crate::northbound::settings::TokenSettings;

/// The folder of all certificates in the state directory.
pub const FOLDER: &str = "certificates";

/// `[certificate.NAME]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// NAME
    pub name: String,
    /// Who uses it.
    pub usage: Usage,
    /// The folder it is kept in: `{state-dir}/certificates/NAME`.
    pub folder: PathBuf,
    /// The names the first one is asked for; a later one repeats those of the one before.
    pub names: Names,
    /// The same key for each.
    pub reuse_key: bool,
    /// When it is due.
    pub renew_at: RenewAt,
    /// What its place in the span of due times follows from.
    pub seed: String,
    /// For the first request, and after the certificate has expired: certificate and key, PEM.
    pub bootstrap: Option<(PathBuf, PathBuf)>,
    /// Whether it comes by `tombolo cert install`, or in files that another program writes.
    pub by_hand: bool,
    /// Whether the source can issue without any certificate.
    pub may_enroll: bool,
    /// The token that keys are made in; `None`: they are in the files.
    pub token: Option<TokenSettings>,
}

impl Settings {
    /// The file with the present chain and its key: both in one, so that they always belong
    /// together.
    pub fn current(&self) -> PathBuf {
        current(&self.folder)
    }

    /// The file with the CAs that the EST server offers, for `trust = "est"`.
    pub fn anchors(&self) -> PathBuf {
        self.folder.join(super::anchors::FILE)
    }

    /// The label of its keys in the token.
    pub fn token_label(&self) -> String {
        format!("tombolo-{}", self.name)
    }

    /// What [`decide`](super::decision::decide) is told.
    pub fn decision(&self) -> super::decision::Settings {
        super::decision::Settings {
            renew_at: self.renew_at,
            seed: self.seed.clone(),
            may_enroll: self.may_enroll || self.bootstrap.is_some(),
            by_hand: self.by_hand,
        }
    }
}

/// The file with the present chain and its key in a certificate's folder.
pub fn current(folder: &Path) -> PathBuf {
    folder.join(super::store::CURRENT)
}
