//! `linnet capture`: starts a capture in the daemon and writes it to files or a pipe while it grows. Must never leave
//! a capture running, nor remove the daemon's copy of one that did not arrive.

mod output;
mod sink;

use std::{
    io::{self, IsTerminal as _, Write as _},
    num::NonZeroU64,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use captures::{
    StopReason,
    format::{Export, split::Spans},
};
use serde::Deserialize;
use serde_json::{Value, json};

use self::{output::Output, sink::Sink};
use super::{
    ExitWith, exit, foreign,
    interrupt::{Interrupts, Wake},
    printable, si_bytes,
};
use crate::{
    capture::{DURATION_MAX_S, LostView},
    client::{Client, ClientError, SOCKET_DEFAULT},
    clock::Clock,
    verdict_comments::{NOT_IN_PCAP, Verdicts},
};

/// From one progress line to the next.
const PROGRESS: Duration = Duration::from_secs(1);

/// How long the daemon goes on without this command, seconds.
const UNREAD_MAX_S: u64 = 10;

const SECOND_NS: NonZeroU64 = NonZeroU64::new(1_000_000_000).expect("it is not zero");

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
    /// Most bytes of each packet behind its headers; 0 for headers only [default: all].
    #[arg(long, value_name = "BYTES")]
    payload_bytes: Option<u32>,
    /// Stop after so many packets.
    #[arg(short = 'c', long, value_name = "PACKETS")]
    count: Option<u64>,
    /// Stop after so many seconds [default: when interrupted, at most a day].
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// A new file every so many seconds; `eth0-%H%M%S.pcapng` names them by their time, see --help.
    ///
    /// Each file can be read by itself. It ends with the first packet behind its span, so that a span without packets
    /// has no file; spans are counted from the capture's start. Conversions of strftime(3) in the file's name are
    /// replaced by the local time of the span's start. Where two files in a row would have the same name, the later
    /// one's has its number before the ending: `eth0_00002.pcapng`.
    #[arg(short = 'G', long, value_name = "SECONDS")]
    rotate: Option<NonZeroU64>,
    /// With -G: stop after so many spans, and so with at most as many files.
    #[arg(short = 'W', long, value_name = "COUNT", requires = "rotate")]
    files: Option<NonZeroU64>,
    /// pcapng, pcap (microseconds) or pcap-ns (nanoseconds).
    ///
    /// The latter two have room for packets of one link type, and none for interfaces, directions and losses.
    #[arg(long, value_name = "FORMAT", default_value_t = Export::Pcapng)]
    format: Export,
    /// comment: what linnet has to say about a packet stands in a comment on it; none: it does not.
    ///
    /// These are Wireshark's classes of its TCP segment, then linnet's own verdict on it: `linnet:
    /// tcp.analysis.retransmission; retransmitted_segments, rto, lost_upstream`. Wireshark shows them as `frame.comment`,
    /// and keeps them in what it saves. Only pcapng has room for them.
    #[arg(long, value_name = "PLACE", default_value_t = Verdicts::None)]
    verdicts: Verdicts,
    /// Where the packets go; `-` for standard output.
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
    started_at: String,
    stop_reason: Option<String>,
    matched: u64,
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
    let seconds = seconds(args)?;
    let query = query(args)?;
    let client = Client::connect(&args.socket).map_err(ExitWith::from)?;
    let start_ns = args.rotate.map(|_| Clock::new().now().wall_ns());
    let sink = Sink::open(&args.write, start_ns)?;
    // From here on, so that no signal ends this process while a capture runs that nobody would stop.
    let interrupts = Interrupts::watch()?;
    let started = match client.post("/api/v1/captures", &body(args, seconds)) {
        Ok(answer) => View::read(answer)?,
        Err(error) => {
            sink.abandon();
            return Err(ExitWith::from(error).into());
        }
    };
    let spans = spans(args, &started)?;
    let mut output = Output::new(sink, args.format, spans);
    let capture = Running { client, interrupts, socket: &args.socket, id: started.id, query };
    let streamed = capture.stream(&mut output);
    Ok(capture.conclude(streamed, args, &output)?)
}

