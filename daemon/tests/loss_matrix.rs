//! Retransmitted and reordered segments against what is known of them: the sender's own count (`tcpi_total_retrans`),
//! and what the lab's relay did to the wire packets. Each kind of trouble with each congestion control, with and without
//! segmentation offload at the sender. Must never take a figure from linnet as the truth.
//!
//! Seeds are those of `LINNET_SEEDS` (`LINNET_SEEDS=7,8`), and `LINNET_CELLS=loss-5,bbr` runs the cells whose names
//! have all these parts. `LINNET_KEEP=FOLDER` keeps the captures of the cells that fail.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it measured"
)]

mod support;

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use lab::{
    CLIENT_INTERFACE, DirectionReport, Family, Impairment, Lab, Loss, Namespace, Plan, Reorder,
    SERVER_INTERFACE, capture::Tcpdump, traffic::TcpFacts,
};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use support::{linnet::Linnet, pair::Pair, wait_for};

const PORT: u16 = 5_100;
/// Longest time in which new data is sent.
const SEND_MAX: Duration = Duration::from_secs(6);
const READ_SLICE: Duration = Duration::from_millis(50);
/// Longest wait for a byte that was sent.
const REPAIR_MAX: Duration = Duration::from_secs(120);
/// Runs of a cell until no packet was contended, and none overtaken before it came to the relay.
const RUNS_MAX: usize = 10;
/// Cells at a time: most of their time they wait for time-outs.
const CELLS_AT_ONCE: usize = 3;

/// What happens to segments between the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// Percent of all packets, in both directions.
    Loss(u8),
    /// A bottleneck with a short queue.
    Overflow,
    Reordering,
    Duplication,
}

/// How the sender sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    /// As much as there is room for.
    Bulk,
    /// Segments that are not full, which the kernel may merge when it sends them again.
    Small,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    trouble: Trouble,
    writes: Writes,
    /// One way, ms.
    delay: u64,
    congestion: &'static str,
    /// Segmentation offload at the ends: TC sees super-packets.
    offload: bool,
    family: Family,
    /// A download: the server sends.
    down: bool,
    seed: u64,
}

impl Cell {
    fn name(&self) -> String {
        let trouble = match self.trouble {
            Trouble::Loss(percent) => format!("loss-{percent}"),
            Trouble::Overflow => "overflow".to_owned(),
            Trouble::Reordering => "reorder".to_owned(),
            Trouble::Duplication => "duplicate".to_owned(),
        };
        let gso = if self.offload { "gso" } else { "no-gso" };
        let family = if self.family == Family::V4 { "v4" } else { "v6" };
        let way = if self.down { "down" } else { "up" };
        let writes = if self.writes == Writes::Small { " small" } else { "" };
        let delay = if self.delay == 0 { " lan" } else { "" };
        let seed = self.seed;
        format!("{trouble}{writes}{delay} {} {gso} {family} {way} seed {seed}", self.congestion)
    }

    /// The name with what a namespace may be called.
    fn label(&self, number: usize) -> String {
        let kind = match self.trouble {
            Trouble::Loss(percent) => format!("l{percent}"),
            Trouble::Overflow => "ov".to_owned(),
            Trouble::Reordering => "re".to_owned(),
            Trouble::Duplication => "du".to_owned(),
        };
        format!("{kind}-{number}")
    }

    fn plan(&self, label: &str) -> Plan {
        let delay = Duration::from_millis(self.delay);
        let mut forth = Impairment { delay, ..Impairment::default() };
        let mut back = forth.clone();
        match self.trouble {
            Trouble::Loss(percent) => {
                let loss = Loss::Probability(f64::from(percent) / 100.0);
                (forth.loss, back.loss) = (loss, loss);
            }
            Trouble::Overflow => {
                (forth.rate_bits_per_s, forth.queue_bytes) = (Some(20_000_000), 20_000);
            }
            // Less than a round trip, so that nobody can have asked for it before it arrives.
            Trouble::Reordering => {
                let extra_delay = Duration::from_millis(2);
                forth.reorder = Some(Reorder { every_nth: 40, extra_delay });
            }
            Trouble::Duplication => forth.duplicate_every_nth = Some(30),
        }
        let (to_server, to_client) = if self.down { (back, forth) } else { (forth, back) };
        let (offload, seed) = (self.offload, self.seed);
        Plan { offload, to_server, to_client, seed, ..Plan::new(label) }
    }

