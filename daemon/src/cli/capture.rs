//! `linnet capture`: starts a capture in the daemon and writes it to a file or pipe while it grows. Must never leave
//! a capture running, nor remove the daemon's copy of one that did not arrive.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use captures::StopReason;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ExitWith, exit, foreign,
    interrupt::{Interrupts, Wake},
    printable, si_bytes,
};
use crate::{
    capture::{DURATION_MAX_S, LostView},
    client::{Client, ClientError, SOCKET_DEFAULT},
};

/// From one progress line to the next.
const PROGRESS: Duration = Duration::from_secs(1);

/// How long the daemon goes on without this command, seconds.
const UNREAD_MAX_S: u64 = 10;

/// Arguments of `linnet capture`; the letters are tcpdump's.
#[derive(Debug, clap::Args)]
pub struct CaptureArgs {
    /// Interface as linnet watches it: [NAMESPACE/]NAME [default: all].
    #[arg(short = 'i', long, value_name = "IF")]
    interface: Option<String>,
    /// Which packets, in tcpdump's filter language [default: all].
    #[arg(short = 'f', long, value_name = "FILTER")]
    filter: Option<String>,
    /// Filter frames as they are on the wire, like tcpdump: not through VLAN tags, not into tunnels.
    #[arg(long, requires = "filter")]
    strict: bool,
    /// Most bytes of each packet [default: what the daemon can copy].
    #[arg(short = 's', long, value_name = "BYTES")]
    snaplen: Option<u32>,
    /// Stop after so many packets.
    #[arg(short = 'c', long, value_name = "PACKETS")]
    count: Option<u64>,
    /// Stop after so many seconds [default: when interrupted, at most a day].
    #[arg(short = 'G', long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Where the pcapng goes; `-` for standard output.
    #[arg(short = 'w', long, value_name = "FILE")]
    write: PathBuf,
    /// The daemon's socket.
    #[arg(long, env = "LINNET_SOCKET", default_value = SOCKET_DEFAULT, value_name = "PATH")]
    socket: PathBuf,
}

/// What is read of the API's answer.
#[derive(Deserialize)]
struct Answer {
    capture: View,
}

/// A capture as the API shows it.
#[derive(Deserialize)]
struct View {
    id: String,
    stop_reason: Option<String>,
    written: u64,
    bytes: u64,
    lost: LostView,
}

impl View {
    fn read(answer: Value) -> Result<Self, ExitWith> {
        let read: Result<Answer, _> = serde_json::from_value(answer);
        read.map(|answer| answer.capture).map_err(|error| foreign(&error))
    }

    fn of(client: &Client, id: &str) -> Result<Self, ExitWith> {
        Self::read(client.get(&route(id))?)
    }
}

fn route(id: &str) -> String {
    format!("/api/v1/captures/{id}")
}

/// Captures until it ends, is interrupted, or nobody reads any more.
pub fn run(args: &CaptureArgs) -> anyhow::Result<u8> {
    let client = Client::connect(&args.socket).map_err(ExitWith::from)?;
    let mut sink = Sink::open(&args.write)?;
    // From here on, so that no signal ends this process while a capture runs that nobody would stop.
    let interrupts = Interrupts::watch()?;
    let started = match client.post("/api/v1/captures", &body(args)) {
        Ok(answer) => View::read(answer)?,
        Err(error) => {
            sink.abandon();
            return Err(ExitWith::from(error).into());
        }
    };
    let capture = Running { client, interrupts, socket: &args.socket, id: started.id };
    let streamed = capture.stream(&mut sink);
    Ok(capture.conclude(streamed, args)?)
}

