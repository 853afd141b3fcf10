//! One simulated TCP conversation past an observer: two hosts, a path with delay, jitter and losses
//! on either side of the observer, and a script of what the processes say. Never real time: a queue
//! of events in virtual nanoseconds.

mod endpoint;
mod events;
mod look;
mod receiver;
mod segment;
mod sender;

use self::endpoint::Endpoint;
use self::events::{Events, What};
use self::look::{TcpLook, header, mss};
pub(super) use self::receiver::Reading;
use self::segment::Segment;
use super::Recorded;
use super::frame::{self, Ends, Side, TcpHeader};
use super::truth::FlowTruth;
use crate::rng::Rng;
use crate::wire::{TCP, flag};

/// Events of one conversation; beyond, it is cut.
const EVENTS_MAX: u32 = 4_000_000;
/// Serialization at each host: 50 Mbit/s.
const NANOS_PER_BYTE: u64 = 160;
/// Each hop adds up to this much, at random.
const JITTER_NS: u64 = 100_000;
/// Headers of a data segment, for serialization.
const HEADER_BYTES: u64 = 66;

/// What the processes do.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub kind: &'static str,
    pub messages: Vec<Message>,
    pub ending: Ending,
    /// What gets lost of what each side sends.
    pub losses: [Losses; 2],
    pub readings: [Reading; 2],
}

/// One message; the next is said when it has arrived whole.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub from: Side,
    pub text: Vec<u8>,
    /// From the arrival of the message before (of the first: from the handshake) to this one.
    pub think_ns: u64,
}

/// How a conversation ends, a while after the last message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Fin(Side),
    Reset(Side),
    /// It goes on beyond the scene.
    Open,
}

/// Where a lost packet was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the observer.
    Upstream,
    /// Behind the observer.
    Downstream,
}

/// Which of one side's packets get lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Losses {
    None,
    /// Every n-th data segment, retransmissions included.
    Every(u32, Place),
    /// The first sending of the segment that ends the first message of this side.
    Tail(Place),
    /// The first SYN.
    Syn(Place),
}

/// When and how far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub start_ns: u64,
    pub end_ns: u64,
    /// Round-trip times from the observer to the originator and to the responder.
    pub rtts_ns: [u64; 2],
}

/// A refused connection: a SYN and its RST.
pub(super) fn refused(
    ends: &Ends,
    timing: Timing,
    rng: &mut Rng,
    recorded: &mut Vec<Recorded>,
) -> FlowTruth {
    let mut truth = FlowTruth::new("refused", TCP, ends, timing.rtts_ns);
    let isn = rng.next_u32();
    let answer_ns = timing.start_ns + timing.rtts_ns[1] + rng.between(50_000, 200_000);
    let syn = Segment { syn: true, window: 64_240, tsval: rng.next_u32(), ..Segment::default() };
    let syn = header(&syn, [isn, 0], TcpLook { mss: mss(ends), scale: 7 });
    let (flags, ip_id) = (flag::RST | flag::ACK, rng.next_u16());
    let ack = isn.wrapping_add(1);
    let rst = TcpHeader { seq: 0, ack, flags, window: 0, options: Vec::new(), ip_id };
    for (at_ns, from, header) in
        [(timing.start_ns, Side::Originator, syn), (answer_ns, Side::Responder, rst)]
    {
        if at_ns < timing.end_ns {
            let frame = frame::tcp(ends, from, &header, &[]);
            truth.count(from, frame.len(), 0);
            truth.half(from).resets += u64::from(from == Side::Responder);
            recorded.push(Recorded { at_ns, frame });
        }
    }
    truth
}

/// Plays the script; what passes the observer within the scene is recorded and counted.
pub(super) fn play(
    ends: &Ends,
    script: &Script,
    timing: Timing,
    rng: &mut Rng,
    recorded: &mut Vec<Recorded>,
) -> FlowTruth {
    let mut network = Network::new(ends, script, timing, rng);
    network.flush(Side::Originator, timing.start_ns);
    for _ in 0..EVENTS_MAX {
        let Some((at_ns, what)) = network.events.pop() else { break };
        if at_ns >= timing.end_ns {
            break;
        }
        network.handle(at_ns, what, recorded);
    }
    network.truth
}

