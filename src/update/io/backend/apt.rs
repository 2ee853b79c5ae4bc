//! apt installs this package, and dpkg goes back to the one before.
//!
//! apt verifies what it fetches against its signed lists. The package of the version that ran is
//! kept in root's folder, so that the way back needs no network: it was fetched there when that
//! version was installed, or is fetched before the next one is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::system::PACKAGE;
use super::{Backend, Call, Effect, Wanted};
use crate::update::version::Scheme;

/// A slow card unpacks for minutes, and a slow line fetches for longer.
const WITHIN: Duration = Duration::from_secs(3600);
/// Where a package that is kept lies, in root's folder.
const PACKAGES: &str = "packages";
/// The owner's files stay; new ones come.
const DPKG_OPTIONS: [&str; 2] = ["--force-confdef", "--force-confold"];

/// It.
pub struct Apt {
    packages: PathBuf,
}

impl Apt {
    /// With its packages in this folder.
    pub fn new(folder: &Path) -> Apt {
        Apt { packages: folder.join(PACKAGES) }
    }

    fn call(&self, program: &str) -> Call {
        Call::new(program, WITHIN)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("APT_LISTCHANGES_FRONTEND", "none")
            .env("NEEDRESTART_SUSPEND", "1")
    }

    fn apt_get(&self) -> Call {
        let mut cache = std::ffi::OsString::from("Dir::Cache::archives=");
        cache.push(&self.packages);
        self.call("apt-get")
            .with_all(["--yes", "--quiet", "-o", "DPkg::Lock::Timeout=300", "-o"])
            .with(cache)
            .with_all(["-o", "APT::Keep-Downloaded-Packages=true", "-o", "APT::Sandbox::User=root"])
    }

    /// The kept package of a version.
    fn kept(&self, version: &str) -> Option<PathBuf> {
        let begins = format!("{PACKAGE}_{}_", version.replace(':', "%3a"));
        let entries = fs::read_dir(&self.packages).ok()?.flatten();
        let mut found = entries.map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&begins) && name.ends_with(".deb")
        });
        found.next()
    }

    /// Has a version's package here. apt verifies it.
    fn keep(&self, version: &str) -> Result<(), String> {
        if self.kept(version).is_some() {
            return Ok(());
        }
        let fetch = self.apt_get().inside(&self.packages).with("download");
        fetch.with(format!("{PACKAGE}={version}")).succeed(&mut |_| {}).map(|_| ())
    }

    /// How dpkg has this package.
    fn state(&self) -> Result<State, String> {
        let format = "--showformat=${db:Status-Eflag} ${db:Status-Status}";
        let status = self.call("dpkg-query").with_all(["--show", format, PACKAGE]).run(&mut |_| {})?;
        Ok(State::parse(&status.output))
    }

    /// Configures what was unpacked whole.
    fn configure(&self) -> Result<(), String> {
        let mend = self.call("dpkg").with_all(DPKG_OPTIONS).with_all(["--configure", PACKAGE]);
        mend.succeed(&mut |_| {}).map(|_| ())
    }

    /// Has apt install a version, whatever dpkg has of it.
    fn install_by_apt(&self, version: &str, more: &[&str], line: &mut dyn FnMut(&str)) -> Result<(), String> {
        let mut install = self.apt_get();
        for option in DPKG_OPTIONS {
            install = install.with("-o").with(format!("Dpkg::Options::={option}"));
        }
        let install = install.with_all(more.iter().copied()).with("install");
        install.with(format!("{PACKAGE}={version}")).succeed(line).map(|_| ())
    }

    fn install_file(&self, package: &Path) -> Result<(), String> {
        let install = self.call("dpkg").with_all(DPKG_OPTIONS).with("--install").with(package);
        install.succeed(&mut |_| {}).map(|_| ())
    }

    fn forget_all_but(&self, versions: &[&str]) {
        let kept: Vec<PathBuf> = versions.iter().filter_map(|version| self.kept(version)).collect();
        for entry in fs::read_dir(&self.packages).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "deb") && !kept.contains(&path) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// How dpkg has a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Installed, or not at all.
    Whole,
    /// Its files are there, and are to be configured.
    Unpacked,
    /// Some of its files may be there: it has to be installed again.
    Broken,
}

