//! tcpdump inside a namespace, as an independent witness of what crossed an interface. Never left
//! running: dropped, it is killed.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use crate::clock::{monotonic_ns, nanos};
use crate::error::LabError;
use crate::namespace::Namespace;

/// How long tcpdump may take to begin.
const START_MAX: Duration = Duration::from_secs(10);
/// What [`Tcpdump::start_headers`] takes of each frame.
pub const HEADER_BYTES: &str = "160";
/// How long it may take to write what it has seen.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// The file is complete when it has not grown for this long.
const SETTLED_AFTER: Duration = Duration::from_millis(100);

/// What tcpdump said at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CaptureCounts {
    /// Packets in the file.
    pub captured: u64,
    /// Packets the kernel could not hand over; where not 0, the file is not the whole truth.
    pub dropped_by_kernel: u64,
}

/// A running tcpdump.
#[derive(Debug)]
pub struct Tcpdump {
    child: Child,
    reader: Option<JoinHandle<Vec<String>>>,
    interface: String,
    file: std::path::PathBuf,
}

impl Tcpdump {
    /// Starts capturing whole frames with nanosecond time into `file`, and returns once tcpdump
    /// listens. `filter` is tcpdump's language; empty takes everything.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        file: &Path,
        filter: &str,
    ) -> Result<Self, LabError> {
        Self::start_with(namespace, interface, file, filter, "0")
    }

    /// The same with the first [`HEADER_BYTES`] of each frame: in immediate mode the kernel's buffer has
    /// room for so many frames of the greatest size, which where there are super-packets is not many.
    pub fn start_headers(
        namespace: &Namespace,
        interface: &str,
        file: &Path,
        filter: &str,
    ) -> Result<Self, LabError> {
        Self::start_with(namespace, interface, file, filter, HEADER_BYTES)
    }

    fn start_with(
        namespace: &Namespace,
        interface: &str,
        file: &Path,
        filter: &str,
        frame_bytes: &str,
    ) -> Result<Self, LabError> {
        let absent = |source| LabError::Program { program: "tcpdump", package: "tcpdump", source };
        let mut command = namespace.command("tcpdump");
        // Immediate mode, else the last second is lost; -Z root, else Debian's tcpdump cannot write
        // into private folders.
        command.args(["-n", "-U", "--immediate-mode", "-Z", "root", "-B", "32768"]);
        command.args(["-s", frame_bytes]);
        command.args(["--time-stamp-precision=nano", "-i", interface, "-w"]).arg(file);
        if !filter.is_empty() {
            command.arg(filter);
        }
        let streams = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = streams.spawn().map_err(absent)?;
        let (said, hears) = mpsc::channel();
        let reader = child.stderr.take().map(|stderr| {
            thread::spawn(move || {
                let lines = BufReader::new(stderr).lines().map_while(Result::ok);
                lines.inspect(|line| drop(said.send(line.clone()))).collect()
            })
        });
        let interface = interface.to_owned();
        let capture = Self { child, reader, interface, file: file.to_owned() };
        capture.wait_until_listening(&hears)?;
        Ok(capture)
    }

    /// Stops capturing once everything seen is written.
    pub fn stop(mut self) -> Result<CaptureCounts, LabError> {
        let failed = |interface: &str, source| {
            let interface = interface.to_owned();
            LabError::CaptureStop { interface, source }
        };
        self.settle();
        let pid = i32::try_from(self.child.id())
            .map_err(|_| failed(&self.interface, io::ErrorKind::InvalidData.into()))?;
        kill(Pid::from_raw(pid), Signal::SIGINT)
            .map_err(|errno| failed(&self.interface, errno.into()))?;
        self.child.wait().map_err(|source| failed(&self.interface, source))?;
        let lines = self.reader.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        Ok(counts(&lines))
    }

    fn wait_until_listening(&self, hears: &mpsc::Receiver<String>) -> Result<(), LabError> {
        let deadline_ns = monotonic_ns() + nanos(START_MAX);
        let mut so_far = Vec::new();
        loop {
            let left = Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns()));
            match hears.recv_timeout(left) {
                Ok(line) if line.contains("listening on") => return Ok(()),
                Ok(line) => so_far.push(line),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(LabError::CaptureStart {
                        interface: self.interface.clone(),
                        waited_ms: nanos(START_MAX).saturating_sub(nanos(left)) / 1_000_000,
                        stderr: so_far.join("; "),
                    });
                }
            }
        }
    }

    /// Waits until the file stops growing.
    fn settle(&self) {
        let size = || self.file.metadata().map_or(0, |data| data.len());
        let deadline_ns = monotonic_ns() + nanos(SETTLE_MAX);
        let mut last = size();
        while monotonic_ns() < deadline_ns {
            thread::sleep(SETTLED_AFTER);
            let next = size();
            if next == last {
                return;
            }
            last = next;
        }
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// From lines such as `12 packets captured` and `0 packets dropped by kernel`.
fn counts(lines: &[String]) -> CaptureCounts {
    let number_before = |words: &str| {
        let line = lines.iter().find(|line| line.contains(words))?;
        line.split_whitespace().next()?.parse().ok()
    };
    CaptureCounts {
        captured: number_before("captured").unwrap_or(0),
        dropped_by_kernel: number_before("dropped by kernel").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_tcpdump_are_understood() {
        let said =
            ["12 packets captured", "14 packets received by filter", "2 packets dropped by kernel"];
        let lines = said.map(str::to_owned);
        assert_eq!(counts(&lines), CaptureCounts { captured: 12, dropped_by_kernel: 2 });
    }
}
