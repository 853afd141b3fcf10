//! What a synthetic capture holds, per flow: what an observer may find. Never more than what was
//! written: what happened beyond the scene's end is not counted.

use std::net::SocketAddr;

use serde::Serialize;

use super::frame::{Ends, Side};

/// The truth about a whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Truth {
    /// Packets in the file.
    pub packets: u64,
    /// Packets that belong to no flow (ARP).
    pub packets_without_flow: u64,
    /// Every flow that has a packet in the file, in order of creation.
    pub flows: Vec<FlowTruth>,
}

/// The truth about one flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlowTruth {
    /// What kind of conversation it is.
    pub kind: &'static str,
    /// IP protocol number.
    pub protocol: u8,
    /// Who sent the first packet. Of echoes, both ports are the identifier.
    pub originator: SocketAddr,
    /// The other end.
    pub responder: SocketAddr,
    /// VLAN id.
    pub vlan: Option<u16>,
    /// The path's round-trip time between the ends, without serialization, jitter and hosts.
    pub path_rtt_ns: u64,
    /// The part of it between observer and originator.
    pub originator_rtt_ns: u64,
    /// The part of it between observer and responder.
    pub responder_rtt_ns: u64,
    /// From the last SYN to the handshake's last ACK, as captured; `None` without a complete
    /// handshake.
    pub handshake_ns: Option<u64>,
    /// What the originator sent.
    pub from_originator: HalfTruth,
    /// What the responder sent.
    pub from_responder: HalfTruth,
}

/// The truth about one direction of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HalfTruth {
    /// Packets captured.
    pub packets: u64,
    /// Their bytes as whole frames.
    pub bytes: u64,
    /// Their transport payload.
    pub payload_bytes: u64,
    /// Segments sent again, wherever they got lost.
    pub retransmissions_sent: u64,
    /// Segments sent again and captured.
    pub retransmissions_captured: u64,
    /// Of these, those that begin below a sequence number captured earlier: all that an observer
    /// can tell from the sequence numbers.
    pub retransmissions_visible: u64,
    /// Packets lost before the observer: never captured.
    pub lost_upstream: u64,
    /// Packets lost behind the observer: captured, but they never arrived.
    pub lost_downstream: u64,
    /// Packets with a window of zero, without SYN, FIN and RST.
    pub zero_windows: u64,
    /// Packets with RST.
    pub resets: u64,
}

impl FlowTruth {
    /// A flow of which nothing was captured yet.
    pub(super) fn new(kind: &'static str, protocol: u8, ends: &Ends, rtts_ns: [u64; 2]) -> Self {
        Self {
            kind,
            protocol,
            originator: ends.sockets[0],
            responder: ends.sockets[1],
            vlan: ends.vlan,
            path_rtt_ns: rtts_ns[0] + rtts_ns[1],
            originator_rtt_ns: rtts_ns[0],
            responder_rtt_ns: rtts_ns[1],
            handshake_ns: None,
            from_originator: HalfTruth::default(),
            from_responder: HalfTruth::default(),
        }
    }

    /// The half that `side` sent.
    pub(super) fn half(&mut self, side: Side) -> &mut HalfTruth {
        match side {
            Side::Originator => &mut self.from_originator,
            Side::Responder => &mut self.from_responder,
        }
    }

    /// Counts a captured packet.
    pub(super) fn count(&mut self, from: Side, frame_bytes: usize, payload_bytes: u64) {
        let half = self.half(from);
        half.packets += 1;
        half.bytes += u64::try_from(frame_bytes).unwrap_or(0);
        half.payload_bytes += payload_bytes;
    }

    /// Packets of both directions.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.from_originator.packets + self.from_responder.packets
    }

    /// Bytes of both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.from_originator.bytes + self.from_responder.bytes
    }
}
