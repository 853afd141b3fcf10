//! The two processes of a running linnet: what each may do, what it cannot, and what one does when the other dies. Must
//! never leave a process behind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, process::Command, time::Duration,
};

use lab::{CLIENT_INTERFACE, Lab, Plan};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use support::{linnet::Linnet, pair::Pair, traffic, wait_for};

/// CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, and those to start and end a daemon of another user: CAP_SETPCAP, CAP_SETUID,
/// CAP_SETGID, CAP_KILL (include/uapi/linux/capability.h).
const ATTACHER: u64 = 1 << 39 | 1 << 38 | 1 << 12 | 1 << 8 | 1 << 7 | 1 << 6 | 1 << 5;
/// CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;
/// How long linnet may be away after a kill.
const BACK_MAX: Duration = Duration::from_secs(2);

fn can_run(what: &str) -> bool {
    support::kernel(what) && lab::require_tool("curl", what)
}

fn client_spec(lab: &Lab) -> String {
    format!("{}/{CLIENT_INTERFACE}", lab.client().name())
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn daemon_of(linnet: &Linnet) -> u32 {
    wait_for("the daemon", || linnet.daemon_pid())
}

/// The fields of a status file of /proc.
fn status(path: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

/// Looks at every thread of the daemon; returns how many there are.
fn assert_confined(pid: u32, uid: &str) -> usize {
    let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().collect();
    for task in &tasks {
        let status = status(task.path().join("status").to_str().unwrap());
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status[set], "0000000000000000", "{set} of {}", status["Name"]);
        }
        for (key, value) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
            assert_eq!(status[key], value, "{key} of {}", status["Name"]);
        }
        let uids: Vec<_> = status["Uid"].split_whitespace().collect();
        assert_eq!(uids, [uid; 4], "{}", status["Name"]);
    }
    tasks.len()
}

/// What has to work from inside of the sandbox: flows, services, rules, and a capture with a filter, from start to file.
fn use_everything(lab: &Lab, linnet: &Linnet) {
    let spec = client_spec(lab);
    let body = json!({ "filter": "tcp or udp port domain", "interface": spec });
    let (status, answer) = linnet.post("/api/v1/captures", &body);
    assert_eq!(status, 201, "{answer}");
    let capture = format!("/api/v1/captures/{}", answer["capture"]["id"].as_str().unwrap());
    traffic::mix(lab);
    wait_for("captured packets", || {
        linnet.see(&capture, "capture")["written"].as_u64().filter(|written| *written > 50)
    });
    assert_eq!(linnet.post(&format!("{capture}/stop"), &json!({})).0, 200);
    let file = linnet.folder().join("file.pcapng");
    let got = linnet.curl(&format!("{capture}/file")).arg("-o").arg(&file).status().unwrap();
    assert!(got.success() && fs::metadata(&file).unwrap().len() > 5_000);
    assert!(linnet.flows(&spec).len() >= 4);
    let rules = json!({ "rules": [{ "action": "track", "interface": spec }] });
    assert_eq!(linnet.put("/api/v1/rules", &rules).0, 200);
    let (code, problem) = linnet
        .put("/api/v1/rules", &json!({ "rules": [{ "action": "track", "interface": "no0" }] }));
    assert!(code == 400 || code == 422, "{code}: {problem}");
    assert!(problem.to_string().contains("no0"), "{problem}");
    assert_eq!(linnet.see("/api/v1/interfaces", "interfaces")[0]["state"], "attached");
    let notices = linnet.see("/api/v1/status", "status")["notices"].to_string();
    assert!(!notices.contains("the sandbox does not keep"), "{notices}");
}

#[test]
fn every_thread_of_the_daemon_is_confined_and_does_its_work() {
    if !can_run("the daemon's privileges") {
        return;
    }
    let lab = Lab::build(Plan::new("confined")).unwrap();
    let linnet = Linnet::watch("confined", &[client_spec(&lab)]);
    use_everything(&lab, &linnet);
    let threads = assert_confined(daemon_of(&linnet), "0");
    println!("{threads} threads");
    assert!(threads > 4);
    let attacher = status(&format!("/proc/{}/status", linnet.pid()));
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let held = u64::from_str_radix(&attacher[set], 16).unwrap();
        assert_eq!(held & !(ATTACHER | SYS_ADMIN), 0, "{set}: {held:x}");
    }
    assert!(linnet.stop().success());
}