struct Network<'a> {
    ends: &'a Ends,
    script: &'a Script,
    timing: Timing,
    rng: &'a mut Rng,
    hosts: [Endpoint; 2],
    /// Initial sequence numbers.
    isns: [u32; 2],
    looks: [TcpLook; 2],
    streams: [Vec<u8>; 2],
    /// Offset behind each message in its side's stream.
    message_ends: Vec<u64>,
    /// Messages said so far.
    said: usize,
    is_closing: bool,
    events: Events,
    /// Per side: when its link is free, and when its last packet passes the observer and arrives.
    busy_ns: [[u64; 3]; 2],
    timers_ns: [Option<u64>; 2],
    data_segments: [u32; 2],
    one_lost: [bool; 2],
    highest_seen: [u64; 2],
    last_syn_ns: Option<u64>,
    truth: FlowTruth,
}

impl<'a> Network<'a> {
    fn new(ends: &'a Ends, script: &'a Script, timing: Timing, rng: &'a mut Rng) -> Self {
        let mss = mss(ends);
        let hosts = Side::BOTH.map(|side| {
            let reading = script.readings[side.index()];
            Endpoint::new(side, u64::from(mss) - 12, reading, rng)
        });
        let looks = script.readings.map(|reading| TcpLook {
            mss,
            // A pausing reader's window is small and must be exact, so it is not scaled.
            scale: if matches!(reading, Reading::Eager { .. }) { 7 } else { 0 },
        });
        let mut streams = [Vec::new(), Vec::new()];
        let mut message_ends = Vec::new();
        for message in &script.messages {
            let stream = &mut streams[message.from.index()];
            stream.extend_from_slice(&message.text);
            message_ends.push(1 + u64::try_from(stream.len()).unwrap_or(u64::MAX));
        }
        Self {
            ends,
            script,
            timing,
            hosts,
            isns: [rng.next_u32(), rng.next_u32()],
            rng,
            looks,
            streams,
            message_ends,
            said: 0,
            is_closing: false,
            events: Events::default(),
            busy_ns: [[0; 3]; 2],
            timers_ns: [None; 2],
            data_segments: [0; 2],
            one_lost: [false; 2],
            highest_seen: [0; 2],
            last_syn_ns: None,
            truth: FlowTruth::new(script.kind, TCP, ends, timing.rtts_ns),
        }
    }

    fn handle(&mut self, now_ns: u64, what: What, recorded: &mut Vec<Recorded>) {
        match what {
            What::Passes(from, segment) => self.record(now_ns, from, &segment, recorded),
            What::Arrives(to, segment) => {
                self.hosts[to.index()].handle_segment(now_ns, &segment);
                self.follow_script(now_ns, to);
                self.flush(to, now_ns);
            }
            What::Timer(side) => {
                self.timers_ns[side.index()] = None;
                self.hosts[side.index()].handle_timer(now_ns);
                self.flush(side, now_ns);
            }
            What::Says(index) => {
                let side = self.script.messages[index].from;
                self.hosts[side.index()].write(self.message_ends[index]);
                self.flush(side, now_ns);
            }
            What::Closes(side) => {
                match self.script.ending {
                    Ending::Reset(_) => self.hosts[side.index()].reset(),
                    Ending::Fin(_) | Ending::Open => self.hosts[side.index()].close(),
                }
                self.flush(side, now_ns);
            }
        }
    }

    /// Lets the processes react to what `side` has received.
    fn follow_script(&mut self, now_ns: u64, side: Side) {
        let host = &self.hosts[side.index()];
        let has_arrived = match self.said.checked_sub(1) {
            None => side == Side::Originator && host.is_established(),
            Some(last) => {
                let is_listener = self.script.messages[last].from != side;
                is_listener && host.received() >= self.message_ends[last]
            }
        };
        let sees_end = host.has_seen_end();
        if has_arrived && let Some(message) = self.script.messages.get(self.said) {
            self.events.push(now_ns + message.think_ns, What::Says(self.said));
            self.said += 1;
        } else if has_arrived && !self.is_closing {
            self.is_closing = true;
            match self.script.ending {
                Ending::Fin(by) | Ending::Reset(by) => {
                    self.events.push(now_ns + 5_000_000, What::Closes(by));
                }
                Ending::Open => {}
            }
        }
        if let Ending::Fin(by) = self.script.ending
            && by != side
            && sees_end
        {
            self.events.push(now_ns + 500_000, What::Closes(side));
        }
    }

