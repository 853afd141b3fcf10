//! Synthetic conversations without TCP: DNS, a UDP stream, ICMP echo, ARP. Never fragments.

use std::net::{IpAddr, Ipv4Addr};

use pnet::util::MacAddr;

use super::Recorded;
use super::frame::{self, Ends, Side};
use super::tcp::Timing;
use super::truth::FlowTruth;
use crate::lab::Family;
use crate::rng::Rng;
use crate::traffic::dns;

const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Writes what passes the observer, within the scene.
struct Recorder<'a> {
    ends: &'a Ends,
    end_ns: u64,
    ip_ids: [u16; 2],
    truth: FlowTruth,
    recorded: &'a mut Vec<Recorded>,
}

impl<'a> Recorder<'a> {
    fn new(
        (kind, protocol): (&'static str, u8),
        ends: &'a Ends,
        timing: Timing,
        rng: &mut Rng,
        recorded: &'a mut Vec<Recorded>,
    ) -> Self {
        let truth = FlowTruth::new(kind, protocol, ends, timing.rtts_ns);
        let ip_ids = [rng.next_u16(), rng.next_u16()];
        Self { ends, end_ns: timing.end_ns, ip_ids, truth, recorded }
    }

    fn record(
        &mut self,
        at_ns: u64,
        from: Side,
        payload_bytes: usize,
        build: impl FnOnce(&Ends, u16) -> Vec<u8>,
    ) {
        if at_ns >= self.end_ns {
            return;
        }
        let id = &mut self.ip_ids[from.index()];
        *id = id.wrapping_add(1);
        let frame = build(self.ends, *id);
        self.truth.count(from, frame.len(), u64::try_from(payload_bytes).unwrap_or(0));
        self.recorded.push(Recorded { at_ns, frame });
    }

    fn udp(&mut self, at_ns: u64, from: Side, payload: &[u8]) {
        self.record(at_ns, from, payload.len(), |ends, id| frame::udp(ends, from, id, payload));
    }
}

/// One query, and its answer where `answer` says so.
pub(super) fn dns(
    ends: &Ends,
    timing: Timing,
    answer: Option<IpAddr>,
    rng: &mut Rng,
    recorded: &mut Vec<Recorded>,
) -> FlowTruth {
    let mut recorder = Recorder::new(("dns", UDP), ends, timing, rng, recorded);
    let family = if ends.sockets[0].is_ipv6() { Family::V6 } else { Family::V4 };
    let name = format!("host{}.example.lab", rng.below(1000));
    let query = dns::query(rng.next_u16(), &name, family);
    recorder.udp(timing.start_ns, Side::Originator, &query);
    let answer_ns = timing.start_ns + timing.rtts_ns[1] + rng.between(100_000, 3_000_000);
    match answer {
        Some(address) => {
            recorder.udp(answer_ns, Side::Responder, &dns::response(&query, Some(address)));
        }
        None => {
            // Nobody answers: the resolver asks again after five seconds.
            recorder.udp(timing.start_ns + 5_000_000_000, Side::Originator, &query);
        }
    }
    recorder.truth
}

/// Datagrams every 20 ms with a little jitter, one in four answered by a short report.
pub(super) fn udp_stream(
    ends: &Ends,
    timing: Timing,
    rng: &mut Rng,
    recorded: &mut Vec<Recorded>,
) -> FlowTruth {
    let mut recorder = Recorder::new(("udp stream", UDP), ends, timing, rng, recorded);
    let mut at_ns = timing.start_ns;
    let mut number = 0_u32;
    while at_ns < timing.end_ns {
        let mut payload = vec![b'u'; 172];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        recorder.udp(at_ns + rng.below(1_000_000), Side::Originator, &payload);
        if number % 4 == 3 {
            recorder.udp(
                at_ns + timing.rtts_ns[1] + 1_000_000,
                Side::Responder,
                &number.to_be_bytes(),
            );
        }
        number += 1;
        at_ns += 20_000_000;
    }
    recorder.truth
}

/// An echo request every second, one in ten without reply.
pub(super) fn echo(
    ends: &Ends,
    timing: Timing,
    rng: &mut Rng,
    recorded: &mut Vec<Recorded>,
) -> FlowTruth {
    let protocol = if ends.sockets[0].is_ipv6() { ICMPV6 } else { ICMP };
    let mut recorder = Recorder::new(("echo", protocol), ends, timing, rng, recorded);
    let id = ends.sockets[0].port();
    let payload = [b'e'; 56];
    let mut at_ns = timing.start_ns;
    for seq in 1_u16.. {
        if at_ns >= timing.end_ns {
            break;
        }
        let (request, reply) = (Side::Originator, Side::Responder);
        recorder.record(at_ns, request, payload.len(), |ends, ip_id| {
            frame::echo(ends, request, ip_id, id, seq, &payload)
        });
        if !seq.is_multiple_of(10) {
            let reply_ns = at_ns + timing.rtts_ns[1] + rng.between(20_000, 200_000);
            recorder.record(reply_ns, reply, payload.len(), |ends, ip_id| {
                frame::echo(ends, reply, ip_id, id, seq, &payload)
            });
        }
        at_ns += 1_000_000_000;
    }
    recorder.truth
}

/// The gateway asks for a client's hardware address every five seconds and gets it.
pub(super) fn arp(end_ns: u64, gateway: MacAddr, recorded: &mut Vec<Recorded>) {
    let gateway = (gateway, Ipv4Addr::new(10, 1, 255, 254));
    let client = (MacAddr::new(2, 0, 0, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 1));
    for number in 0.. {
        let at_ns = 500_000_000 + number * 5_000_000_000;
        if at_ns + 300_000 >= end_ns {
            return;
        }
        let request = frame::arp(gateway, (None, client.1), None);
        let reply = frame::arp(client, (Some(gateway.0), gateway.1), None);
        recorded.push(Recorded { at_ns, frame: request });
        recorded.push(Recorded { at_ns: at_ns + 300_000, frame: reply });
    }
}
