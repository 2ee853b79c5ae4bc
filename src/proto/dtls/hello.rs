//! Parses a ClientHello (RFC 5246 §7.4.1.2, RFC 6347 §4.2.1).
//!
//! The random identifies the handshake, the cookie proves that the sender receives at its address,
//! and the suites and extensions show why a handshake cannot succeed.

use super::suite;

/// `extended_master_secret` (RFC 7627 §5.1)
const EXTENDED_MASTER_SECRET: u16 = 23;

/// The fields of a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello<'d> {
    /// `client_version` as on the wire.
    pub version: u16,
    /// The client random, which identifies the attempt.
    pub random: &'d [u8; 32],
    /// The cookie, valid or not; empty in a first hello.
    pub cookie: &'d [u8],
    /// Whether it offers the extended master secret.
    pub extended_master_secret: bool,
    suites: &'d [u8],
    compressions: &'d [u8],
    /// Version, random, session id.
    before_cookie: &'d [u8],
    /// Cipher suites, compression methods.
    behind_cookie: &'d [u8],
    extensions: &'d [u8],
}

impl<'d> ClientHello<'d> {
    /// Parses the body of a complete ClientHello message; `None` if it is malformed.
    pub fn parse(body: &'d [u8]) -> Option<ClientHello<'d>> {
        let mut rest = body;
        let version = u16::from_be_bytes(*take(&mut rest)?);
        let random = take(&mut rest)?;
        let session_id = vector8(&mut rest)?;
        let before_cookie = &body[..body.len() - rest.len()];
        let cookie = vector8(&mut rest)?;
        let behind = rest;
        let suites = vector16(&mut rest)?;
        let compressions = vector8(&mut rest)?;
        let behind_cookie = &behind[..behind.len() - rest.len()];
        if session_id.len() > 32
            || suites.is_empty()
            || !suites.len().is_multiple_of(2)
            || compressions.is_empty()
        {
            return None;
        }
        let extensions = rest;
        let mut extended_master_secret = false;
        if !rest.is_empty() {
            let mut each = vector16(&mut rest)?;
            if !rest.is_empty() {
                return None;
            }
            while !each.is_empty() {
                let extension = u16::from_be_bytes(*take(&mut each)?);
                vector16(&mut each)?;
                extended_master_secret |= extension == EXTENDED_MASTER_SECRET;
            }
        }
        Some(ClientHello {
            version,
            random,
            cookie,
            extended_master_secret,
            suites,
            compressions,
            before_cookie,
            behind_cookie,
            extensions,
        })
    }

    /// The cipher suites in the client's order, without signalling values.
    pub fn suites(&self) -> impl Iterator<Item = u16> + 'd {
        let numbers = self.suites.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        numbers.filter(|suite| !suite::is_signal(*suite))
    }

    /// Whether the number is among the cipher suites, including signalling values.
    pub fn signals(&self, number: u16) -> bool {
        self.suites.chunks_exact(2).any(|pair| pair == number.to_be_bytes())
    }

    /// The compression methods in the client's order.
    pub fn compressions(&self) -> &'d [u8] {
        self.compressions
    }

    /// The extensions in their order: number and content.
    pub fn extensions(&self) -> impl Iterator<Item = (u16, &'d [u8])> + 'd {
        let mut rest = self.extensions.get(2..).unwrap_or_default();
        std::iter::from_fn(move || {
            let number = u16::from_be_bytes(*take(&mut rest)?);
            vector16(&mut rest).map(|content| (number, content))
        })
    }

    /// What a client must repeat unchanged when it returns a cookie (RFC 6347 §4.2.1), in two
    /// parts.
    pub fn repeated(&self) -> [&'d [u8]; 2] {
        [self.before_cookie, self.behind_cookie]
    }

    /// The body without the cookie.
    pub fn without_cookie(&self) -> Vec<u8> {
        [self.before_cookie, &[0], self.behind_cookie, self.extensions].concat()
    }
}

fn take<'b, const N: usize>(rest: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(taken)
}

fn vector8<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let [length] = *take(rest)?;
    split(rest, usize::from(length))
}

fn vector16<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = u16::from_be_bytes(*take(rest)?);
    split(rest, usize::from(length))
}

fn split<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend([7; 32]);
        body.extend([0, 0]); // session id, cookie
        body.extend([0, 4, 0xc0, 0xa8, 0x00, 0xff]);
        body.extend([1, 0]);
        body.extend([0, 4, 0, 23, 0, 0]);
        body
    }

    #[test]
    fn a_hello_is_read() {
        let body = hello();
        let read = ClientHello::parse(&body).unwrap();
        assert_eq!(read.version, 0xfefd);
        assert_eq!(read.random, &[7; 32]);
        assert!(read.cookie.is_empty());
        assert_eq!(read.suites().collect::<Vec<_>>(), [suite::PSK_WITH_AES_128_CCM_8]);
        assert!(read.extended_master_secret);
        assert!(read.signals(0x00ff) && !read.signals(0x00fe));
        assert_eq!(read.compressions(), [0]);
        assert_eq!(read.extensions().collect::<Vec<_>>(), [(23, &[][..])]);
    }

    #[test]
    fn a_cookie_goes_in_and_out_without_a_trace() {
        let body = hello();
        let mut with_cookie = body.clone();
        with_cookie.splice(35..36, [3, 1, 2, 3]);
        let read = ClientHello::parse(&with_cookie).unwrap();
        assert_eq!(read.cookie, [1, 2, 3]);
        assert_eq!(read.without_cookie(), body);
        assert_eq!(read.repeated(), ClientHello::parse(&body).unwrap().repeated());
    }

    #[test]
    fn a_hello_without_extensions_is_read() {
        let body = hello();
        let read = ClientHello::parse(&body[..body.len() - 6]).unwrap();
        assert!(!read.extended_master_secret);
    }

    #[test]
    fn cut_and_stretched_hellos_are_malformed() {
        let body = hello();
        for end in (0..body.len()).filter(|end| *end != body.len() - 6) {
            assert_eq!(ClientHello::parse(&body[..end]), None, "{end}");
        }
        let mut longer = body;
        longer.push(0);
        assert_eq!(ClientHello::parse(&longer), None);
    }
}
