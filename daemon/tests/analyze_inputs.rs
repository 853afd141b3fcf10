//! `linnet analyze` on what is no plain file, and within its limit of flows. Needs no privilege.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::Value;

fn scene(folder: &Path) -> PathBuf {
    let path = folder.join("scene.pcap");
    let scene = lab::synth::Scene { seconds: 2, seed: 3, ..lab::synth::Scene::default() };
    lab::synth::write(&scene, &mut File::create(&path).unwrap()).unwrap();
    path
}

fn analyze(file: &Path, stdin: Stdio, more: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let output = command.args(["analyze", "--json"]).args(more).arg(file).stdin(stdin).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_pipe_says_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = scene(folder.path());
    let wanted = analyze(&file, Stdio::null(), &[]);
    assert!(wanted["flows"].as_array().unwrap().len() > 1);
    for name in ["-", "/dev/stdin"] {
        let mut cat = Command::new("cat").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
        let piped = analyze(Path::new(name), cat.stdout.take().unwrap().into(), &[]);
        assert_eq!(piped, wanted, "{name}, with the same flow ids");
        assert!(cat.wait().unwrap().success());
    }
    let fifo = folder.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let writer = {
        let (fifo, bytes) = (fifo.clone(), fs::read(&file).unwrap());
        thread::spawn(move || fs::write(fifo, bytes))
    };
    assert_eq!(analyze(&fifo, Stdio::null(), &[]), wanted);
    writer.join().unwrap().unwrap();
}

#[test]
fn packets_beyond_the_limit_of_flows_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = scene(folder.path());
    let all = analyze(&file, Stdio::null(), &[]);
    let some = analyze(&file, Stdio::null(), &["--flows", "2"]);
    assert_eq!(some["flows"].as_array().unwrap().len(), 2);
    assert_eq!(some["packets"], all["packets"]);
    assert!(some["ledger"]["table_full"].as_u64().unwrap() > 0, "{some}");
    let sum = |analysis: &Value| -> u64 {
        analysis["ledger"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
    };
    assert_eq!(sum(&some), sum(&all));
}

#[test]
fn frames_come_from_a_pipe_and_within_their_limit() {
    let folder = tempfile::tempdir().unwrap();
    let file = scene(folder.path());
    let frames = |more: &[&str], file: &Path, stdin: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
        command.args(["analyze", "--frames"]).args(more).arg(file).stdin(stdin).output().unwrap()
    };
    let all = frames(&[], &file, Stdio::null());
    assert!(all.status.success(), "{}", String::from_utf8_lossy(&all.stderr));
    assert!(!all.stdout.is_empty());
    let piped = frames(&[], Path::new("-"), File::open(&file).unwrap().into());
    assert_eq!(piped.stdout, all.stdout);
    let some = frames(&["--flows", "1"], &file, Stdio::null());
    assert_eq!(some.status.code(), Some(1), "what is not told is no success");
    let said = String::from_utf8_lossy(&some.stderr).into_owned();
    assert!(said.contains("--flows raises the limit"), "{said}");
}

#[test]
fn frames_before_the_damage_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = scene(folder.path());
    let bytes = fs::read(&file).unwrap();
    let cut = folder.path().join("cut.pcap");
    fs::write(&cut, &bytes[..bytes.len() - 3]).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let output = command.args(["analyze", "--frames"]).arg(&cut).output().unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert!(!output.stdout.is_empty());
    let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let refused = command.args(["analyze", "--compat", "ws44"]).arg(&file).output().unwrap();
    assert_eq!(refused.status.code(), Some(64), "whose rules, without frames");
}

#[test]
fn each_direction_of_a_tcp_flow_has_every_class() {
    const COUNTERS: [&str; 17] = [
        "acked_unseen",
        "duplicate_acks",
        "fast_retransmissions",
        "keep_alive_acks",
        "keep_alives",
        "lost_segments",
        "out_of_order",
        "retransmissions",
        "reused_ports",
        "segments",
        "spurious_retransmissions",
        "verdicts",
        "window_full",
        "window_updates",
        "zero_window_probe_acks",
        "zero_window_probes",
        "zero_windows",
    ];
    let folder = tempfile::tempdir().unwrap();
    let analysis = analyze(&scene(folder.path()), Stdio::null(), &[]);
    let flows = analysis["flows"].as_array().unwrap();
    let tcp: Vec<_> = flows.iter().filter(|flow| flow["protocol"] == "tcp").collect();
    assert!(!tcp.is_empty());
    for direction in ["from_originator", "from_responder"] {
        for flow in &tcp {
            let counters = flow[direction]["tcp"].as_object().unwrap();
            let mut names: Vec<_> = counters.keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, COUNTERS);
            assert_eq!(counters["segments"], flow[direction]["packets"]);
        }
        let others = flows.iter().filter(|flow| flow["protocol"] != "tcp");
        assert!(others.into_iter().all(|flow| flow[direction]["tcp"].is_null()));
    }
    let again: u64 = tcp
        .iter()
        .flat_map(|flow| [&flow["from_originator"], &flow["from_responder"]])
        .filter_map(|half| half["tcp"]["retransmissions"].as_u64())
        .sum();
    assert!(again > 0, "the scene has losses");
}
