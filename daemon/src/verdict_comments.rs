//! What linnet has to say about the packets of a capture, as comments on them. Takes each packet through the datapath as
//! `analyze` does, all interfaces as one observation point, and says nothing that the datapath does not.

use std::{fmt, str::FromStr};

use captures::{
    LinkType,
    format::{annotate::Commentator, read::stream::StreamedPacket},
};
use datapath::{
    Ktime, Outcome,
    replay::{Classified, Replay},
    tcp::{
        classes::{self, CLASSES},
        verdict,
    },
};

use crate::{
    flow::expiry::Timeouts,
    offline::{self, Lengths},
};

/// Flows of one capture that are followed at a time. When there are more, those that have ended make room, and segments
/// of flows that find none get no comment.
pub const FLOWS_MAX: usize = 65_536;

/// From one search for flows that have ended to the next, in the capture's time.
const SEARCH_NS: u64 = 1_000_000_000;

/// How a comment begins.
const PREFIX: &str = "linnet: ";
/// Between segments of one packet, and what stands for one of them about which there is nothing to say.
const BETWEEN: &str = " | ";
const NOTHING: &str = "-";

/// tshark's fields, each with the classes where it sets them: what is fast or spurious is a retransmission to it as well.
const FIELDS: [(&str, u32); CLASSES] = {
    use classes::*;
    [
        (
            "tcp.analysis.retransmission",
            RETRANSMISSION | FAST_RETRANSMISSION | SPURIOUS_RETRANSMISSION,
        ),
        ("tcp.analysis.fast_retransmission", FAST_RETRANSMISSION),
        ("tcp.analysis.spurious_retransmission", SPURIOUS_RETRANSMISSION),
        ("tcp.analysis.out_of_order", OUT_OF_ORDER),
        ("tcp.analysis.lost_segment", LOST_SEGMENT),
        ("tcp.analysis.ack_lost_segment", ACKED_UNSEEN),
        ("tcp.analysis.duplicate_ack", DUPLICATE_ACK),
        ("tcp.analysis.keep_alive", KEEP_ALIVE),
        ("tcp.analysis.keep_alive_ack", KEEP_ALIVE_ACK),
        ("tcp.analysis.zero_window", ZERO_WINDOW),
        ("tcp.analysis.zero_window_probe", ZERO_WINDOW_PROBE),
        ("tcp.analysis.zero_window_probe_ack", ZERO_WINDOW_PROBE_ACK),
        ("tcp.analysis.window_update", WINDOW_UPDATE),
        ("tcp.analysis.window_full", WINDOW_FULL),
        ("tcp.analysis.reused_ports", REUSED_PORTS),
    ]
};

/// Where a capture that is handed out has linnet's verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdicts {
    /// Nowhere.
    #[default]
    None,
    /// In comments on the packets.
    Comment,
}

impl Verdicts {
    /// Each by its name in the API and on the command line.
    const NAMES: [(&str, Self); 2] = [("none", Self::None), ("comment", Self::Comment)];
}

impl FromStr for Verdicts {
    type Err = UnknownVerdicts;

    fn from_str(text: &str) -> Result<Self, UnknownVerdicts> {
        let found = Self::NAMES.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, verdicts)| verdicts).ok_or(UnknownVerdicts)
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(_, verdicts)| verdicts == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

/// No name of [`Verdicts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("verdicts have no such place; known are none and comment")]
pub struct UnknownVerdicts;

/// Why a capture cannot be handed out as classic pcap with comments.
pub const NOT_IN_PCAP: &str =
    "a pcap file has no place for comments; take pcapng, or leave the verdicts out";

/// Comments on one capture.
#[derive(Debug)]
pub struct VerdictComments {
    replay: Replay,
    timeouts: Timeouts,
    /// When the next search for flows that have ended may begin.
    search_ns: u64,
}

impl VerdictComments {
    /// Of a capture from its start.
    #[must_use]
    pub fn new() -> Self {
        Self::with_flows_max(FLOWS_MAX)
    }

    fn with_flows_max(flows_max: usize) -> Self {
        let replay = Replay::with_flows_max(flows_max).with_segments().without_samples();
        Self { replay, timeouts: Timeouts::default(), search_ns: 0 }
    }

