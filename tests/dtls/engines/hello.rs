//! ClientHellos put together by hand.

use tombolo_test_support::dtls::client::{handshake_message, record};

/// What a hand-made ClientHello says.
#[derive(Clone)]
pub struct Hello {
    pub version: u16,
    pub random: [u8; 32],
    pub cookie: Vec<u8>,
    pub suites: Vec<u16>,
    pub extended_master_secret: bool,
}

impl Hello {
    pub fn new(random: u8) -> Hello {
        Hello {
            version: 0xfefd,
            random: [random; 32],
            cookie: Vec::new(),
            suites: vec![0xc0a8],
            extended_master_secret: true,
        }
    }

    pub fn body(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend(self.random);
        body.push(0);
        body.push(self.cookie.len() as u8);
        body.extend(&self.cookie);
        body.extend((self.suites.len() as u16 * 2).to_be_bytes());
        body.extend(self.suites.iter().flat_map(|suite| suite.to_be_bytes()));
        body.extend([1, 0]);
        if self.extended_master_secret {
            body.extend([0, 4, 0, 23, 0, 0]);
        }
        body
    }

    /// The datagram, as the client's n-th message.
    pub fn datagram(&self, message_sequence: u16) -> Vec<u8> {
        record(22, 0, message_sequence.into(), &handshake_message(1, message_sequence, &self.body()))
    }

    /// The same hello with the cookie of a HelloVerifyRequest.
    pub fn with_cookie_of(&self, hello_verify_request: &[u8]) -> Hello {
        let body = &hello_verify_request[13 + 12..];
        assert_eq!(hello_verify_request[13], 3, "a HelloVerifyRequest");
        Hello { cookie: body[3..3 + usize::from(body[2])].to_vec(), ..self.clone() }
    }
}
