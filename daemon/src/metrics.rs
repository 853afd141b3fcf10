//! Every metric: its name, unit and help. No addresses, ids or ports in labels.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::{
    board::Board,
    flow::events::{EventStore, Tally},
};

/// Requests answered.
pub const HTTP_REQUESTS: &str = "linnet_http_requests_total";
/// Requests refused.
pub const AUTH_FAILURES: &str = "linnet_auth_failures_total";

/// Name and help of every counter.
const COUNTERS: [(&str, &str); 11] = [
    ("linnet_ledger_packets_total", "Those frames by what was counted about them"),
    ("linnet_contended_packets_total", "Packets counted but not analyzed"),
    ("linnet_created_flows_total", "Flows created"),
    ("linnet_ended_flows_total", "Flows that left the kernel's table, by reason"),
    ("linnet_capture_ring_produced_records_total", "Records offered to the capture ring"),
    ("linnet_capture_ring_consumed_records_total", "Records read from it"),
    ("linnet_capture_ring_lost_records_total", "Records that found no room"),
    ("linnet_events_total", "Flagged segments that were logged, by what became of them"),
    ("linnet_sweeps_total", "Reads of the kernel's tables"),
    (HTTP_REQUESTS, "Requests answered, by method, route and code"),
    (AUTH_FAILURES, "Requests refused for who or what sent them, by reason"),
];

/// Name and help of every gauge.
const GAUGES: [(&str, &str); 4] = [
    ("linnet_flows", "Flows in the kernel's table as of the last sweep"),
    ("linnet_flow_table_capacity_flows", "Flows that fit into it"),
    ("linnet_flow_table_memory_bytes", "Kernel memory that it takes"),
    ("linnet_sweep_duration_seconds", "How long the last sweep took"),
];

/// Installs the recorder; the daemon serves the text itself.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
    for (name, help) in GAUGES {
        describe_gauge!(name, help);
    }
    Ok(handle)
}

/// The metric with a series for each interface: what is listed has one, and what is not has none.
const SEEN: (&str, &str) = (
    "linnet_seen_packets_total",
    "Frames that entered the datapath, by interface, direction and hook",
);

/// The series of interfaces as text. A recorder would keep those of interfaces that are gone for good.
#[must_use]
pub fn of_interfaces(board: &Board) -> String {
    let (name, help) = SEEN;
    let mut text = format!("# HELP {name} {help}\n# TYPE {name} counter\n");
    for interface in board.interfaces.latest().iter() {
        let sides = [("ingress", &interface.ingress), ("egress", &interface.egress)];
        for ((direction, side), before) in sides.into_iter().zip(interface.seen_before) {
            let Some(side) = side else { continue };
            let label = escaped(&interface.name);
            let (hook, seen) = (&side.hook, side.seen + before);
            text += &format!(
                "{name}{{interface=\"{label}\",direction=\"{direction}\",hook=\"{hook}\"}} {seen}\n"
            );
        }
    }
    text
}

/// Metrics with a series for each such interface and class, or verdict. Of events, since what a flow's entry counts may
/// turn out to be less.
const FLAGGED: (&str, &str) =
    ("linnet_tcp_segments_flagged_total", "TCP segments by Wireshark's class and interface");
const VERDICTS: (&str, &str) =
    ("linnet_tcp_verdict_segments_total", "TCP segments by linnet's verdict and interface");
/// The counter that is of bytes.
const NOT_SEGMENTS: &str = "retransmitted_bytes";

/// The series of flagged segments as text.
#[must_use]
pub fn of_events(board: &Board, events: &EventStore) -> String {
    let tallies = events.tallies().by_interface(&board.naming.latest());
    let interfaces = board.interfaces.latest();
    let mut names: Vec<_> = interfaces.iter().map(|interface| &interface.name).collect();
    names.sort_unstable();
    names.dedup();
    let mut texts = [FLAGGED, VERDICTS]
        .map(|(name, help)| format!("# HELP {name} {help}\n# TYPE {name} counter\n"));
    for name in names {
        let Tally { total, .. } = tallies.get(&Some(name.clone())).copied().unwrap_or_default();
        let label = escaped(name);
        let [by_class, by_verdict] = &mut texts;
        for (class, count) in total.by_class() {
            let metric = FLAGGED.0;
            *by_class += &format!("{metric}{{interface=\"{label}\",class=\"{class}\"}} {count}\n");
        }
        for (verdict, count) in total.by_verdict().filter(|(name, _)| *name != NOT_SEGMENTS) {
            let metric = VERDICTS.0;
            *by_verdict +=
                &format!("{metric}{{interface=\"{label}\",verdict=\"{verdict}\"}} {count}\n");
        }
    }
    texts.concat()
}

