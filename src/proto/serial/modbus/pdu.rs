//! The protocol data unit: requests and responses without address and checksum.
//!
//! Requests are always within range. Responses are parsed strictly against their request, because a
//! response contains neither the address nor the requested quantity.
//!
//! MODBUS Application Protocol Specification V1.1b3 §6 and §7.

use std::fmt;

/// Most bits one request may read (§6.1).
pub const READ_BITS_MAX: u16 = 2000;
/// Most registers one request may read (§6.3).
pub const READ_REGISTERS_MAX: u16 = 125;
/// Most coils one request may write (§6.11).
pub const WRITE_BITS_MAX: u16 = 1968;
/// Most registers one request may write (§6.12).
pub const WRITE_REGISTERS_MAX: u16 = 123;
/// Longest protocol data unit, in bytes (§4.1).
pub const PDU_MAX: usize = 253;
/// Set in the function code of an exception (§4.1).
pub const EXCEPTION: u8 = 0x80;

/// One of the four tables of a unit (§4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Bits that can be written: function 1.
    Coil,
    /// Bits: function 2.
    Discrete,
    /// Registers that can be written: function 3.
    Holding,
    /// Registers: function 4.
    Input,
}

impl Table {
    /// The function code that reads it.
    pub const fn function(self) -> u8 {
        match self {
            Table::Coil => 1,
            Table::Discrete => 2,
            Table::Holding => 3,
            Table::Input => 4,
        }
    }

    /// Whether it contains bits instead of registers.
    pub const fn has_bits(self) -> bool {
        matches!(self, Table::Coil | Table::Discrete)
    }

    /// Most bits or registers one request may read.
    pub const fn read_max(self) -> u16 {
        if self.has_bits() { READ_BITS_MAX } else { READ_REGISTERS_MAX }
    }

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Table::Coil => "coil",
            Table::Discrete => "discrete",
            Table::Holding => "holding",
            Table::Input => "input",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request within the limits of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request(Inner);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Inner {
    /// `answer`: how many bytes of data the unit answers with, where that is not what the standard
    /// says.
    Read {
        table: Table,
        address: u16,
        quantity: u16,
        answer: Option<u8>,
        counts_registers: bool,
    },
    WriteCoil {
        address: u16,
        on: bool,
    },
    WriteRegister {
        address: u16,
        value: u16,
    },
    WriteCoils {
        address: u16,
        quantity: u16,
        packed: Vec<u8>,
    },
    WriteRegisters {
        address: u16,
        words: Vec<u16>,
    },
}

/// A request for nothing, for more than one request may read or write, or beyond address 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing, too much for one request, or past address 65535")
    }
}

impl std::error::Error for OutOfRange {}

fn within(address: u16, count: usize, max: u16) -> Result<u16, OutOfRange> {
    let count = u16::try_from(count).map_err(|_| OutOfRange)?;
    if count == 0 || count > max || u32::from(address) + u32::from(count) > 0x1_0000 {
        return Err(OutOfRange);
    }
    Ok(count)
}

impl Request {
    /// Functions 1 to 4: `quantity` bits or registers from `address` on.
    ///
    /// # Errors
    /// [`OutOfRange`]: 1 to 2000 bits or 125 registers, none past 65535.
    pub fn read(table: Table, address: u16, quantity: u16) -> Result<Request, OutOfRange> {
        within(address, quantity.into(), table.read_max())?;
        Ok(Request(Inner::Read { table, address, quantity, answer: None, counts_registers: false }))
    }

    /// The same read of a unit that is known to answer it with `bytes` bytes of data, `1..=250`.
    #[must_use]
    pub fn answered_with(mut self, bytes: u8) -> Request {
        if let Inner::Read { answer, .. } = &mut self.0 {
            *answer = Some(bytes.clamp(1, 250));
        }
        self
    }

    /// The same read of a unit whose answers say how many registers they have, and not how many
    /// bytes.
    #[must_use]
    pub fn counted_in_registers(mut self, is_so: bool) -> Request {
        if let Inner::Read { counts_registers, .. } = &mut self.0 {
            *counts_registers = is_so;
        }
        self
    }

