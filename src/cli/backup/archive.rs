//! The file that `tombolo backup` writes: a ustar archive (POSIX.1-1988) that `tar tf` lists, read
//! strictly.
//!
//! | member | content |
//! |---|---|
//! | `tombolo-backup.json` | the first: format, version, gateway id, time |
//! | `config/PATH` | a file below the folder of the configuration; the main file is `config/tombolo.toml` |
//! | `state/PATH` | a file below the state directory, of the kinds in [`is_kept_state`] |
//! | `SHA256` | the last: the SHA-256 of all bytes before its header, 64 hexadecimal digits and a line feed |
//!
//! Two empty blocks end it; nothing may follow. Regular files only, each name once, names by
//! [`is_plain_path`]. The checksum detects damage; it is no signature.
//!
//! Own code rather than the crate `tar`: most of that reads what is refused here (links, devices,
//! long names, sparse files), and it would have to be told to refuse each.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::hex::format_hex;
use crate::message::Name;

/// Most bytes of a backup.
pub const ARCHIVE_MAX: usize = 64 << 20;
/// Most bytes of one file in it.
pub const FILE_MAX: u64 = 16 << 20;
/// Most files in it: 10,000 devices and what belongs to them.
pub const FILES_MAX: usize = 50_000;
/// The first member.
pub const MANIFEST: &str = "tombolo-backup.json";
/// The last member.
const SUM: &str = "SHA256";
/// The version of the format. A higher minor only adds keys to the manifest.
const MAJOR: u32 = 1;

const BLOCK: usize = 512;
const NAME_MAX: usize = 100;
const PREFIX_MAX: usize = 155;
/// Longest name of a user or group.
const OWNER_MAX: usize = 31;

/// The first member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `tombolo-backup`.
    pub format: String,
    /// The version of the format: this one reads 1.
    pub major: u32,
    /// Its minor version.
    pub minor: u32,
    /// The gateway's id; absent where it never had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The version of the program.
    pub version: String,
    /// When it was made, by the clock of that machine.
    pub made: String,
}

impl Manifest {
    /// That of a backup of this program.
    pub fn new(gateway: Option<String>, made: String) -> Manifest {
        Manifest {
            format: "tombolo-backup".to_owned(),
            major: MAJOR,
            minor: 0,
            gateway,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            made,
        }
    }
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `config/…` or `state/…`.
    pub name: String,
    /// Its permissions, without the bits for set-id and sticky.
    pub mode: u32,
    /// The name of its group; empty if that has none.
    pub group: String,
    /// What is in it.
    pub content: Zeroizing<Vec<u8>>,
}

/// Whether a path has the form that a backup keeps: relative, at most 8 levels, none of them empty,
/// `.`, `..` or hidden; no backslash and no control character.
pub fn is_plain_path(path: &str) -> bool {
    let level = |level: &str| {
        !level.is_empty() && !level.starts_with('.') && !level.contains(|c: char| c.is_control() || c == '\\')
    };
    path.split('/').count() <= 8 && path.split('/').all(level)
}

/// Whether a file of the state directory is kept: devices, settings, secrets, certificates, the
/// gateway's id. Not the journal, the sessions, commands, times, and what the updates know.
pub fn is_kept_state(path: &str) -> bool {
    let levels: Vec<&str> = path.split('/').collect();
    match levels[..] {
        ["gateway-id" | "gateway-id.copy"] => true,
        ["devices" | "conf.d", file] => file.ends_with(".toml"),
        ["secrets", _] => true,
        ["certificates", name, _] => Name::parse(name).is_ok(),
        _ => false,
    }
}

fn is_kept(name: &str) -> bool {
    is_plain_path(name)
        && match name.split_once('/') {
            Some(("config", _)) => true,
            Some(("state", path)) => is_kept_state(path),
            _ => false,
        }
}

