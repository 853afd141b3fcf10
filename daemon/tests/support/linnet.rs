//! The `linnet` binary as a process of its own, asked through curl as anyone would. Never outlives its value, and
//! never touches folders or pins other than its own.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::wait_for;

/// A running daemon.
#[derive(Debug)]
pub(crate) struct Linnet {
    child: Child,
    folder: tempfile::TempDir,
    pins: PathBuf,
    /// What it watches from its next start on.
    pub(crate) interfaces: Vec<String>,
    /// Where it serves browsers.
    pub(crate) address: String,
    /// The URL that logs a browser in once.
    pub(crate) login_url: String,
}

/// The command line of a daemon whose folders are in `folder` and whose pins are in `pins`.
pub(crate) fn command(folder: &Path, pins: &Path) -> Command {
    command_with(folder, pins, "")
}

/// The same with further keys of the configuration, each on a line.
fn command_with(folder: &Path, pins: &Path, keys: &str) -> Command {
    let config = folder.join("linnet.toml");
    let text = format!("schema = 1\nflows.sweep_interval_ms = 200\n{keys}");
    fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
    command.args(["run", "--one-time-login", "--listen", "127.0.0.1:0", "--config"]).arg(config);
    command.arg("--run-dir").arg(folder.join("run")).arg("--state-dir").arg(folder.join("state"));
    command.arg("--pin-dir").arg(pins).stdin(Stdio::null());
    command
}

/// A folder for pins that no other test uses.
pub(crate) fn pins(name: &str) -> PathBuf {
    format!("/sys/fs/bpf/linnet-test-{}-{name}", std::process::id()).into()
}

impl Linnet {
    /// Watches interfaces (`NAMESPACE/NAME[,ingress=..][,egress=..]`), and returns after the first sweep. `name`
    /// tells the daemons of one test process apart.
    pub(crate) fn watch(name: &str, interfaces: &[String]) -> Self {
        Self::watch_with(name, interfaces, "")
    }

    /// The same with further keys of the configuration, each on a line.
    pub(crate) fn watch_with(name: &str, interfaces: &[String], keys: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The daemon's user, whoever that is, has to reach what is its own.
        let reachable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), reachable).unwrap();
        Self::start(folder, pins(name), interfaces.to_vec(), keys)
    }

    /// Starts one in folders that are there, and returns after the first sweep.
    fn start(
        folder: tempfile::TempDir,
        pins: PathBuf,
        interfaces: Vec<String>,
        keys: &str,
    ) -> Self {
        let (child, login_url) = spawn(folder.path(), &pins, &interfaces, keys);
        let address = login_url.strip_prefix("http://").unwrap().split_once('/').unwrap().0.into();
        let linnet = Self { child, folder, pins, interfaces, address, login_url };
        wait_for("the first sweep", || (linnet.get("/readyz").0 == 200).then_some(()));
        linnet
    }

    /// After it has ended: starts the next one with the same arguments and these keys, and returns after its first
    /// sweep.
    pub(crate) fn start_again(&mut self, keys: &str) {
        let (child, login_url) = spawn(self.folder.path(), &self.pins, &self.interfaces, keys);
        self.child = child;
        self.address = login_url.strip_prefix("http://").unwrap().split_once('/').unwrap().0.into();
        self.login_url = login_url;
        wait_for("the first sweep", || (self.get("/readyz").0 == 200).then_some(()));
    }

    /// After it has ended: starts the next one with the same arguments, and does not wait for anything.
    pub(crate) fn begin_again(&mut self, keys: &str) {
        self.child =
            started(self.folder.path(), &self.pins, &self.interfaces, keys).spawn().unwrap();
    }

    /// The processes of this linnet, whoever started them.
    fn processes(&self) -> Vec<Pid> {
        let run = self.folder.path().join("run").to_string_lossy().into_owned();
        let of_ours = |entry: fs::DirEntry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let said = fs::read(entry.path().join("cmdline")).ok()?;
            // A zombie has none.
            String::from_utf8_lossy(&said).contains(&run).then_some(Pid::from_raw(pid))
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(of_ours).collect()
    }

    /// Kills attacher and daemon, and waits until both have gone.
    pub(crate) fn kill_both(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
        wait_for("the processes to go", || {
            let left = self.processes();
            // One may end by itself meanwhile.
            for pid in &left {
                kill(*pid, Signal::SIGKILL).ok();
            }
            left.is_empty().then_some(())
        });
    }

    /// Kills the attacher, and waits until the daemon says so.
    pub(crate) fn kill_attacher(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
        wait_for("the daemon to miss its attacher", || {
            let (status, said) = self.get("/healthz");
            (status == 503 && said["code"] == "attacher_gone").then_some(())
        });
    }

    /// After its attacher was killed: starts the next one with the same arguments and these keys, and returns when the
    /// daemon that was left has it.
    pub(crate) fn adopt_again(&mut self, keys: &str) {
        self.begin_again(keys);
        wait_for("the daemon to have an attacher", || (self.get("/readyz").0 == 200).then_some(()));
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run/api.sock")
    }

    pub(crate) fn token(&self) -> String {
        let path = self.folder.path().join("run/token");
        fs::read_to_string(path).unwrap().trim().to_owned()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pins(&self) -> &Path {
        &self.pins
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The daemon, whichever attacher has started it.
    pub(crate) fn daemon_pid(&self) -> Option<u32> {
        let is_daemon = |pid: &Pid| {
            let said = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&said).contains("--handed-over")
        };
        self.processes().into_iter().find(is_daemon).map(|pid| pid.as_raw().cast_unsigned())
    }

    /// A curl that asks over the unix socket, to be given options and run.
    pub(crate) fn curl(&self, path: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "60", "--unix-socket"]).arg(self.socket());
        curl.arg(format!("http://{}{path}", self.address));
        curl
    }

    /// Status and JSON of an answer; text where it is no JSON.
    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        answer(&mut self.curl(path))
    }

    /// A list or object under `key` of an answer that must be 200.
    pub(crate) fn see(&self, path: &str, key: &str) -> Value {
        let (status, mut answer) = self.get(path);
        assert_eq!(status, 200, "{path}: {answer}");
        answer[key].take()
    }

    /// What is not as it should be, beside that a machine for tests has no user for the daemon.
    pub(crate) fn notices(&self) -> Vec<String> {
        let notices = self.see("/api/v1/status", "status")["notices"].take();
        let notices: Vec<String> = serde_json::from_value(notices).unwrap();
        notices.into_iter().filter(|notice| !notice.contains("there is no user")).collect()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let json = "content-type: application/json";
        answer(self.curl(path).args(["-X", "POST", "-H", json, "-d", &body.to_string()]))
    }

    pub(crate) fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        let file = self.folder.path().join("put.json");
        fs::write(&file, body.to_string()).unwrap();
        let (json, data) = ("content-type: application/json", format!("@{}", file.display()));
        answer(self.curl(path).args(["-X", "PUT", "-H", json, "--data-binary", &data]))
    }

    /// Waits until a whole sweep has begun and ended since the call.
    pub(crate) fn settle(&self) {
        let sweeps = || self.see("/api/v1/status", "status")["sweep"]["count"].as_u64().unwrap();
        let before = sweeps();
        wait_for("two sweeps", || (sweeps() >= before + 2).then_some(()));
    }

    /// The rows of an interface once the sweeps have caught up, with a ledger that balances.
    pub(crate) fn flows(&self, interface: &str) -> Vec<Value> {
        self.settle();
        let mut flows = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/api/v1/flows?interface={interface}&limit=1000{cursor}");
            let (status, page) = self.get(&path);
            assert_eq!(status, 200, "{page}");
            flows.extend_from_slice(page["flows"].as_array().unwrap());
            let Some(next) = page["next"].as_str() else { return flows };
            cursor = format!("&cursor={next}");
        }
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the daemon to end", || child.try_wait().unwrap())
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Linnet {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::SIGTERM);
            self.child.wait().ok();
        }
        // One that was left without its attacher.
        for pid in self.processes() {
            kill(pid, Signal::SIGKILL).ok();
        }
        if self.pins.exists() {
            detach(&self.pins);
        }
        if std::thread::panicking() {
            println!("linnet's log:\n{}", self.log());
        }
    }
}

