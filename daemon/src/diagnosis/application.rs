//! Time that passes in applications, and names that do not resolve. Never blames a server for a turn in which something was
//! sent again, or in which both sides spoke.

use super::{
    Code, Confidence, Facts, Finding,
    facts::Direction::{FromOriginator, FromResponder},
    filter,
};

/// Answers that make a habit, and those that leave little doubt.
const ANSWERS_MIN: u32 = 3;
const ANSWERS_LIKELY: u32 = 5;
/// Answers that take longer are slow, if they also take that many round trips.
const SLOW_NS: u64 = 200_000_000;
const SLOW_ROUND_TRIPS: u64 = 10;
/// Nobody computes as long: who answers so late waits for an event.
const WAITING_NS: u64 = 10_000_000_000;
/// Of the turns, the share in which both speak, from which on nothing is said.
const OVERLAPS_SHARE_MAX: u32 = 5;
/// Times that a question has to be asked.
const ASKED_MIN: u32 = 2;

/// The responder thinks for much longer than the network takes.
pub(super) fn slow_response(facts: &Facts<'_>) -> Option<Finding> {
    let [originator, responder] = facts.sides();
    let responses = responder.wire?.responses.as_deref()?;
    let count = responses.tally.count;
    if count < ANSWERS_MIN || responses.overlaps.saturating_mul(OVERLAPS_SHARE_MAX) > count {
        return None;
    }
    let median_ns = responses.median_ns()?;
    let network_ns = match originator.round_trips(u64::from(ANSWERS_MIN)) {
        Some(round_trips) => round_trips.min_ns,
        None => facts.record.handshake_rtt_ns?,
    };
    let least_ns = SLOW_NS.max(network_ns.saturating_mul(SLOW_ROUND_TRIPS));
    if median_ns < least_ns || median_ns > WAITING_NS {
        return None;
    }
    let confidence =
        if count >= ANSWERS_LIKELY { Confidence::Likely } else { Confidence::Possible };
    let filter = filter::from(facts, FromResponder, "tcp.len > 0");
    let finding = Finding::new(Code::SlowResponse, confidence, filter)
        .between(responses.tally.span())
        .with("responses", count)
        .with("response_p50_ns", median_ns)
        .with("response_max_ns", responses.longest_ns)
        .with("round_trip_min_ns", network_ns);
    Some(finding)
}

/// The same question again, and no answer.
pub(super) fn dns_unanswered(facts: &Facts<'_>) -> Option<Finding> {
    let dns = facts.dns()?;
    let (identifier, asked, span) = dns.unanswered()?;
    if asked < ASKED_MIN {
        return None;
    }
    let filter = filter::from(facts, FromOriginator, &format!("dns.id == {identifier:#06x}"));
    let finding = Finding::new(Code::DnsUnanswered, Confidence::Likely, filter)
        .between(Some(span))
        .with("asked", asked)
        .with("waited_ns", span.1.saturating_sub(span.0))
        .with("answers", dns.answers.count);
    Some(finding)
}

/// The server says that it failed, or refuses.
pub(super) fn dns_failed(facts: &Facts<'_>) -> Option<Finding> {
    let dns = facts.dns()?;
    if dns.failures.count == 0 {
        return None;
    }
    let filter = filter::both(facts, "dns.flags.response == 1 && dns.flags.rcode in {2, 5}");
    let finding = Finding::new(Code::DnsFailed, Confidence::Certain, filter)
        .between(dns.failures.span())
        .with("failures", dns.failures.count)
        .with("answers", dns.answers.count)
        .with("last_code", if dns.failure == 2 { "SERVFAIL" } else { "REFUSED" });
    Some(finding)
}

/// Answers that took long.
pub(super) fn dns_slow(facts: &Facts<'_>) -> Option<Finding> {
    let dns = facts.dns()?;
    if dns.slow.count == 0 {
        return None;
    }
    // Not `dns.time`: Wireshark measures from one of several questions, and not in every answer.
    let filter = filter::both(facts, "dns.flags.response == 1");
    let finding = Finding::new(Code::DnsSlow, Confidence::Likely, filter)
        .between(dns.slow.span())
        .with("slow_answers", dns.slow.count)
        .with("answers", dns.answers.count)
        .with("slowest_ns", dns.slowest_ns);
    Some(finding)
}
