//! `tombolo queue`: the records that wait for the broker, and those it refused.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::Value;

use super::Context;
use super::args::{
    DropArguments, ExportArguments, ImportArguments, QueueCommand, RejectedCommand, RetryArguments,
    SkipArguments,
};
use super::error::CommandError;
use super::output::{align, bytes, plural, span};
use crate::control::io::client::{ANSWER, SLOW_ANSWER};
use crate::control::protocol::{Request, Selection};
use crate::control::snapshot::{ExportPage, Lane, Queue, RejectedPage, key_of_the_day};
use crate::journal::FileReport;
use crate::message::RecordId;
use crate::northbound::reason_code::Cause;
use crate::telemetry::io::hinted;

/// Runs the command.
///
/// # Errors
/// [`CommandError::Failed`] if the daemon does not run, does not answer or reports a failure;
/// [`CommandError::Usage`] for an invalid record id.
pub fn run(context: &Context, command: Option<QueueCommand>) -> Result<(), CommandError> {
    match command {
        None => show(context),
        Some(QueueCommand::Verify) => verify(context),
        Some(QueueCommand::Import(arguments)) => import(context, &arguments),
        Some(QueueCommand::Rejected(RejectedCommand::List)) => list(context),
        Some(QueueCommand::Rejected(RejectedCommand::Retry(RetryArguments { records, all }))) => {
            let all = all || records.is_empty();
            let request = Request::RejectedRetry { records: selection(records, all, REJECTED)? };
            change(
                context,
                &request,
                "will be sent again, with their previous ids; `tombolo queue` shows when they are delivered",
            )
        }
        Some(QueueCommand::Rejected(RejectedCommand::Export(ExportArguments { file }))) => {
            export(context, &file)
        }
        Some(QueueCommand::Skip(SkipArguments { records })) => {
            let Selection::Ids(records) = selection(records, false, "tombolo queue")? else { return Ok(()) };
            let what = "moved to the rejected store; `tombolo queue rejected list` shows it";
            change(context, &Request::QueueSkip { records }, what)
        }
        Some(QueueCommand::Rejected(RejectedCommand::Drop(DropArguments { records, all }))) => {
            let request = Request::RejectedDrop { records: selection(records, all, REJECTED)? };
            change(context, &request, "deleted and counted as lost")
        }
    }
}

