//! Asks the system what is installed, and apt what it would install.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::program::{NoOutput, output};
use crate::clock::UnixTime;
use crate::update::check::Fault;
use crate::update::installed::{AptPolicy, dpkg_version, image_version, rauc_status};

/// Our Debian package.
pub const PACKAGE: &str = "tombolo";
/// How long a program may take; apt builds its cache anew where it may not write it.
const WITHIN: Duration = Duration::from_secs(60);
/// os-release(5): the second where the first is not there.
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];
/// Longest os-release that is read, in bytes.
const OS_RELEASE_MAX: u64 = 64 * 1024;
/// What apt leaves when it has read its lists; the folder of the lists, where it leaves nothing.
const APT_READ: [&str; 2] = ["/var/lib/apt/periodic/update-success-stamp", "/var/lib/apt/lists/partial"];

/// What the system says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// The version that runs: of the RAUC slot, of the package, of the image.
    pub version: Option<String>,
    /// The product, if RAUC says it.
    pub compatible: Option<String>,
}

/// Asks RAUC, then dpkg, then os-release. What cannot be asked says nothing.
pub async fn installed() -> System {
    // Without `--detailed` it says nothing of versions.
    let rauc = output("rauc", &["status", "--detailed", "--output-format=json"], WITHIN).await;
    let (version, compatible) = rauc.map_or((None, None), |text| rauc_status(&text));
    if version.is_some() {
        return System { version, compatible };
    }
    let format = "--showformat=${db:Status-Status} ${Version}";
    let dpkg = output("dpkg-query", &["--show", format, PACKAGE], WITHIN).await;
    let version = dpkg.ok().and_then(|text| dpkg_version(&text)).or_else(os_release);
    System { version, compatible }
}

fn os_release() -> Option<String> {
    use std::io::Read as _;
    let file = OS_RELEASE.into_iter().find_map(|path| std::fs::File::open(path).ok())?;
    let mut text = String::new();
    file.take(OS_RELEASE_MAX).read_to_string(&mut text).ok()?;
    image_version(&text)
}

/// What apt would do, and when it read its lists.
///
/// # Errors
/// [`Fault::Local`]: apt cannot be asked.
pub async fn apt() -> Result<(Option<AptPolicy>, Option<UnixTime>), Fault> {
    let text = output("apt-cache", &["policy", PACKAGE], WITHIN).await.map_err(|error| match error {
        NoOutput::NotInstalled => Fault::Local(
            "source = \"apt\", and there is no apt-cache here; set [update] source to \"none\" or \"tuf\""
                .to_owned(),
        ),
        NoOutput::Failed(why) => Fault::Local(why),
    })?;
    Ok((AptPolicy::parse(&text), APT_READ.into_iter().find_map(|path| changed_at(Path::new(path)))))
}

fn changed_at(path: &Path) -> Option<UnixTime> {
    let since = std::fs::metadata(path).ok()?.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(UnixTime(u64::try_from(since.as_millis()).ok()?))
}
