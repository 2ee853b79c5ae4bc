//! What a command is given. A text: whole, or not at all. Half a table of devices or rules would be
//! another one.

use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use super::error::CommandError;
use crate::downlink::command::PAYLOAD_MAX;

/// The text of a file of at most `max` bytes; it may be a pipe.
///
/// # Errors
/// [`CommandError::Failed`]: it cannot be read, is longer, or is not UTF-8.
pub(super) fn text_of(file: &Path, max: u64) -> Result<Zeroizing<String>, CommandError> {
    let opened = std::fs::File::open(file).map_err(|error| failed(file, error))?;
    read(file, opened, max)
}

/// The same; `-` is standard input.
///
/// # Errors
/// As of [`text_of`].
pub(super) fn text_of_or_stdin(file: &Path, max: u64) -> Result<Zeroizing<String>, CommandError> {
    match file.as_os_str() == "-" {
        true => read(file, std::io::stdin().lock(), max),
        false => text_of(file, max),
    }
}

/// A payload as an argument has it: the text, or with `-` what comes on standard input, up to one
/// byte more than a payload may have.
///
/// # Errors
/// [`CommandError::Failed`]: standard input cannot be read.
pub(super) fn bytes_of_argument(text: &str) -> Result<Vec<u8>, CommandError> {
    if text != "-" {
        return Ok(text.as_bytes().to_vec());
    }
    let mut input = Vec::new();
    let most = PAYLOAD_MAX as u64 + 1;
    std::io::stdin().take(most).read_to_end(&mut input).map_err(CommandError::failed)?;
    Ok(input)
}

fn read(file: &Path, from: impl Read, max: u64) -> Result<Zeroizing<String>, CommandError> {
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(max + 1).read_to_end(&mut bytes).map_err(|error| failed(file, error))?;
    if bytes.len() as u64 > max {
        return Err(failed(file, format!("it has more than {max} bytes; make several files of it")));
    }
    if matches!(bytes[..], [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..]) {
        return Err(failed(file, "it is UTF-16; save it as UTF-8"));
    }
    if let Err(error) = std::str::from_utf8(&bytes) {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let why =
            format!("line {line} is not UTF-8; save the file as UTF-8, not as ANSI or another code page");
        return Err(failed(file, why));
    }
    // It was looked at above.
    let text =
        String::from_utf8(std::mem::take(&mut *bytes)).map_err(|error| failed(file, error.utf8_error()))?;
    Ok(Zeroizing::new(text))
}

fn failed(file: &Path, why: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(format!("{} cannot be read: {why}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_not_utf8_is_refused_with_its_line_and_the_way_out() {
        for (bytes, expected) in [
            (&b"id,label\na,T\xfcr\n"[..], "line 2 is not UTF-8; save the file as UTF-8"),
            (&b"\xff\xfei\0d\0"[..], "it is UTF-16; save it as UTF-8"),
            (&b"i\0d\0"[..], "it is UTF-16; save it as UTF-8"),
        ] {
            let Err(CommandError::Failed(why)) = read(Path::new("devices.csv"), bytes, 100) else {
                panic!("it was taken")
            };
            assert!(why.starts_with("devices.csv cannot be read: ") && why.contains(expected), "{why}");
        }
    }

    #[test]
    fn a_text_is_read_whole_or_refused() {
        let file = Path::new("devices.csv");
        let whole = read(file, &b"id,role"[..], 7).map(|text| text.to_string());
        assert_eq!(whole.expect("it fits"), "id,role");
        let cut = read(file, &b"id,role\n"[..], 7).map(|text| text.to_string());
        let Err(CommandError::Failed(why)) = cut else { panic!("half of it was taken") };
        assert_eq!(why, "devices.csv cannot be read: it has more than 7 bytes; make several files of it");
    }
}