/// The archive of these files.
///
/// # Errors
/// Which file does not fit into it.
pub fn encode(manifest: &Manifest, members: &[Member], modified: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let text = serde_json::to_vec(manifest).map_err(|error| error.to_string())?;
    let whole =
        |length: usize| BLOCK.saturating_add(length.checked_next_multiple_of(BLOCK).unwrap_or(usize::MAX));
    let size = members.iter().fold(whole(text.len()) + whole(65) + 2 * BLOCK, |size, member| {
        size.saturating_add(whole(member.content.len()))
    });
    if size > ARCHIVE_MAX || members.len() > FILES_MAX {
        return Err(format!(
            "{} files with {size} bytes in all; a backup takes at most {FILES_MAX} files and {ARCHIVE_MAX} bytes",
            members.len()
        ));
    }
    // In one piece: a secret leaves no copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size));
    push(&mut bytes, MANIFEST, 0o600, "", &text, modified)?;
    for member in members {
        if !is_kept(&member.name) {
            return Err(format!("{}: its name has a form that a backup does not keep", member.name));
        }
        push(&mut bytes, &member.name, member.mode, &member.group, &member.content, modified)?;
    }
    let sum = format!("{}\n", format_hex(digest(&SHA256, &bytes).as_ref()));
    push(&mut bytes, SUM, 0o600, "", sum.as_bytes(), modified)?;
    let length = bytes.len() + 2 * BLOCK;
    bytes.resize(length, 0);
    Ok(bytes)
}

fn push(
    bytes: &mut Vec<u8>,
    name: &str,
    mode: u32,
    group: &str,
    content: &[u8],
    modified: u64,
) -> Result<(), String> {
    let (prefix, short) = split(name).ok_or_else(|| format!("{name}: the name is too long for a backup"))?;
    let mut header = [0; BLOCK];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, short.as_bytes());
    put(100, format!("{:07o}\0", mode & 0o777).as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    // 11 octal digits last until the year 2242.
    put(136, format!("{:011o}\0", modified.min(0o77_777_777_777)).as_bytes());
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    if group.len() <= OWNER_MAX {
        put(297, group.as_bytes());
    }
    put(345, prefix.as_bytes());
    let sum = checksum(&header);
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    Ok(())
}

/// Prefix and name as the header has them: parted at a slash.
fn split(name: &str) -> Option<(&str, &str)> {
    if name.len() <= NAME_MAX {
        return Some(("", name));
    }
    let parted = name.match_indices('/').map(|(at, _)| (&name[..at], &name[at + 1..]));
    parted.into_iter().find(|(prefix, short)| prefix.len() <= PREFIX_MAX && short.len() <= NAME_MAX)
}

fn checksum(header: &[u8]) -> u32 {
    let byte = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) };
    header.iter().enumerate().map(byte).sum()
}

/// Reads an archive: all of it, or nothing.
///
/// # Errors
/// What is wrong with it, and with which member.
pub fn decode(bytes: &[u8]) -> Result<(Manifest, Vec<Member>), String> {
    if bytes.len() > ARCHIVE_MAX {
        return Err(format!("it has {} bytes; a backup has at most {ARCHIVE_MAX}", bytes.len()));
    }
    let mut reader = Reader { bytes, at: 0 };
    let manifest = match reader.next()? {
        (name, member) if name == MANIFEST => read_manifest(&member.content)?,
        (name, _) => return Err(format!("it is no backup of Tombolo: it begins with {name:?}")),
    };
    let (mut members, mut names) = (Vec::new(), BTreeSet::new());
    loop {
        let before = reader.at;
        let (name, member) = reader.next()?;
        if name == SUM {
            let sum = format!("{}\n", format_hex(digest(&SHA256, &bytes[..before]).as_ref()));
            if member.content.as_slice() != sum.as_bytes() {
                return Err("it is damaged: its checksum is wrong".to_owned());
            }
            break;
        }
        if !is_kept(&name) {
            return Err(format!("it has {name:?}, which no backup has"));
        }
        if !names.insert(name.clone()) {
            return Err(format!("it has {name:?} twice"));
        }
        if members.len() >= FILES_MAX {
            return Err(format!("it has more than {FILES_MAX} files"));
        }
        members.push(Member { name, ..member });
    }
    match bytes.get(reader.at..).unwrap_or_default() {
        rest if rest.len() < 2 * BLOCK => Err("it is truncated: its end is missing".to_owned()),
        rest if rest.iter().any(|byte| *byte != 0) => Err("something follows its end".to_owned()),
        _ => Ok((manifest, members)),
    }
}

