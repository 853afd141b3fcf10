//! A daemon of its own for each test, over real sockets: it replays a generated capture and ends with the test.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longest wait for anything.
const WAIT: Duration = Duration::from_secs(30);
/// Every problem's code has to be in here.
const DOCUMENTATION: &str = include_str!("../../../docs/api.md");

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
    /// Where it listens on loopback.
    pub(crate) address: String,
    /// Its one-time login.
    pub(crate) login: String,
}

/// An answer as curl saw it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn new(output: &str) -> Self {
        // Interim responses (100 Continue) come first.
        let mut rest = output;
        loop {
            let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
            let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
            if status == 100 {
                rest = body;
                continue;
            }
            let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.into()));
            return Self { status, head: head.to_owned(), body };
        }
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Asserts that this is a whole problem, and returns its code and detail.
    #[track_caller]
    pub(crate) fn problem(&self) -> (u16, &str, &str) {
        let text =
            |name: &str| self.body[name].as_str().unwrap_or_else(|| panic!("{name}: {self:?}"));
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        assert_eq!(self.header("x-request-id"), Some(text("request_id")), "{self:?}");
        assert!(text("instance").starts_with('/') && !text("title").is_empty(), "{self:?}");
        let code = text("code");
        assert_eq!(text("type"), format!("urn:linnet:problem:{code}"));
        let row = format!("| `{code}` | {} |", self.status);
        assert!(DOCUMENTATION.contains(&row), "docs/api.md does not have `{row}`");
        (self.status, code, text("detail"))
    }
}

/// Five seconds of many conversations.
fn capture(folder: &Path) -> PathBuf {
    let scene = lab::synth::Scene { seconds: 5, seed: 7, ..lab::synth::Scene::default() };
    let path = folder.join("scene.pcap");
    let mut file = std::fs::File::create(&path).unwrap();
    lab::synth::write(&scene, &mut file).unwrap();
    file.flush().unwrap();
    path
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_by(&[])
    }

    /// Starts it by another program, which takes it as its last arguments.
    pub(crate) fn start_by(launcher: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let capture = capture(folder.path());
        let daemon = Self::replay(launcher, folder, &capture, &[]);
        wait_until("there are flows", || {
            daemon.get("/api/v1/flows").1["total"].as_u64().unwrap_or(0) >= 3
        });
        daemon
    }

    /// Starts it on a capture, with what it writes in `folder`.
    pub(crate) fn replay(
        launcher: &[&str],
        folder: tempfile::TempDir,
        capture: &Path,
        more: &[&str],
    ) -> Self {
        // For tests that ask as another user.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let line = launcher.iter().copied().chain([env!("CARGO_BIN_EXE_linnet")]);
        let line: Vec<_> = line.collect();
        let mut child = Command::new(line[0])
            .args(&line[1..])
            .args(["run", "--one-time-login", "--listen", "127.0.0.1:0", "--replay"])
            .arg(capture)
            .arg("--run-dir")
            .arg(folder.path().join("run"))
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .args(more)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("open http://").unwrap();
        let (address, login) = url.split_once("/#login=").unwrap();
        Self { child, address: address.into(), login: login.into(), folder }
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder().join("log")).unwrap()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir().join("api.sock")
    }

    /// The header that carries the token.
    pub(crate) fn bearer(&self) -> String {
        let token = std::fs::read_to_string(self.run_dir().join("token")).unwrap();
        format!("authorization: Bearer {}", token.trim())
    }

    /// What curl with these arguments gets over TCP.
    pub(crate) fn ask(&self, args: &[&str], path: &str) -> Answer {
        let output = Command::new("curl")
            .args(["-s", "-i", "-m", "20"])
            .args(args)
            .arg(format!("http://{}{path}", self.address))
            .output()
            .expect("curl is installed");
        Answer::new(&String::from_utf8_lossy(&output.stdout))
    }

    /// What curl gets as root over the unix socket.
    pub(crate) fn ask_unix(&self, args: &[&str], path: &str) -> Answer {
        let socket = self.socket();
        let unix = ["--unix-socket", socket.to_str().unwrap()];
        self.ask(&[&unix, args].concat(), path)
    }

    /// How many bytes come, as root over the unix socket.
    pub(crate) fn download(&self, path: &str) -> u64 {
        let output = Command::new("curl")
            .args(["-sf", "-m", "60", "-o", "/dev/null", "-w", "%{size_download}"])
            .arg("--unix-socket")
            .arg(self.socket())
            .arg(format!("http://localhost{path}"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).parse().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.ask_unix(&[], path);
        (answer.status, answer.body)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let json = "content-type: application/json";
        let answer = self.ask_unix(&["-H", json, "-d", &body.to_string()], path);
        (answer.status, answer.body)
    }

    pub(crate) fn connect_tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    }

    pub(crate) fn connect_unix(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    }

    /// A request's head as bytes, with the right `Host`.
    pub(crate) fn head(&self, request: &str, headers: &[&str]) -> String {
        let mut head = format!("{request} HTTP/1.1\r\nhost: {}\r\n", self.address);
        for header in headers {
            write!(head, "{header}\r\n").unwrap();
        }
        head + "\r\n"
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        // One that has ended already needs no signal.
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.stop();
        }
    }
}

/// Waits for a condition, but not for ever.
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(WAIT, what, condition);
}

/// Waits for a condition, at most `limit`.
#[expect(clippy::disallowed_methods, reason = "a bounded wait for another process")]
pub(crate) fn wait_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How long something takes.
#[expect(clippy::disallowed_methods, reason = "a test of time limits")]
pub(crate) fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = act();
    (result, start.elapsed())
}

/// Reads until the other end closes; a reset counts as closed.
pub(crate) fn read_to_end(mut stream: impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("not closed in time: {error}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads one answer of a connection that stays open; its body has to have a length.
pub(crate) fn read_answer(stream: &mut impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    format!("{head}{}", String::from_utf8_lossy(&body))
}
