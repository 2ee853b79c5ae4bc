//! `tombolo usage`: what each device has sent within 30 days.

use super::Context;
use super::args::UsageArguments;
use super::error::CommandError;
use super::output::{bytes, plural};
use crate::control::io::client::ANSWER;
use crate::control::protocol::Request;
use crate::control::snapshot::{DeviceUsage, UsageCounts, UsagePage};

/// Prints it.
///
/// # Errors
/// [`CommandError::Failed`] if the daemon does not run, or knows nothing of the device.
pub fn run(context: &Context, arguments: UsageArguments) -> Result<(), CommandError> {
    let mut daemon = context.daemon()?;
    let (mut after, mut rows) = (None, Vec::new());
    let lost = loop {
        let request = Request::Usage { device: arguments.device.clone(), after };
        let page: UsagePage = daemon.ask_for(&request, ANSWER)?;
        for device in &page.devices {
            match (context.out.json, &arguments.device) {
                (true, _) => context.out.object(device)?,
                (false, None) => rows.push(row(&device.device, &device.counts, Some(device.active_days))),
                (false, Some(_)) => rows.extend(days(device)),
            }
        }
        after = page.devices.last().map(|device| device.device.clone());
        // A page without a device would be asked for again for ever.
        if !page.more || after.is_none() {
            break match page.unreadable_days {
                // An older daemon does not name them.
                days if page.lost.is_empty() && days > 0 => {
                    let days = plural(days, "day");
                    vec![format!(
                        "{days} left out, whose file cannot be read: the log of the daemon names it"
                    )]
                }
                _ => page.lost,
            };
        }
    };
    lost.iter().for_each(super::note);
    if context.out.json {
        return Ok(());
    }
    if rows.is_empty() {
        let of = arguments.device.map(|id| format!(" by {id}")).unwrap_or_default();
        context.out.line(match lost.is_empty() {
            true => format!("nothing was sent{of} within 30 days"),
            false => format!("of 30 days nothing is known that was sent{of}: the counts of some are lost"),
        })?;
        return Ok(());
    }
    let first = if arguments.device.is_some() { "day (UTC)" } else { "device" };
    let mut head: Vec<String> =
        [first, "messages", "bytes", "filtered", "local", "refused"].map(str::to_owned).to_vec();
    head.extend(arguments.device.is_none().then(|| "days".to_owned()));
    rows.insert(0, head);
    context.out.table(&rows)?;
    Ok(())
}

fn days(device: &DeviceUsage) -> Vec<Vec<String>> {
    let day = |of: &crate::control::snapshot::UsageDay| {
        let name = of.day.clone().unwrap_or_else(|| "clock not trusted".to_owned());
        let name = if of.current { format!("{name}, until now") } else { name };
        row(&name, &of.counts, None)
    };
    device.days.iter().map(day).collect()
}

fn row(name: &str, counts: &UsageCounts, days: Option<u64>) -> Vec<String> {
    let unstored = (counts.unstored > 0).then(|| format!("{} not stored", counts.unstored));
    let reasons =
        counts.refused_reasons.iter().map(|(why, count)| format!("{count} {}", why.replace('_', " ")));
    let why: Vec<String> = reasons.chain(unstored).collect();
    let refused = match why.is_empty() {
        true => counts.refused.to_string(),
        false => why.join(", "),
    };
    let mut row = vec![
        name.to_owned(),
        counts.messages.to_string(),
        bytes(counts.bytes),
        counts.filtered.to_string(),
        counts.local.to_string(),
        refused,
    ];
    row.extend(days.map(|days| days.to_string()));
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::snapshot::UsageDay;

    #[test]
    fn days_are_shown_with_what_was_refused_and_without_a_date_where_the_clock_was_not_trusted() {
        let counts = UsageCounts {
            messages: 7,
            bytes: 2_048,
            filtered: 1,
            unstored: 2,
            local: 5,
            refused: 4,
            refused_reasons: [("over_quota".to_owned(), 4)].into(),
        };
        let quiet = UsageCounts { messages: 1, ..UsageCounts::default() };
        let days_of = vec![
            UsageDay { day: None, current: false, counts: quiet },
            UsageDay { day: Some("2026-11-27".into()), current: true, counts: counts.clone() },
        ];
        let device = DeviceUsage { device: "door-7".into(), active_days: 2, counts, days: days_of };
        let shown: Vec<String> = days(&device).iter().map(|row| row.join("|")).collect();
        let expected =
            ["clock not trusted|1|0 B|0|0|0", "2026-11-27, until now|7|2 KiB|1|5|4 over quota, 2 not stored"];
        assert_eq!(shown, expected);
        assert_eq!(row("door-7", &device.counts, Some(2)).last().map(String::as_str), Some("2"));
    }
}