/// How long the capture may take: as long as its spans, where they are counted.
fn seconds(args: &CaptureArgs) -> Result<u64, ExitWith> {
    let most = args.seconds.unwrap_or(DURATION_MAX_S);
    let (Some(rotate), Some(files)) = (args.rotate, args.files) else { return Ok(most) };
    let spans = rotate.get().saturating_mul(files.get());
    if spans > DURATION_MAX_S {
        let message = format!(
            "-G {rotate} -W {files} takes {spans} s, and a capture may take {DURATION_MAX_S}; ask for fewer or shorter files"
        );
        return Err(ExitWith { code: exit::USAGE, message });
    }
    Ok(most.min(spans))
}

/// What the stream is to come as. Its format is made here, where there may be several files of it.
fn query(args: &CaptureArgs) -> Result<&'static str, ExitWith> {
    match (args.verdicts, args.format) {
        (Verdicts::None, _) => Ok(""),
        (Verdicts::Comment, Export::Pcapng) => Ok("?verdicts=comment"),
        (Verdicts::Comment, Export::Pcap(_)) => {
            let message =
                format!("--verdicts comment with --format {}: {NOT_IN_PCAP}", args.format);
            Err(ExitWith { code: exit::USAGE, message })
        }
    }
}

/// How the capture is divided, if it is.
fn spans(args: &CaptureArgs, started: &View) -> Result<Option<Spans>, ExitWith> {
    let Some(rotate) = args.rotate else { return Ok(None) };
    let start: jiff::Timestamp = started.started_at.parse().map_err(|error| foreign(&error))?;
    Ok(Some(Spans {
        start_ns: u64::try_from(start.as_nanosecond()).unwrap_or_default(),
        length_ns: rotate.saturating_mul(SECOND_NS),
        files_max: args.files,
    }))
}

fn body(args: &CaptureArgs, seconds: u64) -> Value {
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
        ("payload_bytes", args.payload_bytes.map(|bytes| json!(bytes))),
    ] {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    body
}

/// A capture that was started here.
struct Running<'a> {
    client: Client,
    interrupts: Interrupts,
    socket: &'a Path,
    id: String,
    /// What the stream is asked for with.
    query: &'static str,
}

