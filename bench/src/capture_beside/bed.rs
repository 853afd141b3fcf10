//! One lab with one tool in it, and trials in it: start the tool, send, wait for the file, count what is in it. Never
//! believes a tool's counts without its file.

use std::{fs, os::fd::OwnedFd};

use anyhow::{Context as _, ensure};
use lab::{CLIENT_INTERFACE, Lab, Plan, SERVER_INTERFACE};

use super::{
    Counted, Run, Scene,
    cpu::Used,
    kernel,
    linnet::{Capture, Hook, Linnet},
    scratch,
    sender::{Sender, Sent},
    tool::{Running, Tool},
};

/// What is at the receiving end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// An XDP program that passes everything.
    EmptyProgram,
    /// linnet, which tracks flows and captures nothing.
    Watching(Hook),
    /// linnet with a capture.
    Linnet(Hook),
    /// Another tool.
    Tool(Tool),
}

impl Beside {
    /// As the tables call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::EmptyProgram => "an empty XDP program",
            Self::Watching(Hook::Tc) => "linnet by TC, no capture",
            Self::Watching(Hook::Xdp) => "linnet by XDP, no capture",
            Self::Linnet(Hook::Tc) => "linnet by TC",
            Self::Linnet(Hook::Xdp) => "linnet by XDP",
            Self::Tool(tool) => tool.program(),
        }
    }
}

/// What came of a trial.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// What was sent, and what that took.
    pub sent: Sent,
    /// Frames that the other end received.
    pub arrived: u64,
    /// Of these, frames in the file; without a capture, what arrived.
    pub captured: u64,
    /// The processors' time.
    pub used: Used,
}

impl Trial {
    /// Frames per second that the other end received: a veth's ring can be full, and what did not arrive was not offered.
    #[must_use]
    pub fn rate(&self) -> u64 {
        Sent { frames: self.arrived, ..self.sent }.rate()
    }

    /// Whether the file has everything.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.captured >= self.arrived
    }
}

/// The lab.
#[derive(Debug)]
pub struct Bed<'a> {
    // Dropped in this order: whatever is attached goes before its interface.
    guest: Guest,
    lab: Lab,
    run: &'a Run<'a>,
}

#[derive(Debug)]
enum Guest {
    Nobody,
    Program(#[expect(dead_code, reason = "held for its drop")] OwnedFd),
    Watching(Linnet),
    Linnet(Linnet),
    Tool(Tool),
}

impl<'a> Bed<'a> {
    /// Builds it, with whatever stays from one trial to the next.
    pub fn new(run: &'a Run<'a>, beside: Beside) -> anyhow::Result<Self> {
        let lab = Lab::build(Plan::direct("capture"))?;
        // A veth takes redirected frames only where its other end polls, which this turns on.
        let mut ethtool = lab.server().command("ethtool");
        let status = ethtool.args(["-K", SERVER_INTERFACE, "gro", "on"]).status();
        ensure!(status.context("cannot run `ethtool`; install it")?.success(), "no GRO on veth");
        let watch = |hook| {
            let interface = format!("{}/{SERVER_INTERFACE}", lab.server().name());
            Linnet::watch(run.linnet, &interface, hook, run.scratch.folder()?)
        };
        let guest = match beside {
            Beside::Nothing => Guest::Nobody,
            Beside::EmptyProgram => {
                Guest::Program(kernel::attach_empty(lab.server(), SERVER_INTERFACE)?)
            }
            Beside::Watching(hook) => Guest::Watching(watch(hook)?),
            Beside::Linnet(hook) => Guest::Linnet(watch(hook)?),
            Beside::Tool(tool) => Guest::Tool(tool),
        };
        Ok(Self { guest, lab, run })
    }

