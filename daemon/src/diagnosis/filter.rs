//! Display filters of Wireshark that select the packets of a flow, and among them those that something is about. Never one
//! that depends on the number that Wireshark gives a stream.

use std::net::IpAddr;

use super::facts::{Direction, Facts};

/// Retransmitted or late, in Wireshark's words.
pub(super) const LATE: &str = "tcp.analysis.retransmission || tcp.analysis.out_of_order";

/// Sent again after it was acknowledged, in Wireshark's words.
pub(super) const SPURIOUS: &str = "tcp.analysis.spurious_retransmission";

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Packets of the flow in both directions for which `what` holds; all of them where it is empty.
pub(super) fn both(facts: &Facts<'_>, what: &str) -> String {
    let [(a, a_port), (b, b_port)] = facts.record.ends();
    let ip = family(a);
    let mut filter = format!("{ip}.addr == {a} && {ip}.addr == {b}");
    if let Some(transport) = transport(facts) {
        filter += &format!(" && {transport}.port == {a_port} && {transport}.port == {b_port}");
    }
    narrowed(facts, filter, what)
}

/// Packets that one side sent for which `what` holds; all of them where it is empty.
pub(super) fn from(facts: &Facts<'_>, direction: Direction, what: &str) -> String {
    let [originator, responder] = facts.record.ends();
    let ((a, a_port), (b, b_port)) = match direction {
        Direction::FromOriginator => (originator, responder),
        Direction::FromResponder => (responder, originator),
    };
    let ip = family(a);
    let mut filter = format!("{ip}.src == {a} && {ip}.dst == {b}");
    if let Some(transport) = transport(facts) {
        filter +=
            &format!(" && {transport}.srcport == {a_port} && {transport}.dstport == {b_port}");
    }
    narrowed(facts, filter, what)
}

fn narrowed(facts: &Facts<'_>, mut filter: String, what: &str) -> String {
    let vlan = facts.record.key.vlan;
    if vlan != 0 {
        filter += &format!(" && (vlan.id == {vlan} || ieee8021ad.id == {vlan})");
    }
    if !what.is_empty() {
        filter += &format!(" && ({what})");
    }
    filter
}

const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "ipv6" } else { "ip" }
}

/// The field that has ECN's two bits.
pub(super) fn ecn_field(facts: &Facts<'_>) -> &'static str {
    let [(address, _), _] = facts.record.ends();
    if address.is_ipv6() { "ipv6.tclass.ecn" } else { "ip.dsfield.ecn" }
}

/// The field that has the hops left.
pub(super) fn hops_field(facts: &Facts<'_>) -> &'static str {
    let [(address, _), _] = facts.record.ends();
    if address.is_ipv6() { "ipv6.hlim" } else { "ip.ttl" }
}

const fn transport(facts: &Facts<'_>) -> Option<&'static str> {
    match facts.record.key.protocol {
        TCP => Some("tcp"),
        UDP => Some("udp"),
        _ => None,
    }
}