impl Running<'_> {
    /// Copies the growing file, while a second thread waits for a reason to stop the capture.
    fn stream(&self, to: &mut Output) -> Result<(), ClientError> {
        let output = to.receiver().map_err(ClientError::Receiver)?;
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
            let path = format!("{}/live{}", route(id), self.query);
            let streamed = self.client.stream(&path, |chunk| to.write(chunk));
            let streamed = streamed.and_then(|()| to.finish().map_err(ClientError::Receiver));
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
        output: &Output,
    ) -> Result<u8, ExitWith> {
        let stopped = self.stop();
        match streamed {
            Ok(()) => {}
            // Who closed the pipe has had all that was wanted.
            Err(ClientError::Receiver(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(ClientError::Receiver(error)) if output.refused(&error) => {
                // Nor has the daemon anything that would be missed.
                output.abandon();
                self.client.delete(&route(&self.id))?;
                return Err(ExitWith { code: exit::USAGE, message: error.to_string() });
            }
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
        let terminal = is_watched();
        if terminal || view.lost.total() > 0 {
            let clear = if terminal { "\r\x1b[K" } else { "" };
            say(&format!("{clear}{}", summary(&view, output.files())));
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
            let url = format!("http://localhost{}/file{}", route(&self.id), self.query);
            let socket = self.socket.display();
            format!(
                "{what}; the daemon has the whole capture: `curl --unix-socket {socket} '{url}'`"
            )
        } else {
            format!("{what}; the last packets are missing")
        };
        ExitWith { code: exit::FAILED, message }
    }
}

/// Whether somebody looks: in a pipe nothing is said.
fn is_watched() -> bool {
    io::stderr().is_terminal() && io::stdout().is_terminal()
}

/// What came of a capture, as tcpdump says it: `5 packets captured, 7 received by filter, 2 lost (ring 2)`.
fn summary(view: &View, files: u64) -> String {
    let LostView { ring, budget, shed, disk, reader } = view.lost;
    let lost: Vec<_> =
        [("ring", ring), ("budget", budget), ("shed", shed), ("disk", disk), ("reader", reader)]
            .into_iter()
            .filter(|(_, packets)| *packets > 0)
            .map(|(place, packets)| format!("{place} {packets}"))
            .collect();
    let (written, matched, total) = (view.written, view.matched, view.lost.total());
    let files = if files > 1 { format!(" in {files} files") } else { String::new() };
    let places = if lost.is_empty() { String::new() } else { format!(" ({})", lost.join(", ")) };
    format!("{written} packets captured{files}, {matched} received by filter, {total} lost{places}")
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
    let (progress, clock) = (is_watched(), Clock::new());
    let begin_ns = clock.monotonic_ns();
    loop {
        match interrupts.wait(&[end, output], PROGRESS).map_err(unwaited)? {
            Wake::Closed(END) => return Ok(()),
            Wake::Stop | Wake::Closed(_) => break,
            Wake::Timeout if progress => {
                if let Ok(view) = View::of(client, id) {
                    let (packets, bytes) = (view.written, si_bytes(view.bytes));
                    let seconds = (clock.monotonic_ns() - begin_ns) / SECOND_NS;
                    let lost = view.lost.total();
                    let line = format!("{packets} packets, {bytes}, {lost} lost, {seconds} s");
                    // A terminal that is gone needs no progress.
                    let _shown = write!(io::stderr(), "\r\x1b[K{line}");
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

    fn asked(line: &str) -> Value {
        let args = arguments(line);
        body(&args, seconds(&args).unwrap())
    }

    #[test]
    fn a_capture_without_a_duration_runs_until_it_is_stopped() {
        let body = asked("linnet capture -w out");
        let limits = json!({ "packets": null, "seconds": DURATION_MAX_S, "unread_seconds": 10 });
        assert_eq!(body, json!({ "limits": limits }));
    }

    #[test]
    fn tcpdump_letters_reach_the_request() {
        let body =
            asked("linnet capture -i eth0 -f udp -s 96 --payload-bytes 0 -c 5 --seconds 7 -w -");
        let limits = json!({ "packets": 5, "seconds": 7, "unread_seconds": 10 });
        let expected = json!({
            "limits": limits, "filter": "udp", "interface": "eth0", "snaplen": 96, "payload_bytes": 0
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn strictness_is_asked_for_only_where_it_is_wanted() {
        let strict = asked("linnet capture -f udp --strict -w -");
        assert_eq!((&strict["filter"], &strict["strict"]), (&json!("udp"), &json!(true)));
        assert_eq!(asked("linnet capture -f udp -w -")["strict"], Value::Null);
    }

    #[test]
    fn counted_spans_end_the_capture_and_fit_into_a_day() {
        let limit = |line: &str| asked(line)["limits"]["seconds"].as_u64();
        assert_eq!(limit("linnet capture -G 60 -W 3 -w out"), Some(180));
        assert_eq!(limit("linnet capture -G 60 -W 3 --seconds 90 -w out"), Some(90));
        assert_eq!(limit("linnet capture -G 60 -w out"), Some(DURATION_MAX_S));
        let refused = seconds(&arguments("linnet capture -G 3600 -W 25 -w out")).unwrap_err();
        assert_eq!(refused.code, exit::USAGE);
        assert!(refused.message.contains("86400"), "{refused}");
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_asked() {
        for line in ["-W 2 -w out", "-G 0 -w out", "-G 1 -W 0 -w out", "--format cap -w out"] {
            let line = format!("linnet capture {line}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn verdicts_are_asked_for_where_there_is_room_for_them() {
        let asked = |line: &str| query(&arguments(line));
        assert_eq!(asked("linnet capture -w out").unwrap(), "");
        assert_eq!(asked("linnet capture --verdicts none --format pcap -w out").unwrap(), "");
        assert_eq!(
            asked("linnet capture --verdicts comment -G 9 -w out").unwrap(),
            "?verdicts=comment"
        );
        let refused = asked("linnet capture --verdicts comment --format pcap-ns -w out");
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, exit::USAGE);
        assert!(refused.message.contains("--format pcap-ns"), "{refused}");
    }

    #[test]
    fn the_summary_says_what_was_lost_and_where() {
        let mut view = View {
            id: String::new(),
            started_at: String::new(),
            stop_reason: None,
            matched: 7,
            written: 5,
            bytes: 0,
            lost: LostView { ring: 2, ..LostView::default() },
        };
        let said = "5 packets captured in 3 files, 7 received by filter, 2 lost (ring 2)";
        assert_eq!(summary(&view, 3), said);
        (view.matched, view.lost) = (5, LostView::default());
        assert_eq!(summary(&view, 1), "5 packets captured, 5 received by filter, 0 lost");
    }
}