    /// Sends so many frames while the tool captures.
    pub fn trial(&self, scene: Scene, frames: u32, rate: Option<u64>) -> anyhow::Result<Trial> {
        let sender = Sender::new(self.lab.client(), CLIENT_INTERFACE, scene.length)?;
        let send = || sender.send(frames, rate);
        match &self.guest {
            Guest::Nobody | Guest::Program(_) => self.measure(&[], send, || Ok(())),
            Guest::Watching(linnet) => self.measure(&linnet.processes()?, send, || Ok(())),
            Guest::Linnet(linnet) => {
                let capture = linnet.capture(scene.snaplen)?;
                let trial = self.measure(&linnet.processes()?, send, || capture.settle())?;
                let (file, id) = (capture.file().to_owned(), capture.id().to_owned());
                let counted = capture.stop()?;
                let trial = counted_in(trial, counted, scratch::frames(&file, scene.length)?)?;
                Capture::remove(linnet, &id)?;
                Ok(trial)
            }
            Guest::Tool(tool) => {
                let folder = self.run.scratch.folder()?;
                let mut running = Running::start(
                    *tool,
                    self.lab.server(),
                    SERVER_INTERFACE,
                    scene.snaplen,
                    folder.path(),
                )?;
                let trial = self.measure(&[running.pid()], send, || running.settle())?;
                let file = running.file().to_owned();
                let counted = running.stop()?;
                counted_in(trial, counted, scratch::frames(&file, scene.length)?)
            }
        }
    }

    /// What processes, kernel and machine used from before the first frame until the file is complete.
    fn measure(
        &self,
        processes: &[u32],
        send: impl FnOnce() -> anyhow::Result<Sent>,
        settle: impl FnOnce() -> anyhow::Result<()>,
    ) -> anyhow::Result<Trial> {
        let (used, received) = (self.run.meter.read(processes)?, self.received()?);
        let sent = send()?;
        settle()?;
        let used = self.run.meter.read(processes)?.since(used);
        // A few of the ends' own may be among them.
        let arrived = (self.received()? - received).min(sent.frames);
        Ok(Trial { sent, arrived, captured: arrived, used })
    }

    /// Frames that the receiving end has received.
    fn received(&self) -> anyhow::Result<u64> {
        let text = self.lab.server().run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        received(&text, SERVER_INTERFACE).context("the kernel does not count what was received")
    }
}

fn counted_in(trial: Trial, counted: Counted, captured: u64) -> anyhow::Result<Trial> {
    let Counted { written, lost } = counted;
    ensure!(
        captured <= written,
        "the tool counts {written} packets, and {captured} of {} frames are in its file ({lost} lost)",
        trial.arrived
    );
    Ok(Trial { captured: captured.min(trial.arrived), ..trial })
}

/// The second number of an interface's line in `/proc/net/dev`.
fn received(text: &str, interface: &str) -> Option<u64> {
    let line =
        text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_frames_are_found_by_interface() {
        let text =
            "Inter-|   Receive\n face |bytes    packets\n    lo: 1 2 3\n    s0: 640 10 0 0\n";
        assert_eq!(received(text, "s0"), Some(10));
        assert_eq!(received(text, "s"), None);
    }

    #[test]
    fn what_did_not_arrive_is_in_no_rate() {
        let sent = Sent { frames: 1_000, wall_ns: 1_000_000, busy_ns: 1, waited_ns: 0 };
        let trial = Trial { sent, arrived: 900, captured: 900, used: Used::default() };
        assert_eq!(trial.rate(), 900_000);
    }

    #[test]
    fn a_file_has_no_more_than_its_tool_counts() {
        let sent = Sent { frames: 9, wall_ns: 1, busy_ns: 1, waited_ns: 0 };
        let trial = Trial { sent, arrived: 9, captured: 9, used: Used::default() };
        let counted = Counted { written: 8, lost: 1 };
        assert!(!counted_in(trial, counted, 7).unwrap().is_whole());
        assert!(counted_in(trial, counted, 9).is_err());
    }
}
