//! Writes one message to the end of a buffer (RFC 7252 §3).
//!
//! Options must be added in ascending order. If an option cannot be written, [`Encoder::finish`]
//! restores the buffer and returns the error.

use super::message::{Code, MessageId, PAYLOAD_MARKER, Token, Type};

/// Longest option value the format can carry, in bytes.
pub const OPTION_MAX: usize = 269 + 65_535;

/// Writes one message to the end of a `Vec<u8>`.
///
/// ```
/// use tombolo::proto::coap::{Code, Message, MessageId, Token, Type, encoder::Encoder};
/// let mut bytes = Vec::new();
/// Encoder::new(&mut bytes, Type::Acknowledgement, Code::CONTENT, MessageId(7), &Token::default())
///     .option_uint(12, 0)
///     .payload(b"hello")
///     .finish()?;
/// assert_eq!(Message::parse(&bytes).unwrap().payload, b"hello");
/// # Ok::<(), tombolo::proto::coap::encoder::EncodeError>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Encoder<'b> {
    buffer: &'b mut Vec<u8>,
    start: usize,
    number: u16,
    payload_begun: bool,
    error: Option<EncodeError>,
}

/// Why a message cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// An option follows one with a higher number, or the payload.
    Order,
    /// An option value of more than [`OPTION_MAX`] bytes.
    OptionLength,
}

impl<'b> Encoder<'b> {
    /// Begins a message at the end of `buffer`.
    pub fn new(
        buffer: &'b mut Vec<u8>,
        message_type: Type,
        code: Code,
        message_id: MessageId,
        token: &Token,
    ) -> Encoder<'b> {
        let start = buffer.len();
        let token = token.as_bytes();
        let [id_high, id_low] = message_id.0.to_be_bytes();
        buffer.extend_from_slice(&[
            0x40 | (message_type as u8) << 4 | token.len() as u8,
            code.0,
            id_high,
            id_low,
        ]);
        buffer.extend_from_slice(token);
        Encoder { buffer, start, number: 0, payload_begun: false, error: None }
    }

    /// Adds an option; `number` must not be less than the previous one.
    pub fn option(mut self, number: u16, value: &[u8]) -> Encoder<'b> {
        let Some(delta) = number.checked_sub(self.number).filter(|_| !self.payload_begun) else {
            self.error.get_or_insert(EncodeError::Order);
            return self;
        };
        if value.len() > OPTION_MAX {
            self.error.get_or_insert(EncodeError::OptionLength);
            return self;
        }
        let head = self.buffer.len();
        self.buffer.push(0);
        let delta = extend(self.buffer, u32::from(delta));
        let length = extend(self.buffer, value.len() as u32);
        self.buffer[head] = delta << 4 | length;
        self.buffer.extend_from_slice(value);
        self.number = number;
        self
    }

    /// Adds an option of format `uint`: without leading zero bytes, so 0 is the empty value (RFC
    /// 7252 §3.2).
    pub fn option_uint(self, number: u16, value: u32) -> Encoder<'b> {
        let bytes = value.to_be_bytes();
        self.option(number, &bytes[value.leading_zeros() as usize / 8..])
    }

    /// Adds an option of format `uint`, if there is a value.
    pub fn maybe_uint(self, number: u16, value: Option<u32>) -> Encoder<'b> {
        match value {
            Some(value) => self.option_uint(number, value),
            None => self,
        }
    }

    /// Adds payload bytes, with the payload marker before the first byte; an empty payload adds
    /// nothing.
    pub fn payload(mut self, payload: &[u8]) -> Encoder<'b> {
        if !payload.is_empty() {
            if !self.payload_begun {
                self.buffer.push(PAYLOAD_MARKER);
                self.payload_begun = true;
            }
            self.buffer.extend_from_slice(payload);
        }
        self
    }

    /// Ends the message and returns its length in bytes.
    ///
    /// # Errors
    /// The first [`EncodeError`]; the buffer is then as it was before [`Encoder::new`].
    pub fn finish(self) -> Result<usize, EncodeError> {
        match self.error {
            None => Ok(self.buffer.len() - self.start),
            Some(error) => {
                self.buffer.truncate(self.start);
                Err(error)
            }
        }
    }
}

/// Writes the bytes that extend a nibble, and returns the nibble.
fn extend(buffer: &mut Vec<u8>, value: u32) -> u8 {
    match value {
        0..=12 => value as u8,
        13..=268 => {
            buffer.push((value - 13) as u8);
            13
        }
        _ => {
            buffer.extend_from_slice(&((value - 269) as u16).to_be_bytes());
            14
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Message;
    use super::*;

    fn begin(buffer: &mut Vec<u8>) -> Encoder<'_> {
        Encoder::new(buffer, Type::Confirmable, Code(1), MessageId(1), &Token::default())
    }

    #[test]
    fn uints_are_written_in_the_fewest_bytes() {
        let mut bytes = Vec::new();
        begin(&mut bytes)
            .option_uint(12, 0)
            .option_uint(14, 60)
            .option_uint(23, 0x1234)
            .option_uint(60, u32::MAX)
            .finish()
            .unwrap();
        assert_eq!(
            &bytes[4..],
            b"\xc0\x21\x3c\x92\x12\x34\xd4\x18\xff\xff\xff\xff",
            "12 empty, 14 one byte, 23 two, 60 four"
        );
    }

    #[test]
    fn the_longest_option_fits_and_one_byte_more_does_not() {
        let mut bytes = b"before".to_vec();
        begin(&mut bytes).option(65535, &vec![1; 65_804]).finish().unwrap();
        assert_eq!(Message::parse(&bytes[6..]).unwrap().options.next().unwrap().value.len(), 65_804);
        bytes.truncate(6);
        assert_eq!(begin(&mut bytes).option(1, &vec![1; 65_805]).finish(), Err(EncodeError::OptionLength));
        assert_eq!(bytes, b"before");
    }

    #[test]
    fn options_out_of_order_or_after_the_payload_leave_nothing_behind() {
        let mut bytes = Vec::new();
        assert_eq!(begin(&mut bytes).option(12, b"").option(11, b"").finish(), Err(EncodeError::Order));
        assert_eq!(begin(&mut bytes).payload(b"x").option(11, b"").finish(), Err(EncodeError::Order));
        assert!(bytes.is_empty());
        assert_eq!(begin(&mut bytes).payload(b"").finish(), Ok(4));
    }
}
