//! Certificates and public keys: the files of `[coap]`, devices, fleets.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PublicKeyData as _};
use tombolo::config::{Looked, Origin};

use crate::shipped::revocation_list;
use crate::support::{Case, main_file};

const ROLE: &str = "[role.r.uplink.x]\npath = \"x\"\n";
const FILES: &str =
    "[coap]\ncertificate-file = \"gw.pem\"\nkey-file = \"gw.key\"\nclient-ca-file = \"ca.pem\"\n";

/// A gateway with all its files: `gw.pem`, `gw.key`, `ca.pem`; and `door.pub` and `door.pem` of a
/// device.
fn place(text: &str) -> Case {
    let (ca_key, key, door) =
        (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, &ca_key);
    let signed = |name: &str, key: &KeyPair| {
        CertificateParams::new([name.to_owned()]).unwrap().signed_by(key, &issuer).unwrap().pem()
    };
    main_file(&format!("{FILES}{ROLE}{text}"))
        .file("/etc/tombolo/gw.pem", &signed("gw.example", &key))
        .file("/etc/tombolo/gw.key", &key.serialize_pem())
        .file("/etc/tombolo/ca.pem", &root.pem())
        .file("/etc/tombolo/door.pem", &signed("door.example", &door))
        .file("/etc/tombolo/door.pub", &door.public_key_pem())
        .file("/etc/tombolo/other.key", &KeyPair::generate().unwrap().serialize_pem())
        .file(
            "/etc/tombolo/rsa.key",
            "-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----\n",
        )
}

/// What is said at this line, without the file's name.
fn said(case: &Case) -> Vec<String> {
    let (loads, complaints) = case.complaints();
    assert!(loads, "{complaints:?}");
    complaints.into_iter().map(|line| line.replace("/etc/tombolo/tombolo.toml:", "")).collect()
}

fn devices(case: &Case) -> Vec<String> {
    case.loaded().settings.gate.devices.iter().map(|device| device.id.to_string()).collect()
}

#[test]
fn the_files_become_what_the_engine_is_given() {
    let case = place("[device.d]\nrole = \"r\"\npublic-key-file = \"door.pub\"\n");
    assert_eq!(said(&case), Vec::<String>::new());
    let loaded = case.loaded();
    let certificates = loaded.settings.coap.certificates;
    let gw = case.files.0["/etc/tombolo/gw.key".as_ref() as &std::path::Path].0.clone();
    let key = KeyPair::from_pem(std::str::from_utf8(&gw).unwrap()).unwrap();
    assert_eq!(certificates.key.unwrap().public_key(), key.subject_public_key_info());
    assert_eq!(loaded.certificates.authorities.anchors.len(), 1);
    // From a certificate of it, or by its hash, it is the same key.
    let pinned = loaded.settings.gate.devices[0].public_key.unwrap();
    let hex: String = pinned.iter().map(|byte| format!("{byte:02x}")).collect();
    for way in ["public-key-file = \"door.pem\"".to_owned(), format!("public-key = \"sha256:{hex}\"")] {
        let mut other = place(&format!("[device.d]\nrole = \"r\"\n{way}\n"));
        other.files = case.files.clone();
        assert_eq!(other.loaded().settings.gate.devices[0].public_key, Some(pinned), "{way}");
        assert_eq!(other.loaded().settings.coap, case.loaded().settings.coap);
    }
}

#[test]
fn a_file_that_is_wrong_is_named_and_costs_the_certificates_alone() {
    let device = "[device.d]\nrole = \"r\"\npsk-file = \"k\"\n";
    let faulty = |from: &str, to: &str, message: &str| {
        let mut case = place(device).file("/etc/tombolo/k", "text:0123456789abcdef");
        case.layers[0].text = case.layers[0].text.replace(from, to);
        let said = said(&case);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(message), "{said:?}");
        let loaded = case.loaded();
        assert!(loaded.settings.coap.certificates.key.is_none(), "{to}");
        // Without its own key nobody connects with a certificate, whatever CAs there are.
        let is_harmless = loaded.certificates.key_fault;
        assert!(is_harmless || loaded.certificates.authorities.anchors.is_empty(), "{to}");
        assert_eq!(devices(&case), ["d"]);
    };
    faulty(
        "\"gw.key\"",
        "\"none.key\"",
        "fail  3: coap.key-file: /etc/tombolo/none.key does not exist; put the file there",
    );
    faulty(
        "\"gw.key\"",
        "\"other.key\"",
        "/etc/tombolo/other.key cannot be used: the key is not that of the certificate",
    );
    faulty("\"gw.key\"", "\"rsa.key\"", "the key is not one on P-256 or P-384");
    faulty("\"gw.key\"", "\"gw.pem\"", "/etc/tombolo/gw.pem holds no private key in PEM form");
    faulty("\"gw.pem\"", "\"k\"", "/etc/tombolo/k holds no certificate in PEM form");
    faulty("\"ca.pem\"", "\"k\"", "4: coap.client-ca-file: /etc/tombolo/k holds no certificate");
    faulty(
        "\"ca.pem\"",
        "\"ca.pem\"\ncrl-file = \"gw.pem\"",
        "5: coap.crl-file: /etc/tombolo/gw.pem holds no revocation list",
    );
    faulty(
        "key-file = \"gw.key\"\n",
        "",
        "2: coap.certificate-file: the certificate has no key; set coap.key-file too",
    );
}

