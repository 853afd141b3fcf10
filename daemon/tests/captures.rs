//! Captures as their users have them: over HTTP by curl, on the command line, and read by tshark. Each test has a
//! daemon of its own that replays a scene, so that none needs privileges but where a disk has to be small.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, and says what it could not do"
)]

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use captures::PacketReader;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// A daemon that replays a scene; its folder outlives it.
struct Daemon {
    child: Child,
    folder: PathBuf,
}

/// An answer as it was on the wire.
struct Response {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Daemon {
    fn start(folder: &Path) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_linnet")), folder)
    }

    /// `command` is the program, or what runs it.
    fn start_by(mut command: Command, folder: &Path) -> Self {
        let scene = folder.join("scene.pcap");
        if !scene.exists() {
            let mut file = fs::File::create(&scene).unwrap();
            let plan = lab::synth::Scene { seconds: 5, seed: 7, ..lab::synth::Scene::default() };
            lab::synth::write(&plan, &mut file).unwrap();
            file.flush().unwrap();
        }
        let mut child = command
            .args(["run", "--one-time-login", "--listen", "127.0.0.1:0", "--replay"])
            .arg(scene)
            .arg("--run-dir")
            .arg(folder.join("run"))
            .arg("--state-dir")
            .arg(folder.join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let daemon = Self { child, folder: folder.to_owned() };
        assert!(line.starts_with("open "), "{}", fs::read_to_string(folder.join("log")).unwrap());
        wait_for("the first sweep", || (daemon.get("/readyz").status == 200).then_some(()));
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("run/api.sock")
    }

    fn curl(&self, path: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-N", "-m", "60", "--unix-socket"]).arg(self.socket());
        curl.arg(format!("http://localhost{path}"));
        curl
    }

    fn ask(&self, args: &[&str], path: &str) -> Response {
        let output = self.curl(path).arg("-i").args(args).output().expect("curl is installed");
        let end = output.stdout.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(output.stdout[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Response { status, headers, body: output.stdout[end + 4..].to_vec() }
    }

    fn get(&self, path: &str) -> Response {
        self.ask(&[], path)
    }

    fn post(&self, path: &str, body: &Value) -> Response {
        let body = body.to_string();
        self.ask(&["-H", "content-type: application/json", "-d", &body], path)
    }

    /// Starts a capture and returns its route.
    fn capture(&self, body: &Value) -> String {
        let answer = self.post("/api/v1/captures", body);
        assert_eq!(answer.status, 201, "{}", answer.json());
        let route =
            format!("/api/v1/captures/{}", answer.json()["capture"]["id"].as_str().unwrap());
        assert_eq!(answer.header("location"), route);
        route
    }

    fn view(&self, route: &str) -> Value {
        self.get(route).json()["capture"].take()
    }

    fn wait_until(&self, route: &str, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || Some(self.view(route)).filter(&ready))
    }

    /// A finished capture of so many packets.
    fn captured(&self, packets: u64) -> (String, Value) {
        let route = self.capture(&json!({ "limits": { "packets": packets } }));
        let view = self.wait_until(&route, "the packet limit", |view| view["state"] == "finished");
        (route, view)
    }

    fn linnet(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
        command.arg("capture").args(args).arg("--socket").arg(self.socket());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Nothing runs, and nothing is kept.
    fn assert_no_captures(&self) {
        assert_eq!(self.get("/api/v1/captures").json()["captures"], json!([]));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        signal(&mut self.child, Signal::SIGTERM);
        self.child.wait().unwrap();
    }
}

/// One that has been waited for gets none: its id may be another's.
fn signal(child: &mut Child, signal: Signal) {
    if child.try_wait().unwrap().is_none() {
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "a bounded wait for another process")]
fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{what} did not come in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn packets(path: &Path) -> u64 {
    let mut reader = PacketReader::open(path).unwrap();
    let mut packets = 0;
    while reader.next_packet().unwrap().is_some() {
        packets += 1;
    }
    packets
}

fn lost(view: &Value) -> u64 {
    view["lost"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

/// What tshark makes of standard input: one line for each packet.
fn tshark(input: Stdio) -> Option<Child> {
    if !lab::require_tool("tshark", "a live stream") {
        return None;
    }
    let mut command = Command::new("tshark");
    command.args(["-n", "-r", "-", "-T", "fields", "-e", "frame.number"]);
    Some(command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// tshark's number of packets; it must have found no fault.
fn counted(tshark: Child) -> usize {
    let Output { status, stdout, stderr } = tshark.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success() && !said.contains("cut short"), "{said}");
    String::from_utf8(stdout).unwrap().lines().count()
}

#[test]
fn a_finished_file_can_be_had_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let (route, view) = daemon.captured(20);
    let (route, length) = (format!("{route}/file"), view["bytes"].as_u64().unwrap());

    let whole = daemon.get(&route);
    assert_eq!((whole.status, whole.body.len() as u64), (200, length));
    assert_eq!(whole.header("content-type"), "application/x-pcapng");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert!(whole.header("content-disposition").ends_with(".pcapng\""));
    let etag = whole.header("etag").to_owned();
    assert!(etag.starts_with('"'), "a finished file's tag is strong: {etag}");

    let head = daemon.ask(&["-I"], &route);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), length.to_string());
    assert_eq!(head.header("etag"), etag);

    let part = daemon.ask(&["-r", "10-19"], &route);
    assert_eq!((part.status, part.body.as_slice()), (206, &whole.body[10..20]));
    assert_eq!(part.header("content-range"), format!("bytes 10-19/{length}"));
    assert_eq!(part.header("content-length"), "10");
    let end = daemon.ask(&["-r", "-7"], &route);
    assert_eq!((end.status, end.body.as_slice()), (206, &whole.body[whole.body.len() - 7..]));
    let if_range =
        |tag: &str| daemon.ask(&["-r", "10-19", "-H", &format!("if-range: {tag}")], &route);
    assert_eq!(if_range(&etag).status, 206);
    assert_eq!(if_range("\"other\"").status, 200);
    let known = daemon.ask(&["-H", &format!("if-none-match: {etag}")], &route);
    assert_eq!((known.status, known.body.len()), (304, 0));

    let outside = daemon.ask(&["-r", &format!("{length}-")], &route);
    assert_eq!(outside.status, 416);
    assert_eq!(outside.header("content-range"), format!("bytes */{length}"));
    assert_eq!(outside.json()["code"], "range_not_satisfiable");

    // A download that broke off goes on where it was.
    let path = folder.path().join("resumed.pcapng");
    fs::write(&path, &whole.body[..500]).unwrap();
    let resumed = daemon.curl(&route).args(["-f", "-C", "-", "-o"]).arg(&path).status().unwrap();
    assert!(resumed.success());
    assert_eq!(fs::read(&path).unwrap(), whole.body);
    assert_eq!(packets(&path), 20);
}

#[test]
fn a_growing_file_ends_with_a_whole_block_at_any_time() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let route = daemon.capture(&json!({}));
    daemon.wait_until(&route, "packets", |view| view["written"].as_u64() > Some(10));
    let path = folder.path().join("part.pcapng");
    for _ in 0..5 {
        let file = daemon.get(&format!("{route}/file"));
        assert!(file.header("etag").starts_with("W/"), "{}", file.header("etag"));
        fs::write(&path, &file.body).unwrap();
        assert!(packets(&path) > 10);
    }
    let live = daemon.ask(&["--max-time", "0.2"], &format!("{route}/live"));
    assert_eq!((live.status, live.header("accept-ranges")), (200, "none"));
}

#[test]
fn a_capture_ends_after_its_reader_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let route = daemon.capture(&json!({ "limits": { "seconds": 60, "unread_seconds": 2 } }));
    let mut curl = daemon.curl(&format!("{route}/live")).stdout(Stdio::piped()).spawn().unwrap();
    let mut stream = curl.stdout.take().unwrap();
    stream.read_exact(&mut [0; 64]).unwrap();
    curl.kill().unwrap();
    curl.wait().unwrap();
    let view = daemon.wait_until(&route, "its end", |view| view["state"] == "finished");
    assert_eq!(view["stop_reason"], "unread");
}

#[test]
fn a_live_stream_has_everything_and_ends_with_the_capture() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let route = daemon.capture(&json!({ "filter": "tcp or udp" }));
    let mut curl = daemon.curl(&format!("{route}/live")).stdout(Stdio::piped()).spawn().unwrap();
    let Some(tshark) = tshark(curl.stdout.take().unwrap().into()) else {
        curl.kill().unwrap();
        curl.wait().unwrap();
        return;
    };
    daemon.wait_until(&route, "packets", |view| view["written"].as_u64() > Some(50));
    let view = daemon.post(&format!("{route}/stop"), &json!({})).json()["capture"].take();
    assert!(curl.wait().unwrap().success());
    assert_eq!(counted(tshark) as u64, view["written"].as_u64().unwrap());
    assert_eq!(view["stop_reason"], "user_request");
    assert_eq!(view["matched"].as_u64().unwrap(), view["written"].as_u64().unwrap() + lost(&view));
    let keys: Vec<_> = view["lost"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["ring", "budget", "shed", "disk", "reader"]);
    let late = daemon.get(&format!("{route}/live"));
    assert_eq!(
        late.body.len() as u64,
        view["bytes"].as_u64().unwrap(),
        "one that has ended is whole"
    );
}

