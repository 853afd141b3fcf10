//! The report of `linnet analyze`: what is wrong, then the connections that had trouble first, with what it was; then the others, in a line
//! or two. Computes nothing that the analysis does not have.

use std::io::{self, Write};

use datapath::{Outcome, parse::tunnel, tcp::verdict::Verdicts};

use crate::{
    analysis::{Connection, Samples, Side, pace::StallKind},
    analyze::Analysis,
    cli::{si_bytes, span},
    diagnosis::write_report,
    flow::{FlowRecord, HalfRecord, record::QUANTILES, view::protocol_name},
};

/// Flows that the report shows.
const REPORT_FLOWS_MAX: usize = 50;

/// Writes all of it.
pub(super) fn write(out: &mut impl Write, analysis: &Analysis) -> io::Result<()> {
    heading(out, analysis)?;
    write_report(out, &analysis.diagnoses)?;
    let mut flows: Vec<_> =
        analysis.analyzed().map(|flow| (trouble(flow.1, flow.0), flow)).collect();
    flows.sort_by_key(|(trouble, (record, _))| {
        let bytes = record.from_originator.bytes + record.from_responder.bytes;
        (std::cmp::Reverse(*trouble), std::cmp::Reverse(bytes))
    });
    for (trouble, (record, connection)) in flows.iter().take(REPORT_FLOWS_MAX) {
        title(out, record)?;
        match connection {
            Some(connection) if *trouble > 0 => troubled(out, record, connection)?,
            Some(_) | None => calm(out, record, *connection)?,
        }
    }
    if let Some(more) = flows.len().checked_sub(REPORT_FLOWS_MAX).filter(|more| *more > 0) {
        writeln!(out, "... and {more} flows with less to tell; --json has all")?;
    }
    Ok(())
}

fn heading(out: &mut impl Write, analysis: &Analysis) -> io::Result<()> {
    let flows = analysis.flows.len() as u64;
    writeln!(out, "{}, {}", counted(analysis.packets, "packet"), counted(flows, "flow"))?;
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
    if analysis.not_analyzed > 0 {
        let segments = counted(analysis.not_analyzed, "segment");
        writeln!(out, "{segments} of further connections counted, but not analyzed")?;
    }
    writeln!(out)
}

/// A number of things, in the right number.
pub(super) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// How much there is to tell: 0 for a connection in which nothing went wrong. A stall counts as a loss for each 100 ms.
fn trouble(connection: Option<&Connection>, record: &FlowRecord) -> u64 {
    const STALL_UNIT_NS: u64 = 100_000_000;
    let Some(connection) = connection else { return 0 };
    let stalled: u64 = (connection.sides().iter())
        .map(|side| {
            let stalled_ns = side.pace.stalled_ns().iter().sum::<u64>() + side.window.zero_ns();
            stalled_ns.div_ceil(STALL_UNIT_NS) + side.window.zero_periods().count()
        })
        .sum();
    let late: u64 = [&record.from_originator, &record.from_responder]
        .into_iter()
        .filter_map(|half| half.verdicts)
        .map(|verdicts| {
            verdicts.retransmitted_segments
                + verdicts.reordered_segments
                + verdicts.duplicate_frames
        })
        .sum();
    stalled + late
}

/// Who talks to whom, and how it stands.
fn title(out: &mut impl Write, record: &FlowRecord) -> io::Result<()> {
    let [from, to] = record.ends();
    let (protocol, state) = (protocol_name(record.key.protocol), record.state.name());
    let end = |(address, port)| match record.has_ports() {
        true => format!("{address} port {port}"),
        false => format!("{address}"),
    };
    write!(out, "{protocol} {} -> {}  {state}", end(from), end(to))?;
    if let Some(kind) = tunnel::name(record.tunnel.0) {
        write!(out, "  in {kind} {}", record.tunnel.1)?;
    }
    let (errors, [kind, code]) = record.icmp_errors;
    if errors > 0 {
        let errors = counted(errors, "ICMP error");
        write!(out, "  {errors}, the last of type {kind} code {code}")?;
    }
    writeln!(out)
}

/// Both directions of a flow, in one line.
fn calm(
    out: &mut impl Write,
    record: &FlowRecord,
    connection: Option<&Connection>,
) -> io::Result<()> {
    let [from, to] = directions(record, connection)
        .map(|(arrow, half, side)| format!("{arrow} {}{}", amount(half), round_trip(half, side)));
    writeln!(out, "   {from}  {to}")
}

/// Each direction, and what went wrong in it.
fn troubled(out: &mut impl Write, record: &FlowRecord, connection: &Connection) -> io::Result<()> {
    if let Some(shaken) = handshake(connection) {
        writeln!(out, "   {shaken}")?;
    }
    let [lower, upper] = connection.sides();
    for (arrow, half, side) in directions(record, Some(connection)) {
        writeln!(out, "   {arrow} {}{}", amount(half), round_trip(half, side))?;
        let Some(side) = side else { continue };
        let receiver = if std::ptr::eq(side, lower) { upper } else { lower };
        let verdicts = half.verdicts.unwrap_or_default();
        let facts = [sent_again(&verdicts), late(&verdicts), stalls(side), timeouts(side)];
        // What the originator takes to go on is its user's time.
        let answers = std::ptr::eq(half, &record.from_responder).then(|| answers(side)).flatten();
        let facts = facts.into_iter().chain([no_room(side, receiver), answers]);
        for fact in facts.flatten() {
            writeln!(out, "      {fact}")?;
        }
    }
    Ok(())
}