#[test]
fn a_file_that_is_wrong_is_said_once_though_devices_need_what_is_in_it() {
    let device = "[device.d]\nrole = \"r\"\ncertificate-dns = \"door.example\"\n";
    for file in ["ca.pem", "gw.key", "gw.pem"] {
        let said = said(&place(device).file(&format!("/etc/tombolo/{file}"), "half"));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(file), "{said:?}");
    }
}

#[test]
fn a_file_that_the_service_does_not_see_is_named() {
    let mut case = place("");
    case.layers[0].text = case.layers[0].text.replace("\"ca.pem\"", "\"/home/admin/ca.pem\"");
    let ca = case.files.0[std::path::Path::new("/etc/tombolo/ca.pem")].clone();
    case.files.0.insert("/home/admin/ca.pem".into(), ca);
    let said = said(&case);
    assert_eq!(said.len(), 1, "{said:?}");
    let expected = "coap.client-ca-file: /home/admin/ca.pem is below /home, which the service does not see (ProtectHome= in its \
                    unit); put the file below /etc/tombolo; run as root, `tombolo init` copies the files it is given. A \
                    gateway of your own, which is no service, is named with --config FILE";
    assert!(said[0].starts_with("fail ") && said[0].ends_with(expected), "{said:?}");
}

#[test]
fn a_list_that_another_signed_in_the_name_of_a_ca_is_refused() {
    let mut case = place("");
    case.layers[0].text = case.layers[0].text.replace("\"ca.pem\"", "\"ca.pem\"\ncrl-file = \"crl.pem\"");
    // Another CA of the same name.
    let (key, mut ca) = (KeyPair::generate().unwrap(), CertificateParams::default());
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let case = case.file("/etc/tombolo/crl.pem", &revocation_list(&Issuer::new(ca, &key)));
    let said = said(&case);
    let expected = "fail  5: coap.crl-file: /etc/tombolo/crl.pem cannot be used: a revocation list of CN=rcgen self signed cert \
                    is not signed by the key of that CA";
    assert!(said[0].starts_with(expected), "{said:?}");
    assert_eq!(said.len(), 1);
}

#[test]
fn a_reload_with_a_wrong_file_keeps_what_was_in_force_and_takes_up_the_rest() {
    let old = place("[device.d]\nrole = \"r\"\npublic-key-file = \"door.pub\"\n");
    let before = old.loaded();
    let mut new = place("[device.e]\nrole = \"r\"\npublic-key-file = \"door.pub\"\n")
        .file("/etc/tombolo/ca.pem", "half");
    new.certificates = Some(before.certificates.clone());
    let said = said(&new);
    let expected = "the previous files stay in use until the next restart; replace the file, then reload";
    assert!(said[0].ends_with(expected), "{said:?}");
    new.certificates = None;
    let expected = "no device with a certificate or raw public key can connect until it is valid";
    assert!(self::said(&new)[0].ends_with(expected), "{:?}", self::said(&new));
    new.certificates = Some(before.certificates.clone());
    let after = new.loaded();
    assert_eq!(after.certificates.authorities, before.certificates.authorities);
    assert_eq!(devices(&new), ["e"]);
    // Keys of devices are not among those files: the new one counts.
    assert_ne!(after.settings.coap.certificates, before.settings.coap.certificates);
    // A file that every user can read causes a warning, but is used.
    let mut open = old.clone();
    open.certificates = Some(before.certificates.clone());
    let key = open.files.0.get_mut("/etc/tombolo/gw.key".as_ref() as &std::path::Path).unwrap();
    key.1 = Looked { exposed: true, closed_to: None };
    let complaints = self::said(&open);
    assert_eq!(
        complaints,
        [
            "warn  3: coap.key-file: /etc/tombolo/gw.key can be read by every user of this machine; chmod 0640 \
          /etc/tombolo/gw.key"
        ]
    );
}

