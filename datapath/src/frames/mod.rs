//! The classes of each frame as tshark gives them, on tshark's own streams: addresses and ports alone, whatever the
//! VLAN, the tunnel or the time that has passed. For files: nothing of it runs in the kernel.
//!
//! The frame is read by the same parser as everywhere, and the same tracker classifies. What differs from
//! linnet's own flows is what tshark does before and around it: it clips a segment at the end of what carries it,
//! puts fragments together, looks into the packets that ICMP errors quote, and forgets no stream.

mod datagrams;
mod route;
mod stream;
mod walk;
mod ws44;

use std::{
    boxed::Box,
    collections::{HashMap, hash_map::Entry},
};

use crate::{
    flow_key::{FlowKey, KEY_IPV6},
    frame::Frame,
    parse::Headers,
    tcp::classes::{FAST_RETRANSMISSION, RETRANSMISSION, SPURIOUS_RETRANSMISSION},
};
use datagrams::Datagrams;
use stream::Stream;

/// Whose rules classify.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// Those of Wireshark 4.0, which are the kernel's too.
    #[default]
    Ws40,
    /// Those of Wireshark 4.4.
    Ws44,
}

/// Classifies the frames of one file, in its order.
#[derive(Debug)]
pub struct FrameClasses {
    compat: Compat,
    streams: HashMap<FlowKey, Box<Stream>>,
    streams_max: usize,
    refused: u64,
    datagrams: Datagrams,
    headers: Headers,
}

impl FrameClasses {
    /// Has seen nothing; tells at most `streams_max` streams apart.
    #[must_use]
    pub fn new(compat: Compat, streams_max: usize) -> Self {
        Self {
            compat,
            streams: HashMap::default(),
            streams_max,
            refused: 0,
            datagrams: Datagrams::default(),
            headers: Headers::default(),
        }
    }

    /// The classes ([`crate::tcp::classes`]) of one frame.
    pub fn frame(&mut self, packet: &[u8], frame: &Frame) -> u32 {
        let Self { compat, streams, streams_max, refused, datagrams, headers } = self;
        let mut classes = 0;
        walk::walk(packet, frame, headers, datagrams, |found, options, headers| {
            let key = stream_key(&headers.key);
            let room = streams.len() < *streams_max;
            let stream = match streams.entry(key) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) if room => new.insert(Box::default()),
                Entry::Vacant(_) => {
                    *refused += 1;
                    return;
                }
            };
            classes |= stream.segment(*compat, found, options, headers, frame.now);
        });
        // One letter for a segment sent again, also where a packet inside of another one was too.
        if classes & (FAST_RETRANSMISSION | SPURIOUS_RETRANSMISSION) != 0 {
            classes &= !RETRANSMISSION;
        }
        classes
    }

    /// Segments of streams beyond the limit: they were not classified.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }
}

