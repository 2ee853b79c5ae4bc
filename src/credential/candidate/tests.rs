use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::*;
use crate::credential::request::public_key;

const DAY: u64 = 86_400;
/// 2026-07-01
const NOW: UnixTime = UnixTime::from_secs(1_782_864_000);

/// Sets the dates, in days from [`NOW`].
fn set_dates(params: &mut CertificateParams, from: i64, until: i64) {
    let [not_before, not_after] = [from, until].map(|days| {
        let base = rcgen::date_time_ymd(2026, 7, 1);
        let span = Duration::from_secs(days.unsigned_abs() * DAY);
        if days < 0 { base - span } else { base + span }
    });
    (params.not_before, params.not_after) = (not_before, not_after);
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

fn authority(name: &str, above: Option<&Authority>) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    set_dates(&mut params, -1_000, 3_000);
    let der = match above {
        None => params.self_signed(&key).unwrap().der().to_vec(),
        Some(above) => params.signed_by(&key, &above.issuer).unwrap().der().to_vec(),
    };
    Authority { issuer: Issuer::new(params, key), der }
}

fn leaf_params(from: i64, until: i64) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["gw-1.example".to_owned()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "gw-1");
    params.extended_key_usages = vec![Purpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    set_dates(&mut params, from, until);
    params
}

struct Made {
    issuer: Authority,
    root: Authority,
    key: KeyPair,
    present: Vec<Vec<u8>>,
    demands: Demands,
}

fn made() -> Made {
    let root = authority("Root", None);
    let issuer = authority("Issuing CA", Some(&root));
    let (key, old) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let present = leaf_params(-6, 1).signed_by(&old, &issuer.issuer).unwrap().der().to_vec();
    let present = vec![present, issuer.der.clone()];
    Made { issuer, root, key, present, demands: Demands::ALL }
}

impl Made {
    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = leaf_params(0, 7);
        change(&mut params);
        params.signed_by(&self.key, &self.issuer.issuer).unwrap().der().to_vec()
    }

    fn judge(&self, chain: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Flaw> {
        let key = public_key(&self.key.serialize_der()).unwrap();
        let expected = Expected {
            key: &key,
            present: &self.present,
            demands: self.demands,
            offered: &[],
            usage: Usage::Client,
            now: Some(NOW),
        };
        judge(chain, &expected)
    }

    fn flaw(&self, change: impl FnOnce(&mut CertificateParams)) -> Flaw {
        self.judge(&[self.leaf(change), self.issuer.der.clone()]).unwrap_err()
    }
}

#[test]
fn a_chain_in_order_passes_and_a_root_at_its_end_is_left_out() {
    let made = made();
    let (leaf, issuer) = (made.leaf(|_| {}), made.issuer.der.clone());
    let wanted = vec![leaf.clone(), issuer.clone()];
    assert_eq!(made.judge(&wanted), Ok(wanted.clone()));
    assert_eq!(made.judge(&[leaf.clone(), issuer, made.root.der.clone()]), Ok(wanted.clone()));
    // EST answers with the leaf alone; the present chain has the intermediate.
    assert_eq!(made.judge(&[leaf]), Ok(wanted));
}

#[test]
fn each_flaw_is_named() {
    let made = made();
    assert_eq!(made.judge(&[]), Err(Flaw::Empty));
    assert_eq!(made.judge(&[b"<html>".to_vec()]), Err(Flaw::Unreadable(1)));
    let flaw = made.flaw(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(flaw, Flaw::Authority);
    let flaw = made.flaw(|params| params.extended_key_usages = vec![Purpose::ServerAuth]);
    assert_eq!(flaw, Flaw::Purpose(Usage::Client));
    let flaw = made.flaw(|params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]);
    assert_eq!(flaw, Flaw::KeyUsage);
    let flaw = made.flaw(|params| params.distinguished_name.push(DnType::OrganizationName, "x"));
    assert!(matches!(&flaw, Flaw::Subject(before, _) if before == "CN=gw-1"), "{flaw}");
    assert_eq!(made.flaw(|params| params.subject_alt_names.clear()), Flaw::Names);
    let flaw = made.flaw(|params| set_dates(params, 1, 8));
    assert!(matches!(flaw, Flaw::NotYet(_)), "{flaw}");
    let flaw = made.flaw(|params| set_dates(params, -8, -1));
    assert!(matches!(flaw, Flaw::Expired(_)), "{flaw}");
    let flaw = made.flaw(|params| set_dates(params, 0, 1));
    assert!(matches!(flaw, Flaw::Shorter(..)), "{flaw}");
}