#[test]
fn a_key_from_a_credential_of_the_service_is_read_where_systemd_puts_it() {
    let mut case = place("");
    let key = case.files.0.remove("/etc/tombolo/gw.key".as_ref() as &std::path::Path).unwrap();
    case.files.0.insert("/run/secret/dtls".into(), key);
    case.layers[0].text = case.layers[0].text.replace("\"gw.key\"", "\"credential:dtls\"");
    let outside = said(&case);
    assert!(outside[0].contains("this credential cannot be seen from outside the service"), "{outside:?}");
    // Of a gateway that is no service no unit is known.
    case.main = Some("/srv/gw/tombolo.toml".into());
    let outside = said(&case);
    let words = ["only systemd provides credentials", "without credential:", "set CREDENTIALS_DIRECTORY to"];
    assert!(words.iter().all(|word| outside[0].contains(word)), "{outside:?}");
    case.main = None;
    case.credentials = Some("/run/secret".into());
    assert_eq!(said(&case), Vec::<String>::new());
    assert!(case.loaded().settings.coap.certificates.key.is_some());
}

#[test]
fn a_wrong_device_disables_itself_alone_and_says_why() {
    let wrong = |lines: &str, message: &str| {
        let good = "[device.good]\nrole = \"r\"\ncertificate-dns = \"good.example\"\n";
        let case = place(&format!("{good}[device.z]\nrole = \"r\"\n{lines}\n"));
        let said = said(&case);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(message), "{said:?}");
        assert_eq!(devices(&case), ["good"]);
        assert!(!case.loaded().known("z").unwrap().usable);
        assert!(case.loaded().settings.gate.withheld.ids.iter().any(|id| id.as_str() == "z"));
    };
    wrong(
        "certificate-dns = \"*.example\"",
        "12: device.z.certificate-dns: \"*.example\": this is not a DNS name",
    );
    wrong("certificate-cn = \"x\"\ncertificate-dns = \"y\"", "only one name may identify a certificate");
    wrong(
        "certificate-issuer = \"CN=ca\"",
        "device.z.certificate-issuer: an issuer alone would match every certificate it issued",
    );
    wrong(
        "certificate-cn = \"x\"\ncertificate-issuer = \"Door CA\"",
        "a part of the name is not TYPE=value; write it as `openssl x509",
    );
    wrong("certificate-dns = \"GOOD.example\"", "device good (7) has the same certificate");
    wrong("public-key = \"sha256:12\"", "device.z.public-key: this is not a hash of a key");
    wrong(
        "public-key-file = \"gw.key\"",
        "/etc/tombolo/gw.key contains a private key; use the public key, and keep the private key on the device",
    );
    wrong("public-key-file = \"none\"", "/etc/tombolo/none does not exist");
    wrong(
        "public-key-file = \"door.pub\"\npublic-key = \"sha256:12\"",
        "public-key and public-key-file are both set",
    );
}

#[test]
fn the_registry_knows_certificates_and_keys_and_yields_to_the_configuration() {
    let hash = format!("sha256:{}", "ab".repeat(32));
    let text = format!(
        "role = \"r\"\ncertificate-uri = \"urn:x\"\ncertificate-issuer = \"O=A, CN=ca\"\npublic-key = \"{hash}\"\n"
    );
    let case = place("").device("d", &text);
    assert_eq!(said(&case), Vec::<String>::new());
    let known = case.loaded().known("d").cloned().unwrap();
    assert_eq!(known.certificate().unwrap().to_string(), "certificate-uri \"urn:x\" of O=A, CN=ca");
    assert_eq!(known.public_key(), Some(&[0xab; 32]));
    let twin = place("[device.e]\nrole = \"r\"\ncertificate-uri = \"urn:x\"\n").device("d", &text);
    let complaints = said(&twin);
    assert!(
        complaints[0].contains("devices/d.toml: device d: device e (7) has the same certificate"),
        "{complaints:?}"
    );
    assert_eq!(devices(&twin), ["e"]);
    let twin = place(&format!("[device.e]\nrole = \"r\"\npublic-key = \"{hash}\"\n")).device("d", &text);
    assert!(said(&twin)[0].contains("has the same public key"));
    for (bad, message) in [
        (
            "certificate-uri = \"a\"\ncertificate-cn = \"b\"",
            "d.toml:3: certificate-cn: only one name may identify a certificate",
        ),
        (
            "certificate-issuer = \"CN=b\"",
            "d.toml:2: certificate-issuer: there is no certificate-uri, -dns or -cn",
        ),
        ("public-key = \"x\"", "d.toml:2: public-key: this is not a hash of a key"),
    ] {
        let complaints = said(&place("").device("d", &format!("role = \"r\"\n{bad}\n")));
        assert!(complaints[0].contains(message), "{complaints:?}");
    }
}

