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
