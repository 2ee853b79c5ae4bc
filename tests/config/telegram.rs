//! The examples of `config/examples/serial`, each with telegrams as public sources have them:
//! whole, with a byte lost, with one wrong, and behind noise.

use std::time::{Duration, Instant};

use tombolo::config::Level;
use tombolo::proto::serial::checksum::Checksum;
use tombolo::proto::serial::framing::{Decoder, Settings};
use tombolo::proto::serial::reading::{Extractor, Room};
use tombolo::southbound::serial::settings::Duty;

use crate::support::{lines, main_file};

/// DSMR 5, from the tests of github.com/ndokter/dsmr_parser (test/example_telegrams.py).
const P1: &str = "/ISk5\\2MT382-1000\r\n\r\n1-3:0.2.8(50)\r\n0-0:1.0.0(170102192002W)\r\n\
    0-0:96.1.1(4B384547303034303436333935353037)\r\n1-0:1.8.1(000004.426*kWh)\r\n1-0:1.8.2(000002.399*kWh)\r\n\
    1-0:2.8.1(000002.444*kWh)\r\n1-0:2.8.2(000000.000*kWh)\r\n0-0:96.14.0(0002)\r\n1-0:1.7.0(00.244*kW)\r\n\
    1-0:2.7.0(00.000*kW)\r\n0-0:96.7.21(00013)\r\n0-0:96.7.9(00000)\r\n1-0:99.97.0(0)(0-0:96.7.19)\r\n\
    1-0:32.32.0(00000)\r\n1-0:52.32.0(00000)\r\n1-0:72.32.0(00000)\r\n1-0:32.36.0(00000)\r\n1-0:52.36.0(00000)\r\n\
    1-0:72.36.0(00000)\r\n0-0:96.13.0()\r\n1-0:32.7.0(0230.0*V)\r\n1-0:52.7.0(0230.0*V)\r\n1-0:72.7.0(0229.0*V)\r\n\
    1-0:31.7.0(0.48*A)\r\n1-0:51.7.0(0.44*A)\r\n1-0:71.7.0(0.86*A)\r\n1-0:21.7.0(00.070*kW)\r\n1-0:41.7.0(00.032*kW)\r\n\
    1-0:61.7.0(00.142*kW)\r\n1-0:22.7.0(00.000*kW)\r\n1-0:42.7.0(00.000*kW)\r\n1-0:62.7.0(00.000*kW)\r\n\
    0-1:24.1.0(003)\r\n0-1:96.1.0(3232323241424344313233343536373839)\r\n0-1:24.2.1(170102161005W)(00000.107*m3)\r\n\
    0-2:24.1.0(003)\r\n0-2:96.1.0()\r\n!6EEE\r\n";
/// As meters of DSMR 2.2 send: without a CRC and without a time.
const P1_OF_DSMR_2: &str = "/ISk5\\2MT382-1004\r\n\r\n0-0:96.1.1(00000000000000)\r\n1-0:1.8.1(00001.001*kWh)\r\n\
    1-0:1.8.2(00001.001*kWh)\r\n1-0:2.8.1(00001.001*kWh)\r\n1-0:2.8.2(00001.001*kWh)\r\n0-0:96.14.0(0001)\r\n\
    1-0:1.7.0(0001.01*kW)\r\n1-0:2.7.0(0000.00*kW)\r\n0-0:17.0.0(0999.00*kW)\r\n0-0:96.3.10(1)\r\n0-0:96.13.1()\r\n\
    0-0:96.13.0()\r\n0-1:24.1.0(3)\r\n0-1:96.1.0(000000000000)\r\n\
    0-1:24.3.0(161107190000)(00)(60)(1)(0-1:24.2.1)(m3)\r\n(00001.001)\r\n0-1:24.4.0(1)\r\n!\r\n";
/// A file of an ISKRA meter, from the tests of sml-rs (github.com/felixwrt/sml-rs).
const SML: &str = "1B1B1B1B010101017605006345516200620072630101760101050021171B0B0A0149534B00047A554472620165\
    0021155A620163828E00760500634552620062007263070177010B0A0149534B00047A5544070100620AFFFF726201650021155A757707\
    010060320101010101010449534B0177070100600100FF010101010B0A0149534B00047A55440177070100010800FF650010010401621E\
    52FF65000C13610177070100020800FF0101621E52FF62000177070100100700FF0101621B5200530860010101638E7100760500634552\
    6200620072630201710163AD55001B1B1B1B1A00B97C";
