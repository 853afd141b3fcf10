//! `linnet flows`: the flow table of the running daemon, once or again and again.

use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;

use super::{printable, si_bits, si_bytes, span};
use crate::client::Client;

/// From one picture to the next on a terminal, and without one.
const WATCH: Duration = Duration::from_secs(1);
const WATCH_PLAIN: Duration = Duration::from_secs(5);
/// Tries to reach a daemon that may still be starting.
const TRIES_MAX: u32 = 10;
/// Lines of a terminal that does not say how many it has.
const LINES_DEFAULT: usize = 24;
/// Columns of such a terminal.
const COLUMNS_DEFAULT: usize = 160;

/// Arguments of `linnet flows`.
#[derive(Debug, clap::Args)]
pub struct FlowsArgs {
    /// The daemon's socket.
    #[arg(long, env = "LINNET_SOCKET", default_value = "/run/linnet/api.sock")]
    socket: PathBuf,
    /// Again each second.
    #[arg(long)]
    watch: bool,
    /// The API's JSON.
    #[arg(long, conflicts_with = "watch")]
    json: bool,
    /// What to sort by; `-` in front for greatest first.
    #[arg(long, default_value = "-bytes", allow_hyphen_values = true)]
    sort: String,
    /// Most flows.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Only this protocol.
    #[arg(long)]
    protocol: Option<String>,
    /// Only flows of this address.
    #[arg(long)]
    address: Option<String>,
    /// Only flows of this port.
    #[arg(long)]
    port: Option<u16>,
    /// Only flows in this state.
    #[arg(long)]
    state: Option<String>,
    /// Only flows of this interface.
    #[arg(long)]
    interface: Option<String>,
}

/// Shows the table.
pub fn run(args: &FlowsArgs) -> anyhow::Result<u8> {
    let client = Client::new(&args.socket)?;
    let shown = if args.watch { watch(args, &client) } else { once(args, &client) };
    match shown {
        // `linnet flows | head` is no failure.
        Err(error) if is_broken_pipe(&error) => Ok(0),
        other => other.map(|()| 0),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn once(args: &FlowsArgs, client: &Client) -> anyhow::Result<()> {
    let page = client.get(&path(args))?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{page}")?;
    } else {
        out.write_all(table(&page, usize::MAX, usize::MAX).as_bytes())?;
    }
    Ok(())
}

fn watch(args: &FlowsArgs, client: &Client) -> anyhow::Result<()> {
    let terminal = io::stdout().is_terminal();
    let mut failures = 0;
    loop {
        match client.get(&path(args)) {
            Ok(page) => {
                failures = 0;
                let mut out = io::stdout().lock();
                if terminal {
                    let (lines, columns) = terminal_size();
                    // Home, the picture, and what is left of the one before cleared: no flicker.
                    let picture = table(&page, lines.saturating_sub(1), columns);
                    let picture = picture.replace('\n', "\x1b[K\n");
                    write!(out, "\x1b[H{picture}\x1b[J")?;
                } else {
                    writeln!(out, "{}", table(&page, usize::MAX, usize::MAX))?;
                }
                out.flush()?;
            }
            Err(error) => {
                failures += 1;
                if failures > TRIES_MAX {
                    return Err(error);
                }
            }
        }
        std::thread::sleep(if terminal { WATCH } else { WATCH_PLAIN });
    }
}

/// Lines and columns of the terminal on standard output.
fn terminal_size() -> (usize, usize) {
    let size = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let stty = std::process::Command::new("stty")
        .arg("size")
        .stdin(std::process::Stdio::inherit())
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_default();
    let mut words = stty.split_whitespace().map(|word| word.parse().ok());
    let lines = words.next().flatten().or_else(|| size("LINES"));
    let columns = words.next().flatten().or_else(|| size("COLUMNS"));
    (lines.unwrap_or(LINES_DEFAULT), columns.unwrap_or(COLUMNS_DEFAULT))
}

fn path(args: &FlowsArgs) -> String {
    let port = args.port.map(|port| port.to_string());
    let wanted = [
        ("protocol", args.protocol.as_deref()),
        ("address", args.address.as_deref()),
        ("port", port.as_deref()),
        ("state", args.state.as_deref()),
        ("interface", args.interface.as_deref()),
    ];
    let mut path = format!("/api/v1/flows?limit={}&sort={}", args.limit, encode(&args.sort));
    for (name, value) in wanted {
        if let Some(value) = value {
            path += &format!("&{name}={}", encode(value));
        }
    }
    path
}

/// Percent-encodes everything but unreserved characters (RFC 3986, 2.3).
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

const HEADINGS: [&str; 8] =
    ["FLOW", "STATE", "PACKETS", "BYTES", "RATE", "RTT p50/p99", "SENT AGAIN", "INTERFACE"];

/// Two lines a flow: what the originator sent, and what the responder sent.
fn table(page: &Value, lines_max: usize, columns_max: usize) -> String {
    let mut rows: Vec<[String; HEADINGS.len()]> = vec![HEADINGS.map(ToOwned::to_owned)];
    for flow in page["flows"].as_array().into_iter().flatten() {
        rows.push(row(flow, true));
        rows.push(row(flow, false));
    }
    // A heading, the rows, and two lines of footer.
    rows.truncate(lines_max.saturating_sub(3));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..HEADINGS.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.extend(line.trim_end().chars().take(columns_max));
        text.push('\n');
    }
    text.extend(footer(page).chars().take(columns_max));
    text.push('\n');
    text
}