fn read_manifest(content: &[u8]) -> Result<Manifest, String> {
    /// What all versions have.
    #[derive(Deserialize)]
    struct Head {
        format: String,
        major: u32,
        #[serde(default)]
        version: String,
    }
    let damaged = || format!("{MANIFEST} in it cannot be read");
    let head: Head = serde_json::from_slice(content).map_err(|_| damaged())?;
    if head.format != "tombolo-backup" {
        return Err(format!("it is no backup of Tombolo: its format is {:?}", head.format));
    }
    if head.major != MAJOR {
        return Err(format!(
            "it has version {} of the format, made by tombolo {:?}; this program reads version {MAJOR}: use that version",
            head.major, head.version
        ));
    }
    let manifest: Manifest = serde_json::from_slice(content).map_err(|_| damaged())?;
    match &manifest.gateway {
        Some(id) if Name::parse(id).is_err() => Err(format!("the gateway's id in it is none: {id:?}")),
        _ => Ok(manifest),
    }
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next member, its name beside it.
    fn next(&mut self) -> Result<(String, Member), String> {
        let truncated = || "it is truncated: the members end without a checksum".to_owned();
        let header = self.bytes.get(self.at..self.at + BLOCK).ok_or_else(truncated)?;
        if header.iter().all(|byte| *byte == 0) {
            return Err(truncated());
        }
        let stored = octal(&header[148..156]);
        if &header[257..262] != b"ustar" || stored != Some(u64::from(checksum(header))) {
            return Err(match self.at {
                0 => "it is no backup of Tombolo, or damaged at its beginning".to_owned(),
                at => format!("it is damaged at byte {at}"),
            });
        }
        let text = |range: std::ops::Range<usize>| {
            let field = &header[range];
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
            std::str::from_utf8(&field[..end]).map(str::to_owned)
        };
        let no_text = |_| format!("the name at byte {} is not UTF-8 text", self.at);
        let (short, prefix) = (text(0..100).map_err(no_text)?, text(345..500).map_err(no_text)?);
        let name = if prefix.is_empty() { short } else { format!("{prefix}/{short}") };
        match header[156] {
            b'0' | 0 => {}
            b'1' | b'2' => return Err(format!("{name:?} in it is a link; a backup has regular files only")),
            other => {
                return Err(format!(
                    "{name:?} in it is of type {:?}; a backup has regular files only",
                    char::from(other)
                ));
            }
        }
        let number = |range: std::ops::Range<usize>| {
            octal(&header[range]).ok_or_else(|| format!("the header of {name:?} in it is damaged"))
        };
        let size = number(124..136)?;
        if size > FILE_MAX {
            return Err(format!(
                "{name:?} in it has {size} bytes; a file of a backup has at most {FILE_MAX}"
            ));
        }
        let mode = u32::try_from(number(100..108)? & 0o777).unwrap_or(0o600);
        let size = usize::try_from(size).map_err(|_| truncated())?;
        let start = self.at + BLOCK;
        let content = self
            .bytes
            .get(start..start + size)
            .ok_or_else(|| format!("it is truncated: {name:?} ends before its {size} bytes"))?;
        let group = text(297..329).unwrap_or_default();
        self.at = start + size.next_multiple_of(BLOCK);
        let content = Zeroizing::new(content.to_vec());
        Ok((name, Member { name: String::new(), mode, group, content }))
    }
}

