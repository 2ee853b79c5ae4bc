//! The source of one certificate, as configured and validated.

use super::est::EstSettings;
use super::exec::ExecSettings;

/// Where a certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSettings {
    /// An EST server.
    Est(EstSettings),
    /// A program.
    Exec(ExecSettings),
    /// A person: `tombolo cert csr` and `tombolo cert install`.
    Manual,
}