#[test]
fn a_fleet_is_read_judged_and_kept_from_what_is_switched_off() {
    let fleet = "[fleet.doors]\nrole = \"r\"\ncertificate-dns = \"door-{id}.example\"\n";
    let off = "[device.7]\nrole = \"r\"\nenabled = false\ncertificate-cn = \"old\"\n[device.bad]\npsk = 1\n";
    let case = place(&format!("{fleet}{off}"));
    let gate = case.loaded().settings.gate;
    assert_eq!((gate.fleets.len(), gate.fleets[0].max_devices), (1, 1_000));
    let withheld: Vec<&str> = gate.withheld.ids.iter().map(|id| id.as_str()).collect();
    assert!(withheld.contains(&"7") && withheld.contains(&"bad"), "{withheld:?}");
    assert_eq!(gate.withheld.certificates[0].to_string(), "certificate-cn \"old\"");
    // One that no certificate need have is still right; one that is written like a certificate's
    // name is probably not.
    let said_of = |id: &str| -> Vec<String> {
        let case = place(&format!("{fleet}[device.{id}]\nenabled = false\n"));
        let all = case.loaded().findings;
        all.iter().filter(|one| one.message.contains("excludes")).map(ToString::to_string).collect()
    };
    let right = said_of("8");
    assert_eq!(right.len(), 1);
    assert!(right[0].starts_with("ok "), "{right:?}");
    assert!(
        right[0].ends_with(
            "device.8.enabled: excludes the device 8 of fleet doors (certificate-dns door-8.example)"
        ),
        "{right:?}"
    );
    let mistaken = said_of("door-8");
    assert!(mistaken[0].starts_with("warn "), "{mistaken:?}");
    assert!(
        mistaken[0].ends_with("(certificate-dns door-door-8.example); if certificate-dns door-8.example is meant, write [device.8]"),
        "{mistaken:?}"
    );
    let wrong = |lines: &str, message: &str| {
        let said = said(&place(&format!("{fleet}[fleet.x]\nrole = \"r\"\n{lines}\n")));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(message), "{said:?}");
    };
    wrong("", "fleet.x: the fleet has no certificate name; set certificate-uri");
    wrong(
        "certificate-cn = \"x\"",
        "fleet.x.certificate-cn: \"x\": a fleet's certificate name needs {id} exactly once; write it like",
    );
    wrong(
        "certificate-dns = \"{id}.example\"",
        "fleet.x.certificate-dns: a certificate could also match fleet doors",
    );
    wrong(
        "certificate-cn = \"{id}\"\nmax-devices = 0",
        "fleet.x.max-devices: 0 is not accepted; use a whole number from 1 to 100000",
    );
    let said = said(&place("[fleet.x]\nrole = \"q\"\ncertificate-cn = \"{id}\"\n"));
    assert!(said[0].contains("fleet.x.role: there is no role \"q\""), "{said:?}");
    let case =
        place(fleet).layer(Origin::DropIn, "/etc/tombolo/conf.d/9.toml", "[fleet.doors]\nenabled = false\n");
    assert!(case.loaded().settings.gate.fleets.is_empty());
}

#[test]
fn what_keeps_all_of_them_out_is_said_once() {
    let devices = "[device.d]\nrole = \"r\"\ncertificate-cn = \"x\"\n[device.e]\nrole = \"r\"\ncertificate-cn = \"y\"\n";
    let keys = |case: &Case| -> Vec<String> {
        case.loaded()
            .findings
            .iter()
            .filter_map(|finding| finding.key.clone())
            .filter(|key| key.starts_with("coap"))
            .collect()
    };
    let bare = main_file(&format!("{ROLE}{devices}"));
    assert_eq!(keys(&bare), ["coap.key-file", "coap.client-ca-file"]);
    let mut half = place(devices);
    half.layers[0].text = half.layers[0].text.replace("certificate-file = \"gw.pem\"\n", "");
    assert_eq!(keys(&half), ["coap.certificate-file"]);
    let mut other = place(devices);
    other.layers[0].text = other.layers[0].text.replace("[coap]\n", "[coap]\nengine = \"dimpl\"\n");
    assert_eq!(keys(&other), ["coap.engine"]);
}
