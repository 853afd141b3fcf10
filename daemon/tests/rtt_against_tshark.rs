//! Round trips and flights of `linnet analyze` against tshark's `ack_rtt` and `bytes_in_flight`, value by value, and
//! against tcptrace where that is installed. Must never pass without having compared anything.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    process::Command,
};

use daemon::{
    analysis::{Connection, Side},
    analyze::{FLOWS_DEFAULT, analyze},
    flow::{FlowRecord, HalfRecord, community_id::address},
};
use datapath::tcp::{
    classes::{ACKED_UNSEEN, KEEP_ALIVE, LOST_SEGMENT, RETRANSMITTED, ZERO_WINDOW_PROBE},
    verdict::Verdicts,
};
use support::tshark;

/// Round trips from which on a direction's quantiles are compared.
const SAMPLES_MIN: usize = 100;
/// Most that median and 95th percentile may be off by.
const QUANTILES_OFF_MAX: [f64; 2] = [0.05, 0.10];

/// Captures of which directions may differ, and why.
const EXCEPTED: [(&str, &str); 2] = [
    ("zeek__tcp_handshake-reorder.pcap", "the answer comes before its SYN"),
    (
        "nDPI__quickplay.pcap",
        "only some of the packets were captured: tshark forgets the flight at a hole",
    ),
];

/// Sender's address and port, then the receiver's.
type Direction = [(IpAddr, u16); 2];

/// What tshark says of what one side sent.
#[derive(Debug, Default)]
struct Theirs {
    streams: BTreeSet<u64>,
    round_trips_ns: Vec<u64>,
    flight_max: u64,
}

/// How many directions were compared, and how they came out.
#[derive(Debug, Default)]
struct Outcome {
    directions: usize,
    samples: usize,
    differing: Vec<String>,
    flights: usize,
    flights_differing: Vec<String>,
    quantiles: Vec<Quantiles>,
}

/// How far the quantiles of a direction are off: those of every acknowledgment, and those that were sampled.
#[derive(Debug)]
struct Quantiles {
    name: String,
    every: [f64; 2],
    sampled: [f64; 2],
    sampled_count: u64,
    count: usize,
}

#[test]
fn round_trips_and_flights_are_those_of_tshark() {
    if !lab::require_tool("tshark", "round trips against tshark") {
        return;
    }
    let release = tshark::release();
    if release != "4.0" {
        println!("skipped: round trips against tshark: {release} measures others than 4.0");
        return;
    }
    let files = support::corpus();
    let mut all = Outcome::default();
    for one in support::in_parallel(&files, compared) {
        all.directions += one.directions;
        all.samples += one.samples;
        all.flights += one.flights;
        all.differing.extend(one.differing);
        all.flights_differing.extend(one.flights_differing);
        all.quantiles.extend(one.quantiles);
    }
    println!(
        "{} directions with {} round trips, {} differ; {} flights, {} differ",
        all.directions,
        all.samples,
        all.differing.len(),
        all.flights,
        all.flights_differing.len()
    );
    println!("{:#?}\n{:#?}", all.differing, all.flights_differing);
    let is_within =
        |off: [f64; 2]| off.iter().zip(QUANTILES_OFF_MAX).all(|(off, most)| off.abs() <= most);
    for one in &all.quantiles {
        let Quantiles { name, every, sampled, sampled_count, count } = one;
        let verdict = if is_within(*sampled) { "within" } else { "BEYOND" };
        println!(
            "{name}: {count}, off by {every:.3?}; the {sampled_count} sampled {sampled:.3?}, {verdict}"
        );
    }
    assert!(all.directions > 0, "nothing was compared");
    let is_excepted = |line: &String| EXCEPTED.iter().any(|(capture, _)| line.starts_with(capture));
    all.differing.retain(|line| !is_excepted(line));
    all.flights_differing.retain(|line| !is_excepted(line));
    assert_eq!(all.differing, [""; 0]);
    assert_eq!(all.flights_differing, [""; 0]);
    let off: Vec<_> = all.quantiles.iter().filter(|one| !is_within(one.every)).collect();
    assert!(off.is_empty(), "{off:#?}");
}

