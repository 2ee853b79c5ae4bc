//! What `GET /firmware/CLASS` says: version, size, SHA-256 and path of the image, in JSON or CBOR.

use crate::hex::format_hex;
use crate::message::ContentFormat;

use super::kept::Image;

/// The manifest in this format, [`ContentFormat::CBOR`] or else JSON.
///
/// ```text
/// {"version":"1.4.0","size":262144,"sha-256":"…64 digits…","path":"/firmware/door/0a1b2c3d4e5f6071"}
/// ```
///
/// In CBOR the same map, with the SHA-256 as 32 bytes. A SUIT envelope has `"suit":true` besides.
pub fn encode(class: &str, image: &Image, format: ContentFormat) -> Vec<u8> {
    let path = format!("/firmware/{class}/{}", image.tag());
    if format != ContentFormat::CBOR {
        let suit = if image.is_suit { ",\"suit\":true" } else { "" };
        // A version has no character that JSON escapes: see `Scheme::accepts`.
        return format!(
            "{{\"version\":\"{}\",\"size\":{},\"sha-256\":\"{}\",\"path\":\"{path}\"{suit}}}",
            image.version,
            image.bytes,
            format_hex(&image.sha256),
        )
        .into_bytes();
    }
    let mut cbor = Vec::with_capacity(160);
    head(&mut cbor, MAP, if image.is_suit { 5 } else { 4 });
    text(&mut cbor, "version");
    text(&mut cbor, &image.version);
    text(&mut cbor, "size");
    head(&mut cbor, UNSIGNED, image.bytes);
    text(&mut cbor, "sha-256");
    head(&mut cbor, BYTES, 32);
    cbor.extend_from_slice(&image.sha256);
    text(&mut cbor, "path");
    text(&mut cbor, &path);
    if image.is_suit {
        text(&mut cbor, "suit");
        cbor.push(TRUE);
    }
    cbor
}

/// Major types of CBOR in their place (RFC 8949 §3.1).
const UNSIGNED: u8 = 0 << 5;
const BYTES: u8 = 2 << 5;
const TEXT: u8 = 3 << 5;
const MAP: u8 = 5 << 5;
/// The simple value.
const TRUE: u8 = 0xf5;

fn text(cbor: &mut Vec<u8>, text: &str) {
    head(cbor, TEXT, text.len() as u64);
    cbor.extend_from_slice(text.as_bytes());
}

/// The head of an item, in its shortest form.
fn head(cbor: &mut Vec<u8>, major: u8, value: u64) {
    let bytes = value.to_be_bytes();
    match value {
        0..=23 => cbor.push(major | value as u8),
        24..=0xff => cbor.extend_from_slice(&[major | 24, bytes[7]]),
        0x100..=0xffff => cbor.extend_from_slice(&[&[major | 25], &bytes[6..]].concat()),
        0x1_0000..=0xffff_ffff => cbor.extend_from_slice(&[&[major | 26], &bytes[4..]].concat()),
        _ => cbor.extend_from_slice(&[&[major | 27], &bytes[..]].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kept::tests::image;
    use super::*;

    #[test]
    fn a_manifest_in_json_is_read_by_any_parser() {
        let manifest = encode("door", &image("1.4.0", 0xab, 262_144), ContentFormat::JSON);
        let value: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        let expected = serde_json::json!({
            "version": "1.4.0", "size": 262_144, "sha-256": "ab".repeat(32),
            "path": "/firmware/door/abababababababab",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_manifest_in_cbor_has_the_shortest_heads() {
        let manifest =
            encode("door", &Image { is_suit: true, ..image("1.4.0", 0xab, 262_144) }, ContentFormat::CBOR);
        let mut expected = vec![0xa5, 0x67];
        expected.extend_from_slice(b"version\x651.4.0\x64size");
        expected.extend_from_slice(&[0x1a, 0, 4, 0, 0]);
        expected.extend_from_slice(b"\x67sha-256\x58\x20");
        expected.extend_from_slice(&[0xab; 32]);
        expected.extend_from_slice(b"\x64path\x78\x1f/firmware/door/abababababababab\x64suit\xf5");
        assert_eq!(manifest, expected);
    }
}
