//! tshark reads what the synthesizer writes, finds nothing wrong with it, and agrees with the truth
//! that comes with it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail and speak as tests do"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::process::Command;

use lab::require_tool;
use lab::synth::{FlowTruth, HalfTruth, Scene, Truth, write};

/// An end of a flow as tshark prints it: address, port.
type End = (String, String);

#[test]
fn tshark_finds_no_fault() {
    if !require_tool("tshark", "synthetic captures are well formed") {
        return;
    }
    let (_folder, file, truth) = synthesize(&Scene::default());
    let file = file.as_str();

    let all = tshark(file, &["-Y", "frame"], &["frame.number"]);
    assert_eq!(u64::try_from(all.len()).unwrap(), truth.packets);
    let faults = "_ws.malformed || _ws.short || tcp.checksum.status == 0 || udp.checksum.status == 0 \
        || ip.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0 \
        || _ws.expert.severity >= 0x800000";
    let faulty = tshark(file, &["-Y", faults], &["frame.number", "_ws.expert.message"]);
    assert!(faulty.is_empty(), "{faulty:?}");
}

#[test]
fn tshark_counts_the_flows_of_the_truth() {
    if !require_tool("tshark", "flows of synthetic captures") {
        return;
    }
    let (_folder, file, truth) = synthesize(&Scene::default());

    let mut seen: BTreeMap<(&str, End, End), (u64, u64)> = BTreeMap::new();
    for (name, protocol) in [("tcp", 6), ("udp", 17)] {
        let ports = [format!("{name}.srcport"), format!("{name}.dstport")];
        let fields =
            ["ip.src", "ipv6.src", &ports[0], "ip.dst", "ipv6.dst", &ports[1], "frame.len"];
        for row in tshark(&file, &["-Y", name], &fields) {
            let src = (row[0].clone() + &row[1], row[2].clone());
            let dst = (row[3].clone() + &row[4], row[5].clone());
            let half = seen.entry((name, src, dst)).or_default();
            half.0 += 1;
            half.1 += row[6].parse::<u64>().unwrap();
        }
        let flows = truth.flows.iter().filter(|flow| flow.protocol == protocol);
        let expected: BTreeMap<_, _> = flows
            .flat_map(halves)
            .filter(|(.., half)| half.packets > 0)
            .map(|(src, dst, half)| ((name, src, dst), (half.packets, half.bytes)))
            .collect();
        let found: BTreeMap<_, _> =
            seen.iter().filter(|((of, ..), _)| *of == name).map(|(k, v)| (k.clone(), *v)).collect();
        assert_eq!(found, expected);
    }
}

/// Classes compared: `tcp.analysis.retransmission` (which in tshark includes fast and spurious)
/// together with `tcp.analysis.out_of_order`. tshark splits retransmissions over these by timing;
/// their union is every segment below a sequence number seen before, which is the truth's
/// `retransmissions_visible`. Zero windows and resets are compared too.
#[test]
fn tshark_finds_the_retransmissions_of_the_truth() {
    if !require_tool("tshark", "retransmissions of synthetic captures") {
        return;
    }
    for seed in 1..=3 {
        let (_folder, file, truth) = synthesize(&Scene { seed, flows: 96, ..Scene::default() });
        let union = "tcp.analysis.retransmission || tcp.analysis.out_of_order";
        compare(&file, &truth, union, |half| half.retransmissions_visible);
        compare(&file, &truth, "tcp.analysis.zero_window", |half| half.zero_windows);
        compare(&file, &truth, "tcp.flags.reset == 1", |half| half.resets);
        // Nothing is captured that was never sent, and nothing sent upstream of the observer is
        // missing without being told.
        let lost: u64 =
            truth.flows.iter().flat_map(halves).map(|(.., half)| half.lost_upstream).sum();
        let gaps = tshark(&file, &["-Y", "tcp.analysis.lost_segment"], &["frame.number"]).len();
        println!("seed {seed}: {lost} lost upstream, {gaps} gaps seen by tshark");
        assert!(gaps > 0 && u64::try_from(gaps).unwrap() <= lost);
    }
}

#[test]
fn tshark_measures_the_handshakes_of_the_truth() {
    if !require_tool("tshark", "handshakes of synthetic captures") {
        return;
    }
    let (_folder, file, truth) = synthesize(&Scene::default());
    let fields = ["ip.src", "ipv6.src", "tcp.srcport", "tcp.analysis.initial_rtt"];
    let rows = tshark(&file, &["-Y", "tcp.analysis.initial_rtt"], &fields);
    let mut compared = 0;
    for flow in truth.flows.iter().filter(|flow| flow.handshake_ns.is_some()) {
        let (address, port) = end(flow.originator);
        let row = rows.iter().find(|row| row[0].clone() + &row[1] == address && row[2] == port);
        let seconds: f64 = row.expect("tshark has an initial RTT")[3].parse().unwrap();
        let handshake = std::time::Duration::from_nanos(flow.handshake_ns.unwrap());
        assert!((seconds - handshake.as_secs_f64()).abs() < 1e-6, "{flow:?}: {seconds}");
        assert!(handshake.as_nanos() >= u128::from(flow.path_rtt_ns));
        compared += 1;
    }
    assert!(compared > 20);
}

/// Compares tshark's count per direction under `filter` with the truth's.
fn compare(file: &str, truth: &Truth, filter: &str, of: fn(&HalfTruth) -> u64) {
    let fields = ["ip.src", "ipv6.src", "tcp.srcport", "ip.dst", "ipv6.dst", "tcp.dstport"];
    let mut found: BTreeMap<(End, End), u64> = BTreeMap::new();
    for row in tshark(file, &["-Y", filter], &fields) {
        let src = (row[0].clone() + &row[1], row[2].clone());
        let dst = (row[3].clone() + &row[4], row[5].clone());
        *found.entry((src, dst)).or_default() += 1;
    }
    let tcp = truth.flows.iter().filter(|flow| flow.protocol == 6);
    let expected: BTreeMap<(End, End), u64> = tcp
        .flat_map(halves)
        .map(|(src, dst, half)| ((src, dst), of(half)))
        .filter(|(_, count)| *count > 0)
        .collect();
    println!(
        "{filter}: {} packets of {} half flows",
        expected.values().sum::<u64>(),
        expected.len()
    );
    assert_eq!(found, expected, "{filter}");
}

fn halves(flow: &FlowTruth) -> [(End, End, &HalfTruth); 2] {
    let [o, r] = [flow.originator, flow.responder].map(end);
    [(o.clone(), r.clone(), &flow.from_originator), (r, o, &flow.from_responder)]
}

fn end(socket: std::net::SocketAddr) -> End {
    (socket.ip().to_string(), socket.port().to_string())
}

fn synthesize(scene: &Scene) -> (tempfile::TempDir, String, Truth) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scene.pcap");
    let truth = write(scene, BufWriter::new(File::create(&file).unwrap())).unwrap();
    let file = file.to_str().unwrap().to_owned();
    assert!(Path::new(&file).metadata().unwrap().len() > 24);
    (folder, file, truth)
}

/// Rows of fields; fails where tshark says anything on its error output.
fn tshark(file: &str, arguments: &[&str], fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r", file, "-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]);
    for preference in ["tcp", "udp", "ip"] {
        command.args(["-o", &format!("{preference}.check_checksum:TRUE")]);
    }
    command.args(arguments);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    let complaints: Vec<String> = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| !line.starts_with("Running as user"))
        .map(str::to_owned)
        .collect();
    assert!(output.status.success() && complaints.is_empty(), "{complaints:?}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.split('|').map(str::to_owned).collect())
        .collect()
}