impl State {
    /// Out of `dpkg-query --showformat='${db:Status-Eflag} ${db:Status-Status}'`; dpkg-query(1).
    fn parse(output: &str) -> State {
        match output.trim().split_once(' ') {
            Some(("reinstreq", _)) | Some((_, "half-installed")) => State::Broken,
            Some((_, "unpacked" | "half-configured" | "triggers-pending" | "triggers-awaited")) => {
                State::Unpacked
            }
            _ => State::Whole,
        }
    }
}

impl Backend for Apt {
    fn name(&self) -> &'static str {
        "apt"
    }

    fn install(&self, wanted: &Wanted, progress: &mut dyn FnMut(u8)) -> Result<Effect, String> {
        if !Scheme::Debian.accepts(&wanted.version) {
            return Err(format!("{:?} is no version of a package", wanted.version));
        }
        fs::create_dir_all(self.packages.join("partial"))
            .map_err(|error| format!("{}: {error}", self.packages.display()))?;
        if self.state()? == State::Unpacked {
            self.configure()?;
        }
        progress(10);
        if let Some(previous) = &wanted.previous
            && let Err(reason) = self.keep(previous)
        {
            log::warn!(version = previous.as_str(), reason:% = reason; "the package of the version before cannot be had, so there will be no way back to it");
        }
        progress(20);
        self.keep(&wanted.version)?;
        let both = [Some(wanted.version.as_str()), wanted.previous.as_deref()];
        self.forget_all_but(&both.into_iter().flatten().collect::<Vec<_>>());
        progress(40);
        self.install_by_apt(&wanted.version, &["--no-remove"], &mut |line| {
            if line.starts_with("Unpacking ") {
                progress(60);
            } else if line.starts_with("Setting up ") {
                progress(80);
            }
        })?;
        match self.running() {
            Some(running) if running == wanted.version => Ok(Effect::Now),
            other => Err(format!(
                "apt-get succeeded, and {} is installed",
                other.unwrap_or_else(|| "no version".to_owned())
            )),
        }
    }

    fn mark_good(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn roll_back(&self, _: &str, to: Option<&str>) -> Result<Effect, String> {
        let to = to.ok_or("the version before is not known")?;
        let package = self.kept(to).ok_or_else(|| {
            format!("the package of version {to} is not kept in {}", self.packages.display())
        })?;
        self.install_file(&package)?;
        Ok(Effect::Now)
    }

    fn complete(&self, version: &str) -> Result<(), String> {
        match self.state()? {
            State::Whole => Ok(()),
            State::Unpacked => self.configure(),
            // dpkg configures only what was unpacked whole. The package that is kept needs no
            // network; it may be damaged by the same cut, and apt fetches it again then.
            State::Broken => {
                if let Some(package) = self.kept(version) {
                    match self.install_file(&package) {
                        Ok(()) => return Ok(()),
                        Err(reason) => {
                            log::warn!(version, reason:% = reason; "the kept package does not complete the installation; apt is asked for it");
                            let _ = fs::remove_file(package);
                        }
                    }
                }
                self.install_by_apt(version, &["--no-remove", "--reinstall"], &mut |_| {})
            }
        }
    }

    fn running(&self) -> Option<String> {
        let format = "--showformat=${db:Status-Status} ${Version}";
        let ended = self.call("dpkg-query").with_all(["--show", format, PACKAGE]).run(&mut |_| {}).ok()?;
        crate::update::installed::dpkg_version(&ended.output)
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn a_package_is_configured_only_if_it_was_unpacked_whole() {
        for (output, expected) in [
            ("ok installed", State::Whole),
            ("ok config-files", State::Whole),
            ("", State::Whole),
            ("ok unpacked", State::Unpacked),
            ("ok half-configured\n", State::Unpacked),
            ("ok triggers-pending", State::Unpacked),
            ("reinstreq unpacked", State::Broken),
            ("reinstreq half-installed", State::Broken),
            ("ok half-installed", State::Broken),
            ("reinstreq half-configured", State::Broken),
        ] {
            assert_eq!(State::parse(output), expected, "{output:?}");
        }
    }
}
