//! The daemon as a program: its arguments, its answers and its log. Must never talk to it but by its
//! command line, its socket and signals.

use super::{Programs, scratch::Scratch};
use crate::{
    console::say,
    process::{Group, Process, lines},
};
use anyhow::{Context, Result};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// How long one request may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How much of the log is repeated when the daemon ends by itself.
const LAST_LINES: usize = 20;

/// `linnet run`, with its output in our hands.
#[derive(Debug)]
pub(super) struct Daemon {
    process: Process,
    said: Receiver<String>,
    log_shown: Arc<AtomicBool>,
    log_writer: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts it in the folders of `scratch`, with a one-time login and with `arguments`.
    pub(super) fn start(
        programs: &Programs,
        scratch: &Scratch,
        arguments: &[OsString],
    ) -> Result<Self> {
        let mut command = Command::new(&programs.linnet);
        command
            .arg("run")
            .arg("--run-dir")
            .arg(scratch.run())
            .arg("--state-dir")
            .arg(scratch.state())
            .args(["--one-time-login", "--end-with-parent"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let log = File::create(scratch.log())
            .with_context(|| format!("cannot write `{}`", scratch.log().display()))?;
        let mut process = Process::start("daemon", Group::Own, &mut command)?;
        let output = process.pipes().stdout.take().context("the daemon has no output")?;
        let errors = process.pipes().stderr.take().context("the daemon has no error output")?;
        let log_shown = Arc::new(AtomicBool::new(true));
        let shown = Arc::clone(&log_shown);
        let log_writer = thread::spawn(move || keep_log(errors, log, &shown));
        Ok(Self { process, said: lines(output), log_shown, log_writer: Some(log_writer) })
    }

    pub(super) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.process.ended()
    }

    /// Whether its API is there.
    pub(super) fn answers(&self, socket: &Path) -> bool {
        healthy(socket).unwrap_or(false)
    }

    /// Passes on what it printed for the user, the login URL above all.
    pub(super) fn print_what_it_said(&self) {
        for line in self.said.try_iter() {
            say(line);
        }
    }

    /// Its log always goes to a file; whether also to the terminal is decided here.
    pub(super) fn show_log(&self, shown: bool) {
        self.log_shown.store(shown, Ordering::Relaxed);
    }

    /// The end of its log, after it has ended.
    pub(super) fn last_words(&mut self, log: &Path) -> String {
        self.print_what_it_said();
        if let Some(writer) = self.log_writer.take() {
            // The pipe is closed, so the thread is about to end; one that panicked has nothing to add.
            let _ = writer.join();
        }
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

fn keep_log(pipe: impl Read, mut log: File, shown: &AtomicBool) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        // Neither a full disk nor a closed terminal may stop the daemon, which waits for its pipe to be read.
        let _ = writeln!(log, "{line}");
        if shown.load(Ordering::Relaxed) {
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
}

fn healthy(socket: &Path) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok(status == *b"HTTP/1.1 200")
}