#[test]
fn refusals_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let captures = "/api/v1/captures";
    for (body, status, code, parameter, word) in [
        (
            json!({ "filter": "tcp prot 80" }),
            400,
            "invalid_filter",
            Some("filter"),
            "syntax error at `prot`",
        ),
        (json!({ "snaplen": 262_145 }), 422, "invalid_field", Some("snaplen"), "262144"),
        (
            json!({ "limits": { "seconds": 86_401 } }),
            422,
            "invalid_field",
            Some("limits.seconds"),
            "86400",
        ),
        (json!({ "limits": { "bytes": 1 } }), 422, "invalid_field", Some("limits.bytes"), "raise"),
        (
            json!({ "limits": { "packets": 0 } }),
            422,
            "invalid_field",
            Some("limits.packets"),
            "between",
        ),
        (json!({ "interface": "nowhere" }), 422, "invalid_field", Some("interface"), "nowhere"),
    ] {
        let answer = daemon.post(captures, &body);
        let problem = answer.json();
        assert_eq!((answer.status, problem["code"].as_str()), (status, Some(code)), "{problem}");
        assert_eq!(problem["parameter"].as_str(), parameter, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{problem}");
    }
    daemon.assert_no_captures();
    let route = daemon.capture(&json!({}));
    let second = daemon.capture(&json!({}));
    for id in ["none", "..%2f..%2fscene", "..%2fcaptures%2f0", "%00"] {
        for (method, end) in
            [("GET", ""), ("GET", "/file"), ("GET", "/live"), ("POST", "/stop"), ("DELETE", "")]
        {
            let answer = daemon.ask(&["-X", method], &format!("{captures}/{id}{end}"));
            assert_eq!(answer.status, 404, "{method} {id}{end}");
            assert_eq!(answer.json()["code"], "not_found", "{method} {id}{end}");
        }
    }
    assert_eq!(daemon.ask(&["-X", "DELETE"], &second).status, 204);
    assert_eq!(daemon.ask(&["-X", "DELETE"], &route).status, 204, "one that runs ends first");
    assert_eq!(daemon.get(&route).status, 404);
    assert_eq!(fs::read_dir(folder.path().join("state/captures")).unwrap().count(), 0);
}