/// What each side sent, the originator's first.
fn directions<'a>(
    record: &'a FlowRecord,
    connection: Option<&'a Connection>,
) -> [(&'static str, &'a HalfRecord, Option<&'a Side>); 2] {
    let sides = connection.map(|connection| connection.sides().each_ref());
    let [own, peer] = record.by_role(sides.map_or([None; 2], |sides| sides.map(Some)));
    [("->", &record.from_originator, own), ("<-", &record.from_responder, peer)]
}

fn amount(half: &HalfRecord) -> String {
    format!("{}, {}", counted(half.packets, "packet"), si_bytes(half.bytes))
}

/// Round trips of a direction's data: of every acknowledgment, or else those that were sampled.
fn round_trip(half: &HalfRecord, side: Option<&Side>) -> String {
    let sampled = || {
        let [p50, p95, _] = half.rtt.quantiles_ns;
        (half.rtt.samples > 0).then_some([p50, p95])
    };
    let measured = |side: &Side| quantiles(&side.round_trips);
    let Some([p50, p95]) = side.and_then(measured).or_else(sampled) else {
        return String::new();
    };
    format!(", rtt p50 {} p95 {}", span(p50), span(p95))
}

fn quantiles(samples: &Samples) -> Option<[u64; 2]> {
    samples.quantiles_ns(QUANTILES).map(|[p50, p95, _]| [p50, p95])
}

fn handshake(connection: &Connection) -> Option<String> {
    let handshake = connection.handshake();
    let responder = handshake.responder_side_ns()?;
    let again = match handshake.syns() {
        0 | 1 => String::new(),
        times => format!(", after {times} SYNs"),
    };
    Some(match handshake.originator_side_ns() {
        Some(originator) => format!(
            "handshake {} beyond here to the responder, {} to the originator{again}",
            span(responder),
            span(originator)
        ),
        None => format!(
            "handshake {} beyond here to the responder, not completed{again}",
            span(responder)
        ),
    })
}

/// Counts with their names, without those that are 0.
fn named<const N: usize>(counts: [(u64, &str); N]) -> String {
    let there = counts.iter().filter(|(count, _)| *count > 0);
    there.map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

fn sent_again(verdicts: &Verdicts) -> Option<String> {
    let segments = verdicts.retransmitted_segments;
    if segments == 0 {
        return None;
    }
    let causes = named([
        (verdicts.rto, "after a time-out"),
        (verdicts.fast, "fast"),
        (verdicts.tail_loss_probe, "tail-loss probes"),
        (verdicts.spurious, "without need"),
    ]);
    let places = named([
        (verdicts.lost_upstream, "lost before here"),
        (verdicts.lost_downstream, "lost beyond here"),
    ]);
    let causes = if causes.is_empty() { causes } else { format!(" ({causes})") };
    let places = if places.is_empty() { places } else { format!("; {places}") };
    Some(format!("retransmitted {}{causes}{places}", counted(segments, "segment")))
}

fn late(verdicts: &Verdicts) -> Option<String> {
    let told = named([
        (verdicts.reordered_segments, "reordered"),
        (verdicts.duplicate_frames, "captured twice"),
    ]);
    (!told.is_empty()).then_some(told)
}

fn stalls(side: &Side) -> Option<String> {
    let pace = &side.pace;
    let stalls = pace.stalls();
    if stalls.count() == 0 {
        return None;
    }
    let waited = |(kind, ns): (&StallKind, u64)| {
        let what = match kind {
            StallKind::Retransmission => "until something was sent again",
            StallKind::Acknowledgment => "for an acknowledgment",
            StallKind::Window => "for room at the receiver",
            StallKind::Sender => "for the sender",
        };
        (ns > 0).then(|| format!("{} {what}", span(ns)))
    };
    let kinds: Vec<_> = StallKind::ALL.iter().zip(pace.stalled_ns()).filter_map(waited).collect();
    let longest = stalls.as_slice().iter().max_by_key(|stall| stall.span.duration_ns())?;
    let (from, until) = (longest.span.from.frame, longest.span.until.frame);
    let kinds = kinds.join(", ");
    Some(match stalls.count() {
        1 => format!("stood still once: {kinds}, between frames {from} and {until}"),
        count => {
            let longest = span(pace.longest_stall_ns());
            format!(
                "stood still {count} times: {kinds}; the longest {longest}, between frames {from} and {until}"
            )
        }
    })
}

/// Only what is more than one try: single ones are among what was retransmitted.
fn timeouts(side: &Side) -> Option<String> {
    let timeouts = &side.timeouts;
    let worst = timeouts.told().as_slice().iter().max_by_key(|one| one.tries)?;
    if worst.tries < 2 {
        return None;
    }
    let end = if worst.recovered.is_some() { "then acknowledged" } else { "never acknowledged" };
    let (tries, frame) = (worst.tries, worst.last.frame);
    Some(format!(
        "one segment sent again {tries} times by its timer, the last in frame {frame}, {end}"
    ))
}

/// A receiver that kept its sender waiting.
fn no_room(side: &Side, receiver: &Side) -> Option<String> {
    let window = &receiver.window;
    let periods = window.zero_periods().count();
    let limited_ns = side.pace.window_limited_ns();
    if periods == 0 && limited_ns == 0 {
        return None;
    }
    let zero = format!("window 0 {} for {}", times(periods), span(window.zero_ns()));
    let limited = format!("receiver had no room for {}", span(limited_ns));
    Some(match (periods, limited_ns) {
        (0, _) => limited,
        (_, 0) => zero,
        _ => format!("{limited}, {zero}"),
    })
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn answers(side: &Side) -> Option<String> {
    let samples = side.responses.times();
    let [p50, p95] = quantiles(samples)?;
    let count = counted(samples.count(), "answer");
    Some(format!("{count} after p50 {} p95 {}", span(p50), span(p95)))
}
