//! `linnet events`: one flow's flagged segments. Must never show foreign text unescaped.

use std::{fmt::Write as _, path::PathBuf};

use serde::Deserialize;

use super::{ExitWith, by_sockets, foreign, printable, say, span};
use crate::{
    client::{Client, SOCKET_DEFAULT, with_query},
    flow::{FlowId, events::EVENTS_OF_FLOW_MAX},
};

/// What stands where there is nothing to say.
const NOTHING: &str = "-";
const HEADER: [&str; 8] =
    ["TIME", "FROM", "FLAGS", "SEQUENCE", "LENGTH", "SILENCE", "VERDICT", "CLASSES"];

/// Arguments of `linnet events`.
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// The flow's id, as `linnet flows --json` has it.
    flow: FlowId,
    /// The daemon's socket.
    #[arg(long, env = "LINNET_SOCKET", default_value = SOCKET_DEFAULT, value_name = "PATH")]
    socket: PathBuf,
    /// Print the API's answer as JSON.
    #[arg(long)]
    json: bool,
    /// Only these classes and verdicts, with commas between them: rto, fast, spurious, duplicate_acks, ...
    #[arg(long, value_name = "NAMES")]
    kind: Option<String>,
    /// Most events: the last ones, or with --after the first ones.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=EVENTS_OF_FLOW_MAX as i64))]
    limit: Option<u16>,
    /// Only events with greater numbers.
    #[arg(long, value_name = "NUMBER")]
    after: Option<u64>,
}

/// What the API answers.
#[derive(Debug, Deserialize)]
struct Answer {
    events: Vec<Event>,
    total: u64,
    forgotten: u64,
    loss: Loss,
}

#[derive(Debug, Deserialize)]
struct Event {
    time: String,
    direction: Option<String>,
    classes: Vec<String>,
    verdicts: Vec<String>,
    silence_ns: u64,
    sequence: u32,
    payload_len: u32,
    flags: String,
}

#[derive(Debug, Deserialize)]
struct Loss {
    /// Absent of an older daemon.
    #[serde(default)]
    source: String,
    rings: Rings,
}

#[derive(Debug, Deserialize)]
struct Rings {
    events: Events,
}

#[derive(Debug, Deserialize)]
struct Events {
    lost: u64,
    since: String,
}

/// Shows them.
pub fn run(args: &EventsArgs) -> anyhow::Result<u8> {
    let client = Client::connect(&args.socket).map_err(ExitWith::from)?;
    let answer = client.get(&query(args)).map_err(ExitWith::from)?;
    if args.json {
        say(&format!("{answer}\n"))?;
        return Ok(0);
    }
    let answer = Answer::deserialize(answer).map_err(|error| foreign(&error))?;
    say(&render(&answer))?;
    Ok(0)
}

fn query(args: &EventsArgs) -> String {
    with_query(
        &format!("/api/v1/flows/{}/events", args.flow),
        &[
            ("kind", args.kind.clone()),
            ("limit", args.limit.map(|limit| limit.to_string())),
            ("after", args.after.map(|after| after.to_string())),
        ],
    )
}

fn render(answer: &Answer) -> String {
    let rows: Vec<_> = answer.events.iter().map(row).collect();
    let header = HEADER.map(str::to_owned);
    let mut widths = [0; HEADER.len()];
    for row in rows.iter().chain([&header]) {
        widths.iter_mut().zip(row).for_each(|(width, it)| *width = it.chars().count().max(*width));
    }
    let mut text = String::new();
    for row in [&header].into_iter().chain(&rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // A string takes whatever is written to it.
            let _written = write!(line, "{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    let Answer { events, total, forgotten, loss } = answer;
    let Events { lost, since } = &loss.rings.events;
    text + &format!(
        "\n{} of {total} events, {forgotten} earlier ones forgotten; of all flows, {lost} were lost since {}{}\n",
        events.len(),
        printable(since),
        by_sockets(&loss.source)
    )
}

fn row(event: &Event) -> [String; HEADER.len()] {
    let joined = |names: &[String]| match names {
        [] => NOTHING.to_owned(),
        names => printable(&names.join(",")).into_owned(),
    };
    let from = event.direction.as_deref().and_then(|it| it.strip_prefix("from_"));
    let silence = if event.silence_ns == 0 { NOTHING.to_owned() } else { span(event.silence_ns) };
    [
        printable(&event.time).into_owned(),
        printable(from.unwrap_or(NOTHING)).into_owned(),
        printable(&event.flags).into_owned(),
        event.sequence.to_string(),
        event.payload_len.to_string(),
        silence,
        joined(&event.verdicts),
        joined(&event.classes),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn what_is_asked_for_reaches_the_query() {
        let id = "0123456789ABCDEFGHJKMNPQRS";
        let line = ["linnet", "events", id, "--kind", "rto,fast", "--limit", "3", "--after", "7"];
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::Events(args) = cli.command else { panic!("another command") };
        let expected = format!("/api/v1/flows/{id}/events?kind=rto%2Cfast&limit=3&after=7");
        assert_eq!(query(&args), expected);
        assert!(Cli::try_parse_from(["linnet", "events", "short"]).is_err());
    }

    #[test]
    fn a_row_says_who_sent_what_and_why() {
        let answer = json!({
            "events": [{
                "time": "2026-01-01T00:00:00.000000001Z", "direction": "from_responder",
                "classes": ["retransmissions"], "verdicts": ["retransmitted_segments", "rto"],
                "silence_ns": 205_000_000, "sequence": 17, "payload_len": 1_448, "flags": "PA",
            }],
            "total": 1, "forgotten": 2, "loss": { "rings": { "events": { "lost": 3, "since": "then" } } },
        });
        let text = render(&Answer::deserialize(answer).unwrap());
        assert!(text.contains("responder  PA"), "{text}");
        assert!(text.contains("retransmitted_segments,rto  retransmissions"), "{text}");
        assert!(text.ends_with(
            "1 of 1 events, 2 earlier ones forgotten; of all flows, 3 were lost since then\n"
        ));
    }
}
