//! Whether the kernel's clock is synchronised, for a service that may not ask the kernel.
//!
//! The system calls that ask are those that set the clock, so the daemon's unit closes them
//! (`ProtectClock=`). `tombolo-clock.service`, which has nothing but them, asks instead, and keeps
//! a file while the answer is yes ([`watch`]). Without that service there may be the mark of
//! systemd-timesyncd, which stays when synchronisation is lost.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::libc;

/// The file that `tombolo-clock.service` keeps.
const MARK: &str = "/run/tombolo-clock/synchronized";
/// That of systemd-timesyncd.
const TIMESYNCD: &str = "/run/systemd/timesync/synchronized";
/// How often the kernel is asked for the mark: it says so minutes after a server was reached, and
/// takes it back hours after the last answer.
const EVERY: Duration = Duration::from_secs(5);

/// Whether the clock is synchronised, as far as this process can find out.
pub(super) fn is_synchronised() -> bool {
    kernel().unwrap_or_else(|_| marked(Path::new(MARK), Path::new(TIMESYNCD)))
}

/// Asks the kernel again and again, and keeps the mark.
///
/// # Errors
/// One sentence: it cannot be asked, or the mark cannot be kept.
pub fn watch() -> Result<std::convert::Infallible, String> {
    let mark = Path::new(MARK);
    loop {
        let is_synchronised = kernel()
            .map_err(|error| format!("the kernel does not say whether the clock is synchronised: {error}"))?;
        keep(mark, is_synchronised)
            .map_err(|error| format!("{MARK}: {error}; tombolo-clock.service runs this command"))?;
        // Not started by systemd: there is nobody to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        std::thread::sleep(EVERY);
    }
}

fn kernel() -> io::Result<bool> {
    let mut timex = rtime_clock::adjtime::Timex::new();
    rtime_clock::adjtime::adjtimex(&mut timex).map_err(|_| io::Error::last_os_error())?;
    Ok(timex.0.status & libc::STA_UNSYNC == 0)
}

/// The mark of our own service counts alone where that service runs.
fn marked(own: &Path, timesyncd: &Path) -> bool {
    let is_watched = own.parent().is_some_and(Path::exists);
    if is_watched { own.exists() } else { timesyncd.exists() }
}

fn keep(mark: &Path, is_synchronised: bool) -> io::Result<()> {
    match (is_synchronised, mark.exists()) {
        (true, false) => fs::File::create(mark).map(drop),
        (false, true) => fs::remove_file(mark),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_there_while_the_clock_is_synchronised_and_that_of_timesyncd_counts_where_nobody_watches() {
        let folder = std::env::temp_dir().join(format!("tombolo-clock-mark-{}", std::process::id()));
        let (own, other) = (folder.join("own/synchronized"), folder.join("synchronized"));
        fs::create_dir_all(&folder).unwrap();
        assert!(!marked(&own, &other));
        keep(&other, true).unwrap();
        assert!(marked(&own, &other), "timesyncd's, and nobody else says anything");
        assert!(keep(&own, true).is_err(), "there is no folder");
        fs::create_dir(folder.join("own")).unwrap();
        assert!(!marked(&own, &other), "the service runs and says no");
        for is_synchronised in [true, true, false, false, true] {
            keep(&own, is_synchronised).unwrap();
            assert_eq!(marked(&own, &other), is_synchronised);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
