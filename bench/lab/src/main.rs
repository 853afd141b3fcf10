//! The `lab` program: builds a lab with traffic for people and tools, writes synthetic captures,
//! and reaps leftovers. Never leaves namespaces behind, unless it is killed by SIGKILL: then the
//! next start reaps them.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use lab::clock::{monotonic_ns, nanos};
use lab::demo::{Demo, DemoReport};
use lab::synth::{self, Scene};
use lab::traffic::Stop;
use lab::{Lab, LabError, LabReport, Loss, Plan, Reorder, reap_stale};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::Serialize;
use serde_json::json;

/// Room before the rate limit.
const QUEUE_BYTES: u64 = 128 << 10;
/// How much longer an overtaken segment waits.
const REORDER_DELAY: Duration = Duration::from_millis(3);
const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 64;
const EXIT_PRIVILEGE: u8 = 77;

/// Small networks of namespaces with real sockets and known impairments.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a lab, run demo traffic until SIGINT, SIGTERM or the time is up, and remove it. Needs
    /// root.
    Up(Up),
    /// Write a synthetic capture (pcap) and print the truth about it. Needs no privileges.
    Generate(Generate),
    /// Remove the namespaces of labs that were killed. Needs root.
    Reap,
}

#[derive(Debug, Args)]
struct Up {
    /// Round-trip delay that the router adds, half of it each way.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    delay_ms: u64,
    /// Lose every N-th TCP data segment of each flow and direction; 0 for none.
    #[arg(long, default_value_t = 50)]
    loss_every: u32,
    /// Let every N-th TCP data segment of each flow and direction be overtaken.
    #[arg(long)]
    reorder_every: Option<u32>,
    /// Rate of each direction in Mbit/s; 0 for no limit.
    #[arg(long, default_value_t = 20)]
    rate_mbit: u64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after this time.
    #[arg(long)]
    seconds: Option<u64>,
    /// Part of the namespaces' names.
    #[arg(long, default_value = "demo")]
    label: String,
    /// Stop when standard input ends.
    #[arg(long)]
    stay_while_stdin_open: bool,
}

#[derive(Debug, Args)]
struct Generate {
    /// The file to write.
    file: PathBuf,
    /// Length of the scene.
    #[arg(long, default_value_t = Scene::default().seconds)]
    seconds: u32,
    /// Seed of everything random: the same seed gives the same file.
    #[arg(long, default_value_t = Scene::default().seed)]
    seed: u64,
    /// Number of conversations.
    #[arg(long, default_value_t = Scene::default().flows)]
    flows: u32,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            error.print().ok();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let outcome = match cli.command {
        Command::Up(up) => run_up(&up),
        Command::Generate(generate) => run_generate(&generate),
        Command::Reap => run_reap(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "lab: {}", story(&error)).ok();
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The error and its causes, without those that a message already tells.
fn story(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut story, cause| {
        let cause = cause.to_string();
        if !story.contains(&cause) {
            story += if story.is_empty() { "" } else { ": " };
            story += &cause;
        }
        story
    })
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let denied = |source: &io::Error| source.kind() == io::ErrorKind::PermissionDenied;
    let is_privilege = match error.downcast_ref::<LabError>() {
        Some(LabError::Privilege { .. }) => true,
        Some(LabError::Namespace { source, .. } | LabError::NamespaceFolder { source, .. }) => {
            denied(source)
        }
        Some(LabError::Plan { .. }) => return EXIT_USAGE,
        _ => false,
    };
    if is_privilege { EXIT_PRIVILEGE } else { EXIT_FAILED }
}

fn run_up(up: &Up) -> anyhow::Result<()> {
    // Dies with who started it, so that a demo leaves nothing even where its parent is killed.
    prctl::set_pdeathsig(Signal::SIGTERM).context("cannot ask to end with the parent")?;
    let endings = Endings::new(up)?;
    let lab = Lab::build(plan(up))?;
    let demo = Demo::start(&lab)?;
    print_line(&ready(up, &lab))?;
    let stop = Stop::new();
    let traffic = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| demo.run(&stop));
        let waited = endings.wait();
        stop.stop();
        let traffic = traffic.join().unwrap_or_default();
        waited.map(|()| traffic)
    })?;
    let report = lab.report();
    drop(demo);
    drop(lab);
    print_line(&Report { relays: report, traffic })
}