    /// Sends everything that a host wants to send, and sets its timer.
    fn flush(&mut self, side: Side, now_ns: u64) {
        while let Some(segment) = self.hosts[side.index()].poll_transmit(now_ns) {
            self.transmit(side, now_ns, segment);
        }
        let wanted = self.hosts[side.index()].timer_ns();
        let set = self.timers_ns[side.index()];
        if let Some(at_ns) = wanted
            && set.is_none_or(|set| at_ns < set)
        {
            self.timers_ns[side.index()] = Some(at_ns);
            self.events.push(at_ns, What::Timer(side));
        }
    }

    /// Puts a segment on the path, unless it is lost at once.
    fn transmit(&mut self, from: Side, now_ns: u64, segment: Segment) {
        let lost = self.loss(from, &segment);
        let half = self.truth.half(from);
        half.retransmissions_sent += u64::from(segment.retransmission);
        half.lost_upstream += u64::from(lost == Some(Place::Upstream));
        half.lost_downstream += u64::from(lost == Some(Place::Downstream));
        let jitter = [self.rng.below(JITTER_NS), self.rng.below(JITTER_NS)];
        let one_way = self.timing.rtts_ns.map(|rtt_ns| rtt_ns / 2);
        let [link_ns, passed_ns, arrived_ns] = &mut self.busy_ns[from.index()];
        // Each stage is first in, first out: nothing overtakes.
        *link_ns = now_ns.max(*link_ns) + (HEADER_BYTES + segment.data) * NANOS_PER_BYTE;
        let passes_ns = (*link_ns + one_way[from.index()] + jitter[0]).max(*passed_ns + 1_000);
        let arrives_ns =
            (passes_ns + one_way[from.other().index()] + jitter[1]).max(*arrived_ns + 1_000);
        if lost == Some(Place::Upstream) {
            return;
        }
        *passed_ns = passes_ns;
        if lost.is_none() {
            *arrived_ns = arrives_ns;
            self.events.push(arrives_ns, What::Arrives(from.other(), segment.clone()));
        }
        self.events.push(passes_ns, What::Passes(from, segment));
    }

    fn loss(&mut self, from: Side, segment: &Segment) -> Option<Place> {
        let number = &mut self.data_segments[from.index()];
        *number += u32::from(segment.data > 0);
        let one_lost = &mut self.one_lost[from.index()];
        let (is_lost, place) = match self.script.losses[from.index()] {
            Losses::None => return None,
            Losses::Every(n, place) => (segment.data > 0 && number.is_multiple_of(n), place),
            Losses::Tail(place) => (segment.push && !*one_lost, place),
            Losses::Syn(place) => (segment.syn && !*one_lost, place),
        };
        *one_lost |= is_lost;
        is_lost.then_some(place)
    }

    /// The observer sees a segment.
    fn record(&mut self, now_ns: u64, from: Side, segment: &Segment, recorded: &mut Vec<Recorded>) {
        let side = from.index();
        let mut header =
            header(segment, [self.isns[side], self.isns[from.other().index()]], self.looks[side]);
        header.ip_id = segment.ip_id;
        // A segment without data may lie beyond the stream: behind a FIN.
        let first = usize::try_from(segment.start.saturating_sub(1)).unwrap_or(0);
        let length = usize::try_from(segment.data).unwrap_or(0);
        let payload = self.streams[side].get(first..first + length).unwrap_or_default();
        let frame = frame::tcp(self.ends, from, &header, payload);

        let is_visible = segment.retransmission && segment.start < self.highest_seen[side];
        self.highest_seen[side] = self.highest_seen[side].max(segment.end());
        self.truth.count(from, frame.len(), segment.data);
        let is_plain = !segment.syn && !segment.fin && !segment.rst;
        let half = self.truth.half(from);
        half.retransmissions_captured += u64::from(segment.retransmission);
        half.retransmissions_visible += u64::from(is_visible);
        half.zero_windows += u64::from(is_plain && header.window == 0);
        half.resets += u64::from(segment.rst);
        if segment.syn && segment.ack.is_none() {
            self.last_syn_ns = Some(now_ns);
        } else if from == Side::Originator && self.truth.handshake_ns.is_none() {
            self.truth.handshake_ns = self.last_syn_ns.map(|syn_ns| now_ns - syn_ns);
        }
        recorded.push(Recorded { at_ns: now_ns, frame });
    }
}
