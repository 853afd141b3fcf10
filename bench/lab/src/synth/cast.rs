//! Who talks to whom about what: the kinds of conversation of a scene, dealt out in a fixed order.
//! Never two flows with the same addresses and ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pnet::util::MacAddr;

use super::frame::{Ends, Side};
use super::tcp::{Ending, Losses, Message, Place, Reading, Script, Timing};
use super::{Recorded, Scene, datagrams, tcp};
use crate::clock::NANOS_PER_SEC;
use crate::rng::Rng;
use crate::synth::truth::FlowTruth;

/// The kinds, in the order in which flows get them.
const KINDS: [Kind; 16] = [
    Kind::HttpKept,
    Kind::Dns,
    Kind::Paced,
    Kind::BulkLostDownstream,
    Kind::UdpStream,
    Kind::HttpClosed,
    Kind::Echo,
    Kind::BulkLostUpstream,
    Kind::DnsUnanswered,
    Kind::UploadLost,
    Kind::TailLost,
    Kind::PausingReader,
    Kind::SynLost,
    Kind::Reset,
    Kind::Refused,
    Kind::PacedLossy,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    HttpKept,
    HttpClosed,
    Paced,
    PacedLossy,
    BulkLostDownstream,
    BulkLostUpstream,
    UploadLost,
    TailLost,
    PausingReader,
    SynLost,
    Reset,
    Refused,
    Dns,
    DnsUnanswered,
    UdpStream,
    Echo,
}

/// The gateway's hardware address, behind which all responders are.
pub(super) const GATEWAY: MacAddr = MacAddr(2, 0, 0, 0xff, 0, 1);

/// Plays flow number `index` of the scene.
pub(super) fn play(scene: &Scene, index: u32, recorded: &mut Vec<Recorded>) -> FlowTruth {
    let mut rng = Rng::derive(scene.seed, u64::from(index));
    let rng = &mut rng;
    let place = usize::try_from(index).unwrap_or(0) % KINDS.len();
    let kind = KINDS[place];
    let ends = ends(kind, index, rng);
    let timing = timing(kind, scene, rng);
    match kind {
        Kind::Refused => tcp::refused(&ends, timing, rng, recorded),
        Kind::Dns => datagrams::dns(&ends, timing, Some(ends.sockets[1].ip()), rng, recorded),
        Kind::DnsUnanswered => datagrams::dns(&ends, timing, None, rng, recorded),
        Kind::UdpStream => datagrams::udp_stream(&ends, timing, rng, recorded),
        Kind::Echo => datagrams::echo(&ends, timing, rng, recorded),
        Kind::HttpKept
        | Kind::HttpClosed
        | Kind::Paced
        | Kind::PacedLossy
        | Kind::BulkLostDownstream
        | Kind::BulkLostUpstream
        | Kind::UploadLost
        | Kind::TailLost
        | Kind::PausingReader
        | Kind::SynLost
        | Kind::Reset => {
            let script = script(kind, timing, rng);
            tcp::play(&ends, &script, timing, rng, recorded)
        }
    }
}

/// Every seventh-or-so flow is IPv6, every fifth is tagged.
fn ends(kind: Kind, index: u32, rng: &mut Rng) -> Ends {
    let [_, _, high, low] = index.to_be_bytes();
    let is_v6 = matches!(index % 7, 2 | 5);
    let (client, server): (IpAddr, IpAddr) = if is_v6 {
        let [a, b] = [u16::from(high), u16::from(low)];
        let client = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, a, b + 1);
        (client.into(), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1 + u16::from(low) % 8).into())
    } else {
        (Ipv4Addr::new(10, 1, high, low).into(), Ipv4Addr::new(192, 0, 2, 1 + low % 8).into())
    };
    let client_port = 32_768 + u16::try_from(index % 28_000).unwrap_or(0);
    let (client_port, server_port) = match kind {
        Kind::HttpKept | Kind::HttpClosed | Kind::TailLost | Kind::SynLost | Kind::Reset => {
            (client_port, 80)
        }
        Kind::Paced | Kind::PacedLossy => (client_port, 7000),
        Kind::BulkLostDownstream | Kind::BulkLostUpstream | Kind::PausingReader => {
            (client_port, 5001)
        }
        Kind::UploadLost => (client_port, 5002),
        Kind::Refused => (client_port, 8081),
        Kind::Dns | Kind::DnsUnanswered => (client_port, 53),
        Kind::UdpStream => (client_port, 5004),
        // Both "ports" are the identifier.
        Kind::Echo => (client_port, client_port),
    };
    Ends {
        macs: [MacAddr::new(2, 0, 0, 1, high, low), GATEWAY],
        sockets: [SocketAddr::new(client, client_port), SocketAddr::new(server, server_port)],
        vlan: (index % 5 == 4).then(|| 100 + u16::from(low) % 3),
        ttls: [64, u8::try_from(rng.between(48, 62)).unwrap_or(50)],
    }
}