/// From the tests of github.com/bcl/air-sensors (pmsa003i/pmsa003i_test.go): the frame is the same.
const PMS: &str = "424d001c000000010005000000010005007e002a000f00090003000397000214";
/// A block with the fields that an MPPT sends by VE.Direct; values and checksum are made up here.
const VE_DIRECT: &[u8] =
    b"\r\nPID\t0xA042\r\nFW\t159\r\nSER#\tHQ2132QY2KR\r\nV\t13790\r\nI\t-10\r\nVPV\t15950\r\n\
    PPV\t0\r\nCS\t5\r\nMPPT\t2\r\nERR\t0\r\nLOAD\tON\r\nH19\t0\r\nHSDS\t16\r\nChecksum\t\xa8";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn example(text: &str) -> (Settings, Extractor) {
    let loaded = main_file(text).loaded();
    let faults: Vec<_> = loaded.findings.iter().filter(|f| f.level == Level::Fail).cloned().collect();
    assert_eq!(lines(&faults), "");
    let Duty::Readings { framing, extractor, .. } = &loaded.settings.serial[0].duty else { panic!() };
    (framing.clone(), extractor.clone())
}

/// The payloads of a line that has been open for long, and is quiet behind these bytes.
fn decode(settings: &Settings, bytes: &[u8], chunk: usize) -> Vec<Vec<u8>> {
    let start = Instant::now();
    let mut decoder = Decoder::new(settings, start);
    let now = start + Duration::from_secs(10);
    let mut found = Vec::new();
    for piece in bytes.chunks(chunk) {
        decoder.handle_bytes(now, piece, &mut |frame| found.push(frame.to_vec()));
    }
    decoder.handle_timeout(now + Duration::from_secs(5), &mut |frame| found.push(frame.to_vec()));
    found
}

/// Three telegrams: each is found; if one byte of the second is lost or wrong, nothing else than
/// whole telegrams is, and at least `least` of them.
fn survives(settings: &Settings, telegram: &[u8], payload: &[u8], least: usize) {
    let stream = telegram.repeat(3);
    for chunk in [1, 7, stream.len()] {
        assert_eq!(decode(settings, &stream, chunk), vec![payload; 3]);
    }
    for at in telegram.len()..2 * telegram.len() {
        let mut lost = stream.clone();
        lost.remove(at);
        let mut wrong = stream.clone();
        wrong[at] ^= 1;
        for (bytes, what) in [(lost, "lost"), (wrong, "wrong")] {
            let found = decode(settings, &bytes, 64);
            assert!(found.iter().all(|found| found == payload), "byte {at} {what}");
            assert!(found.len() >= least, "byte {at} {what}: {}", found.len());
        }
    }
    let found = decode(settings, &[b"\x00\xFE5!\x1B", &stream[..]].concat(), 64);
    assert!(found.iter().all(|found| found == payload) && found.len() >= 2, "{}", found.len());
}

/// Of telegrams that are all good no byte counts as one that belonged to none.
fn nothing_is_dropped(settings: &Settings, telegram: &[u8]) {
    let start = Instant::now();
    let mut decoder = Decoder::new(settings, start);
    decoder.handle_bytes(start + Duration::from_secs(10), &telegram.repeat(3), &mut |_| {});
    let counters = decoder.counters();
    assert_eq!((counters.dropped, counters.bad), (0, 0));
}

fn read(extractor: &Extractor, payload: &[u8]) -> (String, String) {
    let mut room = Room::default();
    let reading = extractor.read(payload, &mut room).unwrap();
    (reading.path.to_string(), String::from_utf8_lossy(reading.payload).into_owned())
}

#[test]
fn a_p1_telegram_is_published_if_its_crc_behind_the_end_is_right() {
    let (settings, extractor) = example(include_str!("../../config/examples/serial/p1.toml"));
    let payload = &P1.as_bytes()[1..P1.len() - 7];
    survives(&settings, P1.as_bytes(), payload, 2);
    assert_eq!(decode(&settings, P1.replace("6EEE", "6eee").as_bytes(), 7), [payload]);
    nothing_is_dropped(&settings, P1.as_bytes());
    let json = r#"{"time":"170102192002W","low":4.426,"high":2.399,"power":0.244}"#;
    assert_eq!(read(&extractor, payload), ("data".to_owned(), json.to_owned()));
}