/// A label's value: an interface's name can hold quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Sets every other metric to what the board shows.
#[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
pub fn publish(board: &Board, events: &EventStore) {
    let loss = board.loss.latest();
    for (outcome, count) in datapath::Outcome::ALL.iter().zip(loss.ledger.0) {
        counter!("linnet_ledger_packets_total", "outcome" => outcome.name()).absolute(count);
    }
    counter!("linnet_contended_packets_total").absolute(loss.contended);
    counter!("linnet_capture_ring_produced_records_total").absolute(loss.rings.capture.produced);
    counter!("linnet_capture_ring_consumed_records_total").absolute(loss.rings.capture.consumed);
    counter!("linnet_capture_ring_lost_records_total").absolute(loss.rings.capture.lost);
    let (log, ..) = events.balance();
    for (outcome, count) in [("consumed", log.consumed), ("lost", log.lost)] {
        counter!("linnet_events_total", "outcome" => outcome).absolute(count);
    }
    let status = board.status.latest();
    let flows = &status.flows;
    counter!("linnet_created_flows_total").absolute(flows.created);
    // A counter never goes back, so that a bound that turns out too high must not get into it.
    let evicted = if loss.approximate { 0 } else { loss.evicted };
    for (reason, count) in [("closed", flows.closed), ("idle", flows.aged), ("evicted", evicted)] {
        counter!("linnet_ended_flows_total", "reason" => reason).absolute(count);
    }
    counter!("linnet_sweeps_total").absolute(status.sweep.count);
    gauge!("linnet_flows").set(flows.live as f64);
    gauge!("linnet_flow_table_capacity_flows").set(flows.capacity as f64);
    gauge!("linnet_flow_table_memory_bytes").set(flows.memory_bytes as f64);
    gauge!("linnet_sweep_duration_seconds").set(status.sweep.last_duration_ns as f64 / 1e9);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowIdSource, LossView};

    #[test]
    fn evictions_are_counted_when_they_are_exact() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let board = Board::default();
        let events = EventStore::new(FlowIdSource::new(b"test"), 0);
        let evicted_after = |evicted, approximate| {
            board.loss.publish(LossView { evicted, approximate, ..LossView::default() });
            metrics::with_local_recorder(&recorder, || publish(&board, &events));
            let text = recorder.handle().render();
            let series = "linnet_ended_flows_total{reason=\"evicted\"} ";
            text.lines().find_map(|line| line.strip_prefix(series)).unwrap().to_owned()
        };
        let counts = [(10, true), (3, false), (8, true), (4, false)]
            .map(|(evicted, approximate)| evicted_after(evicted, approximate));
        assert_eq!(counts, ["0", "3", "3", "4"]);
    }

    #[test]
    fn names_end_in_their_unit_and_are_documented() {
        let documentation = include_str!("../../docs/api.md");
        let counted = [
            "packets", "flows", "records", "sweeps", "requests", "failures", "events", "segments",
            "flagged",
        ];
        let measured = ["flows", "bytes", "seconds"];
        for (name, help) in COUNTERS.into_iter().chain([SEEN, FLAGGED, VERDICTS]) {
            let unit = name.strip_suffix("_total").and_then(|name| name.rsplit('_').next());
            assert!(unit.is_some_and(|unit| counted.contains(&unit)), "{name}");
            assert!(!help.is_empty() && documentation.contains(&format!("`{name}`")), "{name}");
        }
        for (name, help) in GAUGES {
            let unit = name.rsplit('_').next().unwrap();
            assert!(measured.contains(&unit), "{name}");
            assert!(!help.is_empty() && documentation.contains(&format!("`{name}`")), "{name}");
        }
    }
}