#[test]
fn a_full_disk_refuses_captures_and_keeps_no_file() {
    if !lab::require_root("a small disk") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    // In a mount namespace of the daemon's own, which ends with it.
    let script = r#"mount -t tmpfs -o size=2m tmpfs "$STATE" && { head -c 3m /dev/zero > "$STATE/filler"; exec "$@"; }"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_linnet")]);
    command.env("STATE", &state);
    let daemon = Daemon::start_by(command, folder.path());
    let answer = daemon.post("/api/v1/captures", &json!({}));
    let problem = answer.json();
    assert_eq!((answer.status, &problem["code"]), (507, &json!("disk_full")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("delete captures"), "{problem}");
    daemon.assert_no_captures();
    let flows = || daemon.get("/api/v1/flows").json()["total"].as_u64().filter(|flows| *flows > 0);
    wait_for("flows, which go on", flows);
    let refused = daemon.linnet(&["-w", "-"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("delete captures"), "{said}");
}

/// A file system on which every write waits until this is dropped.
struct Frozen<'a> {
    pid: u32,
    place: &'a Path,
}

impl<'a> Frozen<'a> {
    /// Freezes what is mounted at `place` in the mount namespace of a process.
    fn new(pid: u32, place: &'a Path) -> Self {
        let frozen = Self { pid, place };
        assert!(frozen.fsfreeze("-f"));
        frozen
    }

    fn fsfreeze(&self, how: &str) -> bool {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-m", "fsfreeze", how]).arg(self.place);
        command.status().unwrap().success()
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        assert!(self.fsfreeze("-u"), "the file system stays frozen");
    }
}

#[test]
fn a_disk_that_hangs_holds_up_nobody_but_who_must_wait_for_it() {
    let what = "a disk that hangs";
    if !lab::require_root(what) || !lab::require_tool("mkfs.ext4", what) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (state, image) = (folder.path().join("state"), folder.path().join("image"));
    fs::create_dir(&state).unwrap();
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    assert!(Command::new("mkfs.ext4").arg("-q").arg(&image).status().unwrap().success());
    let script = r#"mount -o loop "$IMAGE" "$STATE" && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_linnet")]);
    command.env("IMAGE", &image).env("STATE", &state);
    let daemon = Daemon::start_by(command, folder.path());
    let route = daemon.capture(&json!({}));
    daemon.wait_until(&route, "packets", |view| view["written"].as_u64() > Some(20));

    let frozen = Frozen::new(daemon.child.id(), &state);
    let mut stop = daemon
        .curl(&format!("{route}/stop"))
        .args(["-X", "POST", "-o", "/dev/null"])
        .spawn()
        .unwrap();
    let in_time = ["-m", "2"];
    for path in ["/api/v1/captures", &route, &format!("{route}/file"), "/api/v1/flows"] {
        assert_eq!(daemon.ask(&in_time, path).status, 200, "{path}");
    }
    assert_eq!(daemon.ask(&in_time, &route).json()["capture"]["state"], "running");
    assert!(stop.try_wait().unwrap().is_none(), "the end has to be written");
    drop(frozen);
    assert!(stop.wait().unwrap().success());
    let view = daemon.view(&route);
    assert_eq!(view["stop_reason"], "user_request");
    let path = folder.path().join("thawed.pcapng");
    fs::write(&path, daemon.get(&format!("{route}/file")).body).unwrap();
    assert_eq!(Some(packets(&path)), view["written"].as_u64());
}

#[test]
fn a_killed_daemons_capture_is_repaired_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path());
    let (finished, before) = daemon.captured(5);
    let route = daemon.capture(&json!({ "filter": "tcp" }));
    daemon.wait_until(&route, "packets", |view| view["written"].as_u64() > Some(20));
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    drop(daemon);

    let daemon = Daemon::start(folder.path());
    assert_eq!(daemon.view(&finished), before, "as it was");
    let view = wait_for("the repair", || {
        let answer = daemon.get(&route);
        (answer.status == 200).then(|| answer.json()["capture"].take())
    });
    assert_eq!((&view["state"], &view["stop_reason"]), (&json!("finished"), &json!("interrupted")));
    assert_eq!(view["filter"], "tcp");
    let file = daemon.get(&format!("{route}/file"));
    let path = folder.path().join("repaired.pcapng");
    fs::write(&path, &file.body).unwrap();
    assert_eq!(Some(packets(&path)), view["written"].as_u64());
    assert!(packets(&path) > 20);
    assert!(file.header("etag").starts_with('"'));
}

