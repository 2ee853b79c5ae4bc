//! A key in a token: SoftHSM2 behind a module that can hang and be pulled. One test, because a
//! module is loaded once a process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::SignatureScheme;
use tombolo::credential::request::{Names, make_by};
use tombolo::northbound::io::token::{Token, signing_key};
use tombolo::northbound::settings::TokenSettings;
use tombolo::proto::dtls::server::DistinguishedName;
use tombolo_test_support::Folder;
use tombolo_test_support::token::{SoftToken, private_keys};

#[test]
fn a_token_makes_keys_signs_hangs_is_pulled_and_never_gets_a_wrong_pin_twice() {
    let folder = Folder::new("token");
    let soft = SoftToken::new(&folder, "gateway");
    let settings = |pin: &str, label: &str| TokenSettings {
        module: soft.module(),
        label: label.to_owned(),
        pin_file: folder.write(&format!("pin-{pin}"), format!("{pin}\n")),
        mark_folder: folder.join("marks"),
    };

    // A wrong PIN is tried once. What is asked afterwards, and what another process asks, of which
    // a second copy of the settings is the image, tries none.
    let wrong = settings("000000", "gateway");
    let error = Token::of(&wrong).unwrap().look().unwrap_err();
    assert!(error.contains("refuses the PIN") && error.contains("not tried again"), "{error}");
    assert_eq!(soft.logins(), 1);
    let copied = TokenSettings { pin_file: folder.write("pin-copied", "000000"), ..wrong.clone() };
    for asked in [&wrong, &copied] {
        let error = Token::of(asked).unwrap().look().unwrap_err();
        assert!(error.contains("not tried again"), "{error}");
    }
    assert_eq!(soft.logins(), 1, "no second try");
    let marks = std::fs::read_to_string(folder.join("marks/pin-tried")).unwrap();
    assert!(marks.contains("refused") && !marks.contains("000000"), "{marks}");

    let error = Token::of(&settings("271828", "other")).unwrap().look().unwrap_err();
    assert!(error.contains("no token has the label \"other\"") && error.contains("\"gateway\""), "{error}");
    let gone = TokenSettings { module: folder.join("none.so"), ..wrong };
    let error = Token::of(&gone).unwrap().look().unwrap_err();
    assert!(error.contains("cannot be loaded"), "{error}");
    assert_eq!(soft.logins(), 1);

    // The right one; the mark goes.
    let right = settings("271828", "gateway");
    let token = Token::of(&right).unwrap();
    let text = token.look().unwrap();
    assert!(text.contains("\"gateway\"") && text.contains("SoftHSM"), "{text}");
    assert_eq!(soft.logins(), 2);
    assert!(!folder.join("marks/pin-tried").exists());

    let key = token.generate("tombolo-uplink", [1; 16]).unwrap();
    let other = token.generate("tombolo-uplink", [2; 16]).unwrap();
    assert_ne!(key.info, other.info, "a new key each time");
    let foreign = token.generate("somebody-else", [3; 16]).unwrap();
    assert_eq!(token.keep("tombolo-uplink", vec![key.id]).unwrap(), 2, "the public and the private half");
    let objects = soft.objects();
    assert_eq!(private_keys(&objects), 2, "{objects}");

    let signer = signing_key(&right, key.clone()).unwrap();
    let public = signer.public_key().unwrap().to_vec();
    let verified = |signature: &[u8]| {
        let key = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            &public[public.len() - 65..],
        );
        key.verify(b"message", signature).is_ok()
    };
    let sign = || signer.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap().sign(b"message");
    for _ in 0..50 {
        assert!(verified(&sign().unwrap()), "r and s of any length become DER");
    }
    assert!(signer.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]).is_none());
    let names = Names::new(DistinguishedName::parse("CN=gw").unwrap().to_der(), &[], &[]);
    let csr = folder.write("csr.der", make_by(&*signer, &names).unwrap());
    let openssl = std::process::Command::new("openssl")
        .args(["req", "-inform", "der", "-noout", "-verify", "-in"])
        .arg(&csr)
        .output()
        .unwrap();
    assert!(openssl.status.success(), "{openssl:?}");
    let error = signing_key(&right, other).unwrap();
    let error =
        error.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap().sign(b"x").unwrap_err();
    assert!(error.to_string().contains("no key with the id"), "{error}");
    drop(foreign);

    // Pulled: said at once, and the module is not asked again for a while.
    let logins = soft.logins();
    soft.set("pulled", true);
    assert!(sign().unwrap_err().to_string().contains("did not do what it was asked to sign"));
    assert!(token.look().unwrap_err().contains("tried again in"));
    soft.set("pulled", false);

    // Wedged. The one who asks waits for 10 s at most, the next not at all.
    let begun = Instant::now();
    while let Err(error) = token.look() {
        assert!(begun.elapsed() < Duration::from_secs(50), "it comes back by itself: {error}");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(soft.logins(), logins + 1, "once a loading of the module");
    soft.set("wedged", true);
    let error = sign().unwrap_err().to_string();
    assert!(error.contains("has not answered"), "{error}");
    let begun = Instant::now();
    for _ in 0..20 {
        assert!(token.look().unwrap_err().contains("has not answered"));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody queues behind a module that hangs");
    soft.set("wedged", false);
    tombolo_test_support::wait_for("the module to answer again", || token.look().is_ok());
    assert!(verified(&sign().unwrap()));
    assert!(Arc::ptr_eq(&token, &Token::of(&right).unwrap()), "one token, one thread");
}