/// Reads the journal's files directly, with or without a running daemon.
fn verify(context: &Context) -> Result<(), CommandError> {
    let settings =
        crate::config::io::load_journal(&context.options()).map_err(CommandError::Configuration)?;
    if let Err(error) = std::fs::read_dir(&settings.directory)
        && error.kind() == std::io::ErrorKind::PermissionDenied
    {
        let folder = settings.directory.display();
        let hint = context.rights_hint("queue verify");
        return Err(CommandError::failed(format_args!("{folder} may not be read by this user; {hint}")));
    }
    let (mut files, mut faulty) = (0u64, 0u64);
    let mut failed = None;
    let done = crate::journal::io::verify(&settings, |report| {
        files += 1;
        faulty += u64::from(report.state != "ok");
        let shown = if context.out.json {
            context.out.object(&report)
        } else {
            context.out.text(&file_line(&report))
        };
        failed = failed.take().or(shown.err());
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    done.map_err(CommandError::failed)?;
    if !context.out.json {
        context.out.text(&format!("{}, {faulty} not ok\n", plural(files, "file")))?;
    }
    match faulty {
        0 => Ok(()),
        _ => Err(CommandError::Said),
    }
}

fn file_line(report: &FileReport) -> String {
    let mut line = format!("{:<11} {}  {}", report.state, report.file, plural(report.records, "record"));
    if let Some(note) = &report.note {
        line.push_str("; ");
        line.push_str(note);
    }
    line.push('\n');
    for missing in report.missing.iter().filter(|missing| missing.records > 0) {
        let records = plural(missing.records, "record");
        line.push_str(&format!("            {records} missing: {}\n", range(&missing.first, &missing.last)));
    }
    line
}

/// The records by their ids, or only by their sequences if their run is unknown (0).
fn range(first: &str, last: &str) -> String {
    let number = |id: &str| RecordId::parse(id).filter(|id| id.run == 0).map(|id| id.sequence);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first == last => {
            format!("sequence {first} (its run is not known, so it has no id)")
        }
        (Some(first), Some(last)) => {
            format!("sequences {first} to {last} (their run is not known, so they have no ids)")
        }
        _ if first == last => first.to_owned(),
        _ => format!("{first} to {last}"),
    }
}

fn import(context: &Context, arguments: &ImportArguments) -> Result<(), CommandError> {
    // A path relative to the working directory, if that file exists; else relative to the journal's
    // directory.
    let file = std::path::absolute(&arguments.file).ok().filter(|path| path.exists());
    let file = file.as_ref().unwrap_or(&arguments.file).to_string_lossy().into_owned();
    let value = context.daemon()?.ask(&Request::QueueImport { file, all: arguments.all }, SLOW_ANSWER)?;
    if context.out.json {
        return Ok(context.out.object(&value)?);
    }
    let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    let mut text = format!("{} imported and will be sent", plural(number("records"), "record"));
    for (key, what) in [("left_out", "already delivered before"), ("missing", "still cannot be read")] {
        if number(key) > 0 {
            text.push_str(&format!("; {} {what}", number(key)));
        }
    }
    Ok(context.out.text(&format!("{text}\n"))?)
}

/// Most suspected records that the daemon lists.
const LISTED_MAX: usize = 16;
/// The command that lists rejected records.
const REJECTED: &str = "tombolo queue rejected list";

/// `shown_by` is the command that lists the records.
fn selection(records: Vec<String>, all: bool, shown_by: &str) -> Result<Selection, CommandError> {
    if all {
        return Ok(Selection::All);
    }
    for record in &records {
        if RecordId::parse(record).is_none() {
            return Err(CommandError::Usage(format!(
                "{record:?} is not a record id like 0102030405060708-42; `{shown_by}` lists them"
            )));
        }
    }
    Ok(Selection::Ids(records))
}

fn show(context: &Context) -> Result<(), CommandError> {
    let mut daemon = context.daemon()?;
    if context.out.json {
        let value = daemon.ask(&Request::Queue {}, ANSWER)?;
        return Ok(context.out.object(&value)?);
    }
    let queue: Queue = daemon.ask_for(&Request::Queue {}, ANSWER)?;
    Ok(context.out.text(&text(&queue))?)
}

/// The human form.
pub fn text(queue: &Queue) -> String {
    let words = ["lane", "records", "bytes", "of", "oldest", "lost"];
    let mut rows = vec![words.map(str::to_owned).to_vec()];
    for (name, lane) in &queue.lanes {
        rows.push(vec![
            name.clone(),
            lane.records.to_string(),
            bytes(lane.bytes),
            bytes(lane.max_bytes),
            match (&lane.oldest, lane.records) {
                (Some(time), _) => time.clone(),
                (None, 0) => "-".to_owned(),
                (None, _) => match lane.oldest_age_s {
                    Some(seconds) => format!("{} ago", span(seconds)),
                    // It was delivered while this was asked.
                    None if lane.oldest_record.is_none() => "-".to_owned(),
                    None => "before the last start, time unknown".to_owned(),
                },
            },
            lane.dropped.to_string(),
        ]);
    }
    let rejected = &queue.rejected;
    rows.push(vec![
        "rejected".to_owned(),
        rejected.records.to_string(),
        bytes(rejected.bytes),
        bytes(rejected.max_bytes),
        "-".to_owned(),
        String::new(),
    ]);
    let mut text = align(&rows);
    let mut notes = Vec::new();
    if let Some(limit) = queue.rate_limit {
        let waiting = queue.lanes.values().map(|lane| lane.records).sum();
        notes.push(vec![rate(limit, waiting)]);
    }
    for (name, lane) in &queue.lanes {
        if let Some(reason) = &lane.stopped {
            notes.push(vec![hinted(&format!("{name} has stopped: {reason}")).into_owned()]);
        }
        if lane.held > 0 {
            notes.push(vec![format!("{name}: {}", held(lane))]);
        }
        if lane.delivered > 0 {
            let of = plural(lane.records, "record");
            let text = "delivered, but stored after a record that is not decided yet";
            notes.push(vec![format!("{name}: {} of {of} {text}", lane.delivered)]);
        }
        for suspect in &lane.suspected {
            let topic = match &suspect.topic {
                Some(topic) => format!(" on {topic}"),
                None => " (its topic is shown after the next attempt)".to_owned(),
            };
            let tries = match suspect.tries {
                0 => "not tried again yet".to_owned(),
                1 => "tried again once".to_owned(),
                tries => format!("tried again {tries} times"),
            };
            notes.push(vec![format!("  {}{topic}: {}, {tries}", suspect.record, suspect.reason)]);
        }
        // Behind a day's bound no record is at fault.
        let has_fault =
            lane.stopped.as_ref().is_some_and(|reason| !reason.starts_with(&key_of_the_day(name)));
        if let (Some(oldest), true) = (&lane.oldest_record, has_fault || lane.held > 0) {
            let text = format!(
                "the oldest record of lane {name} is {oldest}; `tombolo queue skip {oldest}` moves it to the rejected store"
            );
            notes.push(vec![hinted(&text).into_owned()]);
        }
    }
    if queue.lanes.values().any(|lane| lane.records == 0 && lane.bytes > 0) {
        notes.push(vec![
            "disk space is freed per file, when all records of the file are delivered".to_owned(),
        ]);
    }
    if queue.lanes.values().any(|lane| lane.dropped > 0 || lane.unreadable > 0 || lane.set_aside > 0) {
        notes.push(vec![hinted("next: tombolo queue verify").into_owned()]);
    }
    if rejected.records > 0 {
        notes.push(vec![hinted("next: tombolo queue rejected list").into_owned()]);
    }
    text.push_str(&align(&notes));
    text
}

/// The configured limit of the publish rate, and the number of waiting records.
pub fn rate(limit: u64, waiting: u64) -> String {
    let publishes = super::output::plural_of(limit, "publish", "publishes");
    format!("at most {publishes} a second ([upstream] max-publish-rate, max-byte-rate); {waiting} waiting")
}

/// The number of suspected records, and of those that wait because of their topic.
fn held(lane: &Lane) -> String {
    // Where the broker refuses every reading, no other is published either.
    let others = match lane.stopped {
        Some(_) => "nothing of the lane is published meanwhile",
        None => "other records are published",
    };
    if lane.suspected.len() >= LISTED_MAX {
        let held = plural(lane.held, "record");
        return format!("{held} suspected or waiting for their topics; {others}");
    }
    let suspected = lane.suspected.len() as u64;
    let waiting = match lane.held.saturating_sub(suspected) {
        0 => String::new(),
        1 => ", 1 more waits for their topic".to_owned(),
        more => format!(", {more} more wait for their topics"),
    };
    format!("{} suspected{waiting}; {others}", plural(suspected, "record"))
}

fn list(context: &Context) -> Result<(), CommandError> {
    let mut daemon = context.daemon()?;
    let mut after = None;
    let (mut skipped, mut refused) = (0, 0);
    let mut unreadable = 0;
    loop {
        let page: RejectedPage =
            daemon.ask_for(&Request::RejectedList { after: after.take() }, SLOW_ANSWER)?;
        unreadable += page.unreadable;
        let last = page.records.last().map(|record| record.record.clone());
        if context.out.json {
            for record in &page.records {
                context.out.object(record)?;
            }
        } else {
            let rows: Vec<Vec<String>> = page
                .records
                .iter()
                .map(|record| {
                    vec![
                        record.record.clone(),
                        record
                            .received
                            .clone()
                            .unwrap_or_else(|| "before the last start, time unknown".to_owned()),
                        record.device.clone(),
                        bytes(record.bytes),
                        record.topic.clone(),
                        record.reason.clone(),
                    ]
                })
                .collect();
            context.out.table(&rows)?;
        }
        let own = page.records.iter().filter(|record| record.reason == Cause::Skipped.to_string()).count();
        skipped += own;
        refused += page.records.len() - own;
        match last {
            Some(record) if page.more => after = Some(record),
            _ => break,
        }
    }
    tell_unreadable(unreadable);
    if !context.out.json {
        context.out.hint(after_list(skipped, refused))?;
    }
    Ok(())
}

/// What is to be done about so many records that the owner set aside, and so many that the
/// broker refused.
fn after_list(skipped: usize, refused: usize) -> &'static str {
    match (skipped, refused) {
        (0, 0) => "nothing was rejected",
        (0, _) => {
            "next: correct at the broker what the last column names (not authorized: its permissions), then `tombolo queue \
             rejected retry --all`, or `drop` them"
        }
        (_, 0) => {
            "these were set aside by `tombolo queue skip`, not refused; next: `tombolo queue rejected retry --all` has them \
             published, `drop` deletes them"
        }
        (..) => {
            "next: correct at the broker what the last column names (not authorized: its permissions; what `tombolo queue \
             skip` set aside was not refused), then `tombolo queue rejected retry --all`, or `drop` them"
        }
    }
}

