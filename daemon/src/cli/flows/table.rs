//! A page of flows as aligned text that fits its space, with the loss balance below. Asks nobody and reads no clock.

use std::{collections::BTreeMap, fmt::Write as _};

use datapath::tcp::classes;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::cli::{age, by_sockets, printable, si_bits, si_bytes, span};

/// What stands where there is nothing to say.
const NOTHING: &str = "-";
/// Between two columns.
const GAP: &str = "  ";

/// A page of the API.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    flows: Vec<Flow>,
    total: u64,
    loss: Loss,
}

#[derive(Debug, Deserialize)]
struct Flow {
    protocol: String,
    originator: Endpoint,
    responder: Endpoint,
    icmp: Option<Icmp>,
    vlan: Option<u16>,
    state: String,
    ended: Option<String>,
    #[serde(deserialize_with = "timestamp")]
    last_seen: Timestamp,
    interface: Option<String>,
    from_originator: Half,
    from_responder: Half,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    address: std::net::IpAddr,
    port: u16,
}

#[derive(Debug, Deserialize)]
struct Icmp {
    #[serde(rename = "type")]
    kind: u8,
    code: Option<u8>,
    identifier: Option<u16>,
}

#[derive(Debug, Deserialize)]
struct Half {
    packets: u64,
    bytes: u64,
    rtt: Rtt,
    /// Counters by class, and more beside them.
    tcp: Option<BTreeMap<String, serde_json::Value>>,
    rate: Option<Rate>,
}

#[derive(Debug, Deserialize)]
struct Rtt {
    samples: u64,
    p50_ns: u64,
    p99_ns: u64,
}

#[derive(Debug, Deserialize)]
struct Rate {
    bits_per_second: f64,
}

#[derive(Debug, Deserialize)]
struct Loss {
    /// Absent of an older daemon.
    #[serde(default)]
    source: String,
    seen: u64,
    ledger: BTreeMap<String, u64>,
    contended: u64,
    evicted: u64,
    approximate: bool,
    rings: Rings,
}

#[derive(Debug, Deserialize)]
struct Rings {
    lost: u64,
}

/// Room for text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    /// Characters of a line.
    pub(super) columns: usize,
    /// Lines.
    pub(super) rows: usize,
}

impl Space {
    /// Lines that are no flows: the header, an empty line, the count, and the balance, which may take two.
    const OTHERS: usize = 5;

    /// Flows that fit.
    pub(super) fn flows(self) -> usize {
        self.rows.saturating_sub(Self::OTHERS).max(1)
    }
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

struct Column {
    title: &'static str,
    align: Align,
    /// The least is the first to go when there is no room.
    importance: u8,
    cell: fn(&Flow, i64) -> String,
}

const COLUMNS: [Column; 11] = [
    column("PROTO", Align::Left, 9, |flow, _| flow.protocol.clone()),
    column("ORIGINATOR -> RESPONDER", Align::Left, 10, |flow, _| ends(flow)),
    column("STATE", Align::Left, 3, |flow, _| state(flow)),
    column("PACKETS →/←", Align::Right, 4, |flow, _| packets(flow)),
    column("BYTES →/←", Align::Right, 5, |flow, _| bytes(flow)),
    column("RATE", Align::Right, 6, |flow, _| rate(flow)),
    column("RTT p50/p99 →", Align::Right, 8, |flow, _| rtt(&flow.from_originator)),
    column("RTT p50/p99 ←", Align::Right, 2, |flow, _| rtt(&flow.from_responder)),
    column("RETRANS →/←", Align::Right, 7, |flow, _| sent_again(flow)),
    column("INTERFACE", Align::Left, 0, |flow, _| interface(flow)),
    column("LAST", Align::Right, 1, last),
];

const fn column(
    title: &'static str,
    align: Align,
    importance: u8,
    cell: fn(&Flow, i64) -> String,
) -> Column {
    Column { title, align, importance, cell }
}

/// The page as text; `now_ns` is Unix time. Without a space every column is there, and lines are as long as they are.
pub(super) fn render(page: &Page, now_ns: i64, space: Option<Space>) -> String {
    let mut columns: Vec<(&Column, Vec<String>, usize)> = COLUMNS
        .iter()
        .map(|column| {
            let cells: Vec<_> = page
                .flows
                .iter()
                .map(|flow| printable(&(column.cell)(flow, now_ns)).into_owned())
                .collect();
            let lengths = cells.iter().map(|cell| length(cell));
            let width = lengths.max().unwrap_or(0).max(length(column.title));
            (column, cells, width)
        })
        .collect();
    let width_max = space.map_or(usize::MAX, |space| space.columns);
    while columns.len() > 1 && width_of(&columns) > width_max {
        let least = columns.iter().map(|(column, ..)| column.importance).min();
        columns.retain(|(column, ..)| Some(column.importance) != least);
    }
    let mut lines = Vec::with_capacity(page.flows.len() + Space::OTHERS);
    lines.push(line(columns.iter().map(|(column, _, width)| (column.title, column.align, *width))));
    for row in 0..page.flows.len().min(space.map_or(usize::MAX, Space::flows)) {
        let cells = columns
            .iter()
            .map(|(column, cells, width)| (cells[row].as_str(), column.align, *width));
        lines.push(line(cells));
    }
    lines.push(String::new());
    lines.push(count(page));
    lines.extend(balance(&page.loss));
    let mut text = String::new();
    let rows = space.map_or(usize::MAX, |space| space.rows);
    for line in lines.iter().take(rows) {
        text.extend(line.chars().take(width_max));
        text.push('\n');
    }
    text
}

fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// Characters: what the names here consist of takes one place each.
fn length(text: &str) -> usize {
    text.chars().count()
}

fn width_of(columns: &[(&Column, Vec<String>, usize)]) -> usize {
    let widths: usize = columns.iter().map(|(_, _, width)| width).sum();
    widths + GAP.len() * columns.len().saturating_sub(1)
}

fn line<'a>(cells: impl Iterator<Item = (&'a str, Align, usize)>) -> String {
    let mut line = String::new();
    for (index, (text, align, width)) in cells.enumerate() {
        if index > 0 {
            line.push_str(GAP);
        }
        match align {
            Align::Left => write!(line, "{text:<width$}"),
            Align::Right => write!(line, "{text:>width$}"),
        }
        .expect("a string takes all");
    }
    line.trim_end().to_owned()
}