fn timing(kind: Kind, scene: &Scene, rng: &mut Rng) -> Timing {
    let end_ns = u64::from(scene.seconds) * NANOS_PER_SEC;
    let is_long = matches!(
        kind,
        Kind::Paced | Kind::PacedLossy | Kind::UdpStream | Kind::Echo | Kind::HttpKept
    );
    let latest_ns = if is_long { end_ns / 10 } else { end_ns / 10 * 7 };
    Timing {
        start_ns: rng.below(latest_ns.max(1)),
        end_ns,
        rtts_ns: [rng.between(200_000, 5_000_000), rng.between(2_000_000, 60_000_000)],
    }
}

fn script(kind: Kind, timing: Timing, rng: &mut Rng) -> Script {
    let eager = [Reading::Eager { buffer: 1 << 18 }; 2];
    let clean = [Losses::None; 2];
    let (asker, answerer) = (Side::Originator, Side::Responder);
    let base = |kind: &'static str, messages: Vec<Message>| Script {
        kind,
        messages,
        ending: Ending::Fin(answerer),
        losses: clean,
        readings: eager,
    };
    match kind {
        Kind::HttpKept => {
            let pairs = rng.between(8, 60);
            let messages = (0..pairs).flat_map(|_| http(rng, 200_000_000, 20_000)).collect();
            Script { ending: Ending::Fin(asker), ..base("http kept", messages) }
        }
        Kind::HttpClosed => base("http closed", http(rng, 0, 60_000).into()),
        Kind::Paced | Kind::PacedLossy => {
            let interval_ns = 100_000_000;
            let rounds = (timing.end_ns - timing.start_ns) / interval_ns + 1;
            let messages = (0..rounds)
                .flat_map(|_| [filler(asker, 100, interval_ns), filler(answerer, 200, 100_000)]);
            let script = Script { ending: Ending::Open, ..base("paced", messages.collect()) };
            if kind == Kind::Paced {
                return script;
            }
            let losses = [Losses::Every(17, Place::Downstream), Losses::Every(23, Place::Upstream)];
            Script { kind: "paced lossy", losses, ..script }
        }
        Kind::BulkLostDownstream | Kind::BulkLostUpstream => {
            let messages = vec![
                filler(asker, 40, 0),
                filler(answerer, rng.between(200_000, 900_000), 500_000),
            ];
            let every = u32::try_from(rng.between(40, 90)).unwrap_or(60);
            let (kind, place) = if kind == Kind::BulkLostDownstream {
                ("bulk lost downstream", Place::Downstream)
            } else {
                ("bulk lost upstream", Place::Upstream)
            };
            Script { losses: [Losses::None, Losses::Every(every, place)], ..base(kind, messages) }
        }
        Kind::UploadLost => {
            let messages =
                vec![filler(asker, rng.between(100_000, 400_000), 0), filler(answerer, 8, 500_000)];
            let losses = [Losses::Every(45, Place::Downstream), Losses::None];
            Script { losses, ..base("upload lost downstream", messages) }
        }
        Kind::TailLost => {
            let losses = [Losses::None, Losses::Tail(Place::Downstream)];
            Script { losses, ..base("tail lost downstream", http(rng, 0, 9_000).into()) }
        }
        Kind::PausingReader => {
            let messages = vec![filler(asker, 40, 0), filler(answerer, 150_000, 500_000)];
            let (buffer, after, pause_ns) = (28_960, 40_000, rng.between(1, 4) * 700_000_000);
            let readings = [Reading::Pausing { buffer, after, pause_ns }, eager[1]];
            Script { readings, ..base("pausing reader", messages) }
        }
        Kind::SynLost => {
            let losses = [Losses::Syn(Place::Downstream), Losses::None];
            Script { losses, ..base("syn lost downstream", http(rng, 0, 20_000).into()) }
        }
        Kind::Reset => {
            Script { ending: Ending::Reset(asker), ..base("reset", http(rng, 0, 10_000).into()) }
        }
        Kind::Refused | Kind::Dns | Kind::DnsUnanswered | Kind::UdpStream | Kind::Echo => {
            base("empty", Vec::new())
        }
    }
}

/// A request after up to `think_ns`, and its response of up to `bytes`.
fn http(rng: &mut Rng, think_ns: u64, bytes: u64) -> [Message; 2] {
    let length = rng.between(200, bytes);
    let request =
        format!("GET /bytes/{length} HTTP/1.1\r\nHost: server.lab\r\nUser-Agent: lab\r\n\r\n");
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
    let mut response = filler(Side::Responder, length, rng.between(300_000, 20_000_000));
    response.text.splice(0..0, head.into_bytes());
    let think_ns = rng.between(think_ns / 4, think_ns * 2);
    [Message { from: Side::Originator, text: request.into_bytes(), think_ns }, response]
}

fn filler(from: Side, bytes: u64, think_ns: u64) -> Message {
    Message { from, text: vec![b'x'; usize::try_from(bytes).unwrap_or(0)], think_ns }
}
