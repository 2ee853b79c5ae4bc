//! What a clean stop leaves for the next start of the same boot (docs/session-store.md §5).

use super::{Number, frame::CONTENT_MAX};

const MAGIC: [u8; 4] = *b"TBSH";
const MAJOR: u8 = 1;
const MINOR: u8 = 0;
const FRONT: usize = 28;

/// The file, of sessions longest idle first. One longer than [`CONTENT_MAX`] is left out.
pub fn encode(boot: &[u8; 16], sessions: &[(Number, Vec<u8>)]) -> Vec<u8> {
    let fitting = || sessions.iter().filter(|(_, sealed)| sealed.len() <= CONTENT_MAX);
    let mut out = Vec::with_capacity(FRONT + sessions.len() * 300);
    out.extend(MAGIC);
    out.extend([MAJOR, MINOR, 0, 0]);
    out.extend(boot);
    out.extend((fitting().count() as u32).to_le_bytes());
    for (number, sealed) in fitting() {
        out.extend(number.to_le_bytes());
        out.extend((sealed.len() as u16).to_le_bytes());
        out.extend(sealed);
    }
    let crc = crc32c::crc32c(&out);
    out.extend(crc.to_le_bytes());
    out
}

/// What is in it; `None`: of another boot or version, or damaged.
pub fn parse<'a>(boot: &[u8; 16], bytes: &'a [u8]) -> Option<Vec<(Number, &'a [u8])>> {
    let (content, crc) = bytes.split_last_chunk::<4>()?;
    if *crc != crc32c::crc32c(content).to_le_bytes() {
        return None;
    }
    let (front, mut rest) = content.split_first_chunk::<FRONT>()?;
    if front[..4] != MAGIC || front[4] != MAJOR || front[8..24] != boot[..] {
        return None;
    }
    let count = u32::from_le_bytes(*front.last_chunk()?);
    let mut sessions = Vec::new();
    for _ in 0..count {
        let (head, behind) = rest.split_first_chunk::<10>()?;
        let length = usize::from(u16::from_le_bytes(*head.last_chunk()?));
        let (sealed, behind) = behind.split_at_checked(length)?;
        sessions.push((u64::from_le_bytes(*head.first_chunk()?), sealed));
        rest = behind;
    }
    rest.is_empty().then_some(sessions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_in_its_boot_only_and_whole_only() {
        let sessions = [(3, vec![7; 200]), (1, vec![8; 10]), (9, vec![0; CONTENT_MAX + 1])];
        let bytes = encode(&[5; 16], &sessions);
        let read = parse(&[5; 16], &bytes).unwrap();
        assert_eq!(read, [(3, &[7; 200][..]), (1, &[8; 10])]);
        assert_eq!(parse(&[6; 16], &bytes), None);
        for at in 0..bytes.len() {
            assert_eq!(parse(&[5; 16], &bytes[..at]), None);
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(parse(&[5; 16], &damaged), None);
        }
    }
}
