//! `linnet run` as a process on a lab: what it serves over both of its ways in, the packets of one flow from click to
//! tshark, and how it starts, ends and is cleaned up after. Must never leave a process, pin or namespace behind.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use lab::{
    CLIENT_INTERFACE, Lab, Plan, ROUTER_CLIENT_INTERFACE, SERVER_INTERFACE, capture::Tcpdump,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    held::Held,
    linnet::{self, Linnet, filter_of},
    pair::Pair,
    traffic, tshark, wait_for,
};

fn can_run(what: &str) -> bool {
    support::kernel(what)
        && ["curl", "tshark", "tcpdump", "bpftool", "tc", "setpriv"]
            .iter()
            .all(|tool| lab::require_tool(tool, what))
}

fn client_spec(lab: &Lab) -> String {
    format!("{}/{CLIENT_INTERFACE}", lab.client().name())
}

/// The row of a pair at an interface.
fn row_of(linnet: &Linnet, interface: &str, pair: &Pair) -> Value {
    let is_it = |flow: &Value| flow["originator"]["port"] == pair.client_port();
    let rows: Vec<_> = linnet.flows(interface).into_iter().filter(is_it).collect();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    rows[0].clone()
}

#[test]
fn socket_and_loopback_tell_the_same_story() {
    if !can_run("the daemon's API on a lab") {
        return;
    }
    let lab = Lab::build(Plan::new("api")).unwrap();
    let spec = client_spec(&lab);
    let linnet = Linnet::watch("api", std::slice::from_ref(&spec));
    traffic::mix(&lab);
    linnet.settle();
    let bearer = format!("authorization: Bearer {}", linnet.token());
    let over_tcp = |header: &[&str], path: &str| {
        let url = format!("http://{}{path}", linnet.address);
        linnet::answer(Command::new("curl").args(["-s", "-m", "20"]).args(header).arg(url))
    };
    let flows = linnet.flows(&spec);
    assert!(flows.len() >= 4);
    for flow in &flows {
        let path = format!("/api/v1/flows/{}", flow["id"].as_str().unwrap());
        assert_eq!(over_tcp(&[], &path).0, 401, "no token, no flow");
        let (status, alone) = over_tcp(&["-H", &bearer], &path);
        assert_eq!((status, &alone["flow"]["id"]), (200, &flow["id"]));
        for field in ["community_id", "originator", "responder", "interface", "hook"] {
            assert_eq!(alone["flow"][field], flow[field], "{field}");
        }
        assert_eq!(linnet.see(&path, "flow")["id"], flow["id"]);
    }
    for (status, answer) in
        [linnet.get("/api/v1/status"), over_tcp(&["-H", &bearer], "/api/v1/status")]
    {
        assert_eq!(status, 200);
        assert_eq!(answer["status"]["mode"], "live");
        assert_eq!(answer["status"]["balanced"], true, "{answer}");
        let ledger = answer["loss"]["ledger"].as_object().unwrap();
        let sum: u64 = ledger.values().filter_map(Value::as_u64).sum();
        assert_eq!(answer["loss"]["seen"].as_u64(), Some(sum), "{answer}");
        assert!(sum > 0);
    }
    let (status, metrics) = linnet.get("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.as_str().unwrap().contains("linnet_"));
}

#[test]
fn a_capture_of_one_row_holds_exactly_what_tcpdump_sees_of_it() {
    if !can_run("a capture on a lab") {
        return;
    }
    let lab = Lab::build(Plan::new("capture")).unwrap();
    // In the middle of the path, where checksums are whole: at a sender's egress they are not computed yet.
    let router = lab.router().unwrap();
    let spec = format!("{}/{ROUTER_CLIENT_INTERFACE}", router.name());
    let linnet = Linnet::watch("capture", std::slice::from_ref(&spec));
    let (mut wanted, mut other) = (Pair::open(&lab, 6_000), Pair::open(&lab, 6_001));
    wanted.exchange(5, 500);
    other.exchange(5, 500);
    let filter = filter_of(&row_of(&linnet, &spec, &wanted));
    println!("{filter}");

    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("tcpdump.pcap");
    let tcpdump = Tcpdump::start(router, ROUTER_CLIENT_INTERFACE, &theirs, &filter).unwrap();
    let request = json!({ "filter": filter, "interface": spec, "limits": { "seconds": 60 } });
    let (status, answer) = linnet.post("/api/v1/captures", &request);
    assert_eq!(status, 201, "{answer}");
    let capture = format!("/api/v1/captures/{}", answer["capture"]["id"].as_str().unwrap());
    let mut curl = linnet.curl(&format!("{capture}/live")).arg("-N").stdout(Stdio::piped()).spawn();
    let stream = curl.as_mut().unwrap().stdout.take().unwrap();
    let live = Command::new("tshark")
        .args(["-n", "-r", "-", "-T", "fields", "-e", "tcp.seq_raw"])
        .stdin(stream)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    wanted.exchange(200, 3_000);
    other.exchange(50, 3_000);
    let seen = tcpdump.stop().unwrap();
    assert_eq!(seen.dropped_by_kernel, 0);
    wait_for("the capture to hold it all", || {
        (linnet.see(&capture, "capture")["written"] == seen.captured).then_some(())
    });
    assert_eq!(linnet.post(&format!("{capture}/stop"), &json!({})).0, 200);

    let ended = linnet.see(&capture, "capture");
    assert_eq!(ended["state"], "finished", "{ended}");
    assert_eq!(ended["matched"], ended["written"], "nothing was lost: {ended}");
    let ours = folder.path().join("linnet.pcapng");
    let download = linnet.curl(&format!("{capture}/file")).arg("-o").arg(&ours).status().unwrap();
    assert!(download.success());
    assert!(seen.captured > 400, "{seen:?}");
    tshark::assert_same_frames(&ours, &theirs);

    let live = live.wait_with_output().unwrap();
    assert!(curl.unwrap().wait().unwrap().success(), "the stream ends with the capture");
    let live: Vec<_> = String::from_utf8(live.stdout).unwrap().lines().map(str::to_owned).collect();
    let filed = tshark::fields(&ours, &[], &["tcp.seq_raw"]).concat();
    assert_eq!(live, filed, "the stream and the file");
}

#[test]
fn a_daemon_that_is_told_to_end_leaves_nothing() {
    if !can_run("the end of a daemon") {
        return;
    }
    let lab = Lab::build(Plan::new("sigterm")).unwrap();
    let spec = client_spec(&lab);
    let linnet = Linnet::watch("sigterm", std::slice::from_ref(&spec));
    // A capture that runs must not keep its programs either.
    assert_eq!(linnet.post("/api/v1/captures", &json!({ "interface": spec })).0, 201);
    let (held, pins, socket) = (Held::by(linnet.pid()), linnet.pins().to_owned(), linnet.socket());
    assert!(held.programs.len() >= 4 && held.links.len() >= 4, "{held:?}");
    assert!(pins.is_dir() && socket.exists());
    let mut linnet = linnet;
    linnet.signal(Signal::SIGTERM);
    assert!(linnet.wait().success(), "{}", linnet.log());
    assert!(!pins.exists() && !socket.exists());
    wait_for("programs and links to go", || held.is_gone().then_some(()));
    let namespaces = [lab.client(), lab.server()].map(|namespace| namespace.path().to_owned());
    drop(lab);
    assert!(namespaces.iter().all(|path| !path.exists()));
}

#[test]
fn after_a_kill_detach_leaves_nothing() {
    if !can_run("detaching after a kill") {
        return;
    }
    let lab = Lab::build(Plan::new("kill")).unwrap();
    let filters = |way| {
        let show = ["filter", "show", "dev", SERVER_INTERFACE, way];
        let output = lab.server().command("tc").args(show).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let qdiscs = || {
        let show = ["qdisc", "show", "dev", SERVER_INTERFACE, "clsact"];
        let output = lab.server().command("tc").args(show).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let server = format!("{}/{SERVER_INTERFACE},ingress=clsact,egress=clsact", lab.server().name());
    let mut linnet = Linnet::watch("kill", &[client_spec(&lab), server.clone()]);
    // The tracker's and the capture stage's, each way.
    assert_eq!(linnet.post("/api/v1/captures", &json!({})).0, 201);
    let held = Held::by(linnet.pid());
    assert!(filters("ingress").contains("linnet") && filters("egress").contains("linnet"));
    linnet.kill_attacher();
    let pins = linnet.pins().to_owned();
    assert!(pins.is_dir(), "pins outlive a killed process");
    // The record must lead to the filters under whatever name.
    let ip = |args: &[&str]| {
        let mut command = lab.server().command("ip");
        assert!(command.args(["link", "set", "dev"]).args(args).status().unwrap().success());
    };
    let rename = |from: &str, to: &str| {
        ip(&[from, "down"]);
        ip(&[from, "name", to]);
        ip(&[to, "up"]);
    };
    rename(SERVER_INTERFACE, "other-name");

    let detached = Command::new(env!("CARGO_BIN_EXE_linnet"))
        .arg("detach")
        .arg("--pin-dir")
        .arg(&pins)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&detached.stdout).into_owned();
    println!("{said}");
    assert!(detached.status.success(), "{}", String::from_utf8_lossy(&detached.stderr));
    assert!(said.contains("4 filters"), "{said}");
    rename("other-name", SERVER_INTERFACE);
    assert_eq!(qdiscs(), "", "the qdisc was linnet's own");
    assert_eq!(filters("ingress") + &filters("egress"), "");
    assert!(!pins.exists());
    wait_for("programs and links to go", || held.is_gone().then_some(()));

    // A killed attacher's successor takes over without being asked, and ends the daemon that was left elsewhere.
    let mut first = Linnet::watch("kill", std::slice::from_ref(&server));
    first.kill_attacher();
    let second = Linnet::watch("kill", std::slice::from_ref(&server));
    wait_for("the other daemon to end", || first.daemon_pid().is_none().then_some(()));
    assert_eq!(
        filters("ingress").matches(" name linnet_ingress ").count(),
        1,
        "{}",
        filters("ingress")
    );
    // Somebody else's filter keeps the qdisc, whoever made it.
    let theirs = ["filter", "add", "dev", SERVER_INTERFACE, "egress", "protocol", "all"];
    let mut tc = lab.server().command("tc");
    let everything = ["prio", "50000", "u32", "match", "u32", "0", "0"];
    assert!(tc.args(theirs).args(everything).status().unwrap().success());
    assert!(second.stop().success());
    assert_eq!(filters("ingress"), "");
    assert!(filters("egress").contains("u32") && !filters("egress").contains("linnet"));
}

/// A folder of pins of this test's own making; goes with all that is in it.
struct ForeignPins(PathBuf);

impl Drop for ForeignPins {
    fn drop(&mut self) {
        for pin in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            fs::remove_file(pin.path()).ok();
        }
        fs::remove_dir(&self.0).ok();
    }
}

#[test]
fn detach_and_run_remove_no_pins_but_their_own() {
    if !can_run("foreign pins") {
        return;
    }
    let lab = Lab::build(Plan::new("pins")).unwrap();
    let pins = linnet::pins("foreign");
    fs::create_dir(&pins).unwrap();
    let foreign = pins.join("theirs");
    let _guard = ForeignPins(pins.clone());
    let make = ["map", "create"];
    let kind = ["type", "array", "key", "4", "value", "4", "entries", "1", "name", "theirs"];
    let made = Command::new("bpftool").args(make).arg(&foreign).args(kind).status().unwrap();
    assert!(made.success());
    let folder = tempfile::tempdir().unwrap();
    let mut run = linnet::command(folder.path(), &pins);
    let mut run =
        run.args(["--interface", &client_spec(&lab)]).stdout(Stdio::null()).spawn().unwrap();
    wait_for("pins", || pins.join("FLOWS").exists().then_some(()));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(run.id().cast_signed()), Signal::SIGTERM)
        .unwrap();
    assert!(run.wait().unwrap().success(), "told to end while it starts, it ends in order");
    assert!(!folder.path().join("run/api.sock").exists() && !pins.join("FLOWS").exists());
    let detach = Command::new(env!("CARGO_BIN_EXE_linnet"))
        .args(["detach", "--pin-dir"])
        .arg(&pins)
        .status()
        .unwrap();
    assert!(detach.success() && foreign.exists());
}

