//! What installs: one of the programs that a system has for that.

mod apt;
mod command;
mod exec;
mod rauc;

use std::path::{Path, PathBuf};

use super::system;
use crate::update::settings::Backend as Choice;

pub use apt::Apt;
pub use command::{Call, Ended};
pub use exec::Exec;
pub use rauc::Rauc;

/// What is to be installed; its file was verified, and nobody but root can write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its version.
    pub version: String,
    /// Its file; `None`: apt has it.
    pub file: Option<PathBuf>,
    /// The target's name in the repository.
    pub target: String,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// The version that runs.
    pub previous: Option<String>,
}

/// When it takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It runs.
    Now,
    /// With the next boot.
    AtBoot,
}

/// One of them. All calls block, and have a bound on their time.
pub trait Backend {
    /// As the configuration names it.
    fn name(&self) -> &'static str;

    /// Installs it. `progress` is told percents.
    ///
    /// # Errors
    /// One sentence; the version that ran runs.
    fn install(&self, wanted: &Wanted, progress: &mut dyn FnMut(u8)) -> Result<Effect, String>;

    /// The version that runs works: it is what boots from now on.
    ///
    /// # Errors
    /// One sentence.
    fn mark_good(&self, version: &str) -> Result<(), String>;

    /// The version before is what runs again.
    ///
    /// # Errors
    /// One sentence; the version that ran runs.
    fn roll_back(&self, from: &str, to: Option<&str>) -> Result<Effect, String>;

    /// Whether it can be asked at all, without anything being changed.
    ///
    /// # Errors
    /// One sentence: it installs nothing as it is.
    fn answers(&self) -> Result<(), String> {
        Ok(())
    }

    /// Brings to its end what a power cut left half done of this version; does nothing where that
    /// is not known of it, or nothing is.
    ///
    /// # Errors
    /// One sentence: it is as half done as before.
    fn complete(&self, _version: &str) -> Result<(), String> {
        Ok(())
    }

    /// What runs now; `None`: nothing says it.
    fn running(&self) -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        runtime.block_on(system::installed()).version
    }
}

/// The backend of the settings. `folder` is root's own; `main` the main configuration file, beside
/// which the integrator's program is looked for.
///
/// # Errors
/// One sentence: it cannot be used.
pub fn open(choice: Choice, folder: &Path, main: &Path) -> Result<Box<dyn Backend>, String> {
    match choice {
        Choice::None => {
            Err("nothing here installs: [update] backend is \"none\"; \"apt\", \"rauc\" and \"exec\" do"
                .to_owned())
        }
        Choice::Rauc => Ok(Box::new(Rauc)),
        Choice::Apt => Ok(Box::new(Apt::new(folder))),
        Choice::Exec => Ok(Box::new(Exec::find(main)?)),
    }
}
