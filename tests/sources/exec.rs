//! Programs that issue certificates, and programs that do not.

use std::path::PathBuf;
use std::time::Duration;

use tombolo::credential::exec::ExecSettings;
use tombolo::credential::io::exec::ExecSource;
use tombolo::credential::source::{OrderKind, Outcome, Source as _};

use crate::server::{folder, order, run, server};

fn source(script: &str, timeout: Duration) -> (ExecSource, PathBuf) {
    let runtime = folder("exec");
    let command = ["/bin/sh", "-c", script, "issue"].map(str::to_owned).to_vec();
    (ExecSource::new(ExecSettings { command, timeout }, runtime.clone()), runtime)
}

fn asked(script: &str) -> Outcome {
    let (source, runtime) = source(script, Duration::from_secs(30));
    let outcome = run(source.order(order(OrderKind::Enroll, None)));
    assert_eq!(std::fs::read_dir(&runtime).unwrap().count(), 0, "the working folder is gone");
    outcome
}

fn failed(script: &str) -> String {
    match asked(script) {
        Outcome::Failed { cause } => cause,
        other => panic!("{other:?}"),
    }
}

/// Signs what comes on standard input with the issuing CA of the EST server.
fn issuing() -> String {
    let file = |name| server().file(name).display().to_string();
    format!(
        "cat > csr.pem; openssl x509 -req -in csr.pem -CA {} -CAkey {} -days 1 -set_serial 9 2>/dev/null; cat {}",
        file("issuing.pem"),
        file("issuing.key"),
        file("issuing.pem")
    )
}

#[test]
fn a_program_that_signs_the_request_issues_a_chain() {
    let Outcome::Issued { chain } = asked(&issuing()) else { panic!() };
    assert_eq!((chain.len(), &chain[1]), (2, &server().certificate("issuing")));
}

#[test]
fn the_program_is_told_what_it_is_for_and_nothing_of_the_daemon() {
    let script = "test \"$1\" = '' && test -r \"$TOMBOLO_CERT_CURRENT_FILE\" && \
        test \"$(stat -c %a \"$TOMBOLO_CERT_CURRENT_KEY_FILE\")\" = 600 && test \"$PWD\" = \"$TOMBOLO_CERT_FOLDER\" && \
        openssl pkey -in \"$TOMBOLO_CERT_CURRENT_KEY_FILE\" -noout && test -z \"$CARGO_MANIFEST_DIR\" && \
        openssl req -noout -verify 2>/dev/null && echo \"$TOMBOLO_CERT_NAME $TOMBOLO_CERT_KIND\" >&2; exit 77";
    let (source, _) = source(script, Duration::from_secs(30));
    let order = order(OrderKind::Reenroll, Some(server().factory()));
    let cause = "the program refuses: uplink reenroll".to_owned();
    assert_eq!(run(source.order(order)), Outcome::Refused { cause });
}

#[test]
fn the_last_line_of_standard_error_is_the_cause() {
    assert_eq!(
        failed("echo first >&2; echo 'no token' >&2; exit 3"),
        "the program ended with exit status 3: no token"
    );
    assert_eq!(failed("kill -9 $$"), "the program ended by signal 9");
    assert!(failed("true").contains("holds no certificate"));
    assert!(failed("yes 'many words' | head -c 3300000 >&2; echo last >&2; exit 1").ends_with(": last"));
}

#[test]
fn not_yet_is_an_exit_status_with_the_seconds_to_wait() {
    assert_eq!(asked("echo 90; exit 75"), Outcome::Later { after: Duration::from_secs(90) });
}

#[test]
fn output_without_end_is_cut_and_the_program_killed() {
    assert!(failed("exec yes").contains("wrote more than 131072 bytes"));
}

#[test]
fn a_program_that_does_not_read_its_input_is_no_trouble() {
    assert!(failed("exec 0<&-; exit 4").contains("exit status 4"));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let settings =
        ExecSettings { command: vec!["/nowhere/issue".to_owned()], timeout: Duration::from_secs(5) };
    let source = ExecSource::new(settings, folder("exec"));
    let Outcome::Failed { cause } = run(source.order(order(OrderKind::Enroll, None))) else { panic!() };
    assert!(cause.starts_with("/nowhere/issue cannot be started"), "{cause}");
    assert!(run(source.reach()).unwrap_err().contains("/nowhere/issue"));
}

/// The processes whose parent is this one, or that have this word in their command line.
fn processes(word: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        let after: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let is_zombie_of_ours = after.first() == Some(&"Z") && after.get(1) == Some(&own.as_str());
        if is_zombie_of_ours || read("cmdline").contains(word) {
            found.push(stat);
        }
    }
    found
}

#[test]
fn at_the_time_limit_the_program_and_its_children_end_and_no_zombie_is_left() {
    let (source, runtime) = source("sleep 61.7301 & sleep 61.7301", Duration::from_millis(500));
    run(async {
        let outcome = source.order(order(OrderKind::Enroll, None)).await;
        let Outcome::Failed { cause } = outcome else { panic!("{outcome:?}") };
        assert!(cause.contains("did not end within 0.5 s and was killed"), "{cause}");
        gone("sleep\x0061.7301").await;
    });
    assert_eq!(std::fs::read_dir(&runtime).unwrap().count(), 0);
}

#[test]
fn an_order_that_is_given_up_ends_its_program() {
    let (source, runtime) = source("touch ../begun; sleep 61.7302", Duration::from_secs(60));
    run(async {
        let mut answer = source.order(order(OrderKind::Enroll, None));
        let begun = async {
            while !runtime.join("begun").exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! { _ = &mut answer => panic!("it ended"), () = begun => {} }
        drop(answer);
        gone("sleep\x0061.7302").await;
    });
}

#[test]
fn a_child_that_holds_the_pipes_does_not_hold_up_the_answer() {
    let (source, _) = source("sleep 61.7303 & exit 5", Duration::from_secs(30));
    run(async {
        let outcome = source.order(order(OrderKind::Enroll, None)).await;
        let Outcome::Failed { cause } = outcome else { panic!("{outcome:?}") };
        assert!(cause.contains("exit status 5"), "{cause}");
        gone("sleep\x0061.7303").await;
    });
}

/// Waits until the kernel has ended them and the runtime has reaped them.
async fn gone(word: &str) {
    let mut left = Vec::new();
    for _ in 0..1_000 {
        left = processes(word);
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{left:?}");
}
