//! Every file under `config/` loads, and `tombolo.toml` documents every key.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyIdMethod, KeyPair};
use tombolo::config::schema::{self, Key, Kind};
use tombolo::config::{Finding, Level, Origin};

use crate::support::{Case, Fake, lines, main_file};

const TOMBOLO_TOML: &str = include_str!("../../config/tombolo.toml");

fn faults(case: &Case) -> Vec<Finding> {
    case.loaded().findings.into_iter().filter(|f| f.level == Level::Fail).collect()
}

/// A revocation list that names nothing, in PEM.
pub fn revocation_list(issuer: &Issuer<'_, &KeyPair>) -> String {
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2100, 1, 1),
        crl_number: 1u64.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(issuer).unwrap().pem().unwrap()
}

/// Files the examples name, and the templates, as the package installs them.
fn files() -> Fake {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/modbus");
    let templates = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let all = templates.fold(Fake::default(), |all, entry| {
        let path = format!("/usr/share/tombolo/modbus/{}", entry.file_name().to_str().unwrap());
        all.with(&path, &std::fs::read_to_string(entry.path()).unwrap())
    });
    // One that signs itself stands for the gateway's and for the CA of the devices.
    let key = KeyPair::generate().unwrap();
    let mut certificate = CertificateParams::new(["gateway.example".to_owned()]).unwrap();
    certificate.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let list = revocation_list(&Issuer::from_params(&certificate, &key));
    let certificate = certificate.self_signed(&key).unwrap().pem();
    all.with("/etc/tombolo/broker-ca.pem", "")
        .with("/etc/tombolo/ca.pem", "")
        .with("/etc/tombolo/devices-ca.pem", &certificate)
        .with("/etc/tombolo/devices-crl.pem", &list)
        .with("/etc/tombolo/gateway.pem", &certificate)
        .with("/etc/tombolo/gateway.key", &key.serialize_pem())
        .with("/etc/tombolo/secrets/upstream-password", "secret")
        .with("/etc/tombolo/secrets/key-password", "secret")
        .with("/run/credentials/tombolo.service/upstream-password", "secret")
        .with("/run/credentials/tombolo.service/door-7", "text:0123456789abcdef")
}

#[test]
fn the_packaged_file_loads_without_a_fault_and_offers_the_role_sensor() {
    let case = main_file(TOMBOLO_TOML);
    assert_eq!(lines(&faults(&case)), "");
    let settings = case.loaded().settings;
    assert_eq!(settings.gate.roles[0].name.as_str(), "sensor");
    assert!(settings.upstream.is_none());
}

#[test]
fn every_example_loads_by_itself_and_over_the_packaged_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let folder =
        if folder.is_dir() { folder } else { Path::new(file!()).with_file_name("../../config/examples") };
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut alone = main_file(&text);
        alone.files = files();
        assert_eq!(lines(&faults(&alone)), "", "{}", path.display());
        let over = main_file(TOMBOLO_TOML).layer(Origin::DropIn, "/etc/tombolo/conf.d/50.toml", &text);
        let over = Case { files: files(), ..over };
        assert_eq!(lines(&faults(&over)), "", "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 5);
}

