//! When a flow has ended. Times are nf_conntrack's (net/netfilter/nf_conntrack_proto_*.c), except that an idle TCP
//! connection is let go after an hour, not five days: its history stays, and its next packet brings it back.

use datapath::{ConntrackState, FlowKey, layout::FlowEntry};

use super::record::Ended;

const SECOND_NS: u64 = 1_000_000_000;
const TCP: u8 = 6;

/// How long a flow may be idle, and how long its record is kept after it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Idle established TCP connections, ns.
    pub tcp_established_ns: u64,
    /// TCP connections being opened or closed, ns.
    pub tcp_transient_ns: u64,
    /// Closed TCP connections, for their last retransmissions, ns.
    pub tcp_closed_ns: u64,
    /// Other flows that only one side has sent on, ns.
    pub unreplied_ns: u64,
    /// Other flows that both sides have sent on, ns.
    pub replied_ns: u64,
    /// Records of flows that ended, ns.
    pub keep_ended_ns: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established_ns: 3_600 * SECOND_NS,
            tcp_transient_ns: 120 * SECOND_NS,
            tcp_closed_ns: 10 * SECOND_NS,
            unreplied_ns: 30 * SECOND_NS,
            replied_ns: 120 * SECOND_NS,
            keep_ended_ns: 600 * SECOND_NS,
        }
    }
}

impl Timeouts {
    /// Whether the flow of an entry has ended by `now_ns`, and why.
    #[must_use]
    pub fn ended(&self, key: &FlowKey, entry: &FlowEntry, now_ns: u64) -> Option<Ended> {
        let last = entry.halves.iter().map(|half| half.last_seen_ns).max().unwrap_or(0);
        let idle_ns = now_ns.saturating_sub(last.max(entry.head.first_seen_ns));
        let state = ConntrackState::from_u8(entry.head.state).unwrap_or(ConntrackState::None);
        let (limit_ns, why) = match state {
            ConntrackState::TimeWait | ConntrackState::Close => (self.tcp_closed_ns, Ended::Closed),
            ConntrackState::Established => (self.tcp_established_ns, Ended::Idle),
            ConntrackState::SynSent
            | ConntrackState::SynRecv
            | ConntrackState::FinWait
            | ConntrackState::CloseWait
            | ConntrackState::LastAck
            | ConntrackState::SynSent2 => (self.tcp_transient_ns, Ended::Idle),
            ConntrackState::None if key.protocol == TCP => (self.tcp_transient_ns, Ended::Idle),
            ConntrackState::None | ConntrackState::Unreplied => (self.unreplied_ns, Ended::Idle),
            ConntrackState::Replied => (self.replied_ns, Ended::Idle),
        };
        (idle_ns >= limit_ns).then_some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_flows_end_soon_and_established_ones_late() {
        let timeouts = Timeouts::default();
        let key = FlowKey { protocol: TCP, ..FlowKey::default() };
        let mut entry = FlowEntry::EMPTY;
        entry.head.state = ConntrackState::Close as u8;
        entry.halves[1].last_seen_ns = SECOND_NS;
        assert_eq!(timeouts.ended(&key, &entry, 10 * SECOND_NS), None);
        assert_eq!(timeouts.ended(&key, &entry, 11 * SECOND_NS), Some(Ended::Closed));
        entry.head.state = ConntrackState::Established as u8;
        assert_eq!(timeouts.ended(&key, &entry, 3_000 * SECOND_NS), None);
        assert_eq!(timeouts.ended(&key, &entry, 3_601 * SECOND_NS), Some(Ended::Idle));
    }
}
