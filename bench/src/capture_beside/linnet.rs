//! linnet as anyone runs it: `linnet run` with folders of its own, asked over its socket for captures. Never outlives its
//! value, and never touches folders or pins other than its own.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use lab::clock::{monotonic_ns, nanos};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{BUFFER_MIB, Counted, scratch::Folder};

/// How long an answer, a start and an end may take.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// From one look to the next.
const LOOK: Duration = Duration::from_millis(50);

/// Where linnet sees what an interface receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TC, the default.
    Tc,
    /// Native XDP.
    Xdp,
}

impl Hook {
    /// As an interface's option.
    const fn choice(self) -> &'static str {
        match self {
            Self::Tc => "auto",
            Self::Xdp => "xdp",
        }
    }
}

/// A running linnet.
#[derive(Debug)]
pub struct Linnet {
    program: PathBuf,
    child: Child,
    run: PathBuf,
    state: PathBuf,
    pins: PathBuf,
    #[expect(dead_code, reason = "held for its drop, when the processes have ended")]
    folder: Folder,
}

impl Linnet {
    /// Watches what `interface` (`NAMESPACE/NAME`) receives; returns when it is ready. `folder` becomes its own.
    pub fn watch(
        program: &Path,
        interface: &str,
        hook: Hook,
        folder: Folder,
    ) -> anyhow::Result<Self> {
        let processors = aya::util::nr_cpus().map_err(|(_, source)| source)?;
        let (config, log) = (folder.path().join("linnet.toml"), folder.path().join("linnet.log"));
        // Each processor has an equal share of it, and one of them sends.
        let ring_mib = (BUFFER_MIB * processors).next_power_of_two();
        fs::write(&config, format!("schema = 1\ncapture.ring_mib = {ring_mib}\n"))?;
        let (run, state) = (folder.path().join("run"), folder.path().join("state"));
        let pins = PathBuf::from(format!("/sys/fs/bpf/linnet-bench-{}", std::process::id()));
        let mut command = Command::new(program);
        command.args(["run", "--one-time-login", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(config).arg("--run-dir").arg(&run).arg("--state-dir").arg(&state);
        command.arg("--pin-dir").arg(&pins).arg("--interface");
        command.arg(format!("{interface},ingress={},egress=off", hook.choice()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child = command.spawn().context("cannot run linnet")?;
        let stdout = child.stdout.take().context("linnet has no output")?;
        let linnet = Self { program: program.into(), child, run, state, pins, folder };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        ensure!(line.starts_with("open "), "linnet did not start: {}", said());
        wait_for("be ready", || Ok(linnet.ask("GET", "/readyz", None)?.0 == 200))?;
        Ok(linnet)
    }

    /// Its processes: the one that was started, and those that it has started.
    pub fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let own = self.child.id();
        let children = format!("/proc/{own}/task/{own}/children");
        let children = fs::read_to_string(children).context("this kernel lists no children")?;
        let pids = children.split_whitespace().map(str::parse);
        let mut all = pids.collect::<Result<Vec<u32>, _>>()?;
        all.push(own);
        Ok(all)
    }

    /// Starts a capture of everything.
    pub fn capture(&self, snaplen: u32) -> anyhow::Result<Capture<'_>> {
        let body = json!({ "filter": "", "snaplen": snaplen });
        let (status, answer) = self.ask("POST", "/api/v1/captures", Some(&body))?;
        ensure!(status == 201, "linnet does not capture: {answer}");
        let id = answer["capture"]["id"].as_str().context("a capture has an id")?.to_owned();
        let file = self.state.join("captures").join(format!("{id}.pcapng"));
        Ok(Capture { linnet: self, id, file })
    }

    /// One question over the socket: status and answer.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, Value)> {
        let socket = self.run.join("api.sock");
        let mut stream = UnixStream::connect(socket).context("linnet does not listen")?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        parse(&answer).with_context(|| format!("linnet answers {path} with `{answer}`"))
    }
}

/// Status and body of an answer that is not in chunks; a body that is no JSON is null.
fn parse(answer: &str) -> Option<(u16, Value)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

impl Drop for Linnet {
    fn drop(&mut self) {
        let asked =
            i32::try_from(self.child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        let child = &mut self.child;
        let ended = wait_for("end", || Ok(child.try_wait()?.is_some()));
        if asked.is_err() || ended.is_err() {
            // It may have ended meanwhile.
            let _gone = self.child.kill();
            let _status = self.child.wait();
            let mut detach = Command::new(&self.program);
            detach.args(["detach", "--pin-dir"]).arg(&self.pins).stdout(Stdio::null());
            // What is left then is told by `linnet doctor`.
            let _detached = detach.status();
        }
    }
}

/// A running capture.
#[derive(Debug)]
pub struct Capture<'a> {
    linnet: &'a Linnet,
    id: String,
    file: PathBuf,
}

impl Capture<'_> {
    /// Where it is written.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Waits until all that was copied for it is written or lost.
    pub fn settle(&self) -> anyhow::Result<()> {
        let path = format!("/api/v1/captures/{}", self.id);
        let mut last = None;
        wait_for("write what it has", || {
            let (_, answer) = self.linnet.ask("GET", &path, None)?;
            let counted = counted(&answer)?;
            let is_same = last.replace(counted) == Some(counted);
            let matched = answer["capture"]["matched"].as_u64();
            Ok(is_same && matched == Some(counted.written + counted.lost))
        })
    }

    /// Ends it; what it has counted.
    pub fn stop(self) -> anyhow::Result<Counted> {
        let path = format!("/api/v1/captures/{}/stop", self.id);
        let (status, answer) = self.linnet.ask("POST", &path, None)?;
        ensure!(status == 200, "linnet does not stop: {answer}");
        counted(&answer)
    }

    /// Removes its file.
    pub fn remove(linnet: &Linnet, id: &str) -> anyhow::Result<()> {
        let (status, answer) = linnet.ask("DELETE", &format!("/api/v1/captures/{id}"), None)?;
        ensure!(status == 204, "linnet does not remove a capture: {answer}");
        Ok(())
    }

    /// What linnet calls it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

fn counted(answer: &Value) -> anyhow::Result<Counted> {
    let capture = &answer["capture"];
    let written = capture["written"].as_u64().context("a capture counts what is written")?;
    let lost = capture["lost"].as_object().context("a capture counts what is lost")?;
    Ok(Counted { written, lost: lost.values().filter_map(Value::as_u64).sum() })
}

fn wait_for(what: &str, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline_ns = monotonic_ns() + nanos(WAIT_MAX);
    while !done()? {
        if monotonic_ns() > deadline_ns {
            bail!("linnet does not {what} in {WAIT_MAX:?}");
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = "HTTP/1.1 201 Created\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
        assert_eq!(parse(answer), Some((201, json!({ "a": 1 }))));
        assert_eq!(parse("HTTP/1.1 204 No Content\r\n\r\n"), Some((204, Value::Null)));
        assert_eq!(parse("nothing"), None);
    }

    #[test]
    fn whatever_is_lost_counts() {
        let answer = json!({ "capture": { "written": 7, "lost": { "ring": 2, "disk": 1 } } });
        assert_eq!(counted(&answer).unwrap(), Counted { written: 7, lost: 3 });
    }
}
