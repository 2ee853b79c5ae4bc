//! A text of lines with its checksum as the last one, `crc` and eight hexadecimal digits, for an
//! [`atomic_file`](super::atomic_file).

/// Adds the checksum. `text` ends with a line break.
pub fn seal(mut text: String) -> String {
    text.push_str(&format!("crc {:08x}\n", crc32c::crc32c(text.as_bytes())));
    text
}

/// The text without its checksum.
///
/// # Errors
/// Why it is not what was written, in half a sentence.
pub fn open(bytes: &[u8]) -> Result<&str, String> {
    let damaged = || "its checksum is wrong".to_owned();
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let at = text.strip_suffix('\n').and_then(|text| text.rfind('\n')).ok_or_else(damaged)? + 1;
    let (body, sum) = text.split_at(at);
    if sum == format!("crc {:08x}\n", crc32c::crc32c(body.as_bytes())) { Ok(body) } else { Err(damaged()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_opened_and_no_byte_of_it_may_be_another() {
        let body = "crc of nothing\ncrc 00000000\n";
        let text = seal(body.to_owned());
        assert_eq!(open(text.as_bytes()), Ok(body));
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] ^= 1;
            assert!(open(&other).is_err(), "{at}");
            assert!(open(&text.as_bytes()[..at]).is_err(), "{at}");
        }
        assert!(open(&[text.as_bytes(), b"\n"].concat()).is_err());
    }
}