    /// What the answer to a read says of its length: bytes, or registers where the unit counts
    /// these.
    pub fn count(&self) -> Option<u8> {
        let Inner::Read { table, counts_registers, .. } = &self.0 else { return None };
        let bytes = self.answer().length - 2;
        Some(if *counts_registers && !table.has_bits() { bytes / 2 } else { bytes })
    }

    /// Function 5, Write Single Coil (§6.5).
    pub fn write_coil(address: u16, on: bool) -> Request {
        Request(Inner::WriteCoil { address, on })
    }

    /// Function 6, Write Single Register (§6.6).
    pub fn write_register(address: u16, value: u16) -> Request {
        Request(Inner::WriteRegister { address, value })
    }

    /// Function 15, Write Multiple Coils (§6.11).
    ///
    /// # Errors
    /// [`OutOfRange`]: 1 to 1968 coils, none past 65535.
    pub fn write_coils(address: u16, coils: &[bool]) -> Result<Request, OutOfRange> {
        let quantity = within(address, coils.len(), WRITE_BITS_MAX)?;
        let pack = |coils: &[bool]| coils.iter().rev().fold(0, |byte, on| byte << 1 | u8::from(*on));
        Ok(Request(Inner::WriteCoils { address, quantity, packed: coils.chunks(8).map(pack).collect() }))
    }

    /// Function 16, Write Multiple Registers (§6.12).
    ///
    /// # Errors
    /// [`OutOfRange`]: 1 to 123 registers, none past 65535.
    pub fn write_registers(address: u16, words: &[u16]) -> Result<Request, OutOfRange> {
        within(address, words.len(), WRITE_REGISTERS_MAX)?;
        Ok(Request(Inner::WriteRegisters { address, words: words.to_vec() }))
    }

    /// The function code.
    pub fn function(&self) -> u8 {
        match &self.0 {
            Inner::Read { table, .. } => table.function(),
            Inner::WriteCoil { .. } => 5,
            Inner::WriteRegister { .. } => 6,
            Inner::WriteCoils { .. } => 15,
            Inner::WriteRegisters { .. } => 16,
        }
    }

    /// Appends the request, at most [`PDU_MAX`] bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut head = |address: u16, second: u16| {
            out.push(self.function());
            out.extend_from_slice(&address.to_be_bytes());
            out.extend_from_slice(&second.to_be_bytes());
        };
        match &self.0 {
            Inner::Read { address, quantity, .. } => head(*address, *quantity),
            Inner::WriteCoil { address, on } => head(*address, if *on { 0xFF00 } else { 0 }),
            Inner::WriteRegister { address, value } => head(*address, *value),
            Inner::WriteCoils { address, quantity, packed } => {
                head(*address, *quantity);
                // At most 1968 coils: 246 bytes.
                out.push(packed.len() as u8);
                out.extend_from_slice(packed);
            }
            Inner::WriteRegisters { address, words } => {
                head(*address, words.len() as u16);
                // At most 123 registers: 246 bytes.
                out.push((2 * words.len()) as u8);
                words.iter().for_each(|word| out.extend_from_slice(&word.to_be_bytes()));
            }
        }
    }

    /// The shape of a normal response.
    pub fn answer(&self) -> Shape {
        let length = match &self.0 {
            Inner::Read { answer: Some(bytes), .. } => 2 + usize::from(*bytes),
            Inner::Read { table, quantity, .. } => 2 + data_length(*table, *quantity),
            _ => 5,
        };
        // At most 2 + 250.
        Shape { function: self.function(), length: length as u8 }
    }

    /// Parses a response to this request: everything between the unit's address and the checksum.
    ///
    /// # Errors
    /// [`Malformed`] if it cannot be the response to this request: another function, length or
    /// echoed address.
    pub fn parse_answer<'p>(&self, pdu: &'p [u8]) -> Result<Answer<'p>, Malformed> {
        let shape = self.answer();
        if let [function, code] = pdu
            && *function == shape.function | EXCEPTION
        {
            return Ok(Answer::Exception(Exception(*code)));
        }
        if pdu.len() != usize::from(shape.length) || pdu.first() != Some(&shape.function) {
            return Err(Malformed);
        }
        if let Some(count) = self.count() {
            return if pdu[1] == count { Ok(Answer::Data(&pdu[2..])) } else { Err(Malformed) };
        }
        // The response to a write is the first five bytes of its request (§6.5, §6.6, §6.11,
        // §6.12).
        let mut request = Vec::new();
        self.encode(&mut request);
        if request.get(..5) == Some(pdu) { Ok(Answer::Done) } else { Err(Malformed) }
    }
}

