//! `linnet analyze FILE`: what the flows of a capture did, as a report or as one JSON object; its frames that Wireshark
//! flags, or the sequence graph of a connection. Computes nothing.

mod report;

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use datapath::layout::FLOWS_MAX;

use self::report::counted;
use super::{ExitWith, exit, unreadable};
use crate::{
    analysis::{Analyzer, view::GraphsView},
    analyze::{Analysis, AnalysisView, AnalyzeError, FLOWS_DEFAULT, analyze_with},
    flow::FlowId,
    frames::{Compat, FramesError, letters, tell},
};

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
    /// Print the sequence graph of a TCP flow, by its id in `--json`, as one JSON object.
    #[arg(long, value_name = "FLOW", conflicts_with_all = ["json", "frames"])]
    graph: Option<FlowId>,
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
    let analyzer = if args.graph.is_some() { Analyzer::with_graphs() } else { Analyzer::default() };
    let analysis =
        analyze_with(analyzer, &args.file, flows_max).map_err(|error| refusal(&error))?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match args.graph {
        Some(id) => graph(&mut out, &analysis, id)?,
        None if args.json => json(&mut out, &analysis),
        None => report::write(&mut out, &analysis),
    };
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

/// Prints the graph of one connection; nothing where there is none.
fn graph(
    out: &mut impl Write,
    analysis: &Analysis,
    id: FlowId,
) -> Result<io::Result<()>, ExitWith> {
    let found = analysis.analyzed().find(|(record, _)| record.id == id);
    let Some((record, Some(connection))) = found else {
        let message = match found {
            Some(_) => format!("flow `{id}` has no sequence graph: it is not TCP"),
            None => format!("there is no flow `{id}` in the file; `--json` has the ids of all"),
        };
        return Err(ExitWith { code: exit::USAGE, message });
    };
    let graphs = GraphsView::new(connection, usize::from(record.upper_originated));
    let written = serde_json::to_writer(&mut *out, &graphs).map_err(io::Error::from);
    Ok(written.and_then(|()| writeln!(out)))
}
