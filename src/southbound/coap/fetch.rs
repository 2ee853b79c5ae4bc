//! A GET of a device for the newest message of the broker for one of its paths.

use std::ops::Range;

use crate::gate::stage::DeviceIndex;
use crate::message::ContentFormat;
use crate::proto::address::Peer;
use crate::proto::coap::block::{Block, SIZE_EXPONENT_MAX};
use crate::proto::coap::{Exchange, Request, Token};

/// ETags of a request that are compared.
pub(super) const ETAGS_MAX: usize = 8;

/// See the module.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// The device.
    pub device: DeviceIndex,
    /// The path.
    pub path: String,
    /// Its token.
    pub token: Token,
    /// The Observe option: 0 registers, 1 cancels (RFC 7641 §2); `None` also in the request for a
    /// further block (RFC 7959 §3.4).
    pub observe: Option<u32>,
    /// The representations that the device has.
    pub etags: Vec<Vec<u8>>,
    /// The only format that it wants.
    pub accept: Option<ContentFormat>,
    /// The block that it asks for.
    pub block: Option<Block>,
    pub(super) exchange: Exchange,
}

impl Fetch {
    pub(super) fn new(device: DeviceIndex, path: &str, request: &Request<'_>) -> Fetch {
        let block = request.block2();
        Fetch {
            device,
            path: path.to_owned(),
            token: request.token,
            observe: request.observe().filter(|_| block.is_none_or(|block| block.number == 0)),
            etags: request.etags().take(ETAGS_MAX).map(<[u8]>::to_vec).collect(),
            accept: request.head().accept(),
            block,
            exchange: request.exchange,
        }
    }

    /// Which of a payload of so many bytes are in the block that it asks for; `None`: the payload
    /// ends before that block.
    pub fn part(&self, bytes: usize) -> Option<Range<usize>> {
        let first = Block { number: 0, more: false, size_exponent: SIZE_EXPONENT_MAX };
        let block = self.block.unwrap_or(first);
        let start = block.offset();
        let end = start + block.size().min(16 << SIZE_EXPONENT_MAX);
        (start == 0 || start < bytes).then_some(start..end.min(bytes))
    }

    /// Who asks.
    pub fn peer(&self) -> Peer {
        self.exchange.peer().peer()
    }
}