fn plan(up: &Up) -> Plan {
    let loss = if up.loss_every == 0 { Loss::None } else { Loss::EveryNthData(up.loss_every) };
    let rtt = Duration::from_millis(up.delay_ms);
    let mut plan = Plan::new(&up.label).with_rtt(rtt).with_loss(loss);
    plan.seed = up.seed;
    for way in [&mut plan.to_server, &mut plan.to_client] {
        way.reorder =
            up.reorder_every.map(|every_nth| Reorder { every_nth, extra_delay: REORDER_DELAY });
        if up.rate_mbit > 0 {
            way.rate_bits_per_s = Some(up.rate_mbit.saturating_mul(1_000_000));
            way.queue_bytes = QUEUE_BYTES;
        }
    }
    plan
}

/// What others need to attach to the lab.
fn ready(up: &Up, lab: &Lab) -> serde_json::Value {
    json!({
        "namespaces": {
            "client": lab.client().name(),
            "router": lab.router().map(lab::Namespace::name),
            "server": lab.server().name(),
        },
        "interfaces": lab.interfaces(),
        "addresses": {
            "client": [lab.client_address(lab::Family::V4), lab.client_address(lab::Family::V6)],
            "server": [lab.server_address(lab::Family::V4), lab.server_address(lab::Family::V6)],
        },
        "delay_ms": up.delay_ms,
        "loss_every": up.loss_every,
        "reorder_every": up.reorder_every,
        "rate_mbit": up.rate_mbit,
        "seed": up.seed,
    })
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    relays: LabReport,
    traffic: DemoReport,
}

/// Whatever may end the lab.
struct Endings {
    signals: SignalFd,
    watches_stdin: bool,
    deadline_ns: Option<u64>,
}

impl Endings {
    /// Blocks the signals, so that threads started later leave them to us.
    fn new(up: &Up) -> anyhow::Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block().context("cannot block signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)
            .context("cannot wait for signals")?;
        let limit = up.seconds.map(Duration::from_secs);
        let deadline_ns = limit.map(|limit| monotonic_ns().saturating_add(nanos(limit)));
        Ok(Self { signals, watches_stdin: up.stay_while_stdin_open, deadline_ns })
    }

    fn wait(&self) -> anyhow::Result<()> {
        let stdin = io::stdin();
        loop {
            let left_ms =
                self.deadline_ns.map(|at| at.saturating_sub(monotonic_ns()).div_ceil(1_000_000));
            let timeout = match left_ms {
                Some(0) => return Ok(()),
                Some(left) => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            let mut wake = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            if self.watches_stdin {
                wake.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut wake, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for an end"),
            }
            let is_signalled = wake[0].any().unwrap_or(false);
            let has_input = wake.get(1).is_some_and(|stdin| stdin.any().unwrap_or(false));
            if is_signalled || has_input && stdin.lock().read(&mut [0; 4096]).unwrap_or(0) == 0 {
                return Ok(());
            }
        }
    }
}

fn run_generate(generate: &Generate) -> anyhow::Result<()> {
    let file = File::create(&generate.file)
        .with_context(|| format!("cannot create `{}`", generate.file.display()))?;
    let Generate { seconds, seed, flows, .. } = *generate;
    let scene = Scene { seconds, seed, flows, ..Scene::default() };
    let truth = synth::write(&scene, BufWriter::new(file))?;
    print_line(&truth)
}

fn run_reap() -> anyhow::Result<()> {
    print_line(&json!({ "reaped": reap_stale()? }))
}

/// One line of JSON; who reads it may have gone, which is no failure.
fn print_line(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(value).context("cannot write JSON")?;
    line.push('\n');
    let mut out = io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}