#[test]
fn another_key_another_order_and_a_forged_signature_are_refused() {
    let mut made = made();
    let (leaf, issuer) = (made.leaf(|_| {}), made.issuer.der.clone());
    assert_eq!(made.judge(&[leaf.clone(), made.root.der.clone()]), Err(Flaw::Order(1)));
    let forger = authority("Issuing CA", None);
    assert!(matches!(made.judge(&[leaf.clone(), forger.der]), Err(Flaw::Path(_))));
    made.key = KeyPair::generate().unwrap();
    assert_eq!(made.judge(&[leaf, issuer]), Err(Flaw::OtherKey));
}

#[test]
fn a_missing_intermediate_is_named_where_the_present_chain_has_one() {
    let made = made();
    let other = authority("Other CA", None);
    let leaf = leaf_params(0, 7).signed_by(&made.key, &other.issuer).unwrap().der().to_vec();
    assert_eq!(made.judge(&[leaf]), Err(Flaw::MissingIntermediate("CN=Other CA".to_owned())));
}

#[test]
fn a_present_certificate_without_end_and_an_untrusted_clock_refuse_no_date() {
    let mut made = made();
    let old = KeyPair::generate().unwrap();
    let mut factory = leaf_params(-6, 1);
    factory.not_after = rcgen::date_time_ymd(9999, 12, 31) + Duration::from_secs(86_399);
    made.present = vec![factory.signed_by(&old, &made.issuer.issuer).unwrap().der().to_vec()];
    assert!(made.judge(&[made.leaf(|_| {}), made.issuer.der.clone()]).is_ok());
    let key = public_key(&made.key.serialize_der()).unwrap();
    let future = made.leaf(|params| set_dates(params, 900, 907));
    let expected = Expected {
        key: &key,
        present: &[],
        demands: Demands::ALL,
        offered: &[],
        usage: Usage::Client,
        now: None,
    };
    assert!(judge(&[future], &expected).is_ok());
}

#[test]
fn an_end_that_is_no_later_and_another_identity_pass_where_the_present_one_does_not_serve() {
    let mut made = made();
    for end in [1, 0] {
        // Capped by its issuer's end, or by a policy that has changed.
        let capped = |params: &mut CertificateParams| {
            set_dates(params, -6, 1);
            params.not_after -= Duration::from_secs(u64::from(end == 0) * 3_600);
        };
        made.demands = Demands::ALL;
        assert!(matches!(made.flaw(capped), Flaw::Shorter(..)));
        made.demands = Demands { identity: true, longer: false };
        assert!(made.judge(&[made.leaf(capped), made.issuer.der.clone()]).is_ok());
    }
    let renamed = |params: &mut CertificateParams| {
        params.distinguished_name.push(DnType::OrganizationName, "x");
        params.subject_alt_names.clear();
    };
    assert!(matches!(made.flaw(renamed), Flaw::Subject(..)));
    made.demands.identity = false;
    assert!(made.judge(&[made.leaf(renamed), made.issuer.der.clone()]).is_ok());
    // What expires within half a minute is of no use to anybody.
    assert!(matches!(made.flaw(|params| set_dates(params, -8, 0)), Flaw::Expired(_)));
}

#[test]
fn cut_or_altered_bytes_never_panic() {
    let made = made();
    let leaf = made.leaf(|_| {});
    for length in 0..leaf.len() {
        assert!(made.judge(&[leaf[..length].to_vec()]).is_err());
    }
    for place in 0..leaf.len() {
        let mut altered = leaf.clone();
        altered[place] ^= 0x55;
        let _ = made.judge(&[altered, made.issuer.der.clone()]);
    }
}