#[test]
fn a_stopped_daemon_ends_its_capture() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let route = daemon.capture(&json!({}));
    drop(daemon);
    let daemon = Daemon::start(folder.path());
    assert_eq!(daemon.view(&route)["stop_reason"], "daemon_stopped");
}

#[test]
fn linnet_capture_writes_a_file_and_keeps_nothing_in_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let path = folder.path().join("out.pcapng");
    let text = path.to_str().unwrap();
    let done = daemon.linnet(&["-c", "30", "-f", "tcp or udp", "-w", text]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(packets(&path), 30);
    daemon.assert_no_captures();

    let before = fs::read(&path).unwrap();
    let refused = daemon.linnet(&["-f", "tcp prot 80", "-w", text]).output().unwrap();
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("tcp prot 80") && said.contains("syntax error"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), before, "a bad filter truncates nothing");
    daemon.assert_no_captures();
}

#[test]
fn an_interrupted_linnet_capture_leaves_a_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let path = folder.path().join("out.pcapng");
    let mut child = daemon.linnet(&["-w", path.to_str().unwrap()]).spawn().unwrap();
    wait_for("packets", || path.metadata().is_ok_and(|file| file.len() > 2_000).then_some(()));
    signal(&mut child, Signal::SIGINT);
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(packets(&path) > 5);
    daemon.assert_no_captures();
}

#[test]
fn linnet_capture_feeds_tshark_and_ends_when_its_reader_goes() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path());
    let mut child = daemon.linnet(&["-c", "25", "-w", "-"]).spawn().unwrap();
    if let Some(tshark) = tshark(child.stdout.take().unwrap().into()) {
        assert_eq!(counted(tshark), 25);
    }
    assert!(child.wait().unwrap().success());

    let mut child = daemon.linnet(&["-w", "-"]).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 200]).unwrap();
    drop(output);
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    daemon.assert_no_captures();
}
