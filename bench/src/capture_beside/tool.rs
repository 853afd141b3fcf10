//! The public tools: how each is told to capture one interface into one file, when it is ready, and what it says at its end.
//! Never left running: dropped, they are killed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use lab::{
    Namespace,
    clock::{monotonic_ns, nanos},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{BUFFER_MIB, Counted};

/// How long a tool may take to begin, or to end.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// From one look at a file to the next.
const LOOK: Duration = Duration::from_millis(50);
/// A file is complete when it has not grown for so long: libpcap hands over a part of its buffer after a second.
const SETTLED_AFTER: Duration = Duration::from_millis(1_200);

/// A tool that is no part of linnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// libpcap's own.
    Tcpdump,
    /// Wireshark's.
    Dumpcap,
    /// With the ring of AF_PACKET, without libpcap.
    NetsniffNg,
    /// xdp-tools', in front of an XDP program.
    Xdpdump,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcpdump, Self::Dumpcap, Self::NetsniffNg, Self::Xdpdump];

    /// Its program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Tcpdump => "tcpdump",
            Self::Dumpcap => "dumpcap",
            Self::NetsniffNg => "netsniff-ng",
            Self::Xdpdump => "xdpdump",
        }
    }

    /// What it is given to capture `interface`; `folder` has room for a filter.
    fn arguments(
        self,
        interface: &str,
        file: &str,
        snaplen: u32,
        folder: &Path,
    ) -> anyhow::Result<Vec<String>> {
        let length = snaplen.to_string();
        let mebi = BUFFER_MIB.to_string();
        let (kibi, ring) = ((BUFFER_MIB * 1024).to_string(), format!("{BUFFER_MIB}MiB"));
        let words: &[&str] = match self {
            // Not as another user: the folder is root's.
            Self::Tcpdump => {
                &["-n", "-Z", "root", "-B", &kibi, "-s", &length, "-i", interface, "-w", file]
            }
            Self::Dumpcap => &["-q", "-B", &mebi, "-s", &length, "-i", interface, "-w", file],
            Self::NetsniffNg => {
                // It has no option for the length, which a filter's verdict is.
                let filter = folder.join("filter");
                fs::write(&filter, format!("{{ 0x6, 0, 0, {snaplen:#010x} }},\n"))?;
                let mut words = ["--in", interface, "--out", file, "--ring-size", &ring]
                    .map(str::to_owned)
                    .to_vec();
                words.extend(["--silent".to_owned(), "-f".to_owned()]);
                words.push(filter.to_string_lossy().into_owned());
                return Ok(words);
            }
            // It loads an empty program to stand in front of.
            Self::Xdpdump => &[
                "--load-xdp-program",
                "--rx-capture",
                "entry",
                "-s",
                &length,
                "-i",
                interface,
                "-w",
                file,
            ],
        };
        Ok(words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// What it prints when it captures.
    const fn ready(self) -> &'static str {
        match self {
            Self::Tcpdump | Self::Xdpdump => "listening on",
            Self::Dumpcap => "File:",
            Self::NetsniffNg => "Running!",
        }
    }

    /// Its last words, as counts.
    fn counted(self, said: &str) -> Option<Counted> {
        let before = |words: &str| {
            let line = said.lines().find(|line| line.contains(words))?;
            line.split_whitespace().next()?.parse().ok()
        };
        match self {
            Self::Tcpdump => Some(Counted {
                written: before("packets captured")?,
                lost: before("packets dropped by kernel")?,
            }),
            Self::Xdpdump => Some(Counted {
                written: before("packets captured")?,
                // It says nothing where there is nothing.
                lost: before("packets dropped by perf ring").unwrap_or(0),
            }),
            Self::NetsniffNg => Some(Counted {
                written: before("packets passed filter")?,
                lost: before("packets failed filter (out of space)")?,
            }),
            // `Packets received/dropped on interface 's0': 611972/388028 (pcap:388028/..`
            Self::Dumpcap => {
                let (_, counts) = said.split_once("received/dropped on interface")?;
                let (_, counts) = counts.split_once("': ")?;
                let (written, rest) = counts.split_once('/')?;
                let lost = rest.split_whitespace().next()?;
                Some(Counted { written: written.parse().ok()?, lost: lost.parse().ok()? })
            }
        }
    }

    /// The first line that it says of its version.
    pub fn version(self) -> anyhow::Result<String> {
        let output = Command::new(self.program()).arg("--version").output();
        let output =
            output.with_context(|| format!("cannot run `{}`; install it", self.program()))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let has_digit = |line: &&str| line.chars().any(|letter| letter.is_ascii_digit());
        let line = text.lines().find(has_digit).unwrap_or_default();
        Ok(line.trim().trim_end_matches('.').to_owned())
    }
}

