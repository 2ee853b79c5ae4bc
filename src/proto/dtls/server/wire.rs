//! Reads and writes the TLS presentation language (RFC 5246 §4), and records of a datagram (RFC
//! 6347 §4.1, RFC 9146 §4).

use crate::proto::dtls::record::{HEADER, VERSION_1_0, VERSION_1_2};

/// `tls12_cid` (RFC 9146 §4): a protected record with a connection id.
pub(super) const TLS12_CID: u8 = 25;
/// Bytes of a connection id in records to the server. All have the same length, so that a record
/// can be parsed before its session is known.
pub(super) const CID: usize = 8;
/// A connection id in records to the server.
pub(super) type Cid = [u8; CID];

/// Reads values from the front of bytes; `None` if there are too few.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'b>(pub &'b [u8]);

impl<'b> Reader<'b> {
    pub fn array<const N: usize>(&mut self) -> Option<&'b [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    pub fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| *byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(|bytes| u16::from_be_bytes(*bytes))
    }

    pub fn u24(&mut self) -> Option<usize> {
        self.array::<3>().map(|bytes| bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(|bytes| u32::from_be_bytes(*bytes))
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_be_bytes(*bytes))
    }

    pub fn vector8(&mut self) -> Option<&'b [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    pub fn vector16(&mut self) -> Option<&'b [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }

    pub fn vector24(&mut self) -> Option<&'b [u8]> {
        let length = self.u24()?;
        self.take(length)
    }

    /// `Some` if nothing is left.
    pub fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Writes values with a length prefix; the callers' lengths always fit.
pub(super) trait Write {
    fn vector8(&mut self, content: &[u8]);
    fn vector16(&mut self, content: &[u8]);
    fn vector24(&mut self, content: &[u8]);
}

impl Write for Vec<u8> {
    fn vector8(&mut self, content: &[u8]) {
        self.push(content.len() as u8);
        self.extend(content);
    }

    fn vector16(&mut self, content: &[u8]) {
        self.extend((content.len() as u16).to_be_bytes());
        self.extend(content);
    }

    fn vector24(&mut self, content: &[u8]) {
        self.extend(&(content.len() as u32).to_be_bytes()[1..]);
        self.extend(content);
    }
}

/// One record of a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming<'d> {
    pub content_type: u8,
    pub epoch: u16,
    pub sequence: u64,
    /// Its connection id; present if and only if the content type is [`TLS12_CID`].
    pub cid: Option<Cid>,
    pub fragment: &'d [u8],
    /// The whole record.
    pub bytes: &'d [u8],
}

/// Reads the next record from `rest`; `None` if it is malformed, which makes the rest of the
/// datagram unreadable.
pub(super) fn next_record<'d>(rest: &mut &'d [u8]) -> Option<Incoming<'d>> {
    let before = *rest;
    let mut reader = Reader(rest);
    let content_type = reader.u8()?;
    let version = reader.u16()?;
    let number = reader.u64()?;
    let (epoch, sequence) = ((number >> 48) as u16, number & 0xffff_ffff_ffff);
    // A client that does not know the server's version yet may use 1.0, but only before there are
    // keys.
    if version != VERSION_1_2 && (version != VERSION_1_0 || epoch != 0) {
        return None;
    }
    let cid = if content_type == TLS12_CID { Some(*reader.array()?) } else { None };
    let fragment = reader.vector16()?;
    *rest = reader.0;
    Some(Incoming {
        content_type,
        epoch,
        sequence,
        cid,
        fragment,
        bytes: &before[..before.len() - rest.len()],
    })
}

/// Writes a record header whose length [`close_record`] fills in; returns the start of the record.
pub(super) fn open_record(
    out: &mut Vec<u8>,
    content_type: u8,
    epoch: u16,
    sequence: u64,
    cid: &[u8],
) -> usize {
    let start = out.len();
    out.push(content_type);
    out.extend(VERSION_1_2.to_be_bytes());
    out.extend(epoch.to_be_bytes());
    out.extend(&sequence.to_be_bytes()[2..]);
    out.extend(cid);
    out.extend([0; 2]);
    start
}

/// Fills in the length of the record that begins at `start` and ends here.
pub(super) fn close_record(out: &mut [u8], start: usize, cid: usize) {
    let header = HEADER + cid;
    let length = (out.len() - start - header) as u16;
    out[start + header - 2..start + header].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_with_and_without_a_connection_id_are_taken_apart() {
        let mut out = Vec::new();
        let start = open_record(&mut out, 23, 1, 7, &[]);
        out.extend(b"abc");
        close_record(&mut out, start, 0);
        let start = open_record(&mut out, TLS12_CID, 1, 8, &[9; CID]);
        out.extend(b"defg");
        close_record(&mut out, start, CID);
        let mut rest = &out[..];
        let one = next_record(&mut rest).unwrap();
        assert_eq!((one.content_type, one.epoch, one.sequence, one.cid), (23, 1, 7, None));
        assert_eq!((one.fragment, one.bytes.len()), (&b"abc"[..], 16));
        let two = next_record(&mut rest).unwrap();
        assert_eq!((two.content_type, two.sequence, two.cid), (TLS12_CID, 8, Some([9; CID])));
        assert_eq!((two.fragment, rest.len()), (&b"defg"[..], 0));
        for end in 0..16 {
            assert!(next_record(&mut &out[..end]).is_none());
        }
    }
}