fn ends(flow: &Flow) -> String {
    let (from, to) = (&flow.originator, &flow.responder);
    let Some(icmp) = &flow.icmp else {
        return if from.port == 0 && to.port == 0 {
            format!("{} -> {}", from.address, to.address)
        } else {
            format!("{} -> {}", endpoint(from), endpoint(to))
        };
    };
    let mut text = format!("{} -> {} type {}", from.address, to.address, icmp.kind);
    for (name, value) in [("code", icmp.code.map(u16::from)), ("id", icmp.identifier)] {
        if let Some(value) = value {
            write!(text, " {name} {value}").expect("a string takes all");
        }
    }
    text
}

fn endpoint(end: &Endpoint) -> String {
    std::net::SocketAddr::new(end.address, end.port).to_string()
}

fn state(flow: &Flow) -> String {
    match &flow.ended {
        Some(why) => format!("{} ({why})", flow.state),
        None => flow.state.clone(),
    }
}

fn packets(flow: &Flow) -> String {
    format!("{}/{}", flow.from_originator.packets, flow.from_responder.packets)
}

fn bytes(flow: &Flow) -> String {
    format!("{}/{}", si_bytes(flow.from_originator.bytes), si_bytes(flow.from_responder.bytes))
}

/// Both directions together.
fn rate(flow: &Flow) -> String {
    let rates = [&flow.from_originator.rate, &flow.from_responder.rate];
    let sum: f64 = rates.into_iter().flatten().map(|rate| rate.bits_per_second).sum();
    si_bits(sum)
}

fn rtt(half: &Half) -> String {
    if half.rtt.samples == 0 {
        return NOTHING.into();
    }
    format!("{}/{}", span(half.rtt.p50_ns), span(half.rtt.p99_ns))
}

/// Segments of every class that means "sent again".
fn sent_again(flow: &Flow) -> String {
    let again = |tcp: &BTreeMap<String, serde_json::Value>| -> u64 {
        (0..classes::CLASSES)
            .filter(|bit| classes::RETRANSMITTED & (1 << bit) != 0)
            .filter_map(|bit| tcp.get(classes::NAMES[bit].0)?.as_u64())
            .sum()
    };
    match (&flow.from_originator.tcp, &flow.from_responder.tcp) {
        (Some(there), Some(back)) => format!("{}/{}", again(there), again(back)),
        _ => NOTHING.into(),
    }
}

fn interface(flow: &Flow) -> String {
    let name = flow.interface.as_deref().unwrap_or(NOTHING);
    match flow.vlan {
        Some(vlan) => format!("{name} vlan {vlan}"),
        None => name.to_owned(),
    }
}

/// How long ago the last packet was; the two clocks may differ a little.
fn last(flow: &Flow, now_ns: i64) -> String {
    let ago = i128::from(now_ns) - flow.last_seen.as_nanosecond();
    age(u64::try_from(ago).unwrap_or(0))
}

fn count(page: &Page) -> String {
    let shown = page.flows.len() as u64;
    match page.total {
        0 => "no flows yet; they appear with the first packet that matches".into(),
        1 => "1 flow".into(),
        total if shown < total => format!("{shown} of {total} flows; --limit shows more"),
        total => format!("{total} flows"),
    }
}