#[test]
fn a_reader_that_goes_and_a_full_disk_are_no_panic() {
    let full = || Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let closed = || Stdio::from(std::io::pipe().unwrap().1);
    let pins = linnet::pins("none");
    for args in [vec!["doctor"], vec!["detach", "--pin-dir", pins.to_str().unwrap()]] {
        for (out, is_full) in [(full(), true), (closed(), false)] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
            let ended = command.args(&args).stdout(out).output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.code().is_some_and(|code| code <= 1), "{args:?}: {said}");
            assert_eq!(said.contains("cannot print"), is_full, "{args:?}: {said}");
        }
    }
}

#[test]
fn an_odd_interface_does_not_keep_linnet_from_the_others() {
    if !can_run("every interface that is up") {
        return;
    }
    let lab = Lab::build(Plan::new("odd")).unwrap();
    let far = ["link", "add", "name", "far0", "index", "70000", "type", "veth"];
    let comma = ["link", "add", "name", "x,egress=off", "type", "veth"];
    for args in
        [&far[..], &comma, &["link", "set", "far0", "up"], &["link", "set", "x,egress=off", "up"]]
    {
        assert!(lab.client().command("ip").args(args).status().unwrap().success());
    }
    let linnet = lab.client().run(|| Linnet::watch("odd", &[])).unwrap();
    let interfaces = linnet.see("/api/v1/interfaces", "interfaces");
    let names: Vec<_> =
        interfaces.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(names.contains(&CLIENT_INTERFACE) && names.contains(&"x,egress=off"), "{names:?}");
    assert!(!names.contains(&"far0"), "{names:?}");
    let notices = linnet.see("/api/v1/status", "status")["notices"].to_string();
    assert!(notices.contains("far0") && notices.contains("70000"), "{notices}");
    assert!(linnet.stop().success());
}