#[test]
fn a_daemon_of_another_user_owns_its_files_and_nothing_else() {
    if !can_run("a daemon of another user") {
        return;
    }
    let lab = Lab::build(Plan::new("nobody")).unwrap();
    // From inside, so that no other namespace is configured, and the attacher goes without CAP_SYS_ADMIN.
    let inside =
        || Linnet::watch_with("nobody", &[CLIENT_INTERFACE.to_owned()], "user = \"nobody\"\n");
    let linnet = lab.client().run(inside).unwrap();
    let attacher = status(&format!("/proc/{}/status", linnet.pid()));
    let held = u64::from_str_radix(&attacher["CapBnd"], 16).unwrap();
    assert_eq!(held & !ATTACHER, 0, "{held:x}");
    let body = json!({ "filter": "tcp" });
    assert_eq!(linnet.post("/api/v1/captures", &body).0, 201);
    traffic::mix(&lab);
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_confined(daemon_of(&linnet), &nobody.uid.to_string());
    let captures = linnet.folder().join("state/captures");
    let files = fs::read_dir(&captures).unwrap().flatten().map(|entry| entry.path());
    let made: Vec<_> =
        files.chain(["run/token", "run/api.sock"].map(|it| linnet.folder().join(it))).collect();
    assert!(made.len() >= 4, "{made:?}");
    for path in made.iter().chain([&captures, &linnet.folder().join("run")]) {
        let found = fs::metadata(path).unwrap();
        assert_eq!(found.uid(), nobody.uid.as_raw(), "{}", path.display());
        assert_eq!(found.mode() & 0o007, 0, "{} is {:o}", path.display(), found.mode());
    }
    assert_eq!(fs::metadata(linnet.pins()).unwrap().uid(), 0);
    let notices = linnet.see("/api/v1/status", "status")["notices"].clone();
    assert_eq!(notices, json!([]), "nothing is missing here");
    let (pins, socket) = (linnet.pins().to_owned(), linnet.socket());
    let status = linnet.stop();
    assert!(status.success() && !pins.exists() && !socket.exists());
}

#[test]
fn strict_runs_where_nothing_is_missing_and_ends_where_something_is() {
    if !can_run("a strict sandbox") {
        return;
    }
    let lab = Lab::build(Plan::new("strict")).unwrap();
    let keys = "user = \"nobody\"\nsandbox = \"strict\"\n";
    assert!(Linnet::watch_with("strict", &[client_spec(&lab)], keys).stop().success());
    if nix::unistd::User::from_name("linnet").unwrap().is_none() {
        let folder = tempfile::tempdir().unwrap();
        let pins = support::linnet::pins("strict-refused");
        let mut command = support::linnet::command(folder.path(), &pins);
        fs::write(folder.path().join("linnet.toml"), "schema = 1\nsandbox = \"strict\"\n").unwrap();
        let output = command.args(["--interface", &client_spec(&lab)]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("there is no user `linnet`") && !pins.exists(), "{said}");
    }
}

#[test]
fn the_doctor_finds_nothing_that_the_sandbox_allows() {
    if !can_run("the sandbox from inside") {
        return;
    }
    for user in [&["--user", "nobody"][..], &[]] {
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_linnet"));
        let output = doctor.args(["doctor", "--sandbox"]).args(user).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        println!("{said}");
        assert!(output.status.success(), "{said}");
        for act in [
            "open /etc/shadow",
            "exec",
            "ptrace",
            "outgoing TCP connect",
            "bpf MAP_CREATE",
            "bpf PROG_LOAD",
        ] {
            let line = said.lines().find(|line| line.contains(act)).unwrap();
            assert!(line.starts_with("refused"), "{line}");
        }
        assert!(said.contains("first by Landlock") && said.contains("first by seccomp"), "{said}");
    }
}

/// Ids of the flows, by their ports, and their packets.
fn flows_of(linnet: &Linnet, spec: &str) -> BTreeMap<u64, (String, u64)> {
    let flows = linnet.flows(spec);
    let row = |flow: &Value| {
        let packets = |side: &str| flow[side]["packets"].as_u64().unwrap();
        let id = flow["id"].as_str().unwrap().to_owned();
        let port = flow["originator"]["port"].as_u64()?;
        Some((port, (id, packets("from_originator") + packets("from_responder"))))
    };
    flows.iter().filter_map(row).collect()
}

