//! A simulated Modbus meter on a pseudo-terminal, which answers requests with its registers.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::meter;
use crate::proto::serial::modbus::frame::crc16;

/// The number of registers, from address 0: a request counter (two registers), and a voltage in 0.1
/// V.
const REGISTERS: u16 = 3;
/// A request to read: unit, function, address, quantity, checksum.
const REQUEST: usize = 8;

/// The meter's end of the line. Until it is dropped, the other end keeps its name.
pub struct Unit {
    line: std::fs::File,
    port: PathBuf,
    heard: Vec<u8>,
    asked: u32,
}

impl Unit {
    /// The name of the port, which is a bus.
    pub const BUS: &'static str = "bus-1";
    /// The id of the device.
    pub const ID: &'static str = "meter-5";
    const ADDRESS: u8 = 5;

    /// Creates the pseudo-terminal.
    ///
    /// # Errors
    /// The error as text.
    pub fn new() -> Result<Unit, String> {
        let (line, port) = meter::line()?;
        Ok(Unit { line, port, heard: Vec::new(), asked: 0 })
    }

    /// The device file for the gateway.
    pub fn port(&self) -> &Path {
        &self.port
    }

    /// The configuration for the gateway.
    pub fn configuration(&self) -> String {
        format!(
            "[serial.{}]\nport = \"{}\"\n[serial.{}.unit.{}]\nid = \"{}\"\nrole = \"sensor\"\npath = \"t/power\"\nperiod = \"400ms\"\n\
             register.n = {{ address = 0, type = \"u32\", table = \"input\" }}\n\
             register.voltage = {{ address = 2, scale = 0.1, table = \"input\" }}\n",
            Unit::BUS,
            self.port().display(),
            Unit::BUS,
            Unit::ADDRESS,
            Unit::ID
        )
    }

    /// Answers the requests since the last call.
    pub fn serve(&mut self) {
        let mut chunk = [0; 256];
        while let Ok(length @ 1..) = self.line.read(&mut chunk) {
            self.heard.extend_from_slice(&chunk[..length]);
        }
        while let Some(request) = self.heard.first_chunk::<REQUEST>() {
            let (body, checksum) = request.split_at(REQUEST - 2);
            if crc16(body).to_le_bytes() != checksum {
                // Not the start of a request: continues at the next byte.
                self.heard.remove(0);
                continue;
            }
            if let Some(answer) = answer(body, self.asked + 1) {
                self.asked += 1;
                let _ = self.line.write_all(&answer);
            }
            self.heard.drain(..REQUEST);
        }
    }
}

/// The response to a request without its checksum; `None` if it is for another unit.
fn answer(request: &[u8], asked: u32) -> Option<Vec<u8>> {
    let &[Unit::ADDRESS, function, high, low, _, quantity] = request else { return None };
    let address = u16::from_be_bytes([high, low]);
    let mut answer = vec![Unit::ADDRESS, function];
    if function != 4 {
        answer = vec![Unit::ADDRESS, function | 0x80, 1];
    } else if quantity == 0 || address.saturating_add(u16::from(quantity)) > REGISTERS {
        answer = vec![Unit::ADDRESS, function | 0x80, 2];
    } else {
        let volts = 2300 + u16::try_from(asked % 10).unwrap_or(0);
        let all = [asked.to_be_bytes().to_vec(), volts.to_be_bytes().to_vec()].concat();
        let from = 2 * usize::from(address);
        let values = all.get(from..from + 2 * usize::from(quantity))?;
        answer.push(2 * quantity);
        answer.extend_from_slice(values);
    }
    let checksum = crc16(&answer);
    answer.extend(checksum.to_le_bytes());
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_for_its_registers_and_refuses_others() {
        assert_eq!(answer(&[5, 4, 0, 0, 0, 3], 258).unwrap()[..9], [5, 4, 6, 0, 0, 1, 2, 0x09, 0x04]);
        assert_eq!(answer(&[5, 4, 0, 2, 0, 2], 1).unwrap()[..3], [5, 0x84, 2]);
        assert_eq!(answer(&[5, 4, 0xFF, 0xFF, 0, 1], 1), answer(&[5, 4, 0, 3, 0, 1], 1));
        assert_eq!(answer(&[5, 3, 0, 0, 0, 1], 1).unwrap()[..3], [5, 0x83, 1]);
        assert_eq!(answer(&[6, 4, 0, 0, 0, 3], 1), None);
    }
}
