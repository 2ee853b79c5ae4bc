//! Where `tombolo init` puts what it writes: beside the main file, or below the state directory
//! where the folder of the configuration is on a file system that is read-only.
//!
//! | `conf.d` beside the main file | the drop-in | copies of files |
//! |---|---|---|
//! | can be written, or this user may not | there | beside the main file, keys in `secrets/` |
//! | on a read-only file system | `{state-dir}/conf.d`, below everything beside the main file | `{state-dir}/secrets` |
//! | so is the state directory | there: writing it fails, and says why | |

use std::path::{Path, PathBuf};

use crate::config::Paths;
use crate::config::layer::Origin;

/// The folder of secrets below the state directory.
pub const SECRETS: &str = "secrets";
/// The folder of drop-ins below the state directory.
pub const CONF_D: &str = Paths::CONF_D;

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The folder of the drop-in.
    pub conf_d: PathBuf,
    /// What the drop-in is then: with [`Origin::State`] it is below the state directory.
    pub origin: Origin,
    /// The folder beside the main file that cannot be written, if that is why.
    pub read_only: Option<PathBuf>,
}

/// Chooses. `is_read_only`: whether this path, or its next folder that exists, is on a file system
/// that is read-only; a missing permission is not that.
///
/// `is_new`: there is no main file yet, and one is to be made. Its folders are made beside it.
pub fn choose(config: &Path, state_dir: &Path, is_new: bool, is_read_only: &dyn Fn(&Path) -> bool) -> Target {
    let conf_d = Paths::conf_d(config);
    if is_new || !is_read_only(&conf_d) || is_read_only(state_dir) {
        return Target { conf_d, origin: Origin::DropIn, read_only: None };
    }
    Target { conf_d: state_dir.join(CONF_D), origin: Origin::State, read_only: Some(conf_d) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_read_only_file_system_sends_it_below_the_state_directory() {
        let (config, state) = (Path::new("/etc/tombolo/tombolo.toml"), Path::new("/data/tombolo"));
        let chosen = |read_only: &[&str], is_new| {
            let target =
                choose(config, state, is_new, &|path| read_only.iter().any(|top| path.starts_with(top)));
            (target.conf_d.display().to_string(), target.origin, target.read_only)
        };
        let beside = ("/etc/tombolo/conf.d".to_owned(), Origin::DropIn, None);
        let below =
            ("/data/tombolo/conf.d".to_owned(), Origin::State, Some(PathBuf::from("/etc/tombolo/conf.d")));
        assert_eq!(chosen(&[], false), beside);
        assert_eq!(chosen(&["/etc"], false), below);
        assert_eq!(chosen(&["/etc", "/data"], false), beside);
        assert_eq!(chosen(&["/data"], false), beside);
        assert_eq!(chosen(&["/etc"], true), beside);
    }
}
