//! Receivers that bound what senders send. Names the receiver where its window is shut, and never the network.

use datapath::tcp::classes::{WINDOW_FULL, ZERO_WINDOW};

use super::{Code, Confidence, Facts, Finding, facts::Direction, filter, loss::percent};

/// Time shut that somebody notices.
const SHUT_MIN_NS: u64 = 200_000_000;
/// Time shut about which there is no doubt.
const SHUT_CERTAIN_NS: u64 = 1_000_000_000;
/// Zero windows where only their number is known.
const ZERO_WINDOWS_MIN: u64 = 3;
/// Segments that filled the window.
const FULL_MIN: u64 = 10;
/// Their share of all with payload.
const FULL_SHARE: f64 = 0.1;
/// The largest window without scaling.
const UNSCALED_MAX: u32 = 65_535;
/// In flight when the window without scaling is as good as full.
const UNSCALED_FULL: u32 = 58_000;
/// A window of 64 kB is enough for 100 Mbit/s below this round trip.
const UNSCALED_ROUND_TRIP_NS: u64 = 5_000_000;
/// Payload of a transfer that a window can slow down.
const UNSCALED_PAYLOAD_BYTES: u64 = 262_144;

/// This side takes nothing: periods of windows of 0.
pub(super) fn zero_window(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    if !facts.is_tcp() {
        return None;
    }
    let side = facts.side(direction);
    let zero_windows = side.class(ZERO_WINDOW);
    let has_data = facts.side(direction.other()).record.payload_bytes > 0;
    let (confidence, span) = match side.wire {
        _ if !has_data || zero_windows == 0 => return None,
        Some(wire) if wire.shut_ns >= SHUT_CERTAIN_NS => (Confidence::Certain, wire.shut_span()),
        Some(wire) if wire.shut_ns >= SHUT_MIN_NS => (Confidence::Likely, wire.shut_span()),
        None if zero_windows >= ZERO_WINDOWS_MIN => (Confidence::Possible, None),
        Some(_) | None => return None,
    };
    let what = "tcp.window_size_value == 0 && tcp.flags.reset == 0";
    let finding =
        Finding::new(Code::ReceiverZeroWindow, confidence, filter::from(facts, direction, what));
    let finding = finding
        .between(span)
        .with("receiver", direction.sender())
        .with("zero_windows", zero_windows);
    Some(match side.wire {
        Some(wire) => finding
            .with("periods", wire.shut.count)
            .with("shut_ns", wire.shut_ns)
            .with("longest_ns", wire.shut_longest_ns),
        None => finding,
    })
}

/// What this side sends fills the other one's window again and again.
pub(super) fn window_limited(facts: &Facts<'_>, direction: Direction) -> Option<Finding> {
    let side = facts.side(direction);
    let full = side.class(WINDOW_FULL);
    let data = u64::from(side.wire?.data.count);
    let share = full as f64 / data.max(1) as f64;
    if full < FULL_MIN || share < FULL_SHARE {
        return None;
    }
    let filter = filter::from(facts, direction, "tcp.analysis.window_full");
    let finding = Finding::new(Code::ReceiveWindowLimited, Confidence::Likely, filter)
        .with("receiver", direction.other().sender())
        .with("window_full_segments", full)
        .with("data_segments", data)
        .with("window_full_percent", percent(share))
        .with("in_flight_max_bytes", side.wire?.in_flight_max);
    Some(finding)
}

/// Windows are not scaled, one was full, and the round trip makes that slow.
pub(super) fn window_unscaled(facts: &Facts<'_>) -> Option<Finding> {
    let offered = facts.sides().map(|side| side.wire.and_then(|wire| wire.offered));
    let [Some(originator), Some(responder)] = offered else { return None };
    let scales = [originator.window_scale, responder.window_scale];
    if facts.is_one_connection() != Some(true) || scales.iter().all(Option::is_some) {
        return None;
    }
    let is_filled = |direction: &Direction| {
        let side = facts.side(*direction);
        side.record.payload_bytes >= UNSCALED_PAYLOAD_BYTES
            && side
                .wire
                .is_some_and(|wire| (UNSCALED_FULL..=UNSCALED_MAX).contains(&wire.in_flight_max))
    };
    let direction = Direction::BOTH.into_iter().find(is_filled)?;
    let side = facts.side(direction);
    // The handshake's alone may be a tick of the capture's clock: data has to have taken as long, to here from both ends.
    let of_data_ns: u64 = facts
        .sides()
        .iter()
        .filter(|side| side.wire.is_some_and(|wire| wire.data_round_trips > 0))
        .filter_map(|side| side.round_trips(1))
        .map(|round_trips| round_trips.min_ns)
        .fold(0, u64::saturating_add);
    let round_trip_ns = facts.record.handshake_rtt_ns?.min(of_data_ns);
    if round_trip_ns < UNSCALED_ROUND_TRIP_NS {
        return None;
    }
    let bound = f64::from(UNSCALED_MAX) * 8.0 * 1e9 / round_trip_ns as f64;
    let without = match scales {
        [None, None] => "both",
        [None, Some(_)] => "originator",
        [Some(_), _] => "responder",
    };
    let filter = filter::both(facts, "tcp.flags.syn == 1");
    let finding = Finding::new(Code::WindowScalingOff, Confidence::Likely, filter)
        .with("without_the_option", without)
        .with("sender", direction.sender())
        .with("in_flight_max_bytes", side.wire?.in_flight_max)
        .with("round_trip_ns", round_trip_ns)
        .with("rate_bound_bits_per_second", bound.round());
    Some(finding)
}