fn export(context: &Context, file: &Path) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| CommandError::failed(format_args!("{}: {error}", file.display()));
    if file == Path::new("-") {
        let count = write_export(context, &mut std::io::stdout().lock(), &failed)?;
        super::note(format_args!("{} written", plural(count, "record")));
        return Ok(());
    }
    // Mode 0600, because readings may be confidential; an existing file is not overwritten.
    let made =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(
            |error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => CommandError::failed(format_args!(
                    "{} exists already: give another file name, or remove it",
                    file.display()
                )),
                _ => failed(error),
            },
        )?;
    let mut out = BufWriter::new(made);
    let count = write_export(context, &mut out, &failed)?;
    out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    if context.out.json {
        return Ok(context.out.object(&serde_json::json!({ "records": count }))?);
    }
    let written = plural(count, "record");
    Ok(context.out.line(format_args!("{written} written to {}; they stay in the store", file.display()))?)
}

fn write_export(
    context: &Context,
    out: &mut impl Write,
    failed: &dyn Fn(std::io::Error) -> CommandError,
) -> Result<u64, CommandError> {
    let mut daemon = context.daemon()?;
    let mut after = 0;
    let mut count = 0;
    let mut unreadable = 0;
    loop {
        let page: ExportPage = daemon.ask_for(&Request::RejectedExport { after }, SLOW_ANSWER)?;
        for record in &page.records {
            writeln!(out, "{record}").map_err(failed)?;
            count += 1;
        }
        unreadable += page.unreadable;
        match page.last {
            Some(last) => after = last,
            None => break,
        }
    }
    out.flush().map_err(failed)?;
    tell_unreadable(unreadable);
    Ok(count)
}