/// Runs to the end; exit code and what it says.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_daemon_that_cannot_run_says_why_and_what_to_do() {
    if !can_run("refusals") {
        return;
    }
    let lab = Lab::build(Plan::new("refusals")).unwrap();
    let spec = client_spec(&lab);
    let linnet = Linnet::watch("refusals", std::slice::from_ref(&spec));
    let folder = tempfile::tempdir().unwrap();
    let pins = linnet::pins("refused");
    let run = |folder: &Path, pins: &Path, interface: &str| {
        let mut command = linnet::command(folder, pins);
        command.args(["--interface", interface]);
        command
    };
    let bad_config = folder.path().join("bad.toml");
    fs::write(&bad_config, "schema = 1\n[flows]\ncapacty = 7\n").unwrap();
    let mut unknown_key = Command::new(env!("CARGO_BIN_EXE_linnet"));
    unknown_key.args(["run", "--config"]).arg(&bad_config);
    // Somebody else's folder, which nobody may use, and a copy of the program that nobody may read.
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let program = open.path().join("linnet");
    fs::copy(env!("CARGO_BIN_EXE_linnet"), &program).unwrap();
    let nobody = |run_dir: &Path| {
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
        nobody.args(["run", "--listen", "127.0.0.1:0", "--interface", "lo", "--run-dir"]);
        nobody.arg(run_dir).arg("--state-dir").arg(open.path().join("state"));
        nobody.arg("--pin-dir").arg(&pins);
        nobody
    };
    let mut no_file = linnet::command(folder.path(), &pins);
    no_file.args(["--replay", "/nowhere.pcap"]);

    let mut same_state = Command::new(env!("CARGO_BIN_EXE_linnet"));
    same_state.args(["run", "--listen", "127.0.0.1:0", "--interface", &spec, "--run-dir"]);
    same_state.arg(folder.path().join("run")).arg("--pin-dir").arg(&pins);
    same_state.env("LINNET_LOG", "error").arg("--state-dir").arg(linnet.folder().join("state"));
    let mut same_port = Command::new(env!("CARGO_BIN_EXE_linnet"));
    same_port.args(["run", "--listen", &linnet.address, "--interface", &spec, "--run-dir"]);
    same_port.arg(folder.path().join("run")).arg("--pin-dir").arg(&pins);
    let bad_value = folder.path().join("escape.toml");
    fs::write(&bad_value, "schema = 1\nlisten = \"\\u001b[2J\"\n").unwrap();
    let mut escape = Command::new(env!("CARGO_BIN_EXE_linnet"));
    escape.args(["run", "--config"]).arg(&bad_value);
    let elsewhere = format!("{}/nowhere", lab.client().name());
    let here = folder.path();
    for (what, mut command, code, words) in [
        ("an unknown key", unknown_key, 64, "capacty"),
        ("an unknown interface", run(here, &pins, "nowhere"), 64, "`ip -br link`"),
        ("one of a namespace", run(here, &pins, &elsewhere), 64, "`ip -br link`"),
        ("an unknown namespace", run(here, &pins, "nowhere/eth0"), 64, "`ip netns list`"),
        ("a bad choice", run(here, &pins, "lo,ingress=fast"), 64, "xdp-generic"),
        ("the same run folder", run(linnet.folder(), &pins, &spec), 75, "--run-dir"),
        ("the same port", same_port, 75, "--listen"),
        ("an escape in a value", escape, 64, "\\u{1b}[2J"),
        ("the same captures", same_state, 75, "--state-dir"),
        ("the same pins", run(here, linnet.pins(), &spec), 75, "--pin-dir"),
        ("no file to replay", no_file, 64, "/nowhere.pcap"),
        ("no privilege", nobody(&open.path().join("run")), 77, "run as root"),
        ("a folder of another", nobody(&here.join("run")), 77, "--run-dir"),
    ] {
        let (exit, said) = refused(&mut command);
        println!("{what}: exit {exit:?}: {}", said.lines().last().unwrap_or_default());
        assert_eq!(exit, Some(code), "{what}: {said}");
        assert!(said.contains(words), "{what}: {said}");
        assert!(said.matches("os error").count() <= 1, "{what}, said twice: {said}");
        assert!(!pins.exists(), "{what}: pins are left");
    }
    assert_eq!(linnet.get("/healthz").0, 200, "the daemon that was there runs on");
    assert!(linnet.flows(&spec).iter().all(|flow| flow["interface"] == spec));
}

#[test]
fn analyze_tells_usage_from_damage() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../captures/testdata");
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pcap");
    fs::write(&empty, "").unwrap();
    for (file, code, words) in [
        (testdata.join("handshake.pcap"), 0, ""),
        (testdata.join("cut_short.pcapng"), 65, "is damaged"),
        (testdata.join("README.md"), 65, "README.md"),
        (empty, 65, "empty.pcap"),
        (folder.path().join("missing.pcap"), 64, "missing.pcap"),
        (folder.path().to_owned(), 64, "directory"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
        let (exit, said) = refused(command.args(["analyze", "--json"]).arg(&file));
        assert_eq!(exit, Some(code), "{}: {said}", file.display());
        assert!(said.contains(words), "{}: {said}", file.display());
        assert_eq!(said.is_empty(), code == 0, "{said}");
    }
}