/// Starts the processes; returns once they serve.
fn spawn(folder: &Path, pins: &Path, interfaces: &[String], keys: &str) -> (Child, String) {
    let mut child = started(folder, pins, interfaces, keys).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let Some(login_url) = line.trim().strip_prefix("open ").map(ToOwned::to_owned) else {
        child.wait().unwrap();
        panic!("linnet did not start: {}", fs::read_to_string(folder.join("log")).unwrap());
    };
    (child, login_url)
}

/// The command, which logs behind what an earlier one logged.
fn started(folder: &Path, pins: &Path, interfaces: &[String], keys: &str) -> Command {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut command = command_with(folder, pins, keys);
    command.args(interfaces.iter().flat_map(|interface| ["--interface", interface]));
    command.stdout(Stdio::null()).stderr(log);
    command
}

/// `linnet detach`; whether it said that all is well.
pub(crate) fn detach(pins: &Path) -> bool {
    let mut detach = Command::new(env!("CARGO_BIN_EXE_linnet"));
    detach.args(["detach", "--pin-dir"]).arg(pins).stdout(Stdio::null());
    detach.status().unwrap().success()
}

/// Runs a curl and splits what it printed.
pub(crate) fn answer(curl: &mut Command) -> (u16, Value) {
    let output = curl.args(["-w", "\n%{http_code}"]).output().expect("curl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::String(body.into())))
}

/// The filter that the page writes for a row of a protocol with ports (webui/page/page.js, `captureFilter`).
pub(crate) fn filter_of(flow: &Value) -> String {
    let end = |side: &str, end: &str| {
        let (address, port) = (flow[end]["address"].as_str().unwrap(), &flow[end]["port"]);
        format!("{side} host {address} and {side} port {port}")
    };
    let way = |from, to| format!("({} and {})", end("src", from), end("dst", to));
    let (there, back) = (way("originator", "responder"), way("responder", "originator"));
    format!("{} and ({there} or {back})", flow["protocol"].as_str().unwrap())
}
