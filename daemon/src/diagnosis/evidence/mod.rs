//! What diagnoses need of a file's packets and nobody else collects: options, hops, sizes, marks, resets, silences, ICMP
//! errors, names asked for. One pass, a fixed state for each flow; never keeps a packet.

mod again;
mod dns;
mod ends;
mod holes;
mod load;
mod side;
mod sizes;
mod tally;
mod turns;

use datapath::{
    FlowKey, Ktime,
    parse::{
        Headers,
        tcp::{ACK, RST, SYN},
    },
    replay::{Classified, Noted, Replay},
    tcp::classes::{KEEP_ALIVE, REUSED_PORTS, ZERO_WINDOW_PROBE},
};

pub use self::{
    dns::DnsEvidence,
    ends::{IDLE_MIN_NS, Idle, Reset},
    holes::Holes,
    load::{Flight, Loaded},
    side::{Hops, Offered, SideEvidence},
    sizes::{LARGE_MIN, Sizes, Stuck},
    tally::Tally,
    turns::Responses,
};
use turns::Turns;

/// Flows about which more than their counters is kept; about further ones, the rules that need it are silent.
pub const FLOWS_MAX: usize = 1 << 17;
/// Port of DNS.
const DNS: u16 = 53;
/// Protocol number of UDP.
const UDP: u8 = 17;

/// What is kept of each flow, by the order of their creation.
#[derive(Debug, Default)]
pub struct Evidence {
    flows: Vec<Option<Box<FlowEvidence>>>,
    kept: usize,
}

/// What is kept of one flow.
#[derive(Clone, Debug, Default)]
pub struct FlowEvidence {
    /// What each endpoint sent: lower, then upper.
    pub sides: [SideEvidence; 2],
    /// The first reset.
    pub reset: Option<Reset>,
    /// The last long silence.
    pub idle: Option<Idle>,
    /// Another connection began on the same ports, so that this is the last one's only.
    pub begun_anew: bool,
    /// Questions and answers.
    pub dns: Option<Box<DnsEvidence>>,
    last_ns: u64,
    finished: bool,
    turns: Turns,
}

impl Evidence {
    /// What is kept of the flow that was created as number `order`.
    #[must_use]
    pub fn of(&self, order: u64) -> Option<&FlowEvidence> {
        self.flows.get(usize::try_from(order).ok()?)?.as_deref()
    }

    /// Takes the last frame of a replay that gives verdicts into account, whose bytes are `data`.
    pub fn frame(&mut self, replay: &Replay, data: &[u8], now: Ktime) {
        for classified in replay.classified() {
            self.segment(classified);
        }
        for noted in replay.noted() {
            self.error(noted);
        }
        let headers = replay.headers();
        if Self::is_dns(headers)
            && let Some(flow) = replay.flow(&headers.key)
            && let Some(payload) = data.get(headers.header_len as usize..)
        {
            self.datagram(flow.order, headers.sender, payload, now.0);
        }
    }

    /// Takes a TCP segment into account.
    pub fn segment(&mut self, classified: &Classified) {
        if let Some(flow) = self.flow(classified.flow) {
            flow.segment(classified);
        }
    }

    /// Takes an ICMP error into account.
    pub fn error(&mut self, noted: &Noted) {
        if let Some(flow) = self.flow(noted.flow) {
            let [lower, upper] = &mut flow.sides;
            let (own, peer) = if noted.sender & 1 == 0 { (lower, upper) } else { (upper, lower) };
            own.error(peer, noted);
        }
    }

    /// Whether the datagram of `headers` may be a question or an answer.
    #[must_use]
    pub fn is_dns(headers: &Headers) -> bool {
        let FlowKey { protocol, lower_port, upper_port, .. } = headers.key;
        protocol == UDP && (lower_port == DNS.to_be() || upper_port == DNS.to_be())
    }

    /// Takes a datagram of DNS into account.
    pub fn datagram(&mut self, order: u64, sender: u32, payload: &[u8], now_ns: u64) {
        if let Some(flow) = self.flow(order) {
            flow.dns.get_or_insert_default().message(sender, payload, now_ns);
        }
    }

    fn flow(&mut self, order: u64) -> Option<&mut FlowEvidence> {
        let order = usize::try_from(order).ok()?;
        if order >= self.flows.len() {
            if self.kept >= FLOWS_MAX {
                return None;
            }
            self.flows.resize_with(order + 1, || None);
        }
        let place = &mut self.flows[order];
        if place.is_none() {
            if self.kept >= FLOWS_MAX {
                return None;
            }
            self.kept += 1;
            *place = Some(Box::default());
        }
        place.as_deref_mut()
    }
}

impl FlowEvidence {
    fn segment(&mut self, classified: &Classified) {
        let segment = &classified.segment;
        let now_ns = segment.now.0;
        let is_syn = segment.tcp_flags & (SYN | ACK) == SYN;
        if is_syn && segment.classes & REUSED_PORTS != 0 && self.last_ns != 0 {
            *self = Self { begun_anew: true, ..Self::default() };
        }
        self.ends(classified);
        if segment.tcp_flags & RST != 0 {
            self.resets(classified);
        }
        let [lower, upper] = &mut self.sides;
        let (own, peer) = if classified.sender & 1 == 0 { (lower, upper) } else { (upper, lower) };
        let is_late = classified.verdict.bits != 0;
        if is_late {
            self.turns.disturbed = true;
        } else if segment.payload_len > 0 && segment.classes & (KEEP_ALIVE | ZERO_WINDOW_PROBE) == 0
        {
            self.turns.data(classified.sender, now_ns, own, peer);
        }
        own.segment(peer, classified);
        self.last_ns = self.last_ns.max(now_ns);
    }
}
