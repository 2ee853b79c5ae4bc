//! The DTLS sessions as `status` and `device show` show them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::hub::Hub;
use crate::control::protocol::SESSIONS_MAX;
use crate::control::snapshot::{self, Dtls, Session, SessionPage};
use crate::proto::dtls::{Counters, FailureKind};
use crate::southbound::coap::EngineKind;
use crate::southbound::coap::stray::Stray;
use crate::telemetry::counters::Snapshot;

/// How many there are, by what they have.
pub fn count(hub: &Hub, now: Instant, engine: EngineKind, max_sessions: usize) -> Dtls {
    let mut dtls = Dtls {
        engine: engine.as_str().to_owned(),
        sessions: hub.engine.session_count() as u64,
        half_open: hub.engine.half_open_count() as u64,
        max_sessions: max_sessions as u64,
        refused_full: hub.engine.counters().failed(FailureKind::TableFull),
        refused_full_last_s: hub.reports.full.map(|full| now.saturating_duration_since(full).as_secs()),
        refused_too_often: hub.engine.counters().failed(FailureKind::TooOften),
        ..Dtls::default()
    };
    hub.engine.sessions(&mut |session| {
        match dtls.suites.get_mut(session.suite) {
            Some(count) => *count += 1,
            None => drop(dtls.suites.insert(session.suite.to_owned(), 1)),
        }
        dtls.connection_id += u64::from(session.connection_id);
        dtls.extended_master_secret += u64::from(session.extended_master_secret);
    });
    dtls
}

/// The store of the sessions.
pub fn session_store(hub: &Hub, now: Instant) -> snapshot::SessionStore {
    let view = hub.persistence.view(now);
    snapshot::SessionStore {
        persist: view.is_wanted,
        stored: view.store.stored as u64,
        bytes: view.store.bytes,
        written_bytes: view.store.written,
        restored: view.restored,
        handed_over: view.handed_over,
        refused: view.refused,
        ended: view.ended,
        failing: view.failing,
    }
}

/// The sessions of one device or of all, the longest idle first.
pub fn list(hub: &Hub, now: Instant, device: Option<&str>) -> SessionPage {
    let mut page = SessionPage::default();
    let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
    hub.engine.sessions(&mut |session| {
        let view = hub.coap.session_device(session.session).and_then(|of| hub.pipeline.gate.device(now, of));
        let Some(view) = view.filter(|view| device.is_none_or(|id| view.id.as_str() == id)) else { return };
        if page.sessions.len() >= SESSIONS_MAX {
            page.more = true;
            return;
        }
        page.sessions.push(Session {
            device: view.id.to_string(),
            peer: session.route.remote.to_string(),
            suite: session.suite.to_owned(),
            connection_id: session.connection_id,
            extended_master_secret: session.extended_master_secret,
            since_s: seconds(session.established),
            idle_s: seconds(session.last_seen),
        });
    });
    page
}

/// The source addresses whose datagrams cannot be served.
pub fn strays(hub: &Hub, now: Instant) -> Vec<snapshot::Stray> {
    let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
    // An address that has a session established since then is served again.
    let mut served: HashMap<IpAddr, Instant> = HashMap::new();
    hub.engine.sessions(&mut |session| {
        let established =
            served.entry(session.route.remote.ip().to_canonical()).or_insert(session.established);
        *established = session.established.max(*established);
    });
    let is_served =
        |stray: &Stray| served.get(&stray.source).is_some_and(|established| *established > stray.last);
    let shown = |stray: &Stray| snapshot::Stray {
        source: stray.source.to_string(),
        mistake: stray.mistake.as_str().to_owned(),
        advice: stray.mistake.advice().to_owned(),
        count: stray.count,
        since_s: seconds(stray.since),
        last_s: seconds(stray.last),
    };
    hub.coap.strays.recent(now).filter(|stray| !is_served(stray)).map(shown).collect()
}

/// The engine's numbers under their stable names.
pub fn counters(counters: &Counters, out: &mut Snapshot) {
    for (name, value) in [
        ("tombolo_dtls_refused_records_total", counters.records_refused),
        ("tombolo_dtls_discarded_records_total", counters.records_discarded),
        ("tombolo_dtls_received_records_total", counters.records_received),
        ("tombolo_dtls_sent_records_total", counters.records_sent),
        ("tombolo_dtls_sent_cookies_total", counters.cookies_sent),
        ("tombolo_dtls_limited_hellos_total", counters.hellos_over_limit),
        ("tombolo_dtls_shed_hellos_total", counters.hellos_shed),
        ("tombolo_dtls_begun_handshakes_total", counters.handshakes_begun),
        ("tombolo_dtls_shadow_handshakes_total", counters.handshakes_shadow),
        ("tombolo_dtls_restarted_handshakes_total", counters.handshakes_restarted),
        ("tombolo_dtls_limited_work_total", counters.work_over_limit),
        ("tombolo_dtls_evicted_sessions_total", counters.sessions_evicted),
        ("tombolo_dtls_displaced_sessions_total", counters.sessions_displaced),
        ("tombolo_dtls_expired_sessions_total", counters.sessions_expired),
        ("tombolo_dtls_too_old_sessions_total", counters.sessions_too_old),
        ("tombolo_dtls_farewell_sessions_total", counters.sessions_farewell),
        ("tombolo_dtls_idle_sessions_total", counters.sessions_idle),
        ("tombolo_dtls_revoked_sessions_total", counters.sessions_revoked),
        ("tombolo_dtls_forged_sessions_total", counters.sessions_forged),
        ("tombolo_dtls_moved_sessions_total", counters.sessions_moved),
        ("tombolo_dtls_faulty_sessions_total", counters.faults),
    ] {
        out.put(name, value);
    }
    for kind in FailureKind::ALL {
        out.put(&format!("tombolo_dtls_{}_handshakes_total", kind.as_str()), counters.failed(kind));
    }
}