/// Figures that only grow.
fn counters(linnet: &Linnet) -> [u64; 5] {
    let (_, answer) = linnet.get("/api/v1/status");
    let flows = &answer["status"]["flows"];
    [
        &answer["loss"]["seen"],
        &answer["loss"]["ledger"]["tracked"],
        &flows["created"],
        &flows["closed"],
        &flows["aged"],
    ]
    .map(|figure| figure.as_u64().unwrap())
}

#[test]
fn a_killed_daemon_is_back_with_its_counters_and_its_flows() {
    if !can_run("killing the daemon") {
        return;
    }
    let lab = Lab::build(Plan::new("killed")).unwrap();
    let spec = client_spec(&lab);
    let linnet = Linnet::watch("killed", std::slice::from_ref(&spec));
    let mut pairs = Pair::many(&lab, 7_000, 8);
    let ports: Vec<_> = pairs.iter().map(|pair| u64::from(pair.client_port())).collect();
    // Some that end, so that there are departures to remember.
    Pair::many(&lab, 7_001, 3).iter_mut().for_each(|pair| pair.exchange(2, 100));
    let rules = json!({ "rules": [{ "action": "ignore", "protocol": "udp", "port": "9" }] });
    assert_eq!(linnet.put("/api/v1/rules", &rules).0, 200);
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", linnet.pid())).unwrap().count();
    let kills = if support::full() { 50 } else { 10 };
    Pair::busy_during(&mut pairs, 3, Duration::from_millis(5), || {
        let first = flows_of(&linnet, &spec);
        let (mut longest, mut held) = (0, None);
        for number in 1..=kills {
            // Every other time in the middle of a capture.
            if number % 2 == 0 {
                assert_eq!(linnet.post("/api/v1/captures", &json!({ "filter": "tcp" })).0, 201);
            }
            let (before, daemon) = (counters(&linnet), daemon_of(&linnet));
            let flows_before = flows_of(&linnet, &spec);
            send(daemon, Signal::SIGKILL);
            let killed_ns = lab::clock::monotonic_ns();
            wait_for("the next daemon", || {
                let is_new = linnet.daemon_pid().is_some_and(|pid| pid != daemon);
                (is_new && linnet.get("/readyz").0 == 200).then_some(())
            });
            let away_ns = lab::clock::monotonic_ns() - killed_ns;
            longest = longest.max(away_ns);
            let after = counters(&linnet);
            assert!(away_ns < lab::clock::nanos(BACK_MAX), "kill {number}: away {away_ns} ns");
            assert!(before.iter().zip(after).all(|(b, a)| *b <= a), "{before:?} then {after:?}");
            let flows = flows_of(&linnet, &spec);
            for port in &ports {
                let ((id, packets), (id_before, packets_before)) =
                    (&flows[port], &flows_before[port]);
                assert_eq!((id, id_before), (&first[port].0, &first[port].0), "kill {number}");
                assert!(
                    packets >= packets_before,
                    "kill {number}: {packets} after {packets_before}"
                );
            }
            // The capture stage's programs were loaded with the first capture, and stay.
            if number >= 2 {
                assert_eq!(descriptors(), *held.get_or_insert_with(descriptors), "the attacher's");
            }
            let (_, answer) = linnet.get("/api/v1/status");
            assert_eq!(answer["loss"]["evicted"], 0, "{answer}");
        }
        println!("{kills} kills, away for at most {} ms", longest / 1_000_000);
    });
    assert_eq!(linnet.see("/api/v1/rules", "rules"), rules["rules"]);
    // What was killed during a capture has left a whole file.
    let captures = linnet.see("/api/v1/captures", "captures");
    let captures = captures.as_array().unwrap();
    assert_eq!(captures.len(), kills / 2);
    assert!(linnet.stop().success());
}

#[test]
fn a_daemon_that_is_told_to_end_ends_its_attacher() {
    if !can_run("stopping the daemon") {
        return;
    }
    let lab = Lab::build(Plan::new("told")).unwrap();
    let mut linnet = Linnet::watch("told", &[client_spec(&lab)]);
    let (pins, socket) = (linnet.pins().to_owned(), linnet.socket());
    send(daemon_of(&linnet), Signal::SIGTERM);
    assert!(linnet.wait().success(), "{}", linnet.log());
    assert!(!pins.exists() && !socket.exists());
}
