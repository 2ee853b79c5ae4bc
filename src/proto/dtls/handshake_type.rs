//! The types of handshake messages in one table, as the IANA registry "TLS HandshakeType" prints
//! it, with the RFC that defines each.

macro_rules! types {
    ($($constant:ident = $number:literal, $name:literal, $rfc:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "` (RFC ", stringify!($rfc), ")")]
            pub const $constant: u8 = $number;
        )*

        #[cfg(test)]
        const NUMBERS: &[u8] = &[$($number),*];
    };
}

types! {
    HELLO_REQUEST = 0, "hello_request", 5246;
    CLIENT_HELLO = 1, "client_hello", 5246;
    SERVER_HELLO = 2, "server_hello", 5246;
    HELLO_VERIFY_REQUEST = 3, "hello_verify_request", 6347;
    NEW_SESSION_TICKET = 4, "new_session_ticket", 5077;
    END_OF_EARLY_DATA = 5, "end_of_early_data", 8446;
    ENCRYPTED_EXTENSIONS = 8, "encrypted_extensions", 8446;
    REQUEST_CONNECTION_ID = 9, "request_connection_id", 9147;
    NEW_CONNECTION_ID = 10, "new_connection_id", 9147;
    CERTIFICATE = 11, "certificate", 5246;
    SERVER_KEY_EXCHANGE = 12, "server_key_exchange", 5246;
    CERTIFICATE_REQUEST = 13, "certificate_request", 5246;
    SERVER_HELLO_DONE = 14, "server_hello_done", 5246;
    CERTIFICATE_VERIFY = 15, "certificate_verify", 5246;
    CLIENT_KEY_EXCHANGE = 16, "client_key_exchange", 5246;
    CLIENT_CERTIFICATE_REQUEST = 17, "client_certificate_request", 9261;
    FINISHED = 20, "finished", 5246;
    CERTIFICATE_URL = 21, "certificate_url", 6066;
    CERTIFICATE_STATUS = 22, "certificate_status", 6066;
    SUPPLEMENTAL_DATA = 23, "supplemental_data", 4680;
    KEY_UPDATE = 24, "key_update", 8446;
    COMPRESSED_CERTIFICATE = 25, "compressed_certificate", 8879;
    EKT_KEY = 26, "ekt_key", 8870;
    MESSAGE_HASH = 254, "message_hash", 8446;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_registrys_order() {
        assert!(NUMBERS.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
