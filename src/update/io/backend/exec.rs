//! The integrator's program installs: for SWUpdate, OSTree, Mender and whatever else there is.
//!
//! It is `update-backend` beside the main configuration file, or in `/usr/lib/tombolo`; it has to
//! belong to root. Its contract is in docs/updates.md:
//!
//! | call | is to |
//! |---|---|
//! | `install FILE` | install FILE, which was verified and is root's |
//! | `mark-good` | have the version that runs boot from now on |
//! | `roll-back` | have the version before run again |
//!
//! Exit status 0: done, and in effect; 10: done, in effect with the next boot; else it failed, and
//! the last line of standard error says why. A line on standard output that is a number of at most
//! 100 is progress in percent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::trusted::{self, Distrust};
use super::{Backend, Call, Effect, Wanted};

/// Its name.
const NAME: &str = "update-backend";
/// Where an image has it.
const VENDOR: &str = "/usr/lib/tombolo";
const INSTALL_WITHIN: Duration = Duration::from_secs(2 * 3600);
const WITHIN: Duration = Duration::from_secs(600);
/// Done, in effect with the next boot.
const AT_BOOT: i32 = 10;

/// It.
pub struct Exec {
    program: PathBuf,
}

impl Exec {
    /// Finds it: beside the main file first.
    ///
    /// # Errors
    /// One sentence: there is none, or it cannot be trusted.
    pub fn find(main: &Path) -> Result<Exec, String> {
        let beside = main.parent().unwrap_or(Path::new("/")).join(NAME);
        let places = [beside, Path::new(VENDOR).join(NAME)];
        for place in &places {
            match trusted::real_path(place) {
                Ok(_) => return Ok(Exec { program: place.clone() }),
                Err(Distrust::Missing) => {}
                Err(why) => return Err(format!("{} is not run: {why}", place.display())),
            }
        }
        Err(format!(
            "[update] backend is \"exec\", and there is no {} and no {}",
            places[0].display(),
            places[1].display()
        ))
    }

    fn call(&self, verb: &str, within: Duration) -> Call {
        Call::new(&self.program, within).with(verb)
    }

    fn run(&self, call: &Call, handle: &mut dyn FnMut(&str)) -> Result<Effect, String> {
        let ended = call.run(handle)?;
        match ended.status {
            Some(0) => Ok(Effect::Now),
            Some(AT_BOOT) => Ok(Effect::AtBoot),
            _ => Err(call.failure(&ended)),
        }
    }
}

impl Backend for Exec {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn install(&self, wanted: &Wanted, progress: &mut dyn FnMut(u8)) -> Result<Effect, String> {
        let file = wanted.file.as_deref().ok_or("there is no file to install")?;
        let call = self
            .call("install", INSTALL_WITHIN)
            .with(file)
            .env("TOMBOLO_VERSION", &wanted.version)
            .env("TOMBOLO_TARGET", &wanted.target)
            .env("TOMBOLO_SHA256", &wanted.sha256)
            .env("TOMBOLO_PREVIOUS", wanted.previous.clone().unwrap_or_default());
        self.run(&call, &mut |line| {
            if let Some(percent) = line.trim().parse().ok().filter(|percent| *percent <= 100) {
                progress(percent);
            }
        })
    }

    fn mark_good(&self, version: &str) -> Result<(), String> {
        let call = self.call("mark-good", WITHIN).env("TOMBOLO_VERSION", version);
        call.succeed(&mut |_| {}).map(|_| ())
    }

    fn roll_back(&self, from: &str, to: Option<&str>) -> Result<Effect, String> {
        let call = self
            .call("roll-back", WITHIN)
            .env("TOMBOLO_VERSION", from)
            .env("TOMBOLO_PREVIOUS", to.unwrap_or_default());
        self.run(&call, &mut |_| {})
    }
}
