//! `linnet analyze FILE`: what the flows of a capture did, as a report or as one JSON object.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use datapath::{Outcome, layout::FLOWS_MAX, parse::tunnel};

use super::{ExitWith, exit, si_bytes, span, unreadable};
use crate::{
    analyze::{Analysis, AnalysisView, AnalyzeError, FLOWS_DEFAULT, analyze},
    diagnosis::write_report,
    flow::{FlowRecord, community_id::address, query::sent_again, view::protocol_name},
    frames::{Compat, FramesError, letters, tell},
};

/// Flows that the report shows.
const REPORT_FLOWS_MAX: usize = 50;

/// Arguments of `linnet analyze`.
#[derive(Debug, clap::Args)]
pub struct AnalyzeArgs {
    /// The capture: pcap or pcapng; `-` for standard input.
    file: PathBuf,
    /// Flows to tell apart; packets of further ones are counted as `table_full`.
    #[arg(long, default_value_t = FLOWS_DEFAULT as u64, value_parser = clap::value_parser!(u64).range(1..=u64::from(FLOWS_MAX)))]
    flows: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Print a line for each TCP frame that Wireshark flags: its number, a tab, and a letter for each class.
    #[arg(long, conflicts_with = "json")]
    frames: bool,
    /// Whose rules flag frames: those of Wireshark 4.0, which linnet's flows are counted by, or of 4.4.
    #[arg(long, value_enum, default_value_t = CompatArg::Ws40, requires = "frames")]
    compat: CompatArg,
}

/// [`Compat`] on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CompatArg {
    Ws40,
    Ws44,
}

impl From<CompatArg> for Compat {
    fn from(arg: CompatArg) -> Self {
        match arg {
            CompatArg::Ws40 => Self::Ws40,
            CompatArg::Ws44 => Self::Ws44,
        }
    }
}

/// Reads the file and prints what it holds.
pub fn run(args: &AnalyzeArgs) -> anyhow::Result<u8> {
    let flows_max = usize::try_from(args.flows).unwrap_or(FLOWS_DEFAULT);
    if args.frames {
        return frames(args, flows_max);
    }
    let analysis = analyze(&args.file, flows_max).map_err(|error| refusal(&error))?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = if args.json { json(&mut out, &analysis) } else { report(&mut out, &analysis) };
    taken(written.and_then(|()| out.flush()))?;
    ended(args, analysis.damage)
}

/// Prints a line for each frame that has classes.
fn frames(args: &AnalyzeArgs, streams_max: usize) -> anyhow::Result<u8> {
    let mut out = BufWriter::new(io::stdout().lock());
    let told = tell(&args.file, args.compat.into(), streams_max, |number, classes| {
        write!(out, "{number}\t")?;
        letters(classes).try_for_each(|letter| write!(out, "{letter}"))?;
        writeln!(out)
    });
    let told = match told {
        Ok(told) => told,
        Err(FramesError::Analyze(error)) => return Err(refusal(&error).into()),
        Err(FramesError::Write(error)) => {
            taken(Err(error))?;
            return Ok(0);
        }
    };
    taken(out.flush())?;
    if told.refused > 0 {
        let segments = counted(told.refused, "segment");
        let message = format!("{segments} of further streams not told; --flows raises the limit");
        return Err(ExitWith { code: exit::FAILED, message }.into());
    }
    ended(args, told.damage)
}

fn refusal(error: &AnalyzeError) -> ExitWith {
    let code = match error {
        AnalyzeError::Io { source, .. } => unreadable(source.kind()),
        AnalyzeError::Read { .. } => exit::DAMAGED,
    };
    ExitWith { code, message: error.to_string() }
}

/// `linnet analyze FILE | head` is no failure.
fn taken(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// How the command ends when all that could be read was told.
fn ended(args: &AnalyzeArgs, damage: Option<String>) -> anyhow::Result<u8> {
    let Some(damage) = damage else { return Ok(0) };
    let message =
        format!("`{}` is damaged: {damage}; what came before it is above", args.file.display());
    Err(ExitWith { code: exit::DAMAGED, message }.into())
}

fn json(out: &mut impl Write, analysis: &Analysis) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &AnalysisView::new(analysis))?;
    writeln!(out)
}

fn report(out: &mut impl Write, analysis: &Analysis) -> io::Result<()> {
    let flows = analysis.flows.len();
    writeln!(out, "{}, {}", counted(analysis.packets, "packet"), counted(flows as u64, "flow"))?;
    write!(out, "counted:")?;
    for (outcome, count) in Outcome::ALL.iter().zip(analysis.counters.outcomes) {
        if count > 0 {
            write!(out, " {} {count}", outcome.name())?;
        }
    }
    writeln!(out)?;
    let refused = analysis.counters.outcomes[Outcome::TableFull as usize];
    if refused > 0 {
        writeln!(out, "{} of further flows: --flows raises the limit", counted(refused, "packet"))?;
    }
    writeln!(out)?;
    write_report(out, &analysis.diagnoses)?;
    let mut by_bytes: Vec<_> = analysis.flows.iter().collect();
    by_bytes.sort_by_key(|flow| {
        std::cmp::Reverse(flow.from_originator.bytes + flow.from_responder.bytes)
    });
    for flow in by_bytes.iter().take(REPORT_FLOWS_MAX) {
        line(out, flow)?;
    }
    if flows > REPORT_FLOWS_MAX {
        writeln!(out, "... and {} smaller flows; --json has all", flows - REPORT_FLOWS_MAX)?;
    }
    Ok(())
}

/// A number of things, in the right number.
fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

fn line(out: &mut impl Write, flow: &FlowRecord) -> io::Result<()> {
    let key = &flow.key;
    let lower = (address(key, key.lower), u16::from_be(key.lower_port));
    let upper = (address(key, key.upper), u16::from_be(key.upper_port));
    let (from, to) = if flow.upper_originated { (upper, lower) } else { (lower, upper) };
    let (protocol, state) = (protocol_name(key.protocol), flow.state.name());
    let end = |(address, port)| match flow.has_ports() {
        true => format!("{address} port {port}"),
        false => format!("{address}"),
    };
    write!(out, "{protocol} {} -> {}  {state}", end(from), end(to))?;
    if let Some(kind) = tunnel::name(flow.tunnel.0) {
        write!(out, "  in {kind} {}", flow.tunnel.1)?;
    }
    let (errors, [kind, code]) = flow.icmp_errors;
    if errors > 0 {
        let errors = counted(errors, "ICMP error");
        write!(out, "  {errors}, the last of type {kind} code {code}")?;
    }
    writeln!(out)?;
    for (name, half) in [("->", &flow.from_originator), ("<-", &flow.from_responder)] {
        write!(out, "   {name} {}, {}", counted(half.packets, "packet"), si_bytes(half.bytes))?;
        if half.rtt.samples > 0 {
            let [p50, _, p99] = half.rtt.quantiles_ns;
            write!(out, ", rtt p50 {} p99 {}", span(p50), span(p99))?;
        }
        let again = sent_again(&half.classes);
        if again > 0 {
            write!(out, ", {again} sent again")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
