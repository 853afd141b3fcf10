//! `linnet capture`: packets of the running daemon's interfaces, as pcapng into a file or a pipe.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{ExitWith, exit};
use crate::client::Client;

/// Arguments of `linnet capture`.
#[derive(Debug, clap::Args)]
pub struct CaptureArgs {
    /// Only this interface, as `linnet run` was told.
    #[arg(short, long)]
    interface: Option<String>,
    /// tcpdump's filter language.
    #[arg(short, long, default_value = "")]
    filter: String,
    /// Most bytes of each packet.
    #[arg(short, long, default_value_t = 65_536)]
    snaplen: u32,
    /// Stop after so many packets.
    #[arg(short, long)]
    count: Option<u64>,
    /// Stop after so many seconds.
    #[arg(short = 'G', long)]
    seconds: Option<u64>,
    /// Where to: a file, or `-` for standard output.
    #[arg(short, long)]
    write: PathBuf,
    /// The daemon's socket.
    #[arg(long, env = "LINNET_SOCKET", default_value = "/run/linnet/api.sock")]
    socket: PathBuf,
}

/// Captures until a limit or Ctrl-C.
pub fn run(args: &CaptureArgs) -> anyhow::Result<u8> {
    let to_stdout = args.write == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        let message = "packets are not for a terminal; write to a file, or pipe them: `-w - | wireshark -k -i -`".into();
        return Err(ExitWith { code: exit::USAGE, message }.into());
    }
    let client = Client::new(&args.socket)?;
    let request = json!({
        "filter": args.filter,
        "interface": args.interface,
        "snaplen": args.snaplen,
        "limits": { "packets": args.count, "seconds": args.seconds.or(Some(86_400)) },
    });
    let mut out: Box<dyn Write> = if to_stdout {
        Box::new(io::stdout().lock())
    } else {
        Box::new(File::create(&args.write)?)
    };
    let answer = client.post("/api/v1/captures", &request)?;
    let path = format!("/api/v1/captures/{}", answer["capture"]["id"].as_str().unwrap_or_default());
    stop_on_signal(&args.socket, &path)?;
    let streamed = client.stream(&format!("{path}/live"), |chunk| {
        out.write_all(chunk)?;
        out.flush()
    });
    let stopped = client.post(&format!("{path}/stop"), &json!({}))?;
    // It has been streamed whole, or its reader has gone.
    client.delete(&path)?;
    match streamed {
        Err(error) if is_broken_pipe(&error) => {}
        other => other?,
    }
    report(&stopped["capture"]);
    Ok(0)
}

/// Ctrl-C ends the capture, and that ends the stream with a whole file.
fn stop_on_signal(socket: &Path, path: &str) -> anyhow::Result<()> {
    let client = Arc::new(Client::new(socket)?);
    let stop = format!("{path}/stop");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        let signalled = runtime.block_on(tokio::signal::ctrl_c());
        if signalled.is_ok()
            && let Err(error) = client.post(&stop, &json!({}))
        {
            tracing::error!(%error, "the capture was not stopped");
        }
    });
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[expect(clippy::print_stderr, reason = "the last line of a capture, beside its packets")]
fn report(capture: &Value) {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let lost = number(&capture["lost"]["ring"]) + number(&capture["lost"]["disk"]);
    if lost > 0 || io::stderr().is_terminal() {
        eprintln!("{} packets written, {lost} lost", number(&capture["written"]));
    }
}
