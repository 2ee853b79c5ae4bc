//! An uncompressed tar archive in memory: the ustar format (POSIX.1-1988), regular files only.
//!
//! Written by hand because it is one header of 512 bytes; `tar tf` in the tests reads it.

/// Bytes of a block; headers and contents are whole blocks.
const BLOCK: usize = 512;
/// Most bytes of a file beside its content: its header, and what fills its last block.
pub const OVERHEAD_MAX: usize = 2 * BLOCK - 1;
/// Bytes behind the last file.
pub const END: usize = 2 * BLOCK;
/// Most bytes of a name.
const NAME_MAX: usize = 100;

/// The archive as it grows.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// Adds a file with mode 0600. A name of more than 100 bytes is cut.
    ///
    /// `modified`: seconds since 1970.
    pub fn add(&mut self, name: &str, content: &[u8], modified: u64) {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
        let name = &name.as_bytes()[..name.len().min(NAME_MAX)];
        put(0, name);
        put(100, b"0000600\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        // 11 octal digits last until the year 2242.
        put(136, format!("{:011o}\0", modified.min(0o77_777_777_777)).as_bytes());
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\0");
        put(263, b"00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// The whole archive: two empty blocks end it.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + END, 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_its_checksum_and_contents_are_whole_blocks() {
        let mut archive = Archive::default();
        archive.add("a/b.txt", b"hello", 0);
        archive.add("empty", b"", 1);
        let bytes = archive.finish();
        assert_eq!(bytes.len(), BLOCK * 5);
        assert_eq!(&bytes[..7], b"a/b.txt");
        assert_eq!(&bytes[124..136], b"00000000005\0");
        let stored = std::str::from_utf8(&bytes[148..154]).unwrap();
        let mut header = bytes[..BLOCK].to_vec();
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(u32::from_str_radix(stored, 8).unwrap(), sum);
        assert_eq!(&bytes[BLOCK..BLOCK + 5], b"hello");
        assert_eq!(bytes[BLOCK + 5], 0);
    }

    #[test]
    fn a_long_name_is_cut_and_does_no_harm() {
        let mut archive = Archive::default();
        archive.add(&"n".repeat(300), b"", u64::MAX);
        assert_eq!(archive.finish()[100], b'0');
    }
}