fn row(flow: &Value, from_originator: bool) -> [String; HEADINGS.len()] {
    let half = &flow[if from_originator { "from_originator" } else { "from_responder" }];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let rtt = &half["rtt"];
    let round_trip = if number(&rtt["samples"]) == 0 {
        "-".to_owned()
    } else {
        format!("{} / {}", span(number(&rtt["p50_ns"])), span(number(&rtt["p99_ns"])))
    };
    let again: u64 =
        ["retransmissions", "fast_retransmissions", "spurious_retransmissions", "out_of_order"]
            .iter()
            .map(|name| number(&half["tcp"][name]))
            .sum();
    let (name, state, interface) = if from_originator {
        let protocol = flow["protocol"].as_str().unwrap_or("?");
        let name =
            format!("{protocol} {} -> {}", end(&flow["originator"]), end(&flow["responder"]));
        (name, text(&flow["state"]), text(&flow["interface"]))
    } else {
        ("   <-".to_owned(), String::new(), String::new())
    };
    [
        name,
        state,
        number(&half["packets"]).to_string(),
        si_bytes(number(&half["bytes"])),
        si_bits(half["rate"]["bits_per_second"].as_f64().unwrap_or(0.0)),
        round_trip,
        if again == 0 { "0".to_owned() } else { format!("{again} !") },
        interface,
    ]
}

fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or("")).into_owned()
}

fn end(endpoint: &Value) -> String {
    let address = endpoint["address"].as_str().unwrap_or("?");
    match endpoint["port"].as_u64().unwrap_or(0) {
        0 => address.to_owned(),
        port if address.contains(':') => format!("[{address}]:{port}"),
        port => format!("{address}:{port}"),
    }
}

/// What stands behind the figures.
fn footer(page: &Value) -> String {
    let loss = &page["loss"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let ledger = loss["ledger"].as_object().into_iter().flatten();
    let terms: Vec<_> = ledger
        .filter(|(_, count)| number(count) > 0)
        .map(|(key, count)| format!("{key} {count}"))
        .collect();
    format!(
        "{} flows; seen {} = {}; contended {}, evicted {}, lost in the ring {}",
        number(&page["total"]),
        number(&loss["seen"]),
        if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") },
        number(&loss["contended"]),
        number(&loss["evicted"]),
        number(&loss["rings"]["lost"]),
    )
}