/// What tshark tells streams apart by.
fn stream_key(key: &FlowKey) -> FlowKey {
    FlowKey { flags: key.flags & KEY_IPV6, vlan: 0, observation_point: 0, vni: 0, ..*key }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::{
        Ktime,
        tcp::classes::{DUPLICATE_ACK, LOST_SEGMENT, OUT_OF_ORDER, REUSED_PORTS, WINDOW_UPDATE},
    };

    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    const MS: u64 = 1_000_000;

    /// A segment from port 1 to port 2, or back.
    #[derive(Clone, Copy)]
    struct Segment {
        back: bool,
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
        window: u8,
        selective: bool,
        payload: u8,
    }

    const SENT: Segment = Segment {
        back: false,
        flags: ACK,
        sequence: 0,
        acknowledgment: 1,
        window: 9,
        selective: false,
        payload: 0,
    };

    impl Segment {
        fn transport(self) -> Vec<u8> {
            let ports = if self.back { [0, 2, 0, 1] } else { [0, 1, 0, 2] };
            let words = [self.sequence.to_be_bytes(), self.acknowledgment.to_be_bytes()];
            let offset = if self.selective { 0x80 } else { 0x50 };
            let rest = [offset, self.flags, self.window, 0, 0, 0, 0, 0];
            let mut bytes = [&ports[..], &words.concat(), &rest].concat();
            if self.selective {
                bytes.extend([1, 1, 5, 10, 0, 0, 1, 0, 0, 0, 2, 0]);
            }
            bytes.extend(std::iter::repeat_n(7, self.payload.into()));
            bytes
        }

        fn packet(self) -> Vec<u8> {
            let transport = self.transport();
            ip(self.back, 6, 0, transport.len(), &transport)
        }
    }

    /// IPv4 that claims `length` bytes of payload, between the two ends.
    fn ip(back: bool, protocol: u8, fragment: u16, length: usize, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(20 + length).unwrap();
        let [more, offset] = fragment.to_be_bytes();
        let (from, to) = if back { (2, 1) } else { (1, 2) };
        let mut packet = Vec::from([0x45, 0, 0, length, 0, 7, more, offset, 64, protocol, 0, 0]);
        packet.extend([10, 0, 0, from, 10, 0, 0, to]);
        packet.extend_from_slice(payload);
        packet
    }

    /// Classes of packets that are 1 ms apart.
    fn classes(compat: Compat, packets: &[Vec<u8>]) -> Vec<u32> {
        on_vlans(compat, packets, |_| 5)
    }

    /// The same behind Ethernet, each on a VLAN by its number.
    fn on_vlans(compat: Compat, packets: &[Vec<u8>], vlan: impl Fn(u8) -> u8) -> Vec<u32> {
        let mut frames = FrameClasses::new(compat, 10);
        let mut told = Vec::new();
        for (number, packet) in (1_u8..).zip(packets) {
            let mut bytes = Vec::from([2; 12]);
            bytes.extend([0x81, 0, 0, vlan(number), 8, 0]);
            bytes.extend_from_slice(packet);
            let length = u32::try_from(bytes.len()).unwrap();
            let frame = Frame::plain(Ktime(u64::from(number) * MS), length);
            told.push(frames.frame(&bytes, &frame));
        }
        told
    }

    #[test]
    fn a_stream_is_one_whatever_its_vlan() {
        let data = Segment { payload: 10, ..SENT };
        let packets = [100, 120, 100].map(|sequence| Segment { sequence, ..data }.packet());
        let told = on_vlans(Compat::Ws40, &packets, |number| number);
        assert_eq!(told, [0, LOST_SEGMENT, OUT_OF_ORDER], "less than 3 ms late");
    }

    #[test]
    fn a_segment_ends_with_its_frame() {
        let short = Segment { sequence: 100, payload: 10, ..SENT }.transport();
        let next = Segment { sequence: 110, payload: 10, ..SENT }.packet();
        let packets = [ip(false, 6, 0, short.len() + 40, &short), next];
        assert_eq!(classes(Compat::Ws40, &packets), [0, 0]);
    }

    #[test]
    fn a_datagram_counts_in_the_frame_that_completes_it() {
        let first = Segment { sequence: 100, payload: 10, ..SENT };
        let whole = Segment { sequence: 120, payload: 20, ..SENT }.transport();
        let (start, rest) = whole.split_at(24);
        let packets = [
            first.packet(),
            ip(false, 6, 3, rest.len(), rest),
            ip(false, 6, 0x2000, start.len(), start),
            Segment { sequence: 140, ..first }.packet(),
        ];
        assert_eq!(classes(Compat::Ws40, &packets), [0, 0, LOST_SEGMENT, 0]);
    }

    #[test]
    fn what_an_error_quotes_does_not_count_as_sent() {
        let data = Segment { sequence: 100, payload: 10, ..SENT };
        let quoted = Segment { sequence: 400, payload: 10, ..SENT }.packet();
        let error = [&[3, 4, 0, 0, 0, 0, 5, 0][..], &quoted].concat();
        let packets = [
            data.packet(),
            ip(true, 1, 0, error.len(), &error),
            Segment { sequence: 110, ..data }.packet(),
        ];
        assert_eq!(classes(Compat::Ws40, &packets), [0, 0, 0]);
    }

    #[test]
    fn a_cut_header_is_classified_and_not_shown() {
        let mut frames = FrameClasses::new(Compat::Ws40, 10);
        let mut told = |segment: Segment, captured: usize, at_ms: u64| {
            let packet = segment.packet();
            let length = u32::try_from(packet.len()).unwrap();
            let link = crate::Link::RawIp;
            let frame = Frame { link, ..Frame::plain(Ktime(at_ms * MS), length) };
            frames.frame(&packet[..captured.min(packet.len())], &frame)
        };
        let ack = Segment { selective: true, ..SENT };
        assert_eq!(told(ack, 99, 1), 0);
        assert_eq!(told(ack, 99, 2), DUPLICATE_ACK);
        assert_eq!(told(ack, 44, 3), 0, "the same, without the end of its options");
        assert_eq!(told(Segment { sequence: 50, ..ack }, 44, 4), 0, "unseen data before it");
        assert_eq!(told(Segment { sequence: 50, ..ack }, 99, 5), DUPLICATE_ACK, "it was noted");
    }

    #[test]
    fn the_same_syn_after_a_reset_is_a_stream_of_its_own_since_4_4() {
        let syn = Segment { flags: SYN, sequence: 100, acknowledgment: 0, ..SENT };
        let reset = Segment { back: true, flags: RST | ACK, acknowledgment: 101, ..SENT };
        let packets = [syn.packet(), reset.packet(), syn.packet()];
        assert_eq!(classes(Compat::Ws40, &packets), [0, 0, RETRANSMISSION]);
        assert_eq!(classes(Compat::Ws44, &packets), [0, 0, REUSED_PORTS]);
    }

    #[test]
    fn a_window_update_with_a_selective_acknowledgment_is_a_duplicate_since_4_4() {
        let packets = [SENT, Segment { window: 8, selective: true, ..SENT }].map(Segment::packet);
        assert_eq!(classes(Compat::Ws40, &packets), [0, WINDOW_UPDATE]);
        assert_eq!(classes(Compat::Ws44, &packets), [0, DUPLICATE_ACK]);
    }

    #[test]
    fn streams_beyond_the_limit_are_counted() {
        let mut frames = FrameClasses::new(Compat::Ws40, 1);
        for (back, port) in [(false, 1), (true, 2), (false, 9)] {
            let mut packet = Segment { back, ..SENT }.packet();
            packet[21] = port;
            let link = crate::Link::RawIp;
            let length = u32::try_from(packet.len()).unwrap();
            frames.frame(&packet, &Frame { link, ..Frame::plain(Ktime(1), length) });
        }
        assert_eq!(frames.refused(), 1);
    }
}