/// The number of bytes for `quantity` bits or registers.
pub fn data_length(table: Table, quantity: u16) -> usize {
    if table.has_bits() { usize::from(quantity).div_ceil(8) } else { 2 * usize::from(quantity) }
}

/// The known properties of a response. Responses of two reads with the same shape cannot be
/// distinguished on a serial line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The function code, which the response echoes.
    pub function: u8,
    /// The length of the response in bytes, with the function code.
    pub length: u8,
}

/// A parsed response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'p> {
    /// Functions 1 to 4: bits packed from the lowest bit, or registers with the high byte first. It
    /// has the requested length.
    Data(&'p [u8]),
    /// A write was carried out.
    Done,
    /// An exception response.
    Exception(Exception),
}

/// The bytes are not a response to this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an answer to this request")
    }
}

impl std::error::Error for Malformed {}

/// An exception code (§7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exception(pub u8);

impl Exception {
    /// The unit does not support the function.
    pub const ILLEGAL_FUNCTION: Exception = Exception(1);
    /// A requested address does not exist.
    pub const ILLEGAL_DATA_ADDRESS: Exception = Exception(2);
    /// The quantity or the value is not allowed.
    pub const ILLEGAL_DATA_VALUE: Exception = Exception(3);
    /// The unit has accepted the request and needs time for it.
    pub const ACKNOWLEDGE: Exception = Exception(5);
    /// The unit is busy with a long operation.
    pub const BUSY: Exception = Exception(6);

    /// The unit failed while it was at it.
    pub const DEVICE_FAILURE: Exception = Exception(4);

    /// Whether asking for less might be answered. The standard means 2 and 3 for that; units in
    /// the field send any code, so it is each but those of a gateway.
    pub fn may_pass_smaller(self) -> bool {
        !self.is_of_gateway()
    }

    /// Whether a gateway says so in place of a unit that it could not reach (§7: 10 and 11).
    pub fn is_of_gateway(self) -> bool {
        matches!(self.0, 10 | 11)
    }

    /// Whether it refuses what is asked for: no gateway says so of a unit that it could not reach.
    pub fn is_of_request(self) -> bool {
        matches!(self, Exception(1..=3))
    }

    /// Whether asking for the same again later might be answered.
    pub fn may_pass_later(self) -> bool {
        matches!(self, Exception::DEVICE_FAILURE | Exception::ACKNOWLEDGE | Exception::BUSY)
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "illegal function",
            2 => "illegal data address",
            3 => "illegal data value",
            4 => "server device failure",
            5 => "acknowledge",
            6 => "server device busy",
            8 => "memory parity error",
            10 => "gateway path unavailable",
            11 => "gateway target device failed to respond",
            code => return write!(f, "exception {code}"),
        };
        write!(f, "exception {}, {name}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(request: &Request) -> Vec<u8> {
        let mut out = Vec::new();
        request.encode(&mut out);
        out
    }

    /// The examples of the specification, §6.1 to §6.12.
    #[test]
    fn requests_are_written_as_the_specification_shows() {
        let read = |table, address, quantity| encoded(&Request::read(table, address, quantity).unwrap());
        assert_eq!(read(Table::Coil, 0x13, 0x13), [1, 0, 0x13, 0, 0x13]);
        assert_eq!(read(Table::Discrete, 0xC4, 0x16), [2, 0, 0xC4, 0, 0x16]);
        assert_eq!(read(Table::Holding, 0x6B, 3), [3, 0, 0x6B, 0, 3]);
        assert_eq!(read(Table::Input, 8, 1), [4, 0, 8, 0, 1]);
        assert_eq!(encoded(&Request::write_coil(0xAC, true)), [5, 0, 0xAC, 0xFF, 0]);
        assert_eq!(encoded(&Request::write_register(1, 3)), [6, 0, 1, 0, 3]);
        let coils = [true, false, true, true, false, false, true, true, true, false];
        let coils = Request::write_coils(0x13, &coils).unwrap();
        assert_eq!(encoded(&coils), [15, 0, 0x13, 0, 0x0A, 2, 0xCD, 1]);
        let registers = Request::write_registers(1, &[0x0A, 0x0102]).unwrap();
        assert_eq!(encoded(&registers), [16, 0, 1, 0, 2, 4, 0, 0x0A, 1, 2]);
    }