fn tell_unreadable(count: u64) {
    if count > 0 {
        let records = plural(count, "record");
        super::note(format_args!(
            "{records} cannot be read now and are not exported; they stay in the store"
        ));
    }
}

fn change(context: &Context, request: &Request, what: &str) -> Result<(), CommandError> {
    let answer = context.daemon()?.ask(request, SLOW_ANSWER)?;
    if context.out.json {
        return Ok(context.out.object(&answer)?);
    }
    let count = answer.get("records").and_then(Value::as_u64).unwrap_or(0);
    let not_there = answer.get("not_there").and_then(Value::as_u64).unwrap_or(0);
    if not_there > 0 {
        super::note(format_args!("{} cannot be read now and stay as they are", plural(not_there, "record")));
    }
    Ok(context.out.hint(format_args!("{} {what}", plural(count, "record")))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::snapshot::{Rejected, SuspectedRecord};

    #[test]
    fn lanes_are_a_table_and_what_stopped_is_named() {
        let queue = Queue {
            lanes: [
                ("high".to_owned(), Lane { max_bytes: 40 << 20, ..Lane::default() }),
                (
                    "normal".to_owned(),
                    Lane {
                        records: 12,
                        bytes: 8192,
                        oldest: Some("2026-01-01T00:00:00.000Z".into()),
                        max_bytes: 192 << 20,
                        dropped: 3,
                        stopped: Some("the broker refuses every reading".into()),
                        held: 2,
                        oldest_record: Some("0000000000000001-9".into()),
                        suspected: vec![SuspectedRecord {
                            record: "0000000000000001-9".into(),
                            topic: Some("a/b".into()),
                            reason: "not authorized (0x87)".into(),
                            tries: 2,
                            ..SuspectedRecord::default()
                        }],
                        ..Lane::default()
                    },
                ),
            ]
            .into(),
            rejected: Rejected { records: 1, bytes: 300, max_bytes: 16 << 20, ..Rejected::default() },
            rate_limit: Some(3),
        };
        assert_eq!(
            text(&queue),
            "lane      records  bytes  of       oldest                    lost\n\
             high      0        0 B    40 MiB   -                         0\n\
             normal    12       8 KiB  192 MiB  2026-01-01T00:00:00.000Z  3\n\
             rejected  1        300 B  16 MiB   -\n\
             at most 3 publishes a second ([upstream] max-publish-rate, max-byte-rate); 12 waiting\n\
             normal has stopped: the broker refuses every reading\n\
             normal: 1 record suspected, 1 more waits for their topic; nothing of the lane is published meanwhile\n\
             \u{20}\u{20}0000000000000001-9 on a/b: not authorized (0x87), tried again 2 times\n\
             the oldest record of lane normal is 0000000000000001-9; `tombolo queue skip 0000000000000001-9` moves it to \
             the rejected store\n\
             next: tombolo queue verify\n\
             next: tombolo queue rejected list\n"
        );
    }

    #[test]
    fn a_day_that_is_used_up_advises_to_skip_nothing_and_a_refusal_does() {
        let said = |stopped: &str| {
            let lane = Lane {
                records: 3,
                stopped: Some(stopped.to_owned()),
                oldest_record: Some("0000000000000001-9".into()),
                ..Lane::default()
            };
            text(&Queue { lanes: [("normal".to_owned(), lane)].into(), ..Queue::default() })
        };
        let day = said("[lane.normal] daily-bytes = \"64KiB\" is used up: 66000 bytes went on this day");
        assert!(day.contains("[lane.normal] daily-bytes") && !day.contains("queue skip"), "{day}");
        assert!(said("the broker refuses every reading").contains("queue skip"));
    }

    #[test]
    fn records_that_the_owner_set_aside_need_no_other_permissions() {
        assert_eq!(Cause::Skipped.to_string(), "set aside by `tombolo queue skip`");
        assert!(after_list(0, 2).contains("permissions"));
        assert!(!after_list(2, 0).contains("permissions") && after_list(2, 0).contains("queue skip"));
        assert!(after_list(1, 1).contains("permissions") && after_list(1, 1).contains("queue skip"));
    }

    #[test]
    fn what_is_delivered_and_still_counted_is_explained() {
        let lane = Lane { records: 3, delivered: 2, ..Lane::default() };
        let queue = Queue { lanes: [("high".to_owned(), lane)].into(), ..Queue::default() };
        let said = text(&queue);
        let words = "high: 2 of 3 records delivered, but stored after a record that is not decided yet\n";
        assert!(said.ends_with(words), "{said}");
    }

    #[test]
    fn a_record_that_was_delivered_meanwhile_is_not_of_unknown_age() {
        let oldest = |oldest_record: Option<&str>| {
            let oldest_record = oldest_record.map(str::to_owned);
            let lane = Lane { records: 1, oldest_record, ..Lane::default() };
            let queue = Queue { lanes: [("normal".to_owned(), lane)].into(), ..Queue::default() };
            text(&queue).contains("time unknown")
        };
        assert!(!oldest(None));
        assert!(oldest(Some("0000000000000001-9")));
    }

    #[test]
    fn missing_records_are_named_by_their_ids_or_numbers() {
        let missing = |first: &str, last: &str, records| {
            let (first, last) = (first.to_owned(), last.to_owned());
            crate::journal::io::Missing { first, last, records }
        };
        let report = FileReport {
            file: "normal/a.seg".into(),
            state: "damaged",
            records: 1,
            missing: vec![
                missing("0000000000000000-46", "0000000000000000-50", 5),
                missing("0000000000000000-46", "0000000000000000-45", 0),
                missing("0000000000000000-51", "0000000000000000-51", 1),
                missing("0000000000000007-60", "0000000000000007-60", 1),
                missing("0000000000000007-61", "0000000000000007-62", 2),
            ],
            note: None,
        };
        assert_eq!(
            file_line(&report),
            "damaged     normal/a.seg  1 record\n\
             \u{20}           5 records missing: sequences 46 to 50 (their run is not known, so they have no ids)\n\
             \u{20}           1 record missing: sequence 51 (its run is not known, so it has no id)\n\
             \u{20}           1 record missing: 0000000000000007-60\n\
             \u{20}           2 records missing: 0000000000000007-61 to 0000000000000007-62\n"
        );
    }

    #[test]
    fn bytes_of_an_empty_lane_are_explained() {
        let lane = Lane { bytes: 1536, max_bytes: 1, ..Lane::default() };
        let queue = Queue { lanes: [("normal".to_owned(), lane)].into(), ..Queue::default() };
        assert!(
            text(&queue)
                .ends_with("disk space is freed per file, when all records of the file are delivered\n")
        );
    }

    #[test]
    fn a_record_id_that_is_none_is_named() {
        match selection(vec!["7".into()], false, "tombolo queue") {
            Err(CommandError::Usage(text)) => {
                assert!(text.contains("\"7\"") && text.ends_with("`tombolo queue` lists them"), "{text}")
            }
            other => panic!("{other:?}"),
        }
    }
}