#[test]
fn a_p1_telegram_of_dsmr_2_is_published_without_the_time_that_it_does_not_have() {
    let text = include_str!("../../config/examples/serial/p1.toml");
    let without = |line: &&str| {
        let gone = ["keep", "checksum", "pattern", "[serial.p1.field.time]", "type = \"text\""];
        !gone.iter().any(|key| line.starts_with(key))
    };
    // With the pattern of the comment.
    let own = text.lines().find_map(|line| line.strip_prefix("# pattern")).unwrap();
    let text = text.lines().filter(without).collect::<Vec<_>>().join("\n");
    let text = text.replace("framing = ", &format!("pattern{own}\nframing = "));
    let line = "baud = 9600\ndata-bits = 7\nparity = \"even\"";
    let (settings, extractor) = example(&text.replace("baud = 115200", line));
    let payload = &P1_OF_DSMR_2.as_bytes()[1..P1_OF_DSMR_2.len() - 3];
    assert_eq!(decode(&settings, P1_OF_DSMR_2.repeat(2).as_bytes(), 7), vec![payload; 2]);
    let json = r#"{"low":1.001,"high":1.001,"power":1.01}"#;
    assert_eq!(read(&extractor, payload), ("data".to_owned(), json.to_owned()));
    // A character of a value that is lost, or one that is added, makes no other value.
    for value in [&b"(00001.001*kWh)\r\n1-0:1.8.2"[..], b"(0001.01*kW)"] {
        let from = payload.windows(value.len()).position(|window| window == value).unwrap() + 1;
        for at in from..from + value.iter().position(|byte| *byte == b'*').unwrap() - 1 {
            let (mut lost, mut added) = (payload.to_vec(), payload.to_vec());
            lost.remove(at);
            added.insert(at, b'0');
            for damaged in [lost, added] {
                assert!(extractor.read(&damaged, &mut Room::default()).is_err(), "{at}");
            }
        }
    }
}

#[test]
fn an_nmea_sentence_is_published_if_its_checksum_is_right() {
    let (settings, extractor) = example(include_str!("../../config/examples/serial/nmea.toml"));
    // With this sentence many public implementations of NMEA test their checksum.
    let sentence = b"$GPGLL,5300.97914,N,00259.98174,E,125926,A*28\r\n";
    let payload = &sentence[1..sentence.len() - 5];
    survives(&settings, sentence, payload, 2);
    nothing_is_dropped(&settings, sentence);
    assert_eq!(read(&extractor, payload).0, "nmea/GPGLL");
    for sum in ["1B", "1b"] {
        let own = format!("$GPTXT,x*{sum}\r\n");
        assert_eq!(decode(&settings, own.as_bytes(), 7), [b"GPTXT,x"]);
    }
    // A sentence without a checksum costs none of its neighbours.
    let mixed = [&sentence[..], b"$GPTXT,01,01,02,no checksum\r\n$PMTK\r\n$\r\n", sentence].concat();
    for chunk in [1, 7, mixed.len()] {
        assert_eq!(decode(&settings, &mixed, chunk), vec![payload; 2]);
    }
    // A zero passes the checksum wherever it is.
    for at in 0..=payload.len() {
        let mut added = payload.to_vec();
        added.insert(at, 0);
        assert!(extractor.read(&added, &mut Room::default()).is_err(), "{at}");
    }
}

