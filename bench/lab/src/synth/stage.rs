//! A conversation written packet by packet, for what no simulation does by itself: resets from elsewhere, paths that swallow
//! large packets, stripped options. Whoever writes it says what passes the observer, and when.

use std::io::{self, Write};
use std::net::IpAddr;

use pnet::packet::tcp::TcpOption;
use pnet::util::MacAddr;

use super::frame::{self, Ends, Side, TcpHeader};
use super::{Recorded, cast::GATEWAY, pcap::PcapWriter};
use crate::clock::NANOS_PER_SEC;
use crate::wire::flag;

/// 2025-01-01T00:00:00Z
const START_WALL_NS: u64 = 1_735_689_600 * NANOS_PER_SEC;
const IPV4_START: usize = 14;

/// Options of a SYN, or of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Greatest segment.
    pub segment_max: u16,
    /// Shift of windows, if they are scaled.
    pub window_scale: Option<u8>,
    /// Whether selective acknowledgments are permitted.
    pub selective: bool,
    /// Whether there are timestamps.
    pub timestamps: bool,
    /// Whether ECN is asked for, or agreed to.
    pub ecn: bool,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            segment_max: 1460,
            window_scale: Some(7),
            selective: true,
            timestamps: false,
            ecn: false,
        }
    }
}

/// One segment; what is not said is as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins, 1 for the first byte; where the one before ended unless said.
    pub start: Option<u32>,
    /// Up to where it acknowledges; all that the other side sent unless said.
    pub acknowledges: Option<u32>,
    /// Bytes of payload.
    pub payload: u32,
    /// SYN, FIN, RST, ECE, CWR beside ACK.
    pub flags: u8,
    /// Whether it has ACK.
    pub has_ack: bool,
    /// Window as in the header.
    pub window: u16,
    /// Hops left; the side's unless said.
    pub hops: Option<u8>,
    /// Identification; counted up unless said.
    pub id: Option<u16>,
    /// The field of ECN.
    pub ecn: u8,
    /// A block that it selectively acknowledges.
    pub selective: Option<[u32; 2]>,
    /// Whether it has timestamps.
    pub timestamps: bool,
    /// The timestamp that it echoes, in ms of the stage.
    pub echo: u32,
}

impl Default for Segment {
    fn default() -> Self {
        Self {
            start: None,
            acknowledges: None,
            payload: 0,
            flags: 0,
            has_ack: true,
            window: 512,
            hops: None,
            id: None,
            ecn: 0,
            selective: None,
            timestamps: false,
            echo: 1,
        }
    }
}

/// A file in the making: conversations of one client with one server, one at a time.
#[derive(Debug)]
pub struct Stage {
    ends: Ends,
    now_ns: u64,
    /// Initial sequence numbers.
    isns: [u32; 2],
    /// Where the next segment begins, relative to these.
    next: [u32; 2],
    ids: [u16; 2],
    recorded: Vec<Recorded>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            ends: Ends {
                macs: [MacAddr::new(2, 0, 0, 1, 0, 1), GATEWAY],
                sockets: [
                    "10.1.0.1:40000".parse().expect("a literal"),
                    "192.0.2.1:80".parse().expect("a literal"),
                ],
                vlan: None,
                ttls: [64, 52],
            },
            now_ns: 0,
            isns: [1_000_000, 2_000_000],
            next: [0; 2],
            ids: [100, 20_000],
            recorded: Vec::new(),
        }
    }
}

impl Stage {
    /// Another server's port.
    #[must_use]
    pub fn with_server_port(mut self, port: u16) -> Self {
        self.ends.sockets[1].set_port(port);
        self
    }

    /// Time passes.
    pub fn wait_ns(&mut self, ns: u64) -> &mut Self {
        self.now_ns += ns;
        self
    }

    /// Time passes.
    pub fn wait_ms(&mut self, ms: u64) -> &mut Self {
        self.wait_ns(ms * 1_000_000)
    }

    /// A segment passes.
    pub fn send(&mut self, from: Side, segment: Segment) -> &mut Self {
        self.put(from, segment, Vec::new())
    }

    /// Payload of this many bytes passes, as new data.
    pub fn data(&mut self, from: Side, payload: u32) -> &mut Self {
        self.send(from, Segment { payload, flags: flag::PSH, ..Segment::default() })
    }

    /// An acknowledgment of everything passes.
    pub fn ack(&mut self, from: Side) -> &mut Self {
        self.send(from, Segment::default())
    }

    /// A SYN, or the answer to one, passes.
    pub fn syn(&mut self, from: Side, offer: Offer) -> &mut Self {
        let is_answer = from == Side::Responder;
        let mut options = vec![TcpOption::mss(offer.segment_max)];
        if offer.selective {
            options.push(TcpOption::sack_perm());
        }
        if offer.timestamps {
            options.push(TcpOption::timestamp(1, 0));
        }
        if let Some(shift) = offer.window_scale {
            options.push(TcpOption::wscale(shift));
        }
        let ecn = match (offer.ecn, is_answer) {
            (false, _) => 0,
            (true, true) => 0x40,
            (true, false) => 0xc0,
        };
        let segment = Segment {
            start: Some(0),
            flags: flag::SYN | ecn,
            has_ack: is_answer,
            window: 64_240,
            ..Segment::default()
        };
        self.put(from, segment, options)
    }