    const fn bytes(&self) -> u64 {
        match self.trouble {
            _ if matches!(self.writes, Writes::Small) => 300_000,
            Trouble::Loss(1) => 3_000_000,
            Trouble::Loss(5) => 1_000_000,
            Trouble::Loss(_) => 100_000,
            Trouble::Overflow | Trouble::Reordering | Trouble::Duplication => 3_000_000,
        }
    }
}

/// The counters of a direction at one place that the cell is about.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    segments: u64,
    /// Wireshark's classes of what is sent again: only the sum is what the sender counts.
    classes: u64,
    verdicts: Verdicts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Verdicts {
    retransmitted: u64,
    reordered: u64,
    duplicates: u64,
}

impl Told {
    fn of(flow: &Value, half: &str) -> Self {
        let tcp = &flow[half]["tcp"];
        let figure = |object: &Value, name: &str| object[name].as_u64().unwrap();
        let classes = ["retransmissions", "fast_retransmissions", "spurious_retransmissions"];
        let again: u64 = classes.iter().map(|class| figure(tcp, class)).sum();
        let verdict = |name| figure(&tcp["verdicts"], name);
        let verdicts = Verdicts {
            retransmitted: verdict("retransmitted_segments"),
            reordered: verdict("reordered_segments"),
            duplicates: verdict("duplicate_frames"),
        };
        let segments = figure(tcp, "segments");
        Self { segments, classes: again + figure(tcp, "out_of_order"), verdicts }
    }
}

/// What one run of a cell gave.
#[derive(Debug)]
struct Outcome {
    sender: TcpFacts,
    wire: DirectionReport,
    contended: bool,
    /// At the sender's egress and at the receiver's ingress: by the kernel programs, and from tcpdump's files.
    live: [Told; 2],
    file: [Told; 2],
}

fn now() -> Duration {
    Duration::from_nanos(lab::clock::monotonic_ns())
}

/// A second at most, where the kernel (6.15) lets one choose: where a third of all answers is lost, doubled ones soon take
/// minutes.
fn limit_time_outs() {
    match fs::write("/proc/sys/net/ipv4/tcp_rto_max_ms", "1000") {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other.unwrap(),
    }
}

/// Sends for a while, and returns what the sender's kernel says once nothing of it can be sent again.
fn transfer(cell: &Cell, pair: &mut Pair) -> TcpFacts {
    let Pair { client, server } = pair;
    let (from, to) = if cell.down { (server, client) } else { (client, server) };
    setsockopt(&*from, sockopt::TcpCongestion, &OsString::from(cell.congestion)).unwrap();
    from.set_write_timeout(Some(REPAIR_MAX)).unwrap();
    to.set_read_timeout(Some(READ_SLICE)).unwrap();
    // How many there will be, once that is known.
    let sent = AtomicU64::new(u64::MAX);
    thread::scope(|scope| {
        scope.spawn(|| sent.store(send(cell, from), Ordering::Relaxed));
        receive(to, &sent);
    });
    // Its end may be lost too.
    from.shutdown(Shutdown::Write).unwrap();
    wait_for("the last acknowledgment", || {
        let facts = TcpFacts::of(from).unwrap();
        (facts.unacked == 0).then_some(facts)
    })
}

/// Returns how many bytes it sent.
fn send(cell: &Cell, stream: &mut TcpStream) -> u64 {
    let chunk = vec![7; if cell.writes == Writes::Small { 300 } else { 10_000 }];
    let (mut sent, start) = (0, now());
    while sent < cell.bytes() && now() - start < SEND_MAX {
        stream.write_all(&chunk).unwrap();
        sent += u64::try_from(chunk.len()).unwrap();
        if cell.writes == Writes::Small {
            // Else they would only fill larger segments.
            lab::clock::sleep_until(lab::clock::monotonic_ns() + 1_000_000);
        }
    }
    sent
}

