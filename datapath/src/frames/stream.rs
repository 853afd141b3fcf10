//! One stream: the tracker's state of it, and what Wireshark keeps beside that and the kernel has no room for. The
//! rules of Wireshark 4.0 are the tracker's; those of 4.4 that differ are in [`super::ws44`].

use std::vec::Vec;

use crate::{
    layout::{FlowEntry, SYN_SEEN},
    parse::{
        Headers,
        tcp::{ACK, FIN, SYN},
    },
    tcp::{after, tracker},
    time::Ktime,
};

use super::{
    Compat,
    walk::{HeaderFound, Options},
    ws44,
};

/// Segments of one direction that Wireshark remembers until they are acknowledged (`TCP_MAX_UNACKED_SEGMENTS`).
const UNACKNOWLEDGED_MAX: usize = 10_000;

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    entry: FlowEntry,
    sides: [Side; 2],
    /// It was reset or finished; Wireshark 4.4 looks at that.
    has_ended: bool,
}

/// What one endpoint sent, beside its half of the entry.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// Segments that were not acknowledged yet, the oldest first.
    pub(super) unacknowledged: Vec<Sent>,
    /// Blocks of the last segment's selective acknowledgment, relative to where the other side began.
    pub(super) selective: Vec<(u32, u32)>,
    /// Payload of the segment that last advanced the sequence number.
    pub(super) newest_len: u32,
}

/// A segment, or what of it was not acknowledged yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Default for Stream {
    fn default() -> Self {
        Self { entry: FlowEntry::EMPTY, sides: Default::default(), has_ended: false }
    }
}

impl Stream {
    /// Takes a segment into account; the classes that tshark shows of it.
    pub(super) fn segment(
        &mut self,
        compat: Compat,
        found: HeaderFound,
        options: Options<'_>,
        headers: &mut Headers,
        now: Ktime,
    ) -> u32 {
        let (head, own, peer) = self.entry.split(headers.sender);
        let has_ended = self.has_ended;
        headers.classes = match compat {
            Compat::Ws40 => tracker::connection(head, own, peer, headers),
            Compat::Ws44 => ws44::connection(head, own, peer, has_ended, headers),
        };
        let is_new = compat == Compat::Ws44 || headers.tcp_flags & ACK == 0;
        if headers.classes != 0 && is_new {
            self.sides = Default::default();
            self.has_ended = false;
        }
        if headers.analyzable != 0 {
            self.analyze(compat, headers, now);
        }
        self.handshake(found, headers, now);
        if compat == Compat::Ws44 && found != HeaderFound::Bogus {
            let (_, own, peer) = self.entry.split(headers.sender);
            let side = &mut self.sides[(headers.sender & 1) as usize];
            ws44::selective(own, peer, side, options, headers);
            self.has_ended |= ws44::ends(headers);
        }
        if found == HeaderFound::Whole { headers.classes } else { 0 }
    }

    fn analyze(&mut self, compat: Compat, headers: &mut Headers, now: Ktime) {
        let (head, own, peer) = self.entry.split(headers.sender);
        let [lower, upper] = &mut self.sides;
        let (side, other) = if headers.sender & 1 == 0 { (lower, upper) } else { (upper, lower) };
        tracker::bases(own, peer, headers);
        match compat {
            Compat::Ws40 => {
                tracker::window_and_acknowledgment(own, peer, headers);
                tracker::unseen(own, peer, headers);
                tracker::sent_again(head, own, peer, headers, now);
            }
            Compat::Ws44 => ws44::analyze(head, (own, &*side), (peer, &*other), headers, now),
        }
        let occupies = headers.payload_len != 0 || headers.tcp_flags & (SYN | FIN) != 0;
        let noted = occupies && side.unacknowledged.len() < UNACKNOWLEDGED_MAX;
        // Wireshark counts a SYN or a FIN where it notes the segment.
        let control = if noted { tracker::control(headers) } else { 0 };
        let start = headers.sequence;
        let end = start.wrapping_add(headers.payload_len).wrapping_add(control);
        if noted {
            side.unacknowledged.push(Sent { start, end });
        }
        let newest = own.next_sequence.wrapping_add(tracker::control(headers));
        if own.next_sequence == 0 || after(end, newest) {
            side.newest_len = headers.payload_len;
        }
        tracker::advance(own, headers, control, now);
        own.last_seen_ns = now.0;
        other.acknowledged(headers.acknowledgment);
    }

    fn handshake(&mut self, found: HeaderFound, headers: &Headers, now: Ktime) {
        if found == HeaderFound::Bogus {
            return;
        }
        let (head, own, peer) = self.entry.split(headers.sender);
        let scales = (own.window_scale, peer.window_scale);
        if head.syn_ns == 0 {
            // Wireshark knows no SYN that came at the very start of time.
            head.bits &= !SYN_SEEN;
        }
        tracker::handshake(head, own, peer, headers, now);
        let is_unknown = found == HeaderFound::Cut && headers.window_scale_plus_one == 0;
        if is_unknown && headers.tcp_flags & SYN != 0 {
            // The option may be where nothing was captured.
            (own.window_scale, peer.window_scale) = scales;
        }
    }
}

impl Side {
    /// Forgets what lies before `acknowledgment`.
    fn acknowledged(&mut self, acknowledgment: u32) {
        self.unacknowledged.retain_mut(|sent| {
            let remains = after(sent.end, acknowledgment);
            if remains && after(acknowledgment, sent.start) {
                sent.start = acknowledgment;
            }
            remains
        });
    }
}