fn body(args: &CaptureArgs) -> Value {
    let seconds = args.seconds.unwrap_or(DURATION_MAX_S);
    // A command that is killed cannot stop its capture.
    let limits =
        json!({ "packets": args.count, "seconds": seconds, "unread_seconds": UNREAD_MAX_S });
    let mut body = json!({ "limits": limits });
    // What is not said is left to the daemon's defaults.
    for (name, value) in [
        ("filter", args.filter.as_ref().map(|filter| json!(filter))),
        ("strict", args.strict.then(|| json!(true))),
        ("interface", args.interface.as_ref().map(|interface| json!(interface))),
        ("snaplen", args.snaplen.map(|snaplen| json!(snaplen))),
    ] {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    body
}

/// Where the bytes go.
struct Sink {
    file: File,
    /// The path, where this command made the file.
    made: Option<PathBuf>,
    /// Whether what the file held before is gone.
    begun: bool,
}

impl Sink {
    /// Opens the file without touching what it holds: that is lost only once a capture has started.
    fn open(path: &Path) -> Result<Self, ExitWith> {
        if path == Path::new("-") {
            return Self::stdout();
        }
        let refused = |error: io::Error| ExitWith {
            code: exit::FAILED,
            message: format!("cannot write `{}`: {error}", path.display()),
        };
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => Ok(Self { file, made: Some(path.to_owned()), begun: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = OpenOptions::new().write(true).open(path).map_err(refused)?;
                Ok(Self { file, made: None, begun: false })
            }
            Err(error) => Err(refused(error)),
        }
    }

    fn stdout() -> Result<Self, ExitWith> {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            let message = "a terminal cannot show pcapng; write to a file with `-w FILE`, or pipe it: `-w - | wireshark -k -i -`";
            return Err(ExitWith { code: exit::USAGE, message: message.into() });
        }
        // A copy, so that nothing is buffered on its way.
        let copy = stdout.as_fd().try_clone_to_owned().map_err(|error| ExitWith {
            code: exit::FAILED,
            message: format!("cannot write to standard output: {error}"),
        })?;
        Ok(Self { file: File::from(copy), made: None, begun: true })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
            }
        }
        self.file.write_all(bytes)
    }

    /// No capture came: a file that was made for it goes.
    fn abandon(&self) {
        if let Some(path) = &self.made {
            // What is gone already needs no removing.
            let _gone = fs::remove_file(path);
        }
    }
}

/// A capture that was started here.
struct Running<'a> {
    client: Client,
    interrupts: Interrupts,
    socket: &'a Path,
    id: String,
}

