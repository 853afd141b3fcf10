//! One run from start to end: lab, daemon, table, and their end in the reverse order. Must never wait without
//! a limit, except for the user.

use super::{
    NO_PRIVILEGE, Programs,
    daemon::Daemon,
    lab::{Lab, LabError},
    scratch::Scratch,
    table::{Query, Table},
};
use crate::{
    console::{Stopwatch, say, seconds},
    process::{GRACE, Process, Stopped, TICK},
    signals::Signals,
};
use anyhow::{Result, bail};
use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    process::ExitStatus,
    time::Duration,
};

/// How long the daemon may take to load, attach and listen.
const READY_MAX: Duration = Duration::from_secs(60);

/// Why a run is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The user asked for it.
    Asked,
    /// The lab or the daemon says that it may not; the reason is for the user.
    NoPrivilege(String),
}

/// What is running. The order of the fields is the order in which an early return ends them.
#[derive(Debug)]
struct Session {
    table: Option<Table>,
    daemon: Daemon,
    lab: Option<Lab>,
    scratch: Scratch,
}

/// Watches the lab until the user has seen enough.
pub(super) fn on_the_lab(
    programs: &Programs,
    extra: &[OsString],
    signals: &Signals,
) -> Result<Ended> {
    let scratch = Scratch::make()?;
    let lab = match Lab::up(programs) {
        Ok(lab) => lab,
        Err(LabError::NoPrivilege) => {
            return Ok(Ended::NoPrivilege("the lab may not make network namespaces".to_owned()));
        }
        Err(LabError::Failed(error)) => return Err(error),
    };
    let mut arguments: Vec<OsString> = Vec::new();
    for interface in lab.interfaces() {
        arguments.extend(["--interface".into(), interface.into()]);
    }
    arguments.extend(["--pin-dir".into(), scratch.pins().into()]);
    arguments.extend_from_slice(extra);
    let daemon = Daemon::start(programs, &scratch, &arguments)?;
    Session { table: None, daemon, lab: Some(lab), scratch }.watch(programs, signals)
}

/// Watches a generated capture, replayed in real time.
pub(super) fn on_a_replay(
    programs: &Programs,
    extra: &[OsString],
    signals: &Signals,
) -> Result<Ended> {
    let scratch = Scratch::make()?;
    Lab::generate(programs, &scratch.capture())?;
    let mut arguments: Vec<OsString> = vec!["--replay".into(), scratch.capture().into()];
    arguments.extend_from_slice(extra);
    let daemon = Daemon::start(programs, &scratch, &arguments)?;
    Session { table: None, daemon, lab: None, scratch }.watch(programs, signals)
}

impl Session {
    fn watch(mut self, programs: &Programs, signals: &Signals) -> Result<Ended> {
        let clock = Stopwatch::start();
        loop {
            if let Some(status) = self.daemon.ended()? {
                return self.daemon_ended(status);
            }
            if signals.wait(TICK).is_some() {
                return self.end(signals);
            }
            if self.daemon.answers(&self.scratch.socket()) {
                break;
            }
            if clock.elapsed() > READY_MAX {
                bail!("linnet does not answer on its socket after {}", seconds(READY_MAX));
            }
        }
        say(format_args!("ready after {}", seconds(clock.elapsed())));
        let terminal = io::stdout().is_terminal();
        // The login URL stands above the table; log lines would tear it.
        self.daemon.print_what_it_said();
        self.daemon.show_log(!terminal);
        let query = Query {
            programs: programs.clone(),
            socket: self.scratch.socket(),
            interface: self.lab.as_ref().and_then(Lab::client_interface).map(str::to_owned),
        };
        self.table = Some(if terminal { Table::live(&query)? } else { Table::printed(query) });
        self.stay(signals)
    }