#[test]
fn tcptrace_agrees_on_the_greatest_flight() {
    if !lab::require_tool("tcptrace", "flights against tcptrace") {
        return;
    }
    // Long transfers of single connections, without anything sent again.
    for name in ["tcptrace__zwnd.pcap", "tcptrace__first_seg_ooo.pcap"] {
        let path = support::corpus_folder().join(name);
        if !path.exists() {
            println!("skipped: there is no {}", path.display());
            continue;
        }
        let output = Command::new("tcptrace").args(["-l", "-n", "-W"]).arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("max owin:")).unwrap();
        let theirs: Vec<u32> =
            line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let analysis = analyze(&path, FLOWS_DEFAULT).unwrap();
        let (record, connection) =
            analysis.analyzed().find_map(|(record, found)| Some((record, found?))).unwrap();
        let (own, _) = sides(record, connection);
        let ours = own.flight.peak().unwrap().bytes;
        println!("{name}: {ours} in flight, tcptrace {theirs:?}");
        let off = ours.abs_diff(theirs[0]);
        assert!(off <= 1 + theirs[0] / 50, "{name}: {ours}, tcptrace {theirs:?}");
    }
}

#[test]
fn a_receiver_without_room_is_told() {
    let path = support::corpus_folder().join("tcptrace__zwnd.pcap");
    if !path.exists() {
        println!("skipped: there is no {}", path.display());
        return;
    }
    let analysis = analyze(&path, FLOWS_DEFAULT).unwrap();
    let (record, connection) =
        analysis.analyzed().find_map(|(record, found)| Some((record, found?))).unwrap();
    let (sender, receiver) = sides(record, connection);
    assert_eq!(sender.round_trips.count(), 8_679, "as many as tcptrace finds");
    let periods = receiver.window.zero_periods();
    assert_eq!((periods.count(), periods.as_slice()[0].is_over), (1, true));
    // tshark: window 0 first in the frame before a wait of 22 s, and seven times in all.
    assert!((21_000_000_000..23_000_000_000).contains(&receiver.window.zero_ns()));
    assert!(sender.pace.window_limited_ns() >= receiver.window.zero_ns());
    assert_eq!(sender.pace.stalls().count(), 1);
}

/// Originator's and responder's.
fn sides<'a>(record: &FlowRecord, connection: &'a Connection) -> (&'a Side, &'a Side) {
    let [lower, upper] = connection.sides();
    if record.upper_originated { (upper, lower) } else { (lower, upper) }
}

fn compared(path: &Path) -> Outcome {
    let mut outcome = Outcome::default();
    let Ok(analysis) = analyze(path, FLOWS_DEFAULT) else { return outcome };
    let theirs = theirs(path);
    let mut lives = BTreeMap::<Direction, usize>::new();
    for (record, _) in analysis.analyzed().filter(|(_, connection)| connection.is_some()) {
        for (direction, ..) in directions(record) {
            *lives.entry(direction).or_default() += 1;
        }
    }
    for (record, connection) in analysis.analyzed() {
        let Some(connection) = connection else { continue };
        let (own, other) = sides(record, connection);
        let is_late = is_late(&record.from_originator) || is_late(&record.from_responder);
        for ((direction, half), side) in directions(record).into_iter().zip([own, other]) {
            let Some(theirs) = theirs.get(&direction) else { continue };
            let is_one = theirs.streams.len() == 1 && lives.get(&direction) == Some(&1);
            if !is_one || is_late {
                continue;
            }
            let name = format!("{} {direction:?}", path.file_name().unwrap().to_string_lossy());
            outcome.take(name, theirs, half, side);
        }
    }
    outcome
}

