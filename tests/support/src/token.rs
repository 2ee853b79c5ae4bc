//! A SoftHSM2 token behind a module that can hang, be pulled, and count its logins.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Folder;

/// The PIN of the user.
pub const PIN: &str = "271828";

/// A folder with the module, its token and the file with its PIN.
pub struct SoftToken {
    folder: PathBuf,
}

impl SoftToken {
    /// Builds the module and initialises a token with this label.
    pub fn new(folder: &Folder, label: &str) -> SoftToken {
        let token = SoftToken { folder: folder.join("token") };
        std::fs::create_dir_all(token.folder.join("tokens")).expect("a folder");
        let tokens = token.folder.join("tokens");
        let configuration =
            format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        std::fs::write(token.file("softhsm2.conf"), configuration).expect("its configuration");
        run(Command::new("gcc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(token.module())
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/token_module.c")));
        run(Command::new("softhsm2-util").env("SOFTHSM2_CONF", token.file("softhsm2.conf")).args([
            "--init-token",
            "--free",
            "--label",
            label,
            "--so-pin",
            "31415926",
            "--pin",
            PIN,
        ]));
        token.write_pin(PIN);
        token
    }

    /// A file beside the module.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The module.
    pub fn module(&self) -> PathBuf {
        self.file("module.so")
    }

    /// The file with the PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.file("pin")
    }

    /// Puts another PIN there.
    pub fn write_pin(&self, pin: &str) {
        std::fs::write(self.pin_file(), format!("{pin}\n")).expect("the PIN's file");
    }

    /// Makes it hang, or `pulled`; see `token_module.c`.
    pub fn set(&self, what: &str, on: bool) {
        match on {
            true => std::fs::write(self.file(what), "").expect("a file"),
            false => std::fs::remove_file(self.file(what)).expect("a file that is there"),
        }
    }

    /// How often C_Login was called.
    pub fn logins(&self) -> usize {
        std::fs::read_to_string(self.file("logins")).map_or(0, |text| text.lines().count())
    }

    /// The objects in it, as pkcs11-tool lists them.
    pub fn objects(&self) -> String {
        let output = Command::new("pkcs11-tool")
            .arg("--module")
            .arg(self.module())
            .args(["--login", "--pin", PIN, "--list-objects"])
            .output()
            .expect("opensc is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The keys in a listing of [`SoftToken::objects`].
pub fn private_keys(objects: &str) -> usize {
    objects.lines().filter(|line| line.starts_with("Private Key Object")).count()
}

/// Whether a file is that of a key in a token.
pub fn refers_to_token(pem: &Path) -> bool {
    std::fs::read_to_string(pem).is_ok_and(|text| text.contains("BEGIN TOMBOLO TOKEN KEY"))
}