    fn stay(mut self, signals: &Signals) -> Result<Ended> {
        loop {
            if signals.wait(TICK).is_some() {
                return self.end(signals);
            }
            self.daemon.print_what_it_said();
            if let Some(status) = self.daemon.ended()? {
                self.table = None;
                return self.daemon_ended(status);
            }
            if let Some(lab) = &mut self.lab
                && let Some(status) = lab.process().ended()?
            {
                bail!("the lab ended by itself with {status}");
            }
            if let Some(table) = &mut self.table
                && table.ended()?
            {
                return self.end(signals);
            }
        }
    }

    /// Table, daemon, lab: each is given its time, unless the user asks a second time.
    fn end(mut self, signals: &Signals) -> Result<Ended> {
        self.table = None;
        say("\nstopping; once more to stop at once");
        stop(self.daemon.process(), signals)?;
        if let Some(lab) = &mut self.lab {
            stop(lab.process(), signals)?;
        }
        Ok(Ended::Asked)
    }

    fn daemon_ended(mut self, status: ExitStatus) -> Result<Ended> {
        let last = self.daemon.last_words(&self.scratch.log());
        if status.code() == Some(NO_PRIVILEGE) {
            let why = last.lines().last().unwrap_or("linnet says that it lacks a privilege");
            return Ok(Ended::NoPrivilege(why.to_owned()));
        }
        bail!("linnet ended by itself with {status}:\n{last}");
    }
}