    #[test]
    fn answers_are_read_as_the_specification_shows() {
        let holding = Request::read(Table::Holding, 0x6B, 3).unwrap();
        let pdu = [3, 6, 2, 0x2B, 0, 0, 0, 0x64];
        assert_eq!(holding.parse_answer(&pdu), Ok(Answer::Data(&pdu[2..])));
        let coils = Request::read(Table::Coil, 0x13, 0x13).unwrap();
        assert_eq!(coils.parse_answer(&[1, 3, 0xCD, 0x6B, 5]), Ok(Answer::Data(&[0xCD, 0x6B, 5])));
        assert_eq!(coils.parse_answer(&[0x81, 2]), Ok(Answer::Exception(Exception::ILLEGAL_DATA_ADDRESS)));
        let write = Request::write_registers(1, &[0x0A, 0x0102]).unwrap();
        assert_eq!(write.parse_answer(&[16, 0, 1, 0, 2]), Ok(Answer::Done));
        assert_eq!(Request::write_coil(0xAC, true).parse_answer(&[5, 0, 0xAC, 0xFF, 0]), Ok(Answer::Done));
    }

    #[test]
    fn an_answer_of_another_function_length_or_address_is_none() {
        let request = Request::read(Table::Holding, 0, 2).unwrap();
        for pdu in [
            &[][..],
            &[3],
            &[3, 4, 0, 0, 0],
            &[3, 4, 0, 0, 0, 0, 0],
            &[3, 2, 0, 0],
            &[3, 5, 0, 0, 0, 0],
            &[4, 4, 0, 0, 0, 0],
            &[0x84, 2],
            &[0x83],
            &[0x83, 2, 0],
        ] {
            assert_eq!(request.parse_answer(pdu), Err(Malformed), "{pdu:?}");
        }
        let write = Request::write_register(1, 3);
        assert_eq!(write.parse_answer(&[6, 0, 1, 0, 4]), Err(Malformed));
        assert_eq!(write.parse_answer(&[6, 0, 2, 0, 3]), Err(Malformed));
    }

    #[test]
    fn every_quantity_is_accepted_exactly_within_its_bounds() {
        for table in [Table::Coil, Table::Discrete, Table::Holding, Table::Input] {
            for quantity in 0..=2100 {
                let request = Request::read(table, 0, quantity);
                assert_eq!(request.is_ok(), (1..=table.read_max()).contains(&quantity));
                if let Ok(request) = request {
                    assert!(usize::from(request.answer().length) <= PDU_MAX);
                    let mut pdu = vec![0; request.answer().length.into()];
                    pdu[0] = request.function();
                    pdu[1] = request.answer().length - 2;
                    assert!(matches!(request.parse_answer(&pdu), Ok(Answer::Data(_))));
                }
            }
            assert!(Request::read(table, 65535, 1).is_ok());
            assert_eq!(Request::read(table, 65535, 2), Err(OutOfRange));
        }
        for count in 0..=2000 {
            let coils = Request::write_coils(0, &vec![true; count]);
            assert_eq!(coils.is_ok(), (1..=1968).contains(&count));
            assert!(
                coils.is_ok_and(|request| encoded(&request).len() <= PDU_MAX) || !(1..=1968).contains(&count)
            );
        }
        for count in 0..=130 {
            let registers = Request::write_registers(0, &vec![7; count]);
            assert_eq!(registers.is_ok(), (1..=123).contains(&count));
        }
    }
}