/// What became of every frame, in two lines.
fn balance(loss: &Loss) -> [String; 2] {
    let mut counts: Vec<_> = loss.ledger.iter().filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(name, count)| (*name != "tracked", std::cmp::Reverse(**count)));
    let mut seen = format!("seen {} =", loss.seen);
    for (index, (name, count)) in counts.iter().enumerate() {
        let plus = if index == 0 { "" } else { " +" };
        write!(seen, "{plus} {} {count}", printable(name)).expect("a string takes all");
    }
    let sum: u64 = loss.ledger.values().sum();
    if counts.is_empty() {
        seen.push_str(" 0");
    }
    // The two ends of the pipeline are not read in the same instant.
    if loss.seen > sum {
        write!(seen, " + in flight {}", loss.seen - sum).expect("a string takes all");
    } else if sum > loss.seen {
        write!(seen, " - just arrived {}", sum - loss.seen).expect("a string takes all");
    }
    let bound = if loss.approximate { "at most " } else { "" };
    let Loss { contended, evicted, rings, .. } = loss;
    let lost = rings.lost;
    let mut others = format!("contended {contended}, evicted {bound}{evicted}, ring lost {lost}");
    others.push_str(by_sockets(&loss.source));
    [seen, others]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn half(packets: u64, tcp: Option<Value>) -> Value {
        let rtt = json!({ "samples": packets, "p50_ns": 20_250_000, "p99_ns": 31_000_000 });
        let rate = json!({ "bits_per_second": 1e6 });
        json!({ "packets": packets, "bytes": packets * 1_000, "rtt": rtt, "tcp": tcp, "rate": rate })
    }

    fn page(interface: &str) -> Page {
        let classes = json!({
            "segments": 9, "retransmissions": 2, "out_of_order": 1, "keep_alives": 5,
            "verdicts": { "retransmitted_segments": 3 },
        });
        let flow = json!({
            "protocol": "tcp",
            "originator": { "address": "2001:db8::1", "port": 40_000 },
            "responder": { "address": "2001:db8::2", "port": 443 },
            "vlan": null, "state": "ESTABLISHED", "ended": null,
            "last_seen": "1970-01-01T00:00:10.000000000Z", "interface": interface,
            "from_originator": half(12, Some(classes)), "from_responder": half(0, Some(json!({}))),
        });
        let ledger = json!({ "tracked": 12_000, "not_ip": 345, "table_full": 0 });
        let loss = json!({
            "seen": 12_345, "ledger": ledger, "contended": 0, "evicted": 0, "approximate": false,
            "rings": { "lost": 0 },
        });
        serde_json::from_value(json!({ "flows": [flow], "total": 3, "loss": loss })).unwrap()
    }

    #[test]
    fn a_flow_is_one_aligned_line_above_the_balance() {
        let text = render(&page("eth0"), 13_000_000_000, None);
        let expected = "\
PROTO  ORIGINATOR -> RESPONDER                   STATE        PACKETS →/←    BYTES →/←        RATE      RTT p50/p99 →  RTT p50/p99 ←  RETRANS →/←  INTERFACE  LAST
tcp    [2001:db8::1]:40000 -> [2001:db8::2]:443  ESTABLISHED         12/0  12.0 kB/0 B  2.0 Mbit/s  20.25 ms/31.00 ms              -          3/0  eth0        3 s

1 of 3 flows; --limit shows more
seen 12345 = tracked 12000 + not_ip 345
contended 0, evicted 0, ring lost 0
";
        assert_eq!(text.lines().collect::<Vec<_>>(), expected.lines().collect::<Vec<_>>());
    }

    #[test]
    fn no_line_is_wider_or_lower_than_the_terminal() {
        for columns in 1..200 {
            for rows in 1..12 {
                let text = render(&page("eth0"), 0, Some(Space { columns, rows }));
                assert!(text.lines().all(|line| length(line) <= columns), "{columns}: {text}");
                assert!(text.lines().count() <= rows, "{rows}: {text}");
            }
        }
    }

    #[test]
    fn a_narrow_terminal_keeps_ends_round_trip_and_retransmissions() {
        let text = render(&page("eth0"), 0, Some(Space { columns: 100, rows: 24 }));
        let header = text.lines().next().unwrap();
        assert!(header.contains("RTT p50/p99 →") && header.contains("RETRANS"), "{header}");
        assert!(!header.contains("INTERFACE") && !header.contains("LAST"), "{header}");
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        let text = render(&page("e\u{1b}[2J\u{9b}0"), 0, None);
        assert!(text.contains("e\\u{1b}[2J\\u{9b}0"), "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }

    #[test]
    fn a_source_that_is_not_ebpf_is_named() {
        let mut page = page("eth0");
        page.loss.source = "af_packet".into();
        assert!(render(&page, 0, None).ends_with("ring lost 0; read by AF_PACKET sockets\n"));
    }

    #[test]
    fn frames_that_are_on_their_way_are_named() {
        let mut page = page("eth0");
        page.loss.seen += 2;
        assert!(render(&page, 0, None).contains("not_ip 345 + in flight 2"));
        page.loss.seen -= 5;
        assert!(render(&page, 0, None).contains("not_ip 345 - just arrived 3"));
    }
}