    /// A whole handshake passes; the server is 10 ms away, the client is near.
    pub fn handshake(&mut self, originator: Offer, responder: Offer) -> &mut Self {
        self.syn(Side::Originator, originator).wait_ms(10);
        self.syn(Side::Responder, responder).wait_ns(200_000);
        self.ack(Side::Originator).wait_ns(200_000)
    }

    /// The clock of timestamps, ms.
    #[must_use]
    pub fn clock_ms(&self) -> u32 {
        u32::try_from(self.now_ns / 1_000_000).unwrap_or(u32::MAX)
    }

    /// Where the next segment of a side begins.
    #[must_use]
    pub fn sent(&self, side: Side) -> u32 {
        self.next[side.index()]
    }

    fn put(&mut self, from: Side, segment: Segment, mut options: Vec<TcpOption>) -> &mut Self {
        let [own, peer] = [from.index(), from.other().index()];
        let start = segment.start.unwrap_or(self.next[own]);
        let control = u32::from(segment.flags & (flag::SYN | flag::FIN) != 0);
        let end = start + segment.payload + control;
        let acknowledges = segment.acknowledges.unwrap_or(self.next[peer]);
        if segment.flags & flag::RST == 0 {
            self.next[own] = self.next[own].max(end);
        }
        if segment.timestamps {
            let clock = self.clock_ms();
            options.extend([
                TcpOption::nop(),
                TcpOption::nop(),
                TcpOption::timestamp(clock, segment.echo),
            ]);
        }
        if let Some(block) = segment.selective {
            let block = block.map(|edge| self.isns[peer].wrapping_add(edge));
            options.extend([TcpOption::nop(), TcpOption::nop(), TcpOption::selective_ack(&block)]);
        }
        self.ids[own] = self.ids[own].wrapping_add(1);
        let header = TcpHeader {
            seq: self.isns[own].wrapping_add(start),
            ack: if segment.has_ack { self.isns[peer].wrapping_add(acknowledges) } else { 0 },
            flags: segment.flags | if segment.has_ack { flag::ACK } else { 0 },
            window: segment.window,
            options,
            ip_id: segment.id.unwrap_or(self.ids[own]),
        };
        let mut ends = self.ends.clone();
        ends.ttls[own] = segment.hops.unwrap_or(ends.ttls[own]);
        let payload = vec![b'x'; usize::try_from(segment.payload).unwrap_or(0)];
        let mut frame = frame::tcp(&ends, from, &header, &payload);
        mark(&mut frame, segment.ecn);
        self.record(frame)
    }

    /// The last frame passes again, with as many hops fewer left.
    pub fn again(&mut self, fewer_hops: u8) -> &mut Self {
        let mut frame = self.recorded.last().map(|last| last.frame.clone()).unwrap_or_default();
        if let Some(hops) = frame.get_mut(IPV4_START + 8) {
            *hops = hops.saturating_sub(fewer_hops);
        }
        checksum(&mut frame);
        self.record(frame)
    }

    /// An ICMP error of a router about the last frame, with an MTU where it has one.
    pub fn icmp_error(&mut self, to: Side, kind: u8, code: u8, mtu: u16) -> &mut Self {
        let quoted = self.recorded.last().map(|last| last.frame.clone()).unwrap_or_default();
        let mut message = vec![kind, code, 0, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend(quoted.get(IPV4_START..IPV4_START + 28).unwrap_or_default());
        let sum = crate::wire::checksum(&[&message]).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let mut ends = self.ends.clone();
        let router = IpAddr::from([198, 51, 100, 1]);
        ends.sockets[to.other().index()].set_ip(router);
        let frame = frame::icmp(&ends, to.other(), &message);
        self.record(frame)
    }

    /// A datagram passes.
    pub fn datagram(&mut self, from: Side, payload: &[u8]) -> &mut Self {
        let frame = frame::udp(&self.ends, from, 0, payload);
        self.record(frame)
    }

    /// A connection of the next client port.
    pub fn next_connection(&mut self) -> &mut Self {
        let port = self.ends.sockets[0].port();
        self.ends.sockets[0].set_port(port + 1);
        self.next = [0; 2];
        self
    }

    fn record(&mut self, frame: Vec<u8>) -> &mut Self {
        self.recorded.push(Recorded { at_ns: self.now_ns, frame });
        // Nothing is at the same time.
        self.wait_ns(10_000)
    }

    /// Writes what passed as pcap.
    pub fn write(&self, to: impl Write) -> io::Result<()> {
        let mut file = PcapWriter::new(to)?;
        for Recorded { at_ns, frame } in &self.recorded {
            file.frame(START_WALL_NS + at_ns, frame)?;
        }
        file.finish()
    }
}

/// Sets the field of ECN.
fn mark(frame: &mut [u8], ecn: u8) {
    if let Some(class) = frame.get_mut(IPV4_START + 1) {
        *class = (*class & !3) | (ecn & 3);
    }
    checksum(frame);
}

fn checksum(frame: &mut [u8]) {
    let Some(header) = frame.get_mut(IPV4_START..IPV4_START + 20) else { return };
    header[10..12].fill(0);
    let sum = crate::wire::checksum(&[header]).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
}
