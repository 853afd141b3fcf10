//! Diagnoses: each has a scene that must raise it and a near miss that must not, and none is raised where nothing is wrong.
//! Every display filter goes through tshark, which has to find packets by it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::Path,
    process::Command,
};

use daemon::diagnosis::Code;
use lab::synth::{
    Side::{Originator as O, Responder as R},
    stage::{Offer, Segment, Stage},
};
use serde_json::Value;
use support::served::Daemon;

const RST: u8 = 0x04;
const FIN: u8 = 0x01;
const FULL: u32 = 1_460;

/// A diagnosis, what raises it, and what nearly does.
struct Scene {
    code: Code,
    raises: fn(&mut Stage),
    nearly: fn(&mut Stage),
}

const SCENES: &[Scene] = &[
    Scene { code: Code::CaptureLoss, raises: capture_misses_one, nearly: network_loses_one },
    Scene { code: Code::OneSidedCapture, raises: one_side_only, nearly: nobody_is_there },
    Scene { code: Code::DuplicateFrames, raises: copies, nearly: two_copies },
    Scene { code: Code::SynUnanswered, raises: syns_in_vain, nearly: second_syn_answered },
    Scene { code: Code::SynRejected, raises: prohibited, nearly: prohibited_once },
    Scene { code: Code::ConnectionRefused, raises: refused, nearly: reset_later },
    Scene { code: Code::SynAckRetransmitted, raises: answer_again, nearly: answer_to_each },
    Scene { code: Code::OptionsStripped, raises: no_timestamps, nearly: not_agreed },
    Scene { code: Code::PmtuBlackHole, raises: large_vanish, nearly: large_pass_once },
    Scene { code: Code::TooBigIgnored, raises: stays_large, nearly: becomes_smaller },
    Scene { code: Code::SegmentSizeBeyondMtu, raises: becomes_smaller, nearly: agreed_smaller },
    Scene { code: Code::IdleTimeout, raises: forgotten, nearly: remembered },
    Scene { code: Code::ForgedReset, raises: reset_from_elsewhere, nearly: reset_from_there },
    Scene { code: Code::NetworkLossUpstream, raises: lost_before, nearly: two_lost_before },
    Scene { code: Code::NetworkLossDownstream, raises: lost_behind, nearly: two_lost_behind },
    Scene { code: Code::TailLoss, raises: last_lost, nearly: gone_away },
    Scene { code: Code::RetransmissionTimeouts, raises: timers, nearly: lost_behind },
    Scene { code: Code::SpuriousRetransmissions, raises: needless, nearly: needless_twice },
    Scene { code: Code::Reordering, raises: overtaken, nearly: lost_before },
    Scene { code: Code::ReceiverZeroWindow, raises: shut, nearly: shut_for_a_moment },
    Scene { code: Code::ReceiveWindowLimited, raises: window_filled, nearly: window_wide },
    Scene { code: Code::WindowScalingOff, raises: unscaled, nearly: scaled },
    Scene { code: Code::Bufferbloat, raises: queue_grows, nearly: way_grows },
    Scene { code: Code::CongestionMarks, raises: marked, nearly: marked_twice },
    Scene { code: Code::EcnBleached, raises: bleached, nearly: ecn_not_agreed },
    Scene { code: Code::PathChange, raises: other_way, nearly: other_hops },
    Scene { code: Code::HandshakeRttDiffers, raises: answered_nearby, nearly: a_bit_slower },
    Scene { code: Code::SlowResponse, raises: thinks_long, nearly: thinks },
    Scene { code: Code::DnsUnanswered, raises: asked_in_vain, nearly: answered_at_last },
    Scene { code: Code::DnsFailed, raises: server_failed, nearly: no_such_name },
    Scene { code: Code::DnsSlow, raises: answered_late, nearly: answered_in_time },
];

