//! The API over real sockets: a daemon that replays a capture, asked as a client would.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// A daemon of its own, ended with the test.
struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
    address: String,
    login: String,
}

/// Three packets of one TCP flow, as classic pcap: enough to have a row.
fn capture(folder: &Path) -> PathBuf {
    let scene = lab::synth::Scene { seconds: 5, seed: 7, ..lab::synth::Scene::default() };
    let path = folder.join("scene.pcap");
    let mut file = std::fs::File::create(&path).unwrap();
    lab::synth::write(&scene, &mut file).unwrap();
    file.flush().unwrap();
    path
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let capture = capture(folder.path());
        let mut child = Command::new(env!("CARGO_BIN_EXE_linnet"))
            .args(["run", "--one-time-login", "--listen", "127.0.0.1:0", "--replay"])
            .arg(capture)
            .arg("--run-dir")
            .arg(folder.path().join("run"))
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("open http://").unwrap();
        let (address, login) = url.split_once("/#login=").unwrap();
        let daemon = Self { child, address: address.into(), login: login.into(), folder };
        daemon.wait_until_flows();
        daemon
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn curl(&self, args: &[&str], path: &str) -> (u16, Value) {
        let output = Command::new("curl")
            .args(["-s", "-m", "20", "-w", "\n%{http_code}"])
            .args(args)
            .arg(format!("http://{}{path}", self.address))
            .output()
            .expect("curl is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::String(body.into())))
    }

    /// As root over the unix socket.
    fn get(&self, path: &str) -> (u16, Value) {
        let socket = self.run_dir().join("api.sock");
        self.curl(&["--unix-socket", socket.to_str().unwrap()], path)
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let socket = self.run_dir().join("api.sock");
        let body = body.to_string();
        let json = "content-type: application/json";
        self.curl(&["--unix-socket", socket.to_str().unwrap(), "-H", json, "-d", &body], path)
    }

    #[expect(clippy::disallowed_methods, reason = "a bounded wait for another process")]
    fn wait_until_flows(&self) {
        let start = Instant::now();
        while self.get("/api/v1/flows").1["total"].as_u64().unwrap_or(0) < 3 {
            assert!(start.elapsed() < Duration::from_secs(30), "no flows in time");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_stranger_gets_nothing_and_the_token_everything() {
    let daemon = Daemon::start();
    let token = std::fs::read_to_string(daemon.run_dir().join("token")).unwrap();
    let bearer = format!("authorization: Bearer {}", token.trim());
    for path in ["/api/v1/flows", "/api/v1/status", "/metrics", "/api/v1/captures"] {
        assert_eq!(daemon.curl(&[], path).0, 401, "{path} without a token");
        assert_eq!(daemon.curl(&["-H", "authorization: Bearer linnet_0"], path).0, 401, "{path}");
        assert_eq!(daemon.curl(&["-H", &bearer], path).0, 200, "{path} with the token");
        assert_eq!(daemon.get(path).0, 200, "{path} over the unix socket");
    }
    for path in ["/healthz", "/livez", "/"] {
        assert_eq!(daemon.curl(&[], path).0, 200, "{path} is open");
    }
    let (status, problem) =
        daemon.curl(&["-H", &bearer, "-H", "host: evil.example"], "/api/v1/flows");
    assert_eq!((status, &problem["code"]), (403, &json!("cross_site")), "a rebound name");
    let origin = "origin: http://evil.example";
    assert_eq!(daemon.curl(&["-H", &bearer, "-H", origin], "/api/v1/flows").0, 403);
}

#[test]
fn a_login_works_once() {
    let daemon = Daemon::start();
    let body = json!({ "login": daemon.login }).to_string();
    let jar = daemon.folder.path().join("cookies");
    let jar = jar.to_str().unwrap();
    let json = "content-type: application/json";
    let login = ["-c", jar, "-H", json, "-d", &body];
    assert_eq!(daemon.curl(&login, "/api/v1/sessions").0, 201);
    assert_eq!(daemon.curl(&["-b", jar], "/api/v1/flows").0, 200);
    assert_eq!(daemon.curl(&login, "/api/v1/sessions").0, 401, "used up");
    assert_eq!(daemon.curl(&["-b", jar, "-X", "DELETE"], "/api/v1/sessions/current").0, 204);
    assert_eq!(daemon.curl(&["-b", jar], "/api/v1/flows").0, 401, "logged out");
}

#[test]
fn pages_hold_the_flows_in_order_and_every_list_its_losses() {
    let daemon = Daemon::start();
    let mut seen = Vec::new();
    let mut path = "/api/v1/flows?sort=first_seen&limit=2".to_owned();
    loop {
        let (status, page) = daemon.get(&path);
        assert_eq!(status, 200, "{page}");
        let loss = &page["loss"];
        let sum: u64 = loss["ledger"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(loss["seen"].as_u64(), Some(sum), "the ledger balances");
        for flow in page["flows"].as_array().unwrap() {
            seen.push((flow["first_seen"].as_str().unwrap().to_owned(), flow["id"].clone()));
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/flows?sort=first_seen&limit=2&cursor={next}");
    }
    assert!(seen.len() > 3);
    assert!(seen.is_sorted_by(|a, b| a.0 <= b.0), "{seen:?}");
    let id = seen[0].1.as_str().unwrap();
    assert_eq!(daemon.get(&format!("/api/v1/flows/{id}")).1["flow"]["id"], seen[0].1);
}

#[test]
fn a_bad_request_says_what_is_wrong() {
    let daemon = Daemon::start();
    for (path, status, code, word) in [
        ("/api/v1/flows?sort=speed", 400, "invalid_parameter", "rtt.p99_ns"),
        ("/api/v1/flows?limit=0", 400, "invalid_parameter", "1000"),
        ("/api/v1/flows?address=here", 400, "invalid_parameter", "here"),
        ("/api/v1/flows?colour=red", 400, "invalid_parameter", "protocol"),
        ("/api/v1/flows?cursor=x", 400, "invalid_parameter", "next"),
        ("/api/v1/flows?state=odd", 400, "invalid_parameter", "ESTABLISHED"),
        ("/api/v1/flows/short", 400, "invalid_parameter", "26"),
        ("/api/v1/flows/00000000000000000000000000", 404, "not_found", "ended"),
        ("/api/v1/nothing", 404, "not_found", "docs/api.md"),
        ("/api/v1/captures/none", 404, "not_found", "none"),
        ("/api/v1/captures/none/file", 404, "not_found", "none"),
    ] {
        let (got, problem) = daemon.get(path);
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{path}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{path}: {problem}");
    }
    let captures = "/api/v1/captures";
    for (body, status, code) in [
        (json!({ "filter": "tcp prot 80" }), 400, "invalid_filter"),
        (json!({ "snaplen": 0 }), 422, "invalid_field"),
        (json!({ "limits": { "seconds": 0 } }), 422, "invalid_field"),
        (json!({ "interface": "nowhere" }), 422, "invalid_field"),
        (json!({ "colour": "red" }), 400, "invalid_body"),
    ] {
        let (got, problem) = daemon.post(captures, &body);
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{body}: {problem}");
    }
    assert_eq!(daemon.post("/api/v1/flows", &json!({})).0, 405);
}

#[test]
fn a_capture_runs_alone_and_its_file_is_whole() {
    let daemon = Daemon::start();
    let (status, answer) =
        daemon.post("/api/v1/captures", &json!({ "filter": "tcp", "limits": { "packets": 20 } }));
    assert_eq!(status, 201, "{answer}");
    let id = answer["capture"]["id"].as_str().unwrap().to_owned();
    let (status, problem) = daemon.post("/api/v1/captures", &json!({}));
    assert_eq!((status, &problem["code"]), (409, &json!("capture_running")));
    let file = daemon.folder.path().join("live.pcapng");
    let socket = daemon.run_dir().join("api.sock");
    let args = ["--unix-socket", socket.to_str().unwrap(), "-o", file.to_str().unwrap()];
    // The stream ends with the capture.
    assert_eq!(daemon.curl(&args, &format!("/api/v1/captures/{id}/live")).0, 200);
    let capture = daemon.get(&format!("/api/v1/captures/{id}")).1["capture"].clone();
    assert_eq!(capture["state"], "finished", "{capture}");
    assert_eq!(capture["stop_reason"], "packet_limit");
    assert_eq!(capture["written"], 20);
    assert_eq!(capture["matched"], capture["written"]);
    let mut reader = captures::PacketReader::open(&file).unwrap();
    let mut packets = 0;
    while reader.next_packet().unwrap().is_some() {
        packets += 1;
    }
    assert_eq!(packets, 20);
    let delete = ["--unix-socket", socket.to_str().unwrap(), "-X", "DELETE"];
    assert_eq!(daemon.curl(&delete, &format!("/api/v1/captures/{id}")).0, 204);
    assert_eq!(daemon.get(&format!("/api/v1/captures/{id}")).0, 404);
}
