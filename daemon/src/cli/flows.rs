//! `linnet flows`: the daemon's flow table on a terminal, once or again and again. Must never show foreign text
//! unescaped, nor leave a terminal other than it was.

mod table;

use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize as _;
use serde_json::Value;

use super::{
    ExitWith, foreign,
    interrupt::{Interrupts, Wake},
};
use crate::{
    client::{Client, ClientError, SOCKET_DEFAULT, with_query},
    clock::Clock,
    flow::query::PAGE_MAX,
};
use table::{Page, Space};

/// From one picture to the next on a terminal.
const REDRAW: Duration = Duration::from_secs(1);
/// From one table to the next elsewhere.
const REPEAT: Duration = Duration::from_secs(5);
/// How long `--watch` waits for a daemon that does not answer.
const DAEMON_WAIT_NS: u64 = 10_000_000_000;
/// Between two attempts to reach it.
const RETRY: Duration = Duration::from_millis(250);
/// Hides the cursor, and clears the screen.
const OPEN: &str = "\x1b[?25l\x1b[2J";
/// Shows the cursor.
const CLOSE: &str = "\x1b[?25h";
/// A terminal whose size is not known.
const SPACE_DEFAULT: Space = Space { columns: 80, rows: 24 };

/// Arguments of `linnet flows`.
#[derive(Debug, clap::Args)]
pub struct FlowsArgs {
    /// The daemon's socket.
    #[arg(long, env = "LINNET_SOCKET", default_value = SOCKET_DEFAULT, value_name = "PATH")]
    socket: PathBuf,
    /// Show the table again and again until interrupted; waits for the daemon for up to 10 s.
    #[arg(long)]
    watch: bool,
    /// Print the API's page as JSON.
    #[arg(long)]
    json: bool,
    /// Sort by this field, greatest first with `-` in front: last_seen, first_seen, packets, bytes, rate,
    /// handshake_rtt_ns, rtt.p50_ns, rtt.p99_ns, retransmissions [default: -last_seen].
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Most flows [default: what fits on the terminal, else 200].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=PAGE_MAX as i64))]
    limit: Option<u16>,
    /// Only this protocol: a name like tcp, or a number.
    #[arg(long)]
    protocol: Option<String>,
    /// Only flows with this address at either end.
    #[arg(long)]
    address: Option<String>,
    /// Only flows with this port at either end.
    #[arg(long)]
    port: Option<String>,
    /// Only flows in this state: nf_conntrack's names, like ESTABLISHED.
    #[arg(long)]
    state: Option<String>,
    /// Only flows of this interface: [NAMESPACE/]NAME.
    #[arg(long)]
    interface: Option<String>,
}