    /// Lets flows go that have ended, so that there is room for others.
    fn make_room(&mut self, now: Ktime) {
        if now.0 < self.search_ns {
            return;
        }
        self.search_ns = now.0.saturating_add(SEARCH_NS);
        let ended = self.replay.flows().filter_map(|(key, flow)| {
            self.timeouts.ended(key, &flow.entry, now.0).is_some().then_some(*key)
        });
        for key in ended.collect::<Vec<_>>() {
            self.replay.remove(&key);
        }
    }
}

impl Default for VerdictComments {
    fn default() -> Self {
        Self::new()
    }
}

impl Commentator for VerdictComments {
    fn comment(&mut self, link_type: LinkType, packet: &StreamedPacket<'_>, comment: &mut String) {
        let captured_len = u32::try_from(packet.data.len()).unwrap_or(u32::MAX);
        let lengths = Lengths { original_len: packet.original_len, captured_len };
        let frame = offline::frame_of(link_type, packet.time_ns, lengths);
        let outcome = self.replay.frame(packet.data, &frame);
        say(self.replay.classified(), comment);
        // They count as long as they are kept.
        drop(self.replay.take_ended());
        if outcome == Outcome::TableFull {
            self.make_room(frame.now);
        }
    }
}

/// Appends what there is to say about the segments of one packet.
fn say(segments: &[Classified], comment: &mut String) {
    let found = |segment: &Classified| segment.event.map_or((0, 0), |it| (it.classes, it.verdict));
    if segments.iter().all(|segment| found(segment) == (0, 0)) {
        return;
    }
    let said = segments.iter().map(|segment| {
        let (classes, verdict) = found(segment);
        let parts = [list(&FIELDS, classes), list(&verdict::BITS, verdict)];
        let parts = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
        if parts.is_empty() { NOTHING.to_owned() } else { parts.join("; ") }
    });
    comment.push_str(PREFIX);
    comment.push_str(&said.collect::<Vec<_>>().join(BETWEEN));
}