/// A tool at work.
#[derive(Debug)]
pub struct Running {
    tool: Tool,
    child: Child,
    file: PathBuf,
    log: PathBuf,
}

impl Running {
    /// Starts a tool, and returns once it captures.
    pub fn start(
        tool: Tool,
        namespace: &Namespace,
        interface: &str,
        snaplen: u32,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let (file, log) = (folder.join("capture"), folder.join("log"));
        let said = File::create(&log).context("cannot make a file for what a tool says")?;
        let mut command = namespace.command(tool.program());
        command.args(tool.arguments(interface, &file.to_string_lossy(), snaplen, folder)?);
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let child = command
            .spawn()
            .with_context(|| format!("cannot run `{}`; install it", tool.program()))?;
        let mut running = Self { tool, child, file, log };
        running.wait_for("begin", |running| {
            if running.child.try_wait()?.is_some() {
                bail!("`{}` ended by itself: {}", tool.program(), running.said());
            }
            Ok(running.said().contains(tool.ready()))
        })?;
        Ok(running)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it writes.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Waits until its file stops growing.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let (mut last, mut since_ns) = (u64::MAX, monotonic_ns());
        self.wait_for("write what it has", |running| {
            let size = fs::metadata(&running.file).map_or(0, |data| data.len());
            if size != last {
                (last, since_ns) = (size, monotonic_ns());
            }
            Ok(monotonic_ns() - since_ns >= nanos(SETTLED_AFTER))
        })
    }

    /// Ends it, and takes its last words.
    pub fn stop(mut self) -> anyhow::Result<Counted> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)
            .context("the tool has gone")?;
        self.wait_for("end", |running| Ok(running.child.try_wait()?.is_some()))?;
        let (said, program) = (self.said(), self.tool.program());
        self.tool.counted(&said).with_context(|| format!("`{program}` counts nothing: {said}"))
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn wait_for(
        &mut self,
        what: &str,
        mut done: impl FnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline_ns = monotonic_ns() + nanos(WAIT_MAX);
        while !done(self)? {
            if monotonic_ns() > deadline_ns {
                bail!("`{}` does not {what}: {}", self.tool.program(), self.said());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_each_tool_are_understood() {
        let cases = [
            (
                Tool::Tcpdump,
                "12 packets captured\n14 packets received by filter\n2 packets dropped by kernel\n",
                (12, 2),
            ),
            (
                Tool::Dumpcap,
                "Packets captured: 612\nPackets received/dropped on interface 's0': 612/388 (pcap:388/dumpcap:0/flushed:0/ps_ifdrop:0) (61.2%)\n",
                (612, 388),
            ),
            (
                Tool::NetsniffNg,
                "\n  1000  packets incoming (0 unread on exit)\n   998  packets passed filter\n   2  packets failed filter (out of space)\n",
                (998, 2),
            ),
            (
                Tool::Xdpdump,
                "listening on s0\n\n451 packets captured\n541 packets dropped by perf ring\n",
                (451, 541),
            ),
            (Tool::Xdpdump, "451 packets captured\n", (451, 0)),
        ];
        for (tool, said, (written, lost)) in cases {
            assert_eq!(tool.counted(said), Some(Counted { written, lost }), "{tool:?}");
        }
    }

    #[test]
    fn silence_is_no_count() {
        assert!(Tool::ALL.iter().all(|tool| tool.counted("Killed\n").is_none()));
    }
}