/// A number of a header: octal digits, then blanks or zero bytes.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_end_matches(['\0', ' ']);
    let digits = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    if digits { u64::from_str_radix(text, 8).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, content: &[u8]) -> Member {
        let content = Zeroizing::new(content.to_vec());
        Member { name: name.to_owned(), mode: 0o640, group: "tombolo".to_owned(), content }
    }

    fn manifest() -> Manifest {
        Manifest::new(Some("tb-aaaaaaaa".to_owned()), "2026-11-26T00:00:00Z".to_owned())
    }

    fn some() -> Vec<Member> {
        let long = format!("state/devices/{}.toml", "d".repeat(90));
        vec![
            member("config/tombolo.toml", b"[gateway]\n"),
            member("state/gateway-id", b"tb-aaaaaaaa\n"),
            member("config/empty", b""),
            member(&long, &[7; 1500]),
        ]
    }

    fn encoded() -> Vec<u8> {
        encode(&manifest(), &some(), 1).unwrap().to_vec()
    }

    /// With a changed first header behind the manifest, and right checksums all the same.
    fn changed(change: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut bytes = encoded();
        let at = 2 * BLOCK;
        change(&mut bytes[at..at + BLOCK]);
        let sum = checksum(&bytes[at..at + BLOCK]);
        bytes[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        resummed(bytes)
    }

    /// With the checksum of what is in it.
    fn resummed(mut bytes: Vec<u8>) -> Vec<u8> {
        let header = bytes.len() - 4 * BLOCK;
        let sum = format_hex(digest(&SHA256, &bytes[..header]).as_ref());
        bytes[header + BLOCK..header + BLOCK + 64].copy_from_slice(sum.as_bytes());
        bytes
    }

    fn named(header: &mut [u8], name: &str) {
        header[..NAME_MAX].fill(0);
        header[..name.len()].copy_from_slice(name.as_bytes());
    }

    #[test]
    fn what_was_put_in_comes_out() {
        assert_eq!(decode(&encoded()), Ok((manifest(), some())));
        assert_eq!(decode(&changed(|_| {})), Ok((manifest(), some())));
    }

    #[test]
    fn an_archive_cut_anywhere_is_refused() {
        let bytes = encoded();
        for length in (0..bytes.len()).step_by(97).chain([bytes.len() - 1, bytes.len() - BLOCK]) {
            assert!(decode(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_changed_bit_anywhere_before_the_end_is_noticed() {
        let bytes = encoded();
        for at in (0..bytes.len()).step_by(61) {
            let mut one = bytes.clone();
            one[at] ^= 4;
            // The rest of the last block and of a header's unused fields carry nothing.
            assert!(decode(&one).is_err() || at >= bytes.len() - 4 * BLOCK, "{at}");
        }
    }

    #[test]
    fn hostile_members_are_refused_by_name() {
        for (name, words) in [
            ("../etc/passwd", "which no backup has"),
            ("/etc/passwd", "which no backup has"),
            ("config/../../x", "which no backup has"),
            ("config/./x", "which no backup has"),
            ("config//x", "which no backup has"),
            ("config/.hidden", "which no backup has"),
            ("config", "which no backup has"),
            ("state/journal/0.seg", "which no backup has"),
            ("state/sessions/key", "which no backup has"),
            ("state/update/floor", "which no backup has"),
            ("state/clock", "which no backup has"),
            ("state/certificates/../x", "which no backup has"),
            ("state/devices/x.sh", "which no backup has"),
            ("state/gateway-id", "twice"),
            ("else/x", "which no backup has"),
        ] {
            let fault = decode(&changed(|header| named(header, name))).unwrap_err();
            assert!(fault.contains(&format!("{name:?}")) && fault.contains(words), "{name}: {fault}");
        }
        for (kind, words) in [
            (b'1', "is a link"),
            (b'2', "is a link"),
            (b'3', "type '3'"),
            (b'5', "type '5'"),
            (b'L', "type 'L'"),
        ] {
            let fault = decode(&changed(|header| header[156] = kind)).unwrap_err();
            assert!(fault.contains("config/tombolo.toml") && fault.contains(words), "{fault}");
        }
        let huge = changed(|header| header[124..136].copy_from_slice(b"77777777777\0"));
        assert!(decode(&huge).unwrap_err().contains("at most"), "{:?}", decode(&huge));
        let binary = changed(|header| header[124..136].fill(0xff));
        assert!(decode(&binary).is_err());
        let set_id = changed(|header| header[100..108].copy_from_slice(b"0004755\0"));
        assert_eq!(decode(&set_id).unwrap().1[0].mode, 0o755);
    }

    #[test]
    fn another_format_is_refused_with_the_way_out() {
        let with = |manifest: Manifest| encode(&manifest, &[], 0).unwrap();
        let newer = decode(&with(Manifest { major: 2, version: "9.1.0".to_owned(), ..manifest() }));
        assert!(newer.unwrap_err().contains("\"9.1.0\""));
        let minor = decode(&with(Manifest { minor: 7, ..manifest() }));
        assert_eq!(minor.unwrap().0.minor, 7);
        let other = decode(&with(Manifest { format: "x".to_owned(), ..manifest() }));
        assert!(other.unwrap_err().contains("no backup of Tombolo"));
        let id = decode(&with(Manifest { gateway: Some("../x".to_owned()), ..manifest() }));
        assert!(id.unwrap_err().contains("../x"));
        assert!(decode(b"").is_err());
        assert!(decode(&[0; 4096]).is_err());
        assert!(decode(&[b'x'; 4096]).unwrap_err().contains("no backup of Tombolo"));
        let trailing = [encoded(), vec![1]].concat();
        assert!(decode(&trailing).unwrap_err().contains("follows"));
    }

    #[test]
    fn what_does_not_fit_is_named_when_it_is_written() {
        let long = member(&format!("config/{}", "n".repeat(120)), b"");
        assert!(encode(&manifest(), &[long], 0).unwrap_err().contains("too long"));
        let hidden = member("config/.x", b"");
        assert!(encode(&manifest(), &[hidden], 0).unwrap_err().contains("config/.x"));
        let large: Vec<Member> = (0..5).map(|n| member(&format!("config/{n}"), &vec![0; 16 << 20])).collect();
        assert!(encode(&manifest(), &large, 0).unwrap_err().contains("at most"));
    }
}
