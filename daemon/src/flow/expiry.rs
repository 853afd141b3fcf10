//! When a flow has ended: nf_conntrack's timeouts (net/netfilter/nf_conntrack_proto_*.c, Linux 6.18) under the names of
//! its settings in /proc/sys/net/netfilter. Never reads a clock.
//!
//! Two differ on purpose: an idle TCP connection is let go after an hour, not five days (its history stays, and its next
//! packet brings it back), and a flow lives from its last packet on, also where conntrack takes a SYN or INIT that is
//! sent again for no sign of life.

use datapath::{
    ConntrackState as State, FlowKey,
    layout::{FlowEntry, Half},
    rules::DISOWNED,
};

use super::record::Ended;

const SECOND_NS: u64 = 1_000_000_000;
/// A UDP flow with answers is a stream once it is older.
const UDP_STREAM_AFTER_NS: u64 = 2 * SECOND_NS;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const GRE: u8 = 47;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;

/// Declares the timeouts, their keys in the configuration and their defaults side by side.
macro_rules! timeouts {
    ($($(#[$doc:meta])* $key:ident = $seconds:literal;)*) => {
        /// How long a flow may be idle, in seconds, and how long its record is kept after it ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Timeouts {
            $($(#[$doc])* pub $key: u32,)*
            /// Records of flows that ended, ns.
            pub keep_ended_ns: u64,
        }

        impl Default for Timeouts {
            fn default() -> Self {
                Self { $($key: $seconds,)* keep_ended_ns: 600 * SECOND_NS }
            }
        }

        impl Timeouts {
            /// The keys of `[flows.timeouts]`.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($key),)*];

            /// The timeout of a key.
            pub fn get_mut(&mut self, key: &str) -> Option<&mut u32> {
                $(if key == stringify!($key) { return Some(&mut self.$key); })*
                None
            }
        }
    };
}

timeouts! {
    /// TCP: SYN seen, from one side or both; also what is no TCP that anyone would send.
    tcp_syn_sent = 120;
    /// TCP: SYN-ACK seen.
    tcp_syn_recv = 60;
    /// TCP: connected.
    tcp_established = 3_600;
    /// TCP: first FIN seen.
    tcp_fin_wait = 120;
    /// TCP: first FIN acknowledged.
    tcp_close_wait = 60;
    /// TCP: second FIN seen.
    tcp_last_ack = 30;
    /// TCP: second FIN acknowledged.
    tcp_time_wait = 120;
    /// TCP: RST seen.
    tcp_close = 10;
    /// TCP at most, while a window is closed.
    tcp_max_retrans = 300;
    /// TCP at most, while data is not acknowledged or only one side is seen.
    tcp_unacknowledged = 300;
    /// UDP.
    udp = 30;
    /// UDP with answers, for more than two seconds.
    udp_stream = 120;
    /// ICMP.
    icmp = 30;
    /// ICMPv6.
    icmpv6 = 30;
    /// GRE.
    gre = 30;
    /// GRE in both directions.
    gre_stream = 180;
    /// SCTP: ended, or only INIT seen.
    sctp_closed = 10;
    /// SCTP: INIT ACK seen.
    sctp_cookie_wait = 3;
    /// SCTP: COOKIE ECHO seen.
    sctp_cookie_echoed = 3;
    /// SCTP: associated.
    sctp_established = 210;
    /// SCTP: SHUTDOWN seen from the originator.
    sctp_shutdown_sent = 3;
    /// SCTP: SHUTDOWN seen from the responder.
    sctp_shutdown_recd = 3;
    /// SCTP: SHUTDOWN ACK seen.
    sctp_shutdown_ack_sent = 3;
    /// SCTP: HEARTBEAT seen on a path without more.
    sctp_heartbeat_sent = 30;
    /// Every other protocol.
    generic = 600;
}

impl Timeouts {
    /// Smallest and greatest timeout that may be configured, in seconds: a second, and 30 days.
    pub const BOUNDS: std::ops::RangeInclusive<u32> = 1..=2_592_000;

    /// How long after its last packet the flow of an entry ends, ns.
    #[must_use]
    pub fn timeout_ns(&self, key: &FlowKey, entry: &FlowEntry) -> u64 {
        let seconds = match State::from_u8(entry.head.state).unwrap_or(State::None) {
            State::None if key.protocol != TCP => self.without_state(key.protocol, entry),
            State::Unreplied | State::Replied => self.without_state(key.protocol, entry),
            State::None | State::SynSent | State::SynSent2 => self.tcp_syn_sent,
            State::SynRecv | State::SynRecv2 => self.tcp_syn_recv,
            State::Established => self.tcp_established.min(self.tcp_waiting(entry)),
            State::FinWait => self.tcp_fin_wait.min(self.tcp_waiting(entry)),
            State::CloseWait => self.tcp_close_wait.min(self.tcp_waiting(entry)),
            State::LastAck => self.tcp_last_ack.min(self.tcp_waiting(entry)),
            State::TimeWait => self.tcp_time_wait.min(self.tcp_waiting(entry)),
            State::Close => self.tcp_close,
            State::SctpClosed | State::SctpInit => self.sctp_closed,
            State::SctpCookieWait => self.sctp_cookie_wait,
            State::SctpCookieEchoed => self.sctp_cookie_echoed,
            State::SctpEstablished | State::SctpJoined => self.sctp_established,
            State::SctpShutdownSent => self.sctp_shutdown_sent,
            State::SctpShutdownRecd => self.sctp_shutdown_recd,
            State::SctpShutdownAckSent => self.sctp_shutdown_ack_sent,
            State::SctpHeartbeatSent => self.sctp_heartbeat_sent,
        };
        u64::from(seconds) * SECOND_NS
    }

    /// The most that a connection has which waits for the other side, in whatever state.
    fn tcp_waiting(&self, entry: &FlowEntry) -> u32 {
        let [lower, upper] = &entry.halves;
        let acknowledged = |of: &Half, by: &Half| of.next_sequence == by.last_acknowledgment;
        let both = Answered::new(entry).before;
        if !both || !acknowledged(lower, upper) || !acknowledged(upper, lower) {
            return self.tcp_unacknowledged;
        }
        let last = if upper.last_seen_ns > lower.last_seen_ns { upper } else { lower };
        if last.window == 0 { self.tcp_max_retrans } else { u32::MAX }
    }

    fn without_state(&self, protocol: u8, entry: &FlowEntry) -> u32 {
        let answered = Answered::new(entry);
        match protocol {
            UDP if answered.age_ns > UDP_STREAM_AFTER_NS => self.udp_stream,
            // conntrack has it in functions of its own, without the two seconds.
            UDPLITE if answered.before => self.udp_stream,
            UDP | UDPLITE => self.udp,
            ICMP => self.icmp,
            ICMPV6 => self.icmpv6,
            GRE if answered.before => self.gre_stream,
            GRE => self.gre,
            // Its chunks could not be read.
            SCTP => self.sctp_closed,
            _ => self.generic,
        }
    }

    /// Whether the flow of an entry has ended by `now_ns`, and why.
    #[must_use]
    pub fn ended(&self, key: &FlowKey, entry: &FlowEntry, now_ns: u64) -> Option<Ended> {
        if entry.halves.iter().all(|half| half.rules == DISOWNED) {
            return Some(Ended::Ignored);
        }
        let idle_ns = now_ns.saturating_sub(last_seen_ns(entry));
        let closed = State::from_u8(entry.head.state).is_some_and(State::is_closed);
        let why = if closed { Ended::Closed } else { Ended::Idle };
        (idle_ns >= self.timeout_ns(key, entry)).then_some(why)
    }
}

/// When the flow's last packet was seen, ns.
#[must_use]
pub fn last_seen_ns(entry: &FlowEntry) -> u64 {
    entry.halves.iter().map(|half| half.last_seen_ns).fold(entry.head.first_seen_ns, u64::max)
}

/// What conntrack's rules for protocols without states ask. The first answer is treated as what it answers; what comes
/// after it is a conversation.
struct Answered {
    /// Whether the flow had an answer before its last packet.
    before: bool,
    /// If so, how long after the first packet the last one came, ns; else 0.
    age_ns: u64,
}

impl Answered {
    fn new(entry: &FlowEntry) -> Self {
        let originator = usize::from(entry.head.originator & 1);
        let [originator, responder] = [&entry.halves[originator], &entry.halves[originator ^ 1]];
        let last_is_first_answer =
            responder.skbs == 1 && responder.last_seen_ns >= originator.last_seen_ns;
        let before = responder.skbs > 0 && !last_is_first_answer;
        let age_ns = last_seen_ns(entry) - entry.head.first_seen_ns;
        Self { before, age_ns: if before { age_ns } else { 0 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(protocol: u8) -> FlowKey {
        FlowKey { protocol, ..FlowKey::default() }
    }

    /// A connection on which everything is acknowledged.
    fn tcp(state: State) -> FlowEntry {
        let mut entry = FlowEntry::EMPTY;
        entry.head.state = state as u8;
        for half in &mut entry.halves {
            (half.next_sequence, half.last_acknowledgment, half.window) = (7, 7, 100);
            half.skbs = 2;
        }
        entry
    }

    fn seconds(key: &FlowKey, entry: &FlowEntry) -> u64 {
        Timeouts::default().timeout_ns(key, entry) / SECOND_NS
    }

    #[test]
    fn closed_flows_end_soon_and_established_ones_late() {
        let timeouts = Timeouts::default();
        let mut entry = tcp(State::Close);
        entry.halves[1].last_seen_ns = SECOND_NS;
        assert_eq!(timeouts.ended(&key(TCP), &entry, 10 * SECOND_NS), None);
        assert_eq!(timeouts.ended(&key(TCP), &entry, 11 * SECOND_NS), Some(Ended::Closed));
        entry.head.state = State::Established as u8;
        assert_eq!(timeouts.ended(&key(TCP), &entry, 3_000 * SECOND_NS), None);
        assert_eq!(timeouts.ended(&key(TCP), &entry, 3_601 * SECOND_NS), Some(Ended::Idle));
    }

    #[test]
    fn a_connection_that_waits_for_an_acknowledgment_or_a_window_ends_sooner() {
        let mut entry = tcp(State::Established);
        assert_eq!(seconds(&key(TCP), &entry), 3_600);
        entry.halves[0].next_sequence = 8;
        assert_eq!(seconds(&key(TCP), &entry), 300);
        entry.halves[1].last_acknowledgment = 8;
        entry.halves[1].last_seen_ns = 1;
        entry.halves[1].window = 0;
        assert_eq!(seconds(&key(TCP), &entry), 300);
        entry.head.state = State::TimeWait as u8;
        assert_eq!(seconds(&key(TCP), &entry), 120);
    }

    #[test]
    fn udp_is_a_stream_after_two_seconds_with_answers() {
        let mut entry = FlowEntry::EMPTY;
        entry.head.first_seen_ns = SECOND_NS;
        let mut packet = |from: usize, at_ns: u64| {
            entry.halves[from].skbs += 1;
            entry.halves[from].last_seen_ns = at_ns;
            seconds(&key(UDP), &entry)
        };
        assert_eq!(packet(0, SECOND_NS), 30);
        assert_eq!(packet(0, 9 * SECOND_NS), 30, "without an answer");
        assert_eq!(packet(1, 10 * SECOND_NS), 30, "the first answer");
        assert_eq!(packet(0, 11 * SECOND_NS), 120);
        assert_eq!(packet(1, 12 * SECOND_NS), 120);
    }

    #[test]
    fn udp_that_is_over_within_two_seconds_is_no_stream() {
        let mut entry = FlowEntry::EMPTY;
        (entry.halves[0].skbs, entry.halves[1].skbs) = (5, 5);
        (entry.halves[0].last_seen_ns, entry.halves[1].last_seen_ns) = (1, 2 * SECOND_NS);
        assert_eq!(seconds(&key(UDP), &entry), 30);
        assert_eq!(seconds(&key(GRE), &entry), 180);
    }

    #[test]
    fn an_association_that_ended_is_closed_and_one_that_never_was_is_idle() {
        let mut entry = FlowEntry::EMPTY;
        for (state, why) in [(State::SctpClosed, Ended::Closed), (State::SctpInit, Ended::Idle)] {
            entry.head.state = state as u8;
            assert_eq!(Timeouts::default().ended(&key(SCTP), &entry, 10 * SECOND_NS), Some(why));
        }
        assert_eq!(seconds(&key(89), &FlowEntry::EMPTY), 600);
    }
}