/// The names that apply, with commas between them.
fn list(names: &[(&str, u32)], bits: u32) -> String {
    let apply = names.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name);
    apply.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use captures::{
        CapturedPacket, InterfaceDescription, PacketReader,
        format::{
            annotate::Annotator,
            pcapng::{PcapngWriter, SectionHeader},
        },
    };
    use datapath::{
        layout::Event,
        tcp::verdict::{Segment, Verdict},
    };

    use super::*;
    use crate::software::Software;

    /// One segment of 10 bytes in IPv4.
    fn segment(port: u16, sequence: u32, id: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 50];
        packet.extend(id.to_be_bytes());
        packet.extend([0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 80]);
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        packet.extend([7; 10]);
        packet
    }

    /// IPv4 around a packet.
    fn in_ip(inner: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(20 + inner.len()).unwrap().to_be_bytes();
        let head = [0x45, 0, high, low, 0, 1, 0x40, 0, 64, 4, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
        [&head[..], inner].concat()
    }

    /// The comments on raw IP packets, each with its time.
    fn comments(commentator: VerdictComments, packets: &[(u64, Vec<u8>)]) -> Vec<Vec<String>> {
        let mut writer = PcapngWriter::new(Vec::new(), &SectionHeader::default()).unwrap();
        writer.interface(&InterfaceDescription::new(LinkType::RAW, 0)).unwrap();
        for (time_ns, data) in packets {
            writer.packet(&CapturedPacket::new(*time_ns, data)).unwrap();
        }
        let (mut annotator, mut out) = (Annotator::new(commentator), Vec::new());
        annotator.annotate(&writer.into_inner(), &mut out).unwrap();
        let mut reader = PacketReader::new(&out[..]).unwrap();
        let mut found = Vec::new();
        while let Some(read) = reader.next_packet().unwrap() {
            found.push(read.packet.comments.iter().map(ToString::to_string).collect());
        }
        found
    }

    #[test]
    fn what_is_sent_again_is_said_and_what_is_new_is_not() {
        let packets = [
            (1_000_000_000, segment(5_000, 100, 1)),
            (1_100_000_000, segment(5_000, 110, 2)),
            (3_000_000_000, segment(5_000, 100, 3)),
        ];
        let said = comments(VerdictComments::new(), &packets);
        assert_eq!(said[..2], [Vec::<String>::new(), Vec::new()]);
        let expected =
            "linnet: tcp.analysis.retransmission; retransmitted_segments, rto, lost_downstream";
        assert_eq!(said[2], [expected]);
    }

    #[test]
    fn a_segment_in_a_tunnel_is_named_as_itself() {
        let packets = [(1_000_000_000, 100), (1_100_000_000, 110), (3_000_000_000, 100)]
            .map(|(time_ns, sequence)| (time_ns, in_ip(&segment(5_000, sequence, 0))));
        let said = comments(VerdictComments::new(), &packets);
        assert!(said[2][0].starts_with("linnet: tcp.analysis.retransmission; "), "{said:?}");
    }

    #[test]
    fn segments_of_one_packet_stand_in_their_order() {
        let segment = |classes, verdict| {
            let event = Event { classes, verdict, ..Event::default() };
            let event = (classes | verdict != 0).then_some(event);
            let plain = Segment { now: Ktime(0), ..Segment::default() };
            Classified { event, ..Classified::plain(0, plain, Verdict::default()) }
        };
        let said = |segments: &[Classified]| {
            let mut comment = String::new();
            say(segments, &mut comment);
            comment
        };
        let quiet = segment(0, 0);
        let late = segment(classes::OUT_OF_ORDER, verdict::REORDERED);
        let copy = segment(0, verdict::DUPLICATE_FRAME);
        let acks = segment(classes::DUPLICATE_ACK | classes::LOST_SEGMENT, 0);
        assert_eq!(said(&[]), "");
        assert_eq!(said(&[quiet, quiet]), "");
        assert_eq!(said(&[late]), "linnet: tcp.analysis.out_of_order; reordered_segments");
        let both =
            "linnet: - | duplicate_frames | tcp.analysis.lost_segment, tcp.analysis.duplicate_ack";
        assert_eq!(said(&[quiet, copy, acks]), both);
        let fast = "linnet: tcp.analysis.retransmission, tcp.analysis.fast_retransmission";
        assert_eq!(said(&[segment(classes::FAST_RETRANSMISSION, 0)]), fast);
    }

    #[test]
    fn every_class_has_a_field() {
        let all = FIELDS.iter().fold(0, |all, (_, bits)| all | bits);
        assert_eq!(all, (1 << CLASSES) - 1);
        let [first, rest @ ..] = FIELDS;
        assert_eq!(first.1.count_ones(), 3);
        assert!(rest.iter().all(|(_, bits)| bits.count_ones() == 1));
    }

    #[test]
    fn flows_beyond_the_limit_get_no_comments_until_others_have_ended() {
        const DAY_NS: u64 = 86_400_000_000_000;
        let again = |port, from_ns| {
            [(0, 100), (1, 110), (2, 100)].map(|(second, sequence)| {
                (from_ns + second * 1_000_000_000, segment(port, sequence, 0))
            })
        };
        let packets = [again(1, DAY_NS), again(2, DAY_NS + 1), again(3, 2 * DAY_NS)].concat();
        let said = comments(VerdictComments::with_flows_max(1), &packets);
        let lengths: Vec<_> = said.iter().map(Vec::len).collect();
        // The first packet of the third flow finds no room, and makes some: its second one begins the flow.
        assert_eq!(lengths, [0, 0, 1, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn the_documented_bound_is_true() {
        let flows = Software::bytes_max(u32::try_from(FLOWS_MAX).unwrap());
        assert_eq!(flows / 1_000_000, 96);
    }

    #[test]
    fn places_are_found_by_the_names_that_they_show() {
        for (name, verdicts) in Verdicts::NAMES {
            assert_eq!((name.parse(), verdicts.to_string().as_str()), (Ok(verdicts), name));
        }
        assert_eq!("option".parse::<Verdicts>(), Err(UnknownVerdicts));
    }
}