fn stop(process: &mut Process, signals: &Signals) -> Result<()> {
    let clock = Stopwatch::start();
    let name = process.name();
    match process.stop(GRACE, Some(signals))? {
        Stopped::Already(status) => say(format_args!("the {name} had ended with {status}")),
        Stopped::Orderly(_) => {
            say(format_args!("the {name} ended in {}", seconds(clock.elapsed())));
        }
        Stopped::Killed => say(format_args!("the {name} had to be killed")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;
    use std::{
        fs,
        path::{Path, PathBuf},
        process::Command,
        sync::mpsc::sync_channel,
        thread,
    };

    const LAB: &str = r#"
if [ "$1" = generate ]; then echo capture > "$2"; echo generated >> LOG; exit 0; fi
echo "lab up" >> LOG
trap 'echo "lab down" >> LOG; exit 0' TERM
echo '{"namespaces":{},"interfaces":[{"spec":"ns/c0","role":"client"},{"spec":"ns/r0","role":"router"}]}'
while :; do sleep 0.05; done
"#;

    const DAEMON: &str = r#"
if [ "$1" = flows ]; then echo "one flow" >> LOG; exit 0; fi
echo "daemon $*" >> LOG
while [ $# -gt 0 ]; do if [ "$1" = --run-dir ]; then run=$2; fi; shift; done
echo "open http://127.0.0.1:8470/#login=x"
trap 'echo "daemon down" >> LOG; kill $server; exit 0' TERM
python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
while True:
    c, _ = s.accept(); c.recv(1000); c.sendall(b"HTTP/1.1 200 OK\r\n\r\n"); c.close()
' "$run/api.sock" & server=$!
while :; do sleep 0.05; done
"#;

    #[test]
    fn on_ctrl_c_the_daemon_ends_before_the_lab() {
        let stage = Stage::new(LAB, DAEMON);
        let extra = ["--listen".into(), "x".into()];

        let ended = on_the_lab(&stage.programs(), &extra, &stage.ctrl_c_after_the_table()).unwrap();

        assert_eq!(ended, Ended::Asked);
        let happened = stage.happened();
        assert_eq!(happened[0], "lab up");
        for part in [
            "--interface ns/c0 --interface ns/r0,ingress=xdp",
            "--pin-dir /sys/fs/bpf/linnet-lab-",
            "--one-time-login --end-with-parent",
            "--listen x",
        ] {
            assert!(happened[1].contains(part), "{part} in {}", happened[1]);
        }
        assert_eq!(happened[happened.len() - 2..], ["daemon down", "lab down"]);
    }

    #[test]
    fn the_private_folder_goes_with_the_session() {
        let stage = Stage::new(LAB, DAEMON);

        on_the_lab(&stage.programs(), &[], &stage.ctrl_c_after_the_table()).unwrap();

        let happened = stage.happened();
        let (_, run) = happened[1].split_once("--run-dir ").unwrap();
        let folder = Path::new(run.split(' ').next().unwrap()).parent().unwrap();
        assert!(folder.starts_with(std::env::temp_dir()), "{}", folder.display());
        assert!(!folder.exists(), "{}", folder.display());
    }

    #[test]
    fn a_replay_needs_a_generated_capture_and_no_lab() {
        let stage = Stage::new(LAB, DAEMON);

        let ended = on_a_replay(&stage.programs(), &[], &stage.ctrl_c_after_the_table()).unwrap();

        assert_eq!(ended, Ended::Asked);
        let happened = stage.happened();
        assert_eq!(happened[0], "generated");
        assert!(happened[1].contains("--replay"), "{}", happened[1]);
        assert!(!happened.contains(&"lab up".to_owned()), "{happened:?}");
    }

    #[test]
    fn a_daemon_without_privilege_says_so_in_its_own_words_and_the_lab_ends() {
        let stage = Stage::new(LAB, "echo 'cannot load: CAP_BPF is missing' >&2; exit 77");

        let ended = on_the_lab(&stage.programs(), &[], &silence()).unwrap();

        assert_eq!(ended, Ended::NoPrivilege("cannot load: CAP_BPF is missing".into()));
        assert_eq!(stage.happened(), ["lab up", "lab down"]);
    }

    #[test]
    fn a_lab_without_privilege_is_no_error() {
        let stage = Stage::new("exit 77", DAEMON);

        let ended = on_the_lab(&stage.programs(), &[], &silence()).unwrap();

        assert!(matches!(ended, Ended::NoPrivilege(_)), "{ended:?}");
    }

    #[test]
    fn a_daemon_that_fails_is_an_error_with_the_end_of_its_log() {
        let stage = Stage::new(LAB, "echo 'cannot listen on 127.0.0.1:8470: in use' >&2; exit 1");

        let error = on_the_lab(&stage.programs(), &[], &silence()).unwrap_err();

        assert!(error.to_string().contains("127.0.0.1:8470: in use"), "{error}");
        assert_eq!(stage.happened(), ["lab up", "lab down"]);
    }

    /// Stand-ins for both programs, which write down what happened, in order.
    struct Stage {
        folder: tempfile::TempDir,
    }

    impl Stage {
        fn new(lab: &str, daemon: &str) -> Self {
            let stage = Self { folder: tempfile::tempdir().unwrap() };
            for (name, script) in [("lab", lab), ("linnet", daemon)] {
                let script = script.replace("LOG", &stage.log().to_string_lossy());
                // Written by another process: a descriptor open for writing here could be inherited by
                // another test's child, and the script would be "busy".
                let written = Command::new("/bin/sh")
                    .args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#])
                    .arg(stage.folder.path().join(name))
                    .arg(script)
                    .status();
                assert!(written.unwrap().success());
            }
            stage
        }

        fn log(&self) -> PathBuf {
            self.folder.path().join("log")
        }

        fn programs(&self) -> Programs {
            let folder = self.folder.path();
            Programs { linnet: folder.join("linnet"), lab: folder.join("lab") }
        }

        fn happened(&self) -> Vec<String> {
            let text = fs::read_to_string(self.log()).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        }

        /// A user who presses Ctrl-C, once, after the first table was printed.
        fn ctrl_c_after_the_table(&self) -> Signals {
            let (sender, arrived) = sync_channel(1);
            let log = self.log();
            thread::spawn(move || {
                let clock = Stopwatch::start();
                while clock.elapsed() < READY_MAX {
                    if fs::read_to_string(&log).is_ok_and(|text| text.contains("one flow")) {
                        break;
                    }
                    thread::sleep(TICK);
                }
                let _ = sender.send(Signal::SIGINT);
            });
            Signals::of(arrived)
        }
    }

    /// A user who waits.
    fn silence() -> Signals {
        Signals::of(sync_channel(1).1)
    }
}
