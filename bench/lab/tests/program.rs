//! The program: one line when ready, one when done, and nothing left behind however it ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use lab::traffic::Stop;
use lab::{NAMESPACE_FOLDER, require_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lab");

#[test]
fn it_ends_with_its_standard_input_and_reports() {
    if !require_root("lab up") {
        return;
    }
    let mut running = up("stdin");
    let ready = running.ready();
    assert_eq!((&ready["delay_ms"], &ready["loss_every"]), (&4.into(), &10.into()));
    assert_eq!(ready["interfaces"].as_array().unwrap().len(), 4);
    let client = ready["namespaces"]["client"].as_str().unwrap().to_owned();
    assert_eq!(ready["interfaces"][0]["spec"], format!("{client}/c0"));
    assert!(running.paths(&ready).iter().all(|path| path.exists()));
    Stop::new().wait(Duration::from_secs(3));

    drop(running.stdin.take());

    let report = running.report();
    assert!(running.child.wait().unwrap().success());
    assert!(running.paths(&ready).iter().all(|path| !path.exists()));
    assert!(report["to_server"]["forwarded"].as_u64().unwrap() > 100);
    assert!(report["to_client"]["dropped_loss"].as_u64().unwrap() > 1);
    let generators = report["traffic"]["generators"].as_object().unwrap();
    let failed = generators.iter().filter(|(_, runs)| runs["failed"] != 0);
    assert_eq!(failed.count(), 0, "{generators:?}");
}

#[test]
fn a_signal_ends_it_cleanly() {
    if !require_root("lab up") {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut running = up("signal");
        let ready = running.ready();
        kill(running.pid(), signal).unwrap();
        running.report();
        assert!(running.child.wait().unwrap().success());
        assert!(running.paths(&ready).iter().all(|path| !path.exists()));
    }
}

#[test]
fn what_a_killed_one_leaves_is_reaped_by_the_next() {
    if !require_root("lab reap") {
        return;
    }
    let mut running = up("killed");
    let ready = running.ready();
    running.child.kill().unwrap();
    running.child.wait().unwrap();

    // Another test's start may be the one that reaps.
    let status = Command::new(PROGRAM).arg("reap").stdout(Stdio::null()).status().unwrap();

    assert!(status.success());
    assert!(running.paths(&ready).iter().all(|path| !path.exists()));
}

#[test]
fn a_capture_is_generated_without_privileges_and_wrong_usage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scene.pcap");
    let output = Command::new(PROGRAM)
        .args(["generate", "--seconds", "5", "--flows", "16"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success());
    let truth: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(truth["packets"].as_u64().unwrap() > 100);
    assert!(file.metadata().unwrap().len() > 10_000);

    let wrong = Command::new(PROGRAM).args(["up", "--delay-ms", "soon"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(64));
}

struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// A lab that ends with its standard input.
fn up(label: &str) -> Running {
    let mut child = Command::new(PROGRAM)
        .args(["up", "--delay-ms", "4", "--loss-every", "10", "--stay-while-stdin-open"])
        .args(["--seconds", "60", "--label", label])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    Running { child, stdin, stdout }
}

impl Running {
    fn ready(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn report(&mut self) -> Value {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        serde_json::from_str(&rest).unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn paths(&self, ready: &Value) -> Vec<PathBuf> {
        let names = ready["namespaces"].as_object().unwrap().values();
        let names = names.map(|name| name.as_str().unwrap().to_owned());
        names.map(|name| Path::new(NAMESPACE_FOLDER).join(name)).collect()
    }
}