#[test]
fn every_diagnosis_is_raised_by_its_scene_and_not_by_a_near_miss() {
    let named: BTreeSet<_> = SCENES.iter().map(|scene| scene.code).collect();
    assert_eq!(named, Code::ALL.iter().copied().collect(), "a diagnosis without a scene");
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for scene in SCENES {
        let name = scene.code.name();
        let found = staged(folder.path(), name, scene.raises);
        if !found.iter().any(|diagnosis| diagnosis["code"] == name) {
            wrong.push(format!("{name} is not raised: {:?}", codes(&found)));
        }
        let found = staged(folder.path(), &format!("{name}-near-miss"), scene.nearly);
        if found.iter().any(|diagnosis| diagnosis["code"] == name) {
            wrong.push(format!("{name} is raised by a near miss: {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_the_capture_missed_is_not_blamed_on_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let found = staged(folder.path(), "both", |stage| {
        lost_before(stage);
        stage.next_connection();
        capture_misses_some(stage);
    });
    let flows: BTreeMap<_, BTreeSet<_>> =
        found.iter().fold(BTreeMap::new(), |mut flows, diagnosis| {
            let codes: &mut BTreeSet<_> = flows.entry(diagnosis["flow"].to_string()).or_default();
            codes.insert(diagnosis["code"].as_str().unwrap());
            flows
        });
    let all: Vec<_> = flows.values().cloned().collect();
    assert!(all.contains(&["network_loss_upstream"].into()), "{all:?}");
    assert!(all.contains(&["capture_loss"].into()), "{all:?}");
}

#[test]
fn every_field_of_a_diagnosis_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let found = staged(folder.path(), "fields", lost_behind);
    let diagnosis = found.iter().find(|found| found["code"] == "network_loss_downstream").unwrap();
    assert_eq!(diagnosis["direction"], "from_responder");
    assert_eq!(diagnosis["confidence"], "likely");
    assert_eq!(diagnosis["evidence"]["severity"], "critical");
    assert_eq!(diagnosis["evidence"]["lost_downstream_segments"], 4);
    for time in ["from", "to"] {
        assert!(diagnosis[time].as_str().unwrap().starts_with("2025-01-01T00:00:0"), "{diagnosis}");
    }
    assert!(diagnosis["flow"].as_str().unwrap().len() == 26, "{diagnosis}");
    assert!(diagnosis["advice"].as_str().unwrap().len() > 20, "{diagnosis}");
}

/// What each kind of conversation of a simulated scene may be told to have.
const ALLOWED: &[(&str, &[&str])] = &[
    ("bulk lost downstream", &["network_loss_downstream", "tail_loss", "retransmission_timeouts"]),
    ("bulk lost upstream", &["network_loss_upstream", "tail_loss", "retransmission_timeouts"]),
    ("upload lost downstream", &["network_loss_downstream", "tail_loss"]),
    (
        "paced lossy",
        &[
            "network_loss_upstream",
            "network_loss_downstream",
            "tail_loss",
            "retransmission_timeouts",
        ],
    ),
    ("tail lost downstream", &["tail_loss"]),
    ("pausing reader", &["receiver_zero_window"]),
    ("refused", &["connection_refused"]),
];

#[test]
fn a_simulated_network_is_told_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scene.pcap");
    let scene =
        lab::synth::Scene { seed: 5, flows: 160, seconds: 60, ..lab::synth::Scene::default() };
    let truth = lab::synth::write(&scene, File::create(&path).unwrap()).unwrap();
    let report = analyzed(&path);
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for diagnosis in report["diagnoses"].as_array().unwrap() {
        let flow = report["flows"].as_array().unwrap().iter();
        let flow = flow.clone().find(|flow| flow["id"] == diagnosis["flow"]).unwrap();
        found.entry(ends(flow)).or_default().insert(diagnosis["code"].as_str().unwrap());
    }
    let mut wrong = Vec::new();
    for flow in &truth.flows {
        let told = found.remove(&format!("{} {}", flow.originator, flow.responder));
        let told = told.unwrap_or_default();
        let allowed = ALLOWED.iter().find(|(kind, _)| *kind == flow.kind);
        let allowed = allowed.map_or(BTreeSet::new(), |(_, codes)| codes.iter().copied().collect());
        let is_unanswered = flow.kind == "dns" && flow.from_responder.packets == 0;
        let allowed = if is_unanswered { ["dns_unanswered"].into() } else { allowed };
        if !told.is_subset(&allowed) {
            wrong.push(format!("{}: {told:?}", flow.kind));
        }
        let is_wanted = match flow.kind {
            "bulk lost downstream" => flow.from_responder.lost_downstream >= 4,
            "bulk lost upstream" => flow.from_responder.lost_upstream >= 6,
            "refused" => flow.from_responder.resets > 0,
            "pausing reader" => flow.from_originator.zero_windows > 1,
            _ => false,
        };
        if is_wanted && told.is_empty() {
            wrong.push(format!("{}: nothing of {flow:?}", flow.kind));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Codes that are raised in captures where nothing is sent again or late, nothing is missing and no window is shut. What
/// they say is true there: a connection is refused, a name does not resolve, one side is missing.
const WITHOUT_LOSS: [&str; 9] = [
    "one_sided_capture",
    "syn_unanswered",
    "syn_rejected",
    "connection_refused",
    "segment_size_beyond_mtu",
    "handshake_rtt_differs",
    "dns_unanswered",
    "dns_failed",
    "dns_slow",
];

#[test]
fn nothing_is_lost_where_nothing_is_sent_again() {
    let files = support::corpus();
    let told = support::in_parallel(&files, |path| (path.to_owned(), analyzed(path)));
    let mut quiet = 0;
    for (path, report) in &told {
        let mut troubled = 0;
        for flow in report["flows"].as_array().into_iter().flatten() {
            for side in ["from_originator", "from_responder"] {
                let tcp = &flow[side]["tcp"];
                let troubles = [
                    "retransmissions",
                    "fast_retransmissions",
                    "spurious_retransmissions",
                    "out_of_order",
                    "lost_segments",
                    "acked_unseen",
                    "duplicate_acks",
                    "zero_windows",
                ];
                troubled += troubles.iter().filter_map(|class| tcp[class].as_u64()).sum::<u64>();
            }
        }
        if troubled > 0 {
            continue;
        }
        quiet += 1;
        for diagnosis in report["diagnoses"].as_array().into_iter().flatten() {
            let code = diagnosis["code"].as_str().unwrap();
            assert!(WITHOUT_LOSS.contains(&code), "{}: {diagnosis:#}", path.display());
        }
    }
    println!("{quiet} of {} captures without trouble", told.len());
}

#[test]
fn every_display_filter_of_the_corpus_selects_packets() {
    if !lab::require_tool("tshark", "display filters") {
        return;
    }
    let files = support::corpus();
    let wrong = support::in_parallel(&files, |path| {
        let report = analyzed(path);
        let found = report["diagnoses"].as_array().cloned().unwrap_or_default();
        unselected(path, &found)
    });
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_daemon_tells_what_a_replay_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live.pcap");
    let mut stage = Stage::default();
    // Of counters alone: zero windows are seen without a look at each packet.
    stage.handshake(Offer::default(), Offer::default());
    for _ in 0..5 {
        stage.data(R, 100).wait_ms(5);
        stage.send(O, Segment { window: 0, ..Segment::default() }).wait_ms(20);
    }
    stage.write(File::create(&path).unwrap()).unwrap();
    let daemon = Daemon::replay(&[], tempfile::tempdir().unwrap(), &path, &[]);
    let mut answer = Value::Null;
    support::served::wait_until("the diagnosis", || {
        answer = daemon.get("/api/v1/diagnoses").1;
        answer["diagnoses"].as_array().is_some_and(|found| !found.is_empty())
    });
    let diagnosis = &answer["diagnoses"][0];
    assert_eq!(diagnosis["code"], "receiver_zero_window", "{answer:#}");
    assert_eq!(diagnosis["confidence"], "possible");
    assert_eq!(diagnosis["direction"], "from_originator");
    assert!(answer["total"].as_u64() >= Some(1) && answer["loss"]["seen"].is_u64(), "{answer:#}");
    let flow = diagnosis["flow"].as_str().unwrap();
    let (code, of_flow) = daemon.get(&format!("/api/v1/flows/{flow}/diagnoses"));
    assert_eq!(code, 200, "{of_flow}");
    assert_eq!(of_flow["diagnoses"][0]["code"], "receiver_zero_window", "{of_flow:#}");
    let unknown = "/api/v1/flows/00000000000000000000000000/diagnoses";
    assert_eq!(daemon.get(unknown).0, 404);
    assert_eq!(daemon.get("/api/v1/diagnoses?colour=red").0, 400);
}

/// What `linnet analyze` says of a stage, whose filters all select something.
fn staged(folder: &Path, name: &str, play: fn(&mut Stage)) -> Vec<Value> {
    let path = folder.join(format!("{name}.pcap"));
    let mut stage = if name.starts_with("dns") {
        Stage::default().with_server_port(53)
    } else {
        Stage::default()
    };
    play(&mut stage);
    stage.write(File::create(&path).unwrap()).unwrap();
    let found = analyzed(&path)["diagnoses"].as_array().unwrap().clone();
    let wrong = unselected(&path, &found);
    assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    println!("{name}: {:?}", codes(&found));
    found
}

fn codes(found: &[Value]) -> Vec<&str> {
    found.iter().map(|diagnosis| diagnosis["code"].as_str().unwrap()).collect()
}

fn analyzed(path: &Path) -> Value {
    let mut linnet = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let output = linnet.args(["analyze", "--json"]).arg(path).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Filters by which tshark finds nothing, if it is installed.
fn unselected(path: &Path, found: &[Value]) -> Vec<String> {
    if lab::find_program("tshark").is_none() {
        println!("skipped: display filters: there is no tshark");
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for diagnosis in found {
        let filter = diagnosis["display_filter"].as_str().unwrap();
        let output = Command::new("tshark")
            .args(["-n", "-r"])
            .arg(path)
            .args(["-Y", filter, "-T", "fields", "-e", "frame.number"])
            .output()
            .unwrap();
        if output.stdout.is_empty() {
            let said = String::from_utf8_lossy(&output.stderr);
            wrong.push(format!("{}: {}: {filter}: {said}", path.display(), diagnosis["code"]));
        }
    }
    wrong
}

/// Both ends as sockets.
fn ends(flow: &Value) -> String {
    let end = |name: &str| {
        let address: std::net::IpAddr = flow[name]["address"].as_str().unwrap().parse().unwrap();
        let port = u16::try_from(flow[name]["port"].as_u64().unwrap()).unwrap();
        std::net::SocketAddr::new(address, port)
    };
    format!("{} {}", end("originator"), end("responder"))
}

fn open(stage: &mut Stage) {
    stage.handshake(Offer::default(), Offer::default());
}

/// As many full segments of the responder, each acknowledged 100 us later.
fn bulk(stage: &mut Stage, segments: u32) {
    for _ in 0..segments {
        stage.data(R, FULL).wait_ns(90_000);
        stage.ack(O).wait_ns(900_000);
    }
}

fn at(start: u32) -> Segment {
    Segment { start: Some(start), payload: FULL, ..Segment::default() }
}

/// The originator has everything up to `to`.
fn has(to: u32) -> Segment {
    Segment { acknowledges: Some(to), ..Segment::default() }
}

fn capture_misses_one(stage: &mut Stage) {
    open(stage);
    bulk(stage, 20);
    stage.send(R, at(1 + 21 * FULL)).wait_ms(1);
    stage.ack(O).wait_ms(1);
    bulk(stage, 20);
}

fn capture_misses_some(stage: &mut Stage) {
    open(stage);
    bulk(stage, 10);
    for number in 0..5 {
        let start = 1 + (10 + number * 2) * FULL;
        stage.send(R, at(start + FULL)).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
}

fn network_loses_one(stage: &mut Stage) {
    open(stage);
    bulk(stage, 20);
    let start = 1 + 20 * FULL;
    stage.send(R, at(start + FULL)).wait_ms(1);
    stage.send(O, has(start)).wait_ms(20);
    stage.send(R, at(start)).wait_ms(1);
    stage.ack(O);
    bulk(stage, 20);
}

fn one_side_only(stage: &mut Stage) {
    for number in 0..12 {
        let payload = 100;
        let acknowledges = Some(1 + number * 500);
        stage.send(O, Segment { payload, acknowledges, ..Segment::default() }).wait_ms(30);
    }
}

fn nobody_is_there(stage: &mut Stage) {
    for _ in 0..12 {
        stage.send(
            O,
            Segment { start: Some(1), payload: 100, acknowledges: Some(1), ..Segment::default() },
        );
        stage.wait_ms(300);
    }
}

fn copies(stage: &mut Stage) {
    open(stage);
    bulk(stage, 20);
    for _ in 0..5 {
        stage.data(R, FULL).again(1).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
}

fn two_copies(stage: &mut Stage) {
    open(stage);
    bulk(stage, 20);
    for _ in 0..2 {
        stage.data(R, FULL).again(1).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
}

fn syns_in_vain(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(1_000);
    stage.syn(O, Offer::default()).wait_ms(2_000);
    stage.syn(O, Offer::default());
}

fn second_syn_answered(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(1_000);
    open(stage);
    bulk(stage, 3);
}

fn prohibited(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(10);
    stage.icmp_error(O, 3, 13, 0).wait_ms(1_000);
    stage.syn(O, Offer::default()).wait_ms(10);
    stage.icmp_error(O, 3, 13, 0);
}

fn prohibited_once(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(10);
    stage.icmp_error(O, 3, 13, 0).wait_ms(1_000);
    open(stage);
    bulk(stage, 3);
}

fn refused(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(10);
    stage.send(R, Segment { flags: RST, start: Some(0), window: 0, ..Segment::default() });
}

fn reset_later(stage: &mut Stage) {
    open(stage);
    bulk(stage, 5);
    stage.send(R, Segment { flags: RST, ..Segment::default() });
}

fn answer_again(stage: &mut Stage) {
    open(stage);
    stage.wait_ms(1_000);
    stage.syn(R, Offer::default());
}

fn answer_to_each(stage: &mut Stage) {
    stage.syn(O, Offer::default()).wait_ms(1_000);
    stage.syn(O, Offer::default()).wait_ms(10);
    stage.syn(R, Offer::default()).wait_ms(1_000);
    stage.syn(R, Offer::default()).again(0);
    stage.ack(O);
}

fn no_timestamps(stage: &mut Stage) {
    let offer = Offer { timestamps: true, ..Offer::default() };
    stage.handshake(offer, offer);
    bulk(stage, 12);
}

fn not_agreed(stage: &mut Stage) {
    stage.handshake(Offer { timestamps: true, ..Offer::default() }, Offer::default());
    bulk(stage, 12);
}

/// The responder's first two large segments vanish, while a small one behind them arrives.
fn large_vanish(stage: &mut Stage) {
    open(stage);
    stage.data(O, 300).wait_ms(10);
    stage.ack(R);
    large_again(stage, 1);
}

fn large_again(stage: &mut Stage, start: u32) {
    stage.data(R, FULL).data(R, FULL).data(R, 100).wait_ms(1);
    let end = start + 2 * FULL;
    let selective = Some([end, end + 100]);
    stage.send(O, Segment { selective, ..has(start) });
    for wait_ms in [300, 600, 1_200, 2_400] {
        stage.wait_ms(wait_ms).send(R, at(start));
    }
    stage.wait_ms(500);
    stage.send(O, Segment { selective, ..has(start) });
}

fn large_pass_once(stage: &mut Stage) {
    open(stage);
    stage.data(O, 300).wait_ms(10);
    stage.ack(R);
    bulk(stage, 3);
    large_again(stage, 1 + 3 * FULL);
}

fn stays_large(stage: &mut Stage) {
    open(stage);
    stage.data(R, FULL).icmp_error(R, 3, 4, 1_400).wait_ms(2_000);
    for _ in 0..4 {
        stage.send(R, at(1)).wait_ms(500);
    }
    stage.ack(O);
}

fn becomes_smaller(stage: &mut Stage) {
    open(stage);
    stage.data(R, FULL).icmp_error(R, 3, 4, 1_400).wait_ms(20);
    for _ in 0..4 {
        stage.send(R, Segment { payload: 1_360, start: Some(1), ..Segment::default() }).wait_ms(1);
        stage.ack(O).wait_ms(1_000);
    }
}

fn agreed_smaller(stage: &mut Stage) {
    let offer = Offer { segment_max: 1_360, ..Offer::default() };
    stage.handshake(offer, offer);
    stage.data(R, FULL).icmp_error(R, 3, 4, 1_400).wait_ms(20);
    stage.data(R, 1_360).wait_ms(1);
    stage.ack(O);
}

fn forgotten(stage: &mut Stage) {
    open(stage);
    bulk(stage, 3);
    stage.wait_ms(600_000).data(O, 50).wait_ms(10);
    stage.send(R, Segment { flags: RST, ..Segment::default() });
}

fn remembered(stage: &mut Stage) {
    open(stage);
    bulk(stage, 3);
    stage.wait_ms(600_000).data(O, 50).wait_ms(10);
    stage.ack(R).wait_ms(1);
    // Closed in good order, and then idle again: the other end has gone.
    stage.send(R, Segment { flags: FIN, ..Segment::default() }).wait_ms(600_000);
    stage.data(O, 50).wait_ms(10);
    stage.send(R, Segment { flags: RST, ..Segment::default() });
}

fn reset_from_elsewhere(stage: &mut Stage) {
    open(stage);
    bulk(stage, 5);
    stage.send(R, Segment { flags: RST, hops: Some(60), id: Some(7), ..Segment::default() });
    stage.wait_ms(1).data(R, FULL);
}

fn reset_from_there(stage: &mut Stage) {
    open(stage);
    bulk(stage, 5);
    stage.send(R, Segment { flags: RST, hops: Some(51), ..Segment::default() });
}

/// `losses` segments of the responder never pass the first time.
fn lose_before(stage: &mut Stage, losses: u32) {
    open(stage);
    bulk(stage, 20);
    for loss in 0..losses {
        let start = 1 + (20 + loss * 2) * FULL;
        stage.send(R, at(start + FULL)).wait_ms(1);
        for _ in 0..3 {
            stage.send(O, has(start)).wait_ns(100_000);
        }
        stage.wait_ms(15).send(R, at(start)).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
    bulk(stage, 20);
}

fn lost_before(stage: &mut Stage) {
    lose_before(stage, 4);
}

fn two_lost_before(stage: &mut Stage) {
    lose_before(stage, 2);
}

/// `losses` segments of the responder pass and do not arrive.
fn lose_behind(stage: &mut Stage, losses: u32) {
    open(stage);
    bulk(stage, 20);
    for loss in 0..losses {
        let start = 1 + (20 + loss * 2) * FULL;
        stage.data(R, FULL).data(R, FULL).wait_ms(1);
        for _ in 0..4 {
            stage.send(O, has(start)).wait_ns(100_000);
        }
        stage.wait_ms(11).send(R, at(start)).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
    bulk(stage, 20);
}

fn lost_behind(stage: &mut Stage) {
    lose_behind(stage, 4);
}

fn two_lost_behind(stage: &mut Stage) {
    lose_behind(stage, 2);
}

fn last_lost(stage: &mut Stage) {
    open(stage);
    bulk(stage, 10);
    stage.data(R, 500).wait_ms(400);
    stage.send(R, Segment { payload: 500, ..at(1 + 10 * FULL) }).wait_ms(1);
    stage.ack(O);
}

fn gone_away(stage: &mut Stage) {
    open(stage);
    bulk(stage, 10);
    stage.data(R, 500);
    for wait_ms in [400, 800, 1_600, 3_200] {
        stage.wait_ms(wait_ms).send(R, Segment { payload: 500, ..at(1 + 10 * FULL) });
    }
}

fn timers(stage: &mut Stage) {
    open(stage);
    bulk(stage, 10);
    for loss in 0..4 {
        let start = 1 + (10 + loss * 2) * FULL;
        stage.data(R, FULL).data(R, FULL).wait_ms(1);
        stage.send(O, has(start)).wait_ms(400);
        stage.send(R, at(start)).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
}

/// The responder sends `times` segments again that had been acknowledged.
fn again(stage: &mut Stage, times: u32) {
    open(stage);
    bulk(stage, 20);
    for time in 0..times {
        stage.wait_ms(20).send(R, at(1 + (19 - time) * FULL)).wait_ms(1);
        stage.ack(O);
    }
}

fn needless(stage: &mut Stage) {
    again(stage, 4);
}

fn needless_twice(stage: &mut Stage) {
    again(stage, 2);
}

fn overtaken(stage: &mut Stage) {
    open(stage);
    bulk(stage, 20);
    for number in 0..4_u16 {
        let start = 1 + (20 + u32::from(number) * 2) * FULL;
        let id = 30_000 + number * 2;
        stage.send(R, Segment { id: Some(id + 1), ..at(start + FULL) });
        stage.send(R, Segment { id: Some(id), ..at(start) }).wait_ms(1);
        stage.ack(O).wait_ms(1);
    }
}

/// The originator's window is 0 for as long as this.
fn shut_for(stage: &mut Stage, ms: u64) {
    open(stage);
    bulk(stage, 10);
    stage.send(O, Segment { window: 0, ..Segment::default() }).wait_ms(ms);
    stage.ack(O).wait_ms(1);
    bulk(stage, 3);
}

fn shut(stage: &mut Stage) {
    shut_for(stage, 700);
}

fn shut_for_a_moment(stage: &mut Stage) {
    shut_for(stage, 50);
}

/// The originator takes `window` bytes, and gets two segments at a time.
fn windows_of(stage: &mut Stage, window: u16) {
    let offer = Offer { window_scale: Some(0), ..Offer::default() };
    stage.handshake(offer, offer);
    stage.send(O, Segment { window, ..Segment::default() });
    for _ in 0..20 {
        stage.data(R, FULL).data(R, FULL).wait_ms(1);
        stage.send(O, Segment { window, ..Segment::default() }).wait_ms(9);
    }
}

fn window_filled(stage: &mut Stage) {
    windows_of(stage, 2_920);
}

fn window_wide(stage: &mut Stage) {
    windows_of(stage, 29_200);
}

fn flights(stage: &mut Stage, offer: Offer) {
    stage.handshake(offer, offer);
    for _ in 0..6 {
        for _ in 0..44 {
            stage.data(R, FULL);
        }
        stage.wait_ms(1);
        stage.send(O, Segment { window: 65_535, ..Segment::default() }).wait_ms(10);
    }
}

fn unscaled(stage: &mut Stage) {
    flights(stage, Offer { window_scale: None, ..Offer::default() });
}

fn scaled(stage: &mut Stage) {
    flights(stage, Offer::default());
}

/// `count` acknowledgments with `window` segments in flight, one each `gap_ns`. Returns how far it was acknowledged.
fn slide(stage: &mut Stage, mut acknowledged: u32, [window, count]: [u32; 2], gap_ns: u64) -> u32 {
    for _ in 0..count {
        let sent = stage.sent(R);
        for _ in 0..window.saturating_sub((sent - acknowledged) / FULL) {
            stage.data(R, FULL);
        }
        stage.wait_ns(gap_ns);
        acknowledged += FULL;
        stage.send(O, Segment { window: 2_000, ..has(acknowledged) });
    }
    acknowledged
}

fn queue_grows(stage: &mut Stage) {
    open(stage);
    let acknowledged = slide(stage, 1, [4, 200], 2_500_000);
    slide(stage, acknowledged, [40, 1_200], 2_500_000);
}

fn way_grows(stage: &mut Stage) {
    open(stage);
    let acknowledged = slide(stage, 1, [4, 200], 2_500_000);
    slide(stage, acknowledged, [4, 200], 25_000_000);
}

fn mark(stage: &mut Stage, marks: u32) {
    let offer = Offer { ecn: true, ..Offer::default() };
    stage.handshake(offer, offer);
    for number in 0..60 {
        let ecn = if number < marks { 3 } else { 2 };
        stage.send(R, Segment { payload: FULL, ecn, ..Segment::default() }).wait_ms(1);
        stage.ack(O);
    }
}

fn marked(stage: &mut Stage) {
    mark(stage, 4);
}

fn marked_twice(stage: &mut Stage) {
    mark(stage, 2);
}

fn bleached(stage: &mut Stage) {
    let offer = Offer { ecn: true, ..Offer::default() };
    stage.handshake(offer, offer);
    bulk(stage, 25);
}

fn ecn_not_agreed(stage: &mut Stage) {
    stage.handshake(Offer { ecn: true, ..Offer::default() }, Offer::default());
    bulk(stage, 25);
}

/// The responder's packets take another number of hops after a while, and its acknowledgments `ms`.
fn hops(stage: &mut Stage, ms: u64) {
    open(stage);
    for _ in 0..15 {
        stage.data(O, 100).wait_ms(10);
        stage.ack(R).wait_ms(5);
    }
    for _ in 0..15 {
        stage.data(O, 100).wait_ms(ms);
        stage.send(R, Segment { hops: Some(49), ..Segment::default() }).wait_ms(5);
    }
}

fn other_way(stage: &mut Stage) {
    hops(stage, 30);
}

fn other_hops(stage: &mut Stage) {
    hops(stage, 10);
}

/// Flights of four segments, whose acknowledgments take `ms`.
fn far_by(stage: &mut Stage, ms: u64) {
    open(stage);
    for _ in 0..25 {
        let start = stage.sent(R);
        stage.data(R, FULL).data(R, FULL).data(R, FULL).data(R, FULL).wait_ms(ms);
        stage.send(O, has(start + 2 * FULL)).ack(O);
    }
}

fn answered_nearby(stage: &mut Stage) {
    far_by(stage, 100);
}

fn a_bit_slower(stage: &mut Stage) {
    far_by(stage, 25);
}

/// The responder acknowledges at once and answers after `ms`.
fn answers_after(stage: &mut Stage, ms: u64) {
    open(stage);
    for _ in 0..6 {
        stage.data(O, 100).wait_ms(10);
        stage.ack(R).wait_ms(ms);
        stage.data(R, 500).wait_ms(1);
        stage.ack(O).wait_ms(50);
    }
}

fn thinks_long(stage: &mut Stage) {
    answers_after(stage, 600);
}

fn thinks(stage: &mut Stage) {
    answers_after(stage, 60);
}

/// A question for `a.test`, or the answer with this code.
fn message(answer: Option<u8>) -> Vec<u8> {
    let flags = match answer {
        None => [0x01, 0x00],
        Some(code) => [0x81, 0x80 | code],
    };
    let mut message = vec![0x12, 0x34];
    message.extend(flags);
    message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(b"\x01a\x04test\x00\x00\x01\x00\x01");
    message
}

fn asked_in_vain(stage: &mut Stage) {
    stage.datagram(O, &message(None)).wait_ms(2_000);
    stage.datagram(O, &message(None));
}

fn answered_at_last(stage: &mut Stage) {
    asked_in_vain(stage);
    stage.wait_ms(10).datagram(R, &message(Some(0)));
}

fn server_failed(stage: &mut Stage) {
    stage.datagram(O, &message(None)).wait_ms(20);
    stage.datagram(R, &message(Some(2)));
}

fn no_such_name(stage: &mut Stage) {
    stage.datagram(O, &message(None)).wait_ms(20);
    stage.datagram(R, &message(Some(3)));
}

fn answered_late(stage: &mut Stage) {
    stage.datagram(O, &message(None)).wait_ms(800);
    stage.datagram(R, &message(Some(0)));
}

fn answered_in_time(stage: &mut Stage) {
    stage.datagram(O, &message(None)).wait_ms(100);
    stage.datagram(R, &message(Some(0)));
}