fn receive(stream: &mut TcpStream, sent: &AtomicU64) {
    let (mut chunk, mut last) = (vec![0; 64 << 10], now());
    let mut received = 0;
    while received < sent.load(Ordering::Relaxed) {
        assert!(now() - last < REPAIR_MAX, "{received} bytes arrived, and no more");
        match stream.read(&mut chunk) {
            Ok(0) => panic!("the sender closed early"),
            Ok(length) => {
                received += u64::try_from(length).unwrap();
                last = now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn run(cell: &Cell, label: &str, folder: &Path) -> Outcome {
    let lab = Lab::build(cell.plan(label)).unwrap();
    let end = |namespace: &Namespace, interface| format!("{}/{interface}", namespace.name());
    let mut ends = [(lab.client(), CLIENT_INTERFACE), (lab.server(), SERVER_INTERFACE)];
    if cell.down {
        ends.reverse();
    }
    for (namespace, _) in ends {
        namespace.run(limit_time_outs).unwrap();
    }
    let specs = ends.map(|(namespace, interface)| end(namespace, interface));
    let files = ["sender.pcap", "receiver.pcap"].map(|name| folder.join(name));
    let linnet = Linnet::watch(label, &specs);
    let tcpdumps: Vec<_> = ends
        .iter()
        .zip(&files)
        .map(|((namespace, interface), file)| {
            Tcpdump::start_headers(namespace, interface, file, "tcp").unwrap()
        })
        .collect();
    let mut pair = Pair::open_over(&lab, cell.family, PORT);
    let sender = transfer(cell, &mut pair);
    for tcpdump in tcpdumps {
        assert_eq!(tcpdump.stop().unwrap().dropped_by_kernel, 0, "tcpdump saw all");
    }
    let half = if cell.down { "from_responder" } else { "from_originator" };
    let of_port = |flows: &[Value]| {
        let ours = |flow: &&Value| flow["responder"]["port"] == PORT;
        flows.iter().find(ours).unwrap().clone()
    };
    let live = specs.clone().map(|spec| of_port(&linnet.flows(&spec)));
    let file = files.map(|file| Told::of(&of_port(&analyzed(&file)), half));
    let report = lab.report();
    let wire = if cell.down { report.to_client } else { report.to_server };
    assert_eq!(wire.dropped_socket + wire.dropped_unsupported + wire.send_errors, 0, "{wire:?}");
    if let Ok(mut all) = fs::File::create(folder.join("live.json")) {
        write!(all, "{}", serde_json::json!(live)).unwrap();
    }
    // What both of them send from here on is not in any of these.
    drop(pair);
    let contended = live.iter().any(|flow| flow["contended"] == true);
    Outcome { sender, wire, contended, live: live.map(|flow| Told::of(&flow, half)), file }
}

/// As [`run`], with everything on one processor.
fn run_on_one(processor: usize, cell: &Cell, label: &str, folder: &Path) -> Outcome {
    let all = || {
        lab::processor::stay_on_one(processor).unwrap();
        run(cell, label, folder)
    };
    thread::scope(|scope| scope.spawn(all).join().unwrap())
}

fn analyzed(file: &Path) -> Vec<Value> {
    let mut linnet = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let output = linnet.args(["analyze", "--json"]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["flows"].as_array().unwrap().clone()
}

/// Figures that are not as they must be.
fn wrong(cell: &Cell, outcome: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut hold = |what: &str, told: u64, known: u64| {
        if told != known {
            wrong.push(format!("{what}: {told} for {known}"));
        }
    };
    let Outcome { sender, wire, live, file, .. } = outcome;
    let again = u64::from(sender.total_retrans);
    hold("the relay, sent again", wire.again, again);
    // A super-packet is one in the classes.
    if !cell.offload {
        hold("live, sender, classes", live[0].classes, again);
        hold("file, sender, classes", file[0].classes, again);
    }
    for (source, [at_sender, at_receiver]) in [("live", live), ("file", file)] {
        let is_live = source == "live";
        let (at_sender, at_receiver) = (at_sender.verdicts, at_receiver.verdicts);
        // Without identifications, and where a round trip is shorter than a tick of the timestamps, only a hook before
        // the sender's own socket can tell all.
        let is_numbered = cell.family == Family::V4 || cell.delay > 0;
        // A super-packet in a file does not have the size of its segments.
        if is_live || (is_numbered && !cell.offload) {
            hold(&format!("{source}, sender, retransmitted"), at_sender.retransmitted, again);
        }
        if is_numbered {
            let told = at_receiver.retransmitted;
            // Without identifications, a few that meet the tick of a timestamp are told by time, or not at all.
            let is_near = told <= wire.again_in_sight && told >= wire.again_in_sight / 10 * 9;
            let is_by_time = cell.family == Family::V6 && is_near;
            let expected = if is_by_time { told } else { wire.again_in_sight };
            hold(&format!("{source}, receiver, retransmitted"), told, expected);
        }
        hold(&format!("{source}, sender, reordered"), at_sender.reordered, 0);
        // By time alone, one that this machine holds up for longer than half a round trip is neither.
        let told = at_receiver.reordered;
        let is_within = told <= wire.overtaken && told >= wire.overtaken / 2;
        let expected = if cell.family == Family::V6 && is_within { told } else { wire.overtaken };
        hold(&format!("{source}, receiver, reordered"), told, expected);
        hold(&format!("{source}, sender, duplicate frames"), at_sender.duplicates, 0);
        // Nothing tells copies apart without identifications.
        let copies = if cell.family == Family::V4 { wire.duplicated } else { 0 };
        hold(&format!("{source}, receiver, duplicate frames"), at_receiver.duplicates, copies);
    }
    wrong
}

fn row(cell: &Cell, outcome: &Outcome) -> String {
    let Outcome { sender, wire, live, file, .. } = outcome;
    let mut row = format!(
        "{:<42} {:>5} sent, {:>4} again by TCP_INFO; wire: {:>4} again, {:>4} in sight, {:>4} lost, {:>4} overtaken, {:>4} copied;",
        cell.name(),
        live[0].segments,
        sender.total_retrans,
        wire.again,
        wire.again_in_sight,
        wire.dropped_loss + wire.dropped_queue,
        wire.overtaken,
        wire.duplicated,
    );
    for (name, [at_sender, at_receiver]) in [("live", live), ("file", file)] {
        write!(row, " {name}: classes {}", at_sender.classes).unwrap();
        for (place, told) in [("sender", at_sender), ("receiver", at_receiver)] {
            let Verdicts { retransmitted, reordered, duplicates } = told.verdicts;
            write!(row, ", {place} {retransmitted}/{reordered}/{duplicates}").unwrap();
        }
    }
    row
}

/// Every cell of the matrix for these seeds; without the long run, those that differ most.
fn cells(full: bool, seeds: &[u64]) -> Vec<Cell> {
    let troubles = [
        Trouble::Loss(20),
        Trouble::Loss(5),
        Trouble::Loss(1),
        Trouble::Overflow,
        Trouble::Reordering,
        Trouble::Duplication,
    ];
    let mut cells = Vec::new();
    for seed in seeds {
        let usual = Cell {
            trouble: Trouble::Loss(5),
            writes: Writes::Bulk,
            delay: 5,
            congestion: "cubic",
            offload: false,
            family: Family::V4,
            down: false,
            seed: *seed,
        };
        for (index, trouble) in troubles.into_iter().enumerate() {
            for (congestion, offload) in
                [("cubic", false), ("cubic", true), ("bbr", false), ("bbr", true)]
            {
                let cell = Cell { trouble, congestion, offload, ..usual };
                // Every trouble with and without offload, and with both congestion controls.
                let is_of_short_run = (congestion == "bbr") == (offload == (index % 2 == 0));
                if full || is_of_short_run {
                    cells.push(cell);
                }
                if full {
                    cells.push(Cell { down: true, ..cell });
                }
            }
        }
        // Without identifications, only time and timestamps tell.
        let mut others = vec![
            Cell { family: Family::V6, down: true, ..usual },
            Cell { family: Family::V6, trouble: Trouble::Overflow, ..usual },
            Cell { family: Family::V6, trouble: Trouble::Reordering, ..usual },
            Cell { family: Family::V6, delay: 0, trouble: Trouble::Loss(1), ..usual },
            Cell { delay: 0, trouble: Trouble::Loss(1), ..usual },
            Cell { writes: Writes::Small, offload: true, ..usual },
        ];
        if full {
            others.extend(others.clone().iter().map(|cell| Cell { down: !cell.down, ..*cell }));
            others.extend(others.clone().iter().map(|cell| Cell { congestion: "bbr", ..*cell }));
        }
        cells.extend(others);
    }
    let wanted = env::var("LINNET_CELLS").unwrap_or_default();
    let wanted: Vec<_> = wanted.split(',').map(str::trim).collect();
    cells.retain(|cell| wanted.iter().all(|part| cell.name().contains(part)));
    cells
}

fn seeds(full: bool) -> Vec<u64> {
    match env::var("LINNET_SEEDS") {
        Ok(seeds) => seeds.split(',').map(|seed| seed.trim().parse().unwrap()).collect(),
        Err(_) if full => vec![1, 2, 3],
        Err(_) => vec![1],
    }
}

/// Whether the kernel has a congestion control, asked as the transfers do.
fn has_congestion(name: &str) -> bool {
    let lab = Lab::build(Plan::direct("cc")).unwrap();
    let pair = Pair::open(&lab, PORT);
    setsockopt(&pair.client, sockopt::TcpCongestion, &OsString::from(name)).is_ok()
}

/// Runs a cell until nothing but the relay was in the way, and returns what is wrong. After a run with two processors in
/// the way, all of it is left to one.
fn hold(cell: &Cell, number: usize) -> Vec<String> {
    for attempt in 0..RUNS_MAX {
        let folder = tempfile::tempdir().unwrap();
        let label = cell.label(number * RUNS_MAX + attempt);
        let outcome = if attempt == 0 {
            run(cell, &label, folder.path())
        } else {
            run_on_one(number, cell, &label, folder.path())
        };
        if outcome.contended {
            println!("{}: a packet was contended", cell.name());
            continue;
        }
        // Two processors may hand what one sender sends to the relay in another order.
        if outcome.wire.again > u64::from(outcome.sender.total_retrans) {
            println!("{}: this machine itself reordered segments", cell.name());
            continue;
        }
        println!("{}", row(cell, &outcome));
        let wrong = wrong(cell, &outcome);
        if !wrong.is_empty() {
            keep(cell, folder.path());
        }
        return wrong.into_iter().map(|what| format!("{}: {what}", cell.name())).collect();
    }
    vec![format!(
        "{}: packets were contended or in disorder in each of {RUNS_MAX} runs",
        cell.name()
    )]
}

fn keep(cell: &Cell, folder: &Path) {
    let Some(kept) = env::var_os("LINNET_KEEP") else { return };
    for entry in fs::read_dir(folder).unwrap() {
        let from = entry.unwrap().path();
        let name =
            format!("{}-{}", cell.name().replace(' ', "-"), from.file_name().unwrap().display());
        fs::copy(&from, Path::new(&kept).join(name)).unwrap();
    }
}

#[test]
fn what_is_sent_again_and_what_is_overtaken_is_told_exactly() {
    let what = "losses, reordering and copies in a lab";
    if !support::kernel(what)
        || !["tcpdump", "curl"].iter().all(|tool| lab::require_tool(tool, what))
    {
        return;
    }
    let full = support::full();
    let mut cells = cells(full, &seeds(full));
    let has_bbr = has_congestion("bbr");
    if !has_bbr {
        println!("THIS KERNEL HAS NO BBR: only the cells with cubic run");
        cells.retain(|cell| cell.congestion != "bbr");
    }
    let (queue, wrong) = (Mutex::new(cells.iter().enumerate()), Mutex::new(Vec::new()));
    let start = now();
    thread::scope(|scope| {
        for _ in 0..CELLS_AT_ONCE {
            scope.spawn(|| {
                while let Some((number, cell)) = { queue.lock().unwrap().next() } {
                    let told = hold(cell, number);
                    wrong.lock().unwrap().extend(told);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    println!("{} cells in {:?}, BBR: {has_bbr}", cells.len(), now() - start);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