/// With every `#key = …` switched on.
fn switched_on() -> String {
    let on = |line: &str| {
        let key = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        key.unwrap_or(line).to_owned()
    };
    TOMBOLO_TOML.lines().map(on).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_defaults_the_packaged_file_names_are_the_defaults() {
    let off = main_file(TOMBOLO_TOML);
    let mut on = main_file(&switched_on());
    on.files = files();
    assert_eq!(lines(&faults(&on)), "");
    let (off, on) = (off.loaded().settings, on.loaded().settings);
    assert_eq!(off.coap, on.coap);
    assert_eq!(off.journal, on.journal);
    assert_eq!((off.clock, off.log, off.paths), (on.clock, on.log, on.paths));
    // What this gateway is has no default.
    let (compatible, hardware) = (on.update.compatible.clone(), on.update.hardware.clone());
    assert!(compatible.is_some() && hardware.is_some());
    assert_eq!(tombolo::update::settings::Settings { compatible, hardware, ..off.update }, on.update);
    // The payload's default depends on how it comes; the file names that of a datagram.
    let roles = |gate: &tombolo::gate::Settings| format!("{:?}", gate.roles).replace("Some(1024)", "None");
    assert_eq!(roles(&off.gate), roles(&on.gate));
    assert_eq!(off.gate.reading, on.gate.reading);

    let upstream = "[upstream]\nurl = \"mqtts://broker.example.com\"\n";
    let mut plain = main_file(&format!("{upstream}[gateway]\nid = \"greenhouse-7\"\n"));
    plain.files = files();
    let mut plain = plain.loaded().settings.upstream.unwrap();
    let full = on.upstream.unwrap();
    // These have no default.
    plain.tls.as_mut().unwrap().ca_file = full.tls.as_ref().unwrap().ca_file.clone();
    plain.tls.as_mut().unwrap().identity = full.tls.as_ref().unwrap().identity.clone();
    plain.tls.as_mut().unwrap().key_password = full.tls.as_ref().unwrap().key_password.clone();
    plain.username = full.username.clone();
    plain.password_file = full.password_file.clone();
    assert_eq!(plain, full);
}

#[test]
fn the_packaged_file_tells_of_every_key() {
    fn told(keys: &[Key], table: &str, missing: &mut Vec<String>) {
        for key in keys {
            match key.kind {
                Kind::Forbidden(_) | Kind::Reserved(_) => {}
                Kind::Table(inner) => told(inner, &format!("{table}.{}", key.name), missing),
                Kind::Named(inner) | Kind::Tables(inner) => {
                    told(inner, &format!("{table}.{}.*", key.name), missing);
                }
                _ => {
                    let written = TOMBOLO_TOML.lines().any(|line| {
                        let line = line.trim_start_matches(['#', ' ']);
                        line.split([' ', '=', ',', ':']).any(|word| word.trim_start_matches('(') == key.name)
                    });
                    if !written {
                        missing.push(format!("{table}.{}", key.name));
                    }
                }
            }
        }
    }
    let mut missing = Vec::new();
    told(schema::ROOT, "", &mut missing);
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_packaged_file_says_restart_where_a_reload_will_not_do() {
    // The `[restart]` stands in the paragraph of comments above the key, or above its table.
    let mut within = "";
    let paragraphs: Vec<(&str, &str)> = TOMBOLO_TOML
        .split("\n\n")
        .map(|paragraph| {
            let header = paragraph.lines().find_map(|line| line.strip_prefix('['));
            within = header.map_or(within, |header| header.split(['.', ']']).next().unwrap());
            (within, paragraph)
        })
        .collect();
    for table in schema::ROOT {
        let Kind::Table(keys) = table.kind else { continue };
        for key in keys {
            let Some((_, paragraph)) = paragraphs.iter().find(|(within, p)| {
                *within == table.name
                    && p.lines().any(|line| {
                        line.strip_prefix('#').is_some_and(|l| l.starts_with(&format!("{} = ", key.name)))
                    })
            }) else {
                continue;
            };
            assert_eq!(
                paragraph.contains("[restart]"),
                !key.reloadable || key.name == "insecure-device",
                "{}",
                key.name
            );
        }
    }
}

#[test]
fn schema_and_model_agree_on_every_key() {
    // A configuration that sets each key once to something its kind accepts.
    fn example(kind: Kind) -> Option<String> {
        Some(match kind {
            Kind::Text(_) | Kind::Raw(_) | Kind::Name => "\"a\"".into(),
            Kind::Flag => "true".into(),
            Kind::Whole(_, max) => max.to_string(),
            Kind::Register => "465536".into(),
            Kind::Size(_, max) => max.to_string(),
            Kind::Number(_, max) => format!("{max:?}"),
            Kind::Span(_, max) => format!("\"{}\"", tombolo::config::scalar::format_duration(max)),
            Kind::Choice(words) => format!("\"{}\"", words[words.len() - 1]),
            Kind::Addresses => "[\"[::1]:1\"]".into(),
            Kind::Texts | Kind::Operands => "[\"a\"]".into(),
            Kind::Operand => "true".into(),
            Kind::Tables(inner) => {
                let keys =
                    inner.iter().filter_map(|key| Some(format!("{} = {}", key.name, example(key.kind)?)));
                format!("[{{ {} }}]", keys.collect::<Vec<_>>().join(", "))
            }
            Kind::Path | Kind::Secret => "\"a\"".into(),
            Kind::Url => "\"mqtts://a\"".into(),
            Kind::Topic | Kind::FlagOrTopic => "\"a\"".into(),
            Kind::Spans => "\"always\"".into(),
            Kind::Tags => "{ a = \"b\" }".into(),
            Kind::Forbidden(_) | Kind::Reserved(_) => return None,
            Kind::Table(_) | Kind::Named(_) => return None,
        })
    }
    fn write(keys: &[Key], path: &str, text: &mut String) {
        for key in keys {
            let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
            match key.kind {
                Kind::Table(inner) => write(inner, &path, text),
                Kind::Named(inner) => write(inner, &format!("{path}.x"), text),
                kind => {
                    if let Some(value) = example(kind) {
                        text.push_str(&format!("{path} = {value}\n"));
                    }
                }
            }
        }
    }
    let mut text = String::new();
    write(schema::ROOT, "", &mut text);
    let (_, complaints) = main_file(&text).complaints();
    let disagreement = complaints.iter().find(|line| line.contains("cannot be taken together"));
    assert_eq!(disagreement, None);
    // Nor is any of these values refused for its kind.
    assert!(!complaints.iter().any(|line| line.contains("is not accepted")), "{complaints:#?}");
}