impl Running<'_> {
    /// Copies the growing file, while a second thread waits for a reason to stop the capture.
    fn stream(&self, sink: &mut Sink) -> Result<(), ClientError> {
        let output = sink.file.try_clone().map_err(ClientError::Receiver)?;
        let (end, done) = io::pipe().map_err(ClientError::Receiver)?;
        // Of its own: a client belongs to one thread.
        let control = Client::connect(self.socket)?;
        let (interrupts, id) = (&self.interrupts, self.id.as_str());
        thread::scope(|scope| {
            scope.spawn(move || {
                if let Err(error) = watch(interrupts, &control, id, output.as_fd(), end.as_fd()) {
                    say(&format!("linnet: the capture could not be stopped: {error}"));
                }
            });
            let path = format!("{}/live", route(id));
            let streamed = self.client.stream(&path, |chunk| sink.write(chunk));
            // Its closing is what the second thread sees.
            drop(done);
            streamed
        })
    }

    fn stop(&self) -> Result<Value, ClientError> {
        self.client.post(&format!("{}/stop", route(&self.id)), &json!({}))
    }

    /// Ends the capture if it still runs, says what became of it, and removes the daemon's copy if it arrived.
    fn conclude(
        &self,
        streamed: Result<(), ClientError>,
        args: &CaptureArgs,
    ) -> Result<u8, ExitWith> {
        let stopped = self.stop();
        match streamed {
            Ok(()) => {}
            // Who closed the pipe has had all that was wanted.
            Err(ClientError::Receiver(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(self.incomplete(&error, args, stopped.is_ok())),
        }
        let view = match stopped {
            Ok(answer) => View::read(answer)?,
            Err(ClientError::Unreachable { .. }) => {
                let message = "linnet was stopped and ended the capture; what it had captured until then was written";
                return Err(ExitWith { code: exit::FAILED, message: message.into() });
            }
            Err(error) => return Err(error.into()),
        };
        self.client.delete(&route(&self.id))?;
        let lost = view.lost.total();
        let terminal = io::stderr().is_terminal();
        if terminal || lost > 0 {
            let clear = if terminal { "\r\x1b[K" } else { "" };
            say(&format!("{clear}{} packets written, {lost} lost", view.written));
        }
        verdict(&view)
    }

    fn incomplete(&self, error: &ClientError, args: &CaptureArgs, kept: bool) -> ExitWith {
        let what = if let ClientError::Receiver(error) = error {
            format!("cannot write `{}`: {error}", args.write.display())
        } else {
            error.to_string()
        };
        let message = if kept {
            let url = format!("http://localhost{}/file", route(&self.id));
            let socket = self.socket.display();
            format!("{what}; the daemon has the whole capture: `curl --unix-socket {socket} {url}`")
        } else {
            format!("{what}; the last packets are missing")
        };
        ExitWith { code: exit::FAILED, message }
    }
}

/// Shows progress until the stream is over (`end`), and stops the capture when asked to or when nobody reads
/// `output`.
fn watch(
    interrupts: &Interrupts,
    client: &Client,
    id: &str,
    output: BorrowedFd<'_>,
    end: BorrowedFd<'_>,
) -> Result<(), ExitWith> {
    const END: usize = 0;
    let progress = io::stderr().is_terminal();
    loop {
        match interrupts.wait(&[end, output], PROGRESS).map_err(unwaited)? {
            Wake::Closed(END) => return Ok(()),
            Wake::Stop | Wake::Closed(_) => break,
            Wake::Timeout if progress => {
                if let Ok(view) = View::of(client, id) {
                    let (packets, bytes) = (view.written, si_bytes(view.bytes));
                    // A terminal that is gone needs no progress.
                    let _shown = write!(io::stderr(), "\r\x1b[K{packets} packets, {bytes}");
                }
            }
            Wake::Timeout => {}
        }
    }
    // For a daemon or a reader that hangs: while this thread lives, the second Ctrl-C ends the process.
    interrupts.release().map_err(unwaited)?;
    let stopped = client.post(&format!("{}/stop", route(id)), &json!({}));
    while interrupts.wait(&[end], PROGRESS).map_err(unwaited)? == Wake::Timeout {}
    stopped.map(drop).map_err(ExitWith::from)
}

/// The exit code of a finished capture: an end that nobody here asked for is an error, unless it is a limit.
fn verdict(view: &View) -> Result<u8, ExitWith> {
    let reason = view.stop_reason.as_deref().unwrap_or("unknown");
    match StopReason::from_name(reason) {
        Some(StopReason::UserRequest | StopReason::PacketLimit | StopReason::DurationLimit) => {
            Ok(0)
        }
        Some(StopReason::ByteLimit) => {
            say(&format!("the capture ended at {}, as much as one may have", si_bytes(view.bytes)));
            Ok(0)
        }
        Some(
            StopReason::Unread
            | StopReason::InterfaceRemoved
            | StopReason::DiskFull
            | StopReason::WriteFailed
            | StopReason::DaemonStopped
            | StopReason::Interrupted,
        )
        | None => {
            let (reason, packets) = (printable(reason), view.written);
            let message = format!(
                "the capture ended early ({reason}) after {packets} packets; what was captured until then was written"
            );
            Err(ExitWith { code: exit::FAILED, message })
        }
    }
}

fn unwaited(error: io::Error) -> ExitWith {
    ExitWith { code: exit::FAILED, message: format!("cannot wait for signals: {error}") }
}

/// One line on stderr.
fn say(line: &str) {
    // A closed terminal cannot be told.
    let _said = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn arguments(line: &str) -> CaptureArgs {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Capture(args) = cli.command else { panic!("another command") };
        args
    }

    #[test]
    fn a_capture_without_a_duration_runs_until_it_is_stopped() {
        let body = body(&arguments("linnet capture -w out"));
        let limits = json!({ "packets": null, "seconds": DURATION_MAX_S, "unread_seconds": 10 });
        assert_eq!(body, json!({ "limits": limits }));
    }

    #[test]
    fn tcpdump_letters_reach_the_request() {
        let body = body(&arguments("linnet capture -i eth0 -f udp -s 96 -c 5 -G 7 -w -"));
        let limits = json!({ "packets": 5, "seconds": 7, "unread_seconds": 10 });
        let expected =
            json!({ "limits": limits, "filter": "udp", "interface": "eth0", "snaplen": 96 });
        assert_eq!(body, expected);
    }

    #[test]
    fn strictness_is_asked_for_only_where_it_is_wanted() {
        let strict = body(&arguments("linnet capture -f udp --strict -w -"));
        assert_eq!((&strict["filter"], &strict["strict"]), (&json!("udp"), &json!(true)));
        assert_eq!(body(&arguments("linnet capture -f udp -w -"))["strict"], Value::Null);
    }

    #[test]
    fn a_file_keeps_what_it_holds_until_a_capture_comes() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::write(&old, "longer than before").unwrap();
        Sink::open(&old).unwrap().abandon();
        Sink::open(&new).unwrap().abandon();
        assert_eq!(fs::read(&old).unwrap(), b"longer than before");
        assert!(!new.exists());
        let mut sink = Sink::open(&old).unwrap();
        sink.write(b"pcap").unwrap();
        sink.write(b"ng").unwrap();
        assert_eq!(fs::read(&old).unwrap(), b"pcapng");
    }
}
