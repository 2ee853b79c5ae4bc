//! A CONNECT of MQTT 5 with a password and without a user name.
//!
//! MQTT 5.0 §3.1.2.9 allows it, and clients with a token as password send it. `mqtt-protocol-core`
//! refuses it, as MQTT 3.1.1 does ([MQTT-3.1.2-22]). So such a CONNECT is parsed with an empty user
//! name in its place, and the CONNECT that was read is then without one again.

use super::framing::{Frame, WILL, frame, header_length};

/// The User Name Flag of a CONNECT.
const USER_NAME: u8 = 0x80;
/// Its Password Flag.
const PASSWORD: u8 = 0x40;
/// Protocol Name and Version of MQTT 5 (MQTT 5.0 §3.1.2.1, §3.1.2.2).
const MQTT_5: &[u8] = b"\0\x04MQTT\x05";
/// Largest Remaining Length (MQTT 5.0 §1.5.5).
const LENGTH_MAX: usize = 268_435_455;

/// A whole CONNECT of MQTT 5 that has a password and no user name, with an empty one: at most three
/// bytes longer. `None` for every other packet, and for one in which its place cannot be found: the
/// parser finds the fault.
pub(super) fn with_empty_user_name(whole: &[u8]) -> Option<Vec<u8>> {
    let (first, body) = (*whole.first()?, whole.get(header_length(whole)..)?);
    let (flags, rest) = body.strip_prefix(MQTT_5)?.split_first()?;
    if flags & (USER_NAME | PASSWORD) != PASSWORD {
        return None;
    }
    // Keep-alive, properties, client id, and those of a will (§3.1.3).
    let mut rest = behind_field(behind_properties(rest.get(2..)?)?)?;
    if flags & WILL != 0 {
        rest = behind_field(behind_field(behind_properties(rest)?)?)?;
    }
    let (before, password) = body.split_at(body.len() - rest.len());
    let mut length = body.len() + 2;
    if length > LENGTH_MAX {
        return None;
    }
    let mut longer = Vec::with_capacity(whole.len() + 3);
    longer.push(first);
    while length >= 0x80 {
        longer.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    longer.push(length as u8);
    let flags_at = longer.len() + MQTT_5.len();
    longer.extend_from_slice(before);
    longer.extend_from_slice(&[0, 0]);
    longer.extend_from_slice(password);
    *longer.get_mut(flags_at)? |= USER_NAME;
    Some(longer)
}

/// What is behind a text or binary data with its length in two bytes (MQTT 5.0 §1.5.4, §1.5.6).
fn behind_field(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.get(usize::from(u16::from_be_bytes(*length))..)
}

/// What is behind properties, which begin with their length (MQTT 5.0 §2.2.2).
fn behind_properties(bytes: &[u8]) -> Option<&[u8]> {
    // As a packet has it: one byte, and a length.
    let mut at = [0; 5];
    let seen = bytes.len().min(4);
    at[1..=seen].copy_from_slice(&bytes[..seen]);
    match frame(&at[..=seen]) {
        Frame::Of(length) => bytes.get(length - 1..),
        Frame::Incomplete | Frame::Malformed => None,
    }
}

#[cfg(test)]
mod tests {
    use mqtt_protocol_core::mqtt::packet::{Property, Qos, UserProperty, v5_0};
    use proptest::prelude::*;

    use super::*;

    /// A CONNECT with an empty user name as the library encodes it, and without it.
    fn both(
        client_id: &str,
        password: &[u8],
        will: Option<(&str, &[u8])>,
        property: Option<(&str, &str)>,
    ) -> (Vec<u8>, Vec<u8>) {
        let properties = || {
            let of = |(key, value)| Property::UserProperty(UserProperty::new(key, value).expect("short"));
            property.map(of).into_iter().collect::<Vec<_>>()
        };
        let mut connect = v5_0::Connect::builder().client_id(client_id).expect("short").props(properties());
        connect = connect.user_name("").expect("short").password(password.to_vec()).expect("short");
        if let Some((topic, payload)) = will {
            connect = connect.will_message(topic, payload.to_vec(), Qos::AtLeastOnce, true).expect("short");
            connect = connect.will_props(properties());
        }
        let named = connect.build().expect("a CONNECT").to_continuous_buffer();
        let mut body = named[header_length(&named)..].to_vec();
        let at = body.len() - password.len() - 4;
        assert_eq!(body.drain(at..at + 2).collect::<Vec<_>>(), [0, 0]);
        body[MQTT_5.len()] &= !USER_NAME;
        let mut bare = vec![named[0]];
        let mut length = body.len();
        while length >= 0x80 {
            bare.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bare.push(length as u8);
        bare.append(&mut body);
        (named, bare)
    }

    proptest! {
        #[test]
        fn every_connect_without_a_user_name_becomes_that_with_an_empty_one(
            client_id in "[a-z0-9/]{0,200}",
            password in prop::collection::vec(any::<u8>(), 0..20_000),
            will in prop::option::of(("[a-z/]{1,40}", prop::collection::vec(any::<u8>(), 0..300))),
            property in prop::option::of(("[a-z]{0,90}", "[a-z]{0,90}")),
        ) {
            let will = will.as_ref().map(|(topic, payload)| (topic.as_str(), payload.as_slice()));
            let property = property.as_ref().map(|(key, value)| (key.as_str(), value.as_str()));
            let (named, bare) = both(&client_id, &password, will, property);
            prop_assert_eq!(with_empty_user_name(&bare), Some(named.clone()));
            prop_assert_eq!(with_empty_user_name(&named), None);
            // Every part of it, and every byte changed, neither panics nor grows by more.
            for end in (0..bare.len()).step_by(1 + bare.len() / 64) {
                let part = with_empty_user_name(&bare[..end]);
                prop_assert!(part.is_none_or(|longer| longer.len() <= end + 3));
            }
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_grow(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            lengths in prop::collection::vec(any::<u8>(), 1..5),
            flags in any::<u8>(),
        ) {
            let beginning = [&[0x10], &lengths[..], MQTT_5, &[flags | PASSWORD, 0, 0]].concat();
            for bytes in [bytes.clone(), [beginning, bytes].concat()] {
                let longer = with_empty_user_name(&bytes);
                prop_assert!(longer.is_none_or(|longer| longer.len() <= bytes.len() + 3));
            }
        }
    }

    #[test]
    fn what_may_not_be_without_a_user_name_is_left_alone() {
        let (named, mut bare) = both("c", b"x", None, None);
        assert_eq!(with_empty_user_name(&named), None);
        let level_at = header_length(&bare) + 6;
        bare[level_at] = 4;
        assert_eq!(with_empty_user_name(&bare), None, "MQTT 3.1.1 (MQTT-3.1.2-22)");
        assert_eq!(with_empty_user_name(&[]), None);
    }
}