/// Shows the table.
pub fn run(args: &FlowsArgs) -> anyhow::Result<u8> {
    let done = if args.watch { watch(args) } else { once(args) };
    match done {
        // `linnet flows | head` is no failure.
        Err(error) if is_broken_pipe(&error) => Ok(0),
        other => other.map(|()| 0),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn once(args: &FlowsArgs) -> anyhow::Result<()> {
    let client = Client::connect(&args.socket).map_err(ExitWith::from)?;
    let page = client.get(&query(args, None)).map_err(ExitWith::from)?;
    // All flows that were asked for, however many rows the terminal has.
    let space = io::stdout().is_terminal().then(|| Space { rows: usize::MAX, ..terminal() });
    let text = picture(args, page, &Clock::new(), space)?;
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn watch(args: &FlowsArgs) -> anyhow::Result<()> {
    let interrupts = Interrupts::watch()?;
    let clock = Clock::new();
    let drawn = io::stdout().is_terminal() && !args.json;
    let screen = drawn.then(Screen::open).transpose()?;
    let mut answered_ns = clock.monotonic_ns();
    loop {
        let space = drawn.then(terminal);
        let asked = Client::connect(&args.socket).and_then(|it| it.get(&query(args, space)));
        let pause = match asked {
            Ok(page) => {
                answered_ns = clock.monotonic_ns();
                let text = picture(args, page, &clock, space)?;
                match &screen {
                    Some(screen) => screen.draw(&text)?,
                    None => io::stdout().write_all(text.as_bytes())?,
                }
                if drawn { REDRAW } else { REPEAT }
            }
            Err(ClientError::Unreachable { .. } | ClientError::Broken { .. })
                if clock.monotonic_ns() - answered_ns < DAEMON_WAIT_NS =>
            {
                if let Some(screen) = &screen {
                    let path = args.socket.display().to_string();
                    screen.draw(&format!("waiting for linnet on {}\n", super::printable(&path)))?;
                }
                RETRY
            }
            Err(error) => return Err(ExitWith::from(error).into()),
        };
        let stdout = io::stdout();
        if interrupts.wait(&[std::os::fd::AsFd::as_fd(&stdout)], pause)? != Wake::Timeout {
            return Ok(());
        }
    }
}

/// The page of the API that is wanted; on a terminal no more than fits.
fn query(args: &FlowsArgs, space: Option<Space>) -> String {
    let fits = space.map(Space::flows);
    let wanted = args.limit.map(usize::from);
    let limit = fits.map_or(wanted, |fits| Some(wanted.map_or(fits, |wanted| wanted.min(fits))));
    with_query(
        "/api/v1/flows",
        &[
            ("sort", args.sort.clone()),
            ("limit", limit.map(|limit| limit.clamp(1, PAGE_MAX).to_string())),
            ("protocol", args.protocol.clone()),
            ("address", args.address.clone()),
            ("port", args.port.clone()),
            ("state", args.state.clone()),
            ("interface", args.interface.clone()),
        ],
    )
}

fn picture(
    args: &FlowsArgs,
    page: Value,
    clock: &Clock,
    space: Option<Space>,
) -> Result<String, ExitWith> {
    if args.json {
        return Ok(format!("{page}\n"));
    }
    let page = Page::deserialize(page).map_err(|error| foreign(&error))?;
    Ok(table::render(&page, clock.wall_ns(), space))
}

fn terminal() -> Space {
    rustix::termios::tcgetwinsize(io::stdout())
        .ok()
        .filter(|size| size.ws_col > 0 && size.ws_row > 0)
        .map_or(SPACE_DEFAULT, |size| Space {
            columns: size.ws_col.into(),
            rows: size.ws_row.into(),
        })
}

/// A terminal with its cursor hidden; it comes back when this goes.
struct Screen;

impl Screen {
    fn open() -> io::Result<Self> {
        let screen = Self;
        write_at_once(OPEN)?;
        Ok(screen)
    }

    /// Draws over the picture before, line by line, so that nothing is blank in between.
    fn draw(&self, text: &str) -> io::Result<()> {
        let lines = text.trim_end_matches('\n').replace('\n', "\x1b[K\r\n");
        write_at_once(&format!("\x1b[H{lines}\x1b[K\x1b[J"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone has no cursor.
        let _shown = write_at_once(&format!("{CLOSE}\r\n"));
    }
}

fn write_at_once(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn arguments(line: &str) -> FlowsArgs {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Flows(args) = cli.command else { panic!("another command") };
        args
    }

    #[test]
    fn filters_and_a_descending_sort_reach_the_query() {
        let args = arguments("linnet flows --sort -bytes --limit 3 --interface lab/eth0");
        let expected = "/api/v1/flows?sort=-bytes&limit=3&interface=lab%2Feth0";
        assert_eq!(query(&args, None), expected);
    }

    #[test]
    fn a_terminal_is_asked_for_no_more_than_fits() {
        let space = Some(Space { columns: 80, rows: 24 });
        let fits = Space { columns: 80, rows: 24 }.flows();
        assert_eq!(query(&arguments("linnet flows"), space), format!("/api/v1/flows?limit={fits}"));
        let few = arguments("linnet flows --limit 2");
        assert_eq!(query(&few, space), "/api/v1/flows?limit=2");
    }

    #[test]
    fn more_flows_than_a_page_holds_are_a_usage_error() {
        assert!(Cli::try_parse_from(["linnet", "flows", "--limit", "1001"]).is_err());
    }
}
