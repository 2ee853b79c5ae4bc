//! A GET of a device for its firmware: `/firmware/CLASS` or `/firmware/CLASS/TAG`.

use super::fetch::ETAGS_MAX;
use crate::gate::stage::DeviceIndex;
use crate::message::{ContentFormat, Path, is_firmware_version};
use crate::proto::coap::block::Block;
use crate::proto::coap::{Code, Exchange, Request, Response};

/// See the module.
#[derive(Clone, Debug)]
pub struct FirmwareFetch {
    /// The device.
    pub device: DeviceIndex,
    /// The class in the path.
    pub class: String,
    /// The image in the path.
    pub tag: Option<String>,
    /// The version that it says it runs, by `?v=`.
    pub version: Option<String>,
    /// The representations that the device has.
    pub etags: Vec<Vec<u8>>,
    /// The only format that it wants.
    pub accept: Option<ContentFormat>,
    /// The block that it asks for.
    pub block: Option<Block>,
    pub(super) exchange: Exchange,
}

impl FirmwareFetch {
    /// Reads the request; `path` begins with `firmware`.
    ///
    /// # Errors
    /// The response that refuses it.
    pub fn parse(
        device: DeviceIndex,
        path: Path<'_>,
        request: &Request<'_>,
    ) -> Result<FirmwareFetch, Response<'static>> {
        let mut segments = path.segments().skip(1);
        let (class, tag, rest) = (segments.next(), segments.next(), segments.next());
        let (Some(class), None) = (class, rest) else {
            return Err(Response::new(Code::NOT_FOUND).diagnostic("use /firmware/CLASS"));
        };
        let mut version = None;
        for argument in request.head().uri_query() {
            let text = argument.strip_prefix(b"v=").and_then(|text| std::str::from_utf8(text).ok());
            match text {
                Some(text) if is_firmware_version(text) && version.is_none() && tag.is_none() => {
                    version = Some(text.to_owned());
                }
                Some(_) => return Err(Response::new(Code::BAD_REQUEST).diagnostic("not a version")),
                None => return Err(Response::new(Code::BAD_OPTION).diagnostic("only ?v=VERSION")),
            }
        }
        Ok(FirmwareFetch {
            device,
            class: class.to_owned(),
            tag: tag.map(str::to_owned),
            version,
            etags: request.etags().take(ETAGS_MAX).map(<[u8]>::to_vec).collect(),
            accept: request.head().accept(),
            block: request.block2(),
            exchange: request.exchange,
        })
    }
}
