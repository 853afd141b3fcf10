//! Diagnoses: each has a scene that must raise it and a near miss that must not, and none is raised where nothing is wrong.
//! Every display filter goes through tshark, which has to find packets by it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

#[path = "diagnoses/scenes.rs"]
mod scenes;
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
use scenes::{SCENES, capture_misses_some, innocent, lost_before, lost_behind};
use serde_json::Value;
use support::served::Daemon;

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
fn what_arrived_or_was_refused_is_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (name, play) in innocent::SCENES {
        let found = staged(folder.path(), name, *play);
        wrong.extend(
            found.into_iter().filter(|diagnosis| {
                innocent::LOSSES.contains(&diagnosis["code"].as_str().unwrap())
            }),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn keep_alives_a_minute_apart_are_one_silence() {
    let folder = tempfile::tempdir().unwrap();
    let found = staged(folder.path(), "keep-alives", scenes::forgotten_between_keep_alives);
    assert_eq!(codes(&found), ["idle_timeout"], "{found:#?}");
    let evidence = &found[0]["evidence"];
    assert_eq!(evidence["outcome"], "reset", "{evidence}");
    assert!(evidence["silence_ns"].as_u64() >= Some(7_200_000_000_000), "{evidence}");
    assert_eq!(evidence["segments_after"], 5, "{evidence}");
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
    ("syn lost downstream", &["syn_retransmitted"]),
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
            "syn lost downstream" => true,
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

/// Diagnoses of one code in one file whose filters are tried: each takes tshark a look at the whole file.
const FILTERS_MAX: usize = 4;

#[test]
fn the_display_filters_of_the_corpus_select_packets() {
    if !lab::require_tool("tshark", "display filters") {
        return;
    }
    let files = support::corpus();
    let wrong = support::in_parallel(&files, |path| {
        let report = analyzed(path);
        let mut tried: BTreeMap<String, usize> = BTreeMap::new();
        let mut found = report["diagnoses"].as_array().cloned().unwrap_or_default();
        found.retain(|diagnosis| {
            let of_code = tried.entry(diagnosis["code"].to_string()).or_default();
            *of_code += 1;
            *of_code <= FILTERS_MAX
        });
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