impl Outcome {
    fn take(&mut self, name: String, theirs: &Theirs, half: &HalfRecord, side: &Side) {
        // tshark shows no round trip of 0.
        let every = side.round_trips.kept().iter().copied().filter(|ns| *ns > 0);
        let every: Vec<_> = every.collect();
        self.directions += 1;
        self.samples += every.len();
        if every != theirs.round_trips_ns {
            self.differing.push(format!(
                "{name}: {} round trips, tshark {}",
                every.len(),
                theirs.round_trips_ns.len()
            ));
        }
        if every.len() >= SAMPLES_MIN && theirs.round_trips_ns.len() >= SAMPLES_MIN {
            let wanted = [0.5, 0.95].map(|q| quantile(&theirs.round_trips_ns, q) as f64);
            let off = |ours: [u64; 2]| {
                [0, 1].map(|index| (ours[index] as f64 - wanted[index]) / wanted[index])
            };
            let [p50, p95, _] = half.rtt.quantiles_ns;
            self.quantiles.push(Quantiles {
                name: name.clone(),
                every: off([0.5, 0.95].map(|q| quantile(&every, q))),
                sampled: off([p50, p95]),
                sampled_count: half.rtt.samples,
                count: theirs.round_trips_ns.len(),
            });
        }
        if let Some(peak) = side.flight.peak().filter(|_| theirs.flight_max > 0) {
            self.flights += 1;
            // A FIN is a byte more, which tshark leaves out of a segment without payload.
            if u64::from(peak.bytes).abs_diff(theirs.flight_max) > 1 {
                self.flights_differing.push(format!(
                    "{name}: {} in flight, tshark {}",
                    peak.bytes, theirs.flight_max
                ));
            }
        }
    }
}

/// Something was sent again, late, captured twice or not captured, or is a probe: tshark's list of segments has other
/// entries then than what is in flight.
fn is_late(half: &HalfRecord) -> bool {
    let told = half.verdicts.unwrap_or_default();
    let bits = RETRANSMITTED | LOST_SEGMENT | ACKED_UNSEEN | KEEP_ALIVE | ZERO_WINDOW_PROBE;
    let classes = half.classes.iter().enumerate();
    told != Verdicts::default()
        || classes.into_iter().any(|(bit, count)| bits & (1 << bit) != 0 && *count > 0)
}

fn directions(record: &FlowRecord) -> [(Direction, &HalfRecord); 2] {
    let key = &record.key;
    let lower = (address(key, key.lower), u16::from_be(key.lower_port));
    let upper = (address(key, key.upper), u16::from_be(key.upper_port));
    let (from, to) = if record.upper_originated { (upper, lower) } else { (lower, upper) };
    [([from, to], &record.from_originator), ([to, from], &record.from_responder)]
}

/// What tshark says, by direction of the data.
fn theirs(path: &Path) -> BTreeMap<Direction, Theirs> {
    const FIELDS: [&str; 8] = [
        "tcp.stream",
        "ip.src",
        "ip.dst",
        "ipv6.src",
        "ipv6.dst",
        "tcp.srcport",
        "tcp.dstport",
        "tcp.analysis.ack_rtt",
    ];
    let names: Vec<_> = FIELDS.into_iter().chain(["tcp.analysis.bytes_in_flight"]).collect();
    let mut theirs = BTreeMap::<Direction, Theirs>::new();
    for row in tshark::fields(path, &["-Y", "tcp"], &names) {
        let end = |v4: &str, v6: &str, port: &str| {
            Some((v4.parse().or_else(|_| v6.parse()).ok()?, port.parse().ok()?))
        };
        let from = end(&row[1], &row[3], &row[5]);
        let to = end(&row[2], &row[4], &row[6]);
        let (Some(from), Some(to), Ok(stream)) = (from, to, row[0].parse()) else { continue };
        let sent = theirs.entry([from, to]).or_default();
        sent.streams.insert(stream);
        sent.flight_max = sent.flight_max.max(row[8].parse().unwrap_or(0));
        let acknowledged = theirs.entry([to, from]).or_default();
        acknowledged.streams.insert(stream);
        acknowledged.round_trips_ns.extend(nanoseconds(&row[7]));
    }
    theirs
}

/// Seconds with nine digits, exactly.
fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, rest) = text.split_once('.')?;
    let rest = format!("{rest:0<9}");
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + rest[..9].parse::<u64>().ok()?)
}

fn quantile(values: &[u64], q: f64) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1]
}
