//! `tombolo init`: writes the site's drop-in, `conf.d/10-site.toml`, beside the main file.
//!
//! Where there is no main file, and it is not the packaged one's place, a whole configuration is
//! written: [`folder`]. Files that the service cannot read are brought to it: [`io::copy`].
//!
//! The packaged file is never touched. What is written has been judged together with all that is
//! there before it is put in place: here is the text, `io` puts it there. Where the folder of the
//! configuration is read-only, it goes below the state directory: [`place`].

pub mod folder;
pub mod io;
pub mod place;

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::config::layer::Origin;

/// The drop-in's name.
pub const FILE_NAME: &str = "10-site.toml";

/// The options of `tombolo init`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The broker's URL.
    pub url: Option<String>,
    /// Allow `mqtt://`.
    pub insecure: bool,
    /// The CA's certificates.
    pub ca_file: Option<PathBuf>,
    /// The gateway's client certificate.
    pub certificate_file: Option<PathBuf>,
    /// Its key; a path or `credential:NAME`.
    pub key_file: Option<PathBuf>,
    /// MQTT user name.
    pub username: Option<String>,
    /// Its password; a path or `credential:NAME`.
    pub password_file: Option<PathBuf>,
    /// The gateway's id.
    pub id: Option<String>,
}

/// The text of the drop-in. What is below the state directory is overridden by everything beside
/// the main file.
pub fn render(site: &Site, origin: Origin) -> String {
    let mut text = String::from(match origin {
        Origin::State => {
            "# This site, written by `tombolo init`. tombolo.toml and the conf.d beside it win over what it says.\n"
        }
        _ => "# This site, written by `tombolo init`. What it says wins over tombolo.toml.\n",
    });
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key} = {}", toml::Value::String(value.to_owned()));
    };
    if let Some(id) = &site.id {
        line("\n[gateway]\nid", id);
    }
    let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
    let keys = [
        ("url", site.url.clone()),
        ("ca-file", file(&site.ca_file)),
        ("certificate-file", file(&site.certificate_file)),
        ("key-file", file(&site.key_file)),
        ("username", site.username.clone()),
        ("password-file", file(&site.password_file)),
    ];
    let mut header = "\n[upstream]\n";
    for (key, value) in keys {
        if let Some(value) = value {
            line(&format!("{header}{key}"), &value);
            header = "";
        }
    }
    if site.insecure {
        let _ = writeln!(text, "{header}insecure = true");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_said_is_written_and_quoted_as_toml_wants_it() {
        let site = Site {
            url: Some("mqtts://b".into()),
            username: Some("a\"b\\c\nd".into()),
            id: Some("gh-7".into()),
            ..Site::default()
        };
        let text = render(&site, Origin::DropIn);
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["gateway"]["id"].as_str(), Some("gh-7"));
        assert_eq!(table["upstream"]["username"].as_str(), Some("a\"b\\c\nd"));
        assert_eq!(table["upstream"].as_table().unwrap().len(), 2);
        let plain = Site { url: Some("mqtt://b".into()), insecure: true, ..Site::default() };
        assert_eq!(
            render(&plain, Origin::DropIn),
            "# This site, written by `tombolo init`. What it says wins over tombolo.toml.\n\n[upstream]\nurl = \"mqtt://b\"\ninsecure = true\n"
        );
    }
}