#[test]
fn each_group_of_a_linky_is_published_if_its_sum_is_right() {
    let (settings, extractor) = example(include_str!("../../config/examples/serial/linky.toml"));
    // The frame that many public decoders of téléinformation quote, with its sums.
    let groups = [
        "ADCO 270622224349 B",
        "OPTARIF HC.. <",
        "ISOUSC 30 9",
        "HCHC 014460852 $",
        "HCHP 012506372 -",
        "PTEC HP..  ",
        "IINST 002 Y",
        "IMAX 035 G",
        "PAPP 00520 (",
        "HHPHC C .",
        "MOTDETAT 000000 B",
    ];
    let frame: String = groups.iter().map(|group| format!("\n{group}\r")).collect();
    let found = decode(&settings, format!("\x02{frame}\x03").as_bytes(), 5);
    let expected: Vec<&[u8]> = groups.iter().map(|group| &group.as_bytes()[..group.len() - 2]).collect();
    assert_eq!(found, expected);
    nothing_is_dropped(&settings, format!("\x02{frame}\x03").as_bytes());
    for group in groups {
        survives(&settings, format!("\n{group}\r").as_bytes(), &group.as_bytes()[..group.len() - 2], 2);
    }
    let expected = ("tic/PAPP".to_owned(), r#"{"label":"PAPP","value":"00520"}"#.to_owned());
    assert_eq!(read(&extractor, b"PAPP 00520"), expected);
    assert_eq!(read(&extractor, b"PAPP 12000").1, r#"{"label":"PAPP","value":"12000"}"#);
    for group in groups {
        let (label, value) = group[..group.len() - 2].split_once(' ').unwrap();
        let expected = format!(r#"{{"label":"{label}","value":"{value}"}}"#);
        assert_eq!(read(&extractor, &group.as_bytes()[..group.len() - 2]).1, expected);
    }
    // Damage that a sum of 6 bits may pass: a lost digit, a joined group, another label.
    for group in [
        "PAPP 0520",
        "HCHC 01446085",
        "ADCO 27062222434",
        "PAPP 00520 (0",
        "PAQP 00520",
        "HP..  ",
        // Another group's value.
        "PAPP 014460852",
        "HCHC 00520",
        "PTEC 00520",
        "OPTARIF HP..",
    ] {
        assert!(extractor.read(group.as_bytes(), &mut Room::default()).is_err(), "{group}");
    }
    // Others of this mode.
    for group in [
        "OPTARIF BBR(",
        "BBRHCJB 000123456",
        "PEJP 30",
        "DEMAIN ----",
        "PTEC HPJR",
        "IINST2 003",
        "ADIR1 091",
        "PMAX 06470",
        "PPOT 0F",
    ]
    .into_iter()
    .chain(groups.iter().map(|group| &group[..group.len() - 2]))
    {
        read(&extractor, group.as_bytes());
        assert_eq!(passed_changes(&extractor, group.as_bytes()), [""; 0], "{group}");
    }
}

/// The groups with one byte changed that the sum of a Linky lets pass, and the pattern, too.
fn passed_changes(extractor: &Extractor, group: &[u8]) -> Vec<String> {
    let mut passed = Vec::new();
    let mut room = Room::default();
    for at in 0..group.len() {
        // The sum has 6 bits: others it sees.
        for change in [0x40, 0x80, 0xC0] {
            let mut changed = group.to_vec();
            changed[at] = changed[at].wrapping_add(change);
            assert_eq!(Checksum::Linky.of(&changed), Checksum::Linky.of(group));
            if extractor.read(&changed, &mut room).is_ok() {
                passed.push(changed.escape_ascii().to_string());
            }
        }
    }
    passed
}

/// Groups of mode standard; the labels are public, the values made up here.
const STANDARD: [&str; 25] = [
    "ADSC\t041876097592\t",
    "PRM\t24164671254800\t",
    "NGTF\t      TEMPO     \t",
    "LTARF\t    HP  BLEU    \t",
    "EAST\t006453830\t",
    "EASF01\t002456470\t",
    "EASD04\t000000000\t",
    "EAIT\t000000100\t",
    "ERQ1\t000001234\t",
    "IRMS1\t002\t",
    "URMS1\t232\t",
    "PREF\t09\t",
    "PCOUP\t09\t",
    "SINSTS\t00439\t",
    "SINSTS1\t00146\t",
    "SINSTI\t00000\t",
    "SMAXSN\tH220116093847\t02930\t",
    "SMAXSN1-1\te220115064112\t03310\t",
    "CCASN\tH220116180000\t00420\t",
    "UMOY1\tH220116182000\t231\t",
    "STGE\t003A4401\t",
    "DPM1\t 220116000000\t00\t",
    "MSG1\tPAS DE          MESSAGE         \t",
    "RELAIS\t000\t",
    "NTARF\t02\t",
];

#[test]
fn each_group_of_a_linky_in_standard_mode_is_published_also_those_of_the_next_day() {
    let text = include_str!("../../config/examples/serial/linky.toml");
    let pattern = text.lines().find_map(|line| line.strip_prefix("# pattern = ")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("checksum-mark"));
    let lines = lines.map(|line| match line.split_once(" = ") {
        Some(("pattern", _)) => format!("pattern = {pattern}\n"),
        Some(("baud", _)) => "baud = 9600\n".to_owned(),
        _ => format!("{line}\n"),
    });
    let (settings, extractor) = example(&lines.collect::<String>());
    let unused = ["NONUTILE"; 10].join(" ");
    for (group, sum, path, json) in [
        ("VTIC\t02\t", Some(b'J'), "VTIC", r#""value":"02""#.to_owned()),
        ("NJOURF\t00\t", Some(b'&'), "NJOURF", r#""value":"00""#.to_owned()),
        ("NJOURF+1\t00\t", Some(b'B'), "NJOURF", r#""next":"+1","value":"00""#.to_owned()),
        (
            &format!("PJOURF+1\t00008001 {unused}\t"),
            None,
            "PJOURF",
            format!(r#""next":"+1","value":"00008001 {unused}""#),
        ),
        ("DATE\tE200407140532\t\t", None, "DATE", r#""time":"E200407140532","value":"""#.to_owned()),
        (
            "SMAXSN-1\tE200407140532\t05650\t",
            None,
            "SMAXSN-1",
            r#""time":"E200407140532","value":"05650""#.to_owned(),
        ),
    ] {
        let computed = (group.bytes().map(u32::from).sum::<u32>() & 0x3F) as u8 + 0x20;
        assert!(sum.is_none_or(|sum| sum == computed), "{group}");
        let sent = [b"\n", group.as_bytes(), &[computed, b'\r']].concat();
        assert_eq!(decode(&settings, &sent, 3), [group.as_bytes()], "{group}");
        let (found, payload) = read(&extractor, group.as_bytes());
        assert_eq!(found, format!("tic/{path}"));
        // The order is that of the groups in the pattern.
        let object = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(object(&payload), object(&format!(r#"{{"label":"{path}",{json}}}"#)));
        assert_eq!(passed_changes(&extractor, group.as_bytes()), [""; 0], "{group}");
    }
    for group in STANDARD {
        read(&extractor, group.as_bytes());
        assert_eq!(passed_changes(&extractor, group.as_bytes()), [""; 0], "{group}");
    }
    for wrong in [
        "PAPP\t00520\t",
        "EAST\t00645383\t",
        "EAST\t002\t",
        "IRMS1\t006453830\t",
        "EAST 006453830\t",
        "SMAXSN\t02930\t",
        "EAST\tH220116093847\t006453830\t",
        "IRMS1\t002",
        "MSG2\tPAS DE          MESSAGE         \t",
    ] {
        assert!(extractor.read(wrong.as_bytes(), &mut Room::default()).is_err(), "{wrong}");
    }
}

#[test]
fn a_ve_direct_block_is_published_if_its_sum_is_zero_whatever_its_last_byte_is() {
    let (settings, extractor) = example(include_str!("../../config/examples/serial/ve-direct.toml"));
    let payload = &VE_DIRECT[..VE_DIRECT.len() - 10];
    // The first block with these labels is not used.
    let four = VE_DIRECT.repeat(4);
    assert_eq!(decode(&settings, &four, 7), vec![payload; 3]);
    for at in VE_DIRECT.len()..2 * VE_DIRECT.len() {
        let (mut lost, mut wrong) = (four.clone(), four.clone());
        lost.remove(at);
        wrong[at] ^= 1;
        for bytes in [lost, wrong] {
            let found = decode(&settings, &bytes, 64);
            assert!(found.iter().all(|found| found == payload), "byte {at}");
            // A lost byte of "Checksum" joins two blocks, of which the second is whole.
            assert!(found.len() >= 2, "byte {at}: {}", found.len());
        }
    }
    let expected = r#"{"voltage":13.79,"current":-0.01,"power":0}"#;
    assert_eq!(read(&extractor, payload), ("data".to_owned(), expected.to_owned()));
    // A zero passes the sum wherever it is: no value is cut by it.
    for at in 0..=payload.len() {
        let mut added = payload.to_vec();
        added.insert(at, 0);
        if let Ok(reading) = extractor.read(&added, &mut Room::default()) {
            let text = String::from_utf8_lossy(reading.payload).into_owned();
            assert_eq!(text, expected, "byte {at}");
        }
    }
    let mut without = four.clone();
    without.remove(3 * VE_DIRECT.len() - 1);
    assert_eq!(decode(&settings, &without, 64).len(), 2, "a lost checksum costs its block only");
}

#[test]
fn a_ve_direct_block_is_published_although_hex_messages_come_in_its_midst() {
    let (settings, _) = example(include_str!("../../config/examples/serial/ve-direct.toml"));
    let payload = &VE_DIRECT[..VE_DIRECT.len() - 10];
    let (size, hex, four) = (VE_DIRECT.len(), &b":7F0ED0071\n"[..], VE_DIRECT.repeat(4));
    for at in size..2 * size {
        // Between the tabulator and the checksum, which can be any byte, none is sent.
        let is_before_sum = at == 2 * size - 1;
        let stream = [&four[..at], hex, &four[at..]].concat();
        for chunk in [1, 7, stream.len()] {
            let found = decode(&settings, &stream, chunk);
            assert!(found.iter().all(|found| found == payload), "byte {at}");
            assert!(found.len() == 3 || is_before_sum && !found.is_empty(), "byte {at}: {}", found.len());
        }
        // Two of them, one after the other.
        let stream = [&four[..at], hex, b":ABC\n", &four[at..]].concat();
        assert!(is_before_sum || decode(&settings, &stream, 5).len() == 3, "byte {at}");
        // Cut short, or with a byte lost: nothing false, and the next block but one is read.
        for cut in 1..hex.len() {
            let stream = [&four[..at], &hex[..cut], &four[at..]].concat();
            let found = decode(&settings, &stream, 64);
            assert!(found.iter().all(|found| found == payload), "byte {at}, {cut}");
            assert!(!found.is_empty(), "byte {at}, {cut}");
            let lost = [&hex[..cut - 1], &hex[cut..]].concat();
            let stream = [&four[..at], &lost, &four[at..]].concat();
            let found = decode(&settings, &stream, 64);
            assert!(found.iter().all(|found| found == payload) && !found.is_empty(), "byte {at}, {cut}");
        }
    }
    // The checksum may be the byte that such a message begins with.
    let mut own = VE_DIRECT.to_vec();
    own.truncate(size - 11);
    let sum = own.iter().chain(b"x\r\nChecksum\t").fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    let last = b'x'.wrapping_sub(b':'.wrapping_add(sum));
    own.extend([last, b'\r', b'\n']);
    own.extend(b"Checksum\t:");
    assert_eq!(own.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    assert_eq!(decode(&settings, &own.repeat(3), 7).len(), 2);
}

#[test]
fn blocks_that_were_cut_and_joined_are_not_published_although_their_sum_is_zero_by_chance() {
    let (settings, _) = example(include_str!("../../config/examples/serial/ve-direct.toml"));
    let body = |block: &[u8]| block[..block.len() - 1].to_vec();
    let sealed = |mut block: Vec<u8>| {
        let sum = block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        block.push(sum.wrapping_neg());
        block
    };
    let whole = body(VE_DIRECT);
    let ends: Vec<usize> =
        (0..whole.len()).filter(|at| whole[*at..].starts_with(b"\r\n") && *at > 0).collect();
    // Each way to lose whole lines, or to have some twice, with the sum that makes it pass.
    for from in &ends {
        for to in &ends {
            if from == to {
                continue;
            }
            let joined = sealed([&whole[..*from], &whole[*to..]].concat());
            let stream = [VE_DIRECT, VE_DIRECT, &joined, VE_DIRECT].concat();
            let found = decode(&settings, &stream, 64);
            assert!(found.iter().all(|found| found == &VE_DIRECT[..VE_DIRECT.len() - 10]), "{from} {to}");
            assert_eq!(found.len(), 2, "{from} {to}");
        }
    }
}

#[test]
fn a_frame_of_a_particle_sensor_is_published_if_its_sum_is_right() {
    let (settings, _) = example(include_str!("../../config/examples/serial/pms7003.toml"));
    let frame = hex(PMS);
    survives(&settings, &frame, &frame[4..30], 2);
}

#[test]
fn an_sml_file_is_published_whole_if_its_crc_is_right() {
    let (settings, _) = example(include_str!("../../config/examples/serial/sml.toml"));
    let file = hex(SML);
    survives(&settings, &file, &file, 2);
    // From the tests of sml-rs: the escape sequence within the data.
    let escaped = hex("1b1b1b1b 01010101 12 1b1b1b1b 1b1b1b1b 000000 1b1b1b1b 1a03be25");
    survives(&settings, &escaped, &escaped, 2);
    let bare = Settings { whole: false, ..settings };
    assert_eq!(decode(&bare, &escaped, 3), [hex("12 1b1b1b1b 000000")]);
}

#[test]
fn sml_files_full_of_escape_sequences_and_with_any_fill_bytes_are_published_whole() {
    let (settings, _) = example(include_str!("../../config/examples/serial/sml.toml"));
    // The transport of SML 1.04, written down once more: zeros up to a multiple of four, an escape
    // sequence in the data twice, the number of the zeros, and the CRC of all.
    let sealed = |data: &[u8]| {
        let fill = data.len().wrapping_neg() % 4;
        let mut file = hex("1b1b1b1b 01010101");
        let mut row = 0;
        for byte in data.iter().copied().chain(std::iter::repeat_n(0, fill)) {
            file.push(byte);
            row = if byte == 0x1B { row + 1 } else { 0 };
            if row == 4 {
                file.extend([0x1B; 4]);
                row = 0;
            }
        }
        file.extend(hex("1b1b1b1b 1a"));
        file.push(u8::try_from(fill).unwrap());
        Checksum::Crc16X25.append(&mut file, 0);
        file
    };
    // The example of before is made alike.
    assert_eq!(
        sealed(&hex("12 1b1b1b1b")),
        hex("1b1b1b1b 01010101 12 1b1b1b1b 1b1b1b1b 000000 1b1b1b1b 1a03be25")
    );
    let mut state = 1_u32;
    let mut draw = |of: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % of
    };
    for round in 0..3_000 {
        let files: Vec<Vec<u8>> = (0..3)
            .map(|_| {
                let length = 1 + draw(40);
                let data: Vec<u8> = (0..length)
                    .map(|_| [0x1B, 0x1B, 0x1B, 0x1A, 0x01, 0x00, 0x76][draw(7) as usize])
                    .collect();
                sealed(&data)
            })
            .collect();
        let chunk = 1 + draw(9) as usize;
        assert_eq!(decode(&settings, &files.concat(), chunk), files, "{round}");
    }
}

#[test]
fn a_question_is_written_with_the_escapes_of_toml_or_with_its_own() {
    for (poll, question) in [
        (r#""A\r""#, &b"A\r"[..]),
        (r#""\u0002R\r\n""#, b"\x02R\r\n"),
        (r"'A\r'", b"A\r"),
        (r"'\x02R'", b"\x02R"),
        (r#""hex:410d""#, b"A\r"),
    ] {
        let text = format!(
            "[serial.m]\nport = \"/dev/ttyUSB0\"\nframing = \"line\"\nrole = \"meter\"\npoll = {poll}\n[role.meter]\n"
        );
        let loaded = main_file(&text).loaded();
        let faults: Vec<_> = loaded.findings.iter().filter(|f| f.level == Level::Fail).cloned().collect();
        assert_eq!(lines(&faults), "", "{poll}");
        let Duty::Readings { poll: asked, .. } = &loaded.settings.serial[0].duty else { panic!() };
        assert_eq!(asked.as_ref().map(|asked| &asked.question[..]), Some(question), "{poll}");
    }
    let empty = "[serial.m]\nport = \"/dev/ttyUSB0\"\nframing = \"line\"\nrole = \"meter\"\npoll = \"\"\n[role.meter]\n";
    let loaded = main_file(empty).loaded();
    let asks = |duty: &Duty| matches!(duty, Duty::Readings { poll: Some(_), .. });
    assert!(!loaded.settings.serial.iter().any(|port| asks(&port.duty)), "an empty text resets the key");
}

#[test]
fn two_scales_on_one_line_are_told_apart_by_the_addresses_in_their_answers() {
    let loaded = main_file(include_str!("../../config/examples/serial/two-scales.toml")).loaded();
    let [one, two] = &loaded.settings.serial[..] else { panic!("{:?}", loaded.findings) };
    assert_eq!((&one.port, one.line), (&two.port, two.line));
    for (port, own, other) in [(one, "01", "02"), (two, "02", "01")] {
        let Duty::Readings { extractor, .. } = &port.duty else { panic!() };
        let answer = |address: &str| format!("{address} +  12.50 kg").into_bytes();
        let json = r#"{"kg":12.50}"#.to_owned();
        assert_eq!(read(extractor, &answer(own)), ("weight".to_owned(), json));
        assert!(extractor.read(&answer(other), &mut Room::default()).is_err());
        // A character that is lost makes no other value.
        for at in 0..answer(own).len() {
            let mut lost = answer(own);
            lost.remove(at);
            assert!(extractor.read(&lost, &mut Room::default()).is_err(), "{at}");
        }
    }
}

#[test]
fn frames_with_an_end_byte_behind_the_checksum_are_found_again_after_a_lost_byte() {
    let port = "[role.r.uplink.x]\npath = \"data\"\n[serial.m]\nport = \"/dev/ttyS0\"\nrole = \"r\"\nform = \"raw\"\n";
    // A particle sensor SDS011: the sum of six bytes of data, and AB behind it (from its data
    // sheet).
    let sds = "framing = \"fixed\"\nsize = 10\nstart = \"hex:AA C0\"\nchecksum = \"sum\"\nchecksum-from = 2\nchecksum-tail = 1\n";
    let (settings, _) = example(&format!("{port}{sds}"));
    let frame = hex("AAC0D4043A0AA1601DAB");
    survives(&settings, &frame, &frame[2..8], 2);
    // A long frame of M-Bus, EN 13757-2: 68 L L 68, L bytes, their sum, 16; these are made up here.
    let mbus = "framing = \"length\"\nstart = \"hex:68\"\nlength-offset = 1\nlength-adjust = 4\nchecksum = \"sum\"\n\
                checksum-from = 4\nchecksum-tail = 1\n";
    let (settings, _) = example(&format!("{port}{mbus}"));
    let frame = hex("68 0B 0B 68 08 05 72 78 56 34 12 16 68 16 07 2E 16");
    let sum = frame[4..15].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(frame[15], sum, "{sum:X}");
    assert_eq!(decode(&settings, &frame.repeat(3), 7), vec![&frame[2..15]; 3]);
    for at in frame.len()..2 * frame.len() {
        let mut lost = frame.repeat(3);
        lost.remove(at);
        assert_eq!(decode(&settings, &lost, 64), vec![&frame[2..15]; 2], "byte {at}");
    }
}

#[test]
fn an_answer_of_a_jbd_battery_is_published_if_the_complement_of_its_sum_is_right() {
    let text = include_str!("../../config/examples/serial/jbd.toml");
    let loaded = main_file(text).loaded();
    let is_of_it = |line: &&str| !line.contains(" upstream.url: ");
    let found = lines(&loaded.findings.iter().filter(|f| f.level != Level::Ok).cloned().collect::<Vec<_>>());
    assert_eq!(found.lines().find(is_of_it), None);
    // From the manufacturer's description of the protocol ("Smart BMS protocol V4").
    let basic = "DD 03 00 1B 17 00 00 00 02 D0 03 E8 00 00 20 78 00 00 00 00 00 00 10 48 03 0F 02 0B 76 0B 82 FB FF 77";
    // From the tests of public readers of it: eleven cells.
    let cells = "DD 04 00 16 0F A7 0F A5 0F A1 0F 98 0F 9E 0F A0 0F B1 0F BB 0F B1 0F A6 0F A7 F8 18 77";
    let refused = hex("DD 03 80 00 FF 80 77");
    for (port, telegram) in loaded.settings.serial.iter().zip([basic, cells]) {
        let Duty::Readings { framing, extractor, .. } = &port.duty else { panic!() };
        assert_eq!(framing.checksum, Some(Checksum::Sum16Negated));
        let telegram = hex(telegram);
        let payload = &telegram[4..telegram.len() - 3];
        assert_eq!(payload.len(), usize::from(telegram[3]));
        survives(framing, &telegram, payload, 2);
        let mut room = Room::default();
        assert_eq!(extractor.read(payload, &mut room).unwrap().payload, payload);
        assert!(decode(framing, &refused, 3).is_empty());
        assert_eq!(decode(framing, &[&refused[..], &telegram].concat(), 64), [payload]);
    }
}

#[test]
fn an_answer_of_a_pylontech_battery_has_the_same_sum_as_text() {
    let text = "[role.r.uplink.x]\npath = \"data\"\n[serial.battery]\nport = \"/dev/ttyS0\"\nrole = \"r\"\n\
                framing = \"markers\"\nstart = \"~\"\nend = \"hex:0d\"\nchecksum = \"sum16-negated\"\nchecksum-text = true\n";
    let (settings, extractor) = example(text);
    // The answer of a US3000 to ~20024642E00202FD33, as its users publish it.
    let answer = "~20024600F07A11020F0CC50CC30CC50CC40CC40CC60CC50CC40CC70CC50CC60CC60CC50CC60CC6050B370B230B230B2D0B2D\
                  FFE0BF8DFFFF04FFFF001B00BBE4012110E1D6\r";
    let payload = &answer.as_bytes()[1..answer.len() - 5];
    survives(&settings, answer.as_bytes(), payload, 2);
    assert_eq!(read(&extractor, payload).1.as_bytes(), payload);
    let lower = answer.replace("E1D6", "e1d6");
    assert_eq!(decode(&settings, lower.as_bytes(), 7), [payload]);
    assert_eq!(decode(&settings, b"~20024642E00202FD33\r", 7), [&b"20024642E00202"[..]]);
}
