//! Programs that a task starts and has to end again. Must never end anything that it did not start, and
//! never let a program outlive the value that holds it.

use crate::{console::Stopwatch, signals::Signals};
use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

/// How often a wait looks whether its program has ended.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// How long a program may take to end in an orderly way.
pub(crate) const GRACE: Duration = Duration::from_secs(20);
/// Lines of a program that may wait for their reader; then the program waits.
const LINES_MAX: usize = 256;

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    ended: bool,
}

/// Who else gets the terminal's Ctrl-C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// The program is told by us alone, so that programs end in order.
    Own,
    /// The program shares the terminal: it may read keys and change its modes.
    Terminal,
}

impl Process {
    pub(crate) fn start(name: &'static str, group: Group, command: &mut Command) -> Result<Self> {
        match group {
            Group::Own => command.process_group(0),
            Group::Terminal => command,
        };
        let child = command.spawn().with_context(|| {
            format!("cannot start `{}`", OsStr::to_string_lossy(command.get_program()))
        })?;
        Ok(Self { name, child, ended: false })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The pipes that the command asked for.
    pub(crate) fn pipes(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its exit status, once it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status =
            self.child.try_wait().with_context(|| format!("cannot wait for the {}", self.name))?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// Its exit status, waited for; `None` where it still runs after `most`.
    pub(crate) fn wait(&mut self, most: Duration) -> Result<Option<ExitStatus>> {
        let clock = Stopwatch::start();
        loop {
            let status = self.ended()?;
            if status.is_some() || clock.elapsed() >= most {
                return Ok(status);
            }
            thread::sleep(TICK / 10);
        }
    }

    /// Asks the program to end.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended by itself; it has not been waited for, so the number is still its own.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Ends the program: asks, waits for at most `grace` or until the user insists, then kills.
    pub(crate) fn stop(&mut self, grace: Duration, insisting: Option<&Signals>) -> Result<Stopped> {
        if let Some(status) = self.ended()? {
            return Ok(Stopped::Already(status));
        }
        self.signal(Signal::SIGTERM);
        // Whoever ends when its input does is told that way too.
        drop(self.child.stdin.take());
        let clock = Stopwatch::start();
        while clock.elapsed() < grace {
            if let Some(status) = self.ended()? {
                return Ok(Stopped::Orderly(status));
            }
            match insisting {
                Some(signals) if signals.wait(TICK).is_some() => break,
                Some(_) => {}
                None => thread::sleep(TICK),
            }
        }
        self.child.kill().with_context(|| format!("cannot kill the {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot wait for the {}", self.name))?;
        self.ended = true;
        Ok(Stopped::Killed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error on the way out changes nothing: there is nobody left to tell.
        let _ = self.stop(GRACE, None);
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// By itself, before it was asked.
    Already(ExitStatus),
    /// When it was asked.
    Orderly(ExitStatus),
    /// It did not answer in time.
    Killed,
}

/// Reads a pipe line by line on a thread of its own; the channel closes with the pipe.
pub(crate) fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    thread::spawn(move || forward(pipe, &sender));
    receiver
}

fn forward(pipe: impl Read, sender: &SyncSender<String>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        if sender.send(line).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{process::Stdio, sync::mpsc::sync_channel};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// Starts a script that says `ready` when its traps are set.
    fn ready(script: &str) -> Process {
        let mut process = Process::start("script", Group::Own, &mut shell(script)).unwrap();
        let said = lines(process.pipes().stdout.take().unwrap());
        assert_eq!(said.recv_timeout(GRACE).unwrap(), "ready");
        process
    }

    #[test]
    fn a_program_that_ends_when_asked_is_not_killed() {
        let mut process =
            ready("trap 'exit 3' TERM; echo ready; while :; do read x || sleep 0.1; done");

        let stopped = process.stop(GRACE, None).unwrap();

        assert!(
            matches!(stopped, Stopped::Orderly(status) if status.code() == Some(3)),
            "{stopped:?}"
        );
    }

    #[test]
    fn a_program_that_ignores_the_request_is_killed_in_the_end() {
        let mut process = ready("trap '' TERM; echo ready; while :; do sleep 0.1; done");

        assert_eq!(process.stop(TICK * 3, None).unwrap(), Stopped::Killed);
    }

    #[test]
    fn a_user_who_insists_does_not_wait_for_the_grace_time() {
        let mut process = ready("trap '' TERM; echo ready; while :; do sleep 0.1; done");
        let (insist, arrived) = sync_channel(1);
        insist.send(Signal::SIGINT).unwrap();
        let clock = Stopwatch::start();

        assert_eq!(process.stop(GRACE, Some(&Signals::of(arrived))).unwrap(), Stopped::Killed);
        assert!(clock.elapsed() < GRACE);
    }

    #[test]
    fn a_program_ends_with_the_value_that_holds_it() {
        let process = ready("echo ready; exec sleep 600");
        let id = process.child.id();

        drop(process);

        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn an_exit_shortly_after_the_pipes_closed_is_waited_for() {
        let mut process =
            Process::start("script", Group::Own, &mut shell("exec >&-; sleep 0.2; exit 7"))
                .unwrap();
        let said = lines(process.pipes().stdout.take().unwrap());
        assert!(said.recv_timeout(GRACE).is_err(), "the script says nothing");

        let status = process.wait(GRACE).unwrap().expect("it ends by itself");

        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn a_program_that_cannot_be_started_is_named() {
        let error = Process::start("ghost", Group::Own, &mut Command::new("/nowhere/ghost"));

        assert!(error.unwrap_err().to_string().contains("`/nowhere/ghost`"));
    }
}
