//! A flood of SYNs from forged addresses, each of a connection of its own, as fast as one thread sends. Never completes
//! a handshake: the addresses are of nobody.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use pnet::datalink;

use super::{Budget, Stop, TrafficError, inject};
use crate::clock::monotonic_ns;
use crate::lab::{CLIENT_INTERFACE, Lab, SERVER_INTERFACE};
use crate::namespace::Namespace;
use crate::wire::{self, IpFrame, flag};

/// Where the SYNs seem to come from: the addresses for benchmarks of RFC 2544, a /15.
pub const FORGED: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Bits of an address that differ.
const HOST_BITS: u32 = 17;
const FIRST_PORT: u32 = 1_024;
/// The most of one run; 128 ports of each address.
pub const COUNT_MAX: u32 = 1 << 24;
/// Frames between two looks at the clock.
const SPAN: u32 = 1_024;

/// Where the addresses of a frame are: Ethernet, IPv4 and TCP without options.
const IPV4: usize = 14;
const TCP: usize = IPV4 + 20;
const FRAME_BYTES: usize = TCP + 20;

/// What to send, from the client's end.
#[derive(Debug, Clone)]
pub struct SynFlood {
    /// The server's address and port.
    pub to: SocketAddrV4,
    /// How many, at most [`COUNT_MAX`].
    pub count: u32,
    /// The longest that it may take.
    pub limit: Duration,
}

/// What was sent.
#[derive(Debug, Clone, Copy)]
pub struct Flooded {
    /// SYNs.
    pub syns: u32,
    /// How long it took, ns.
    pub duration_ns: u64,
}

/// Sends all of them, the same ones each time.
pub fn run(lab: &Lab, flood: &SynFlood, stop: &Stop) -> Result<Flooded, TrafficError> {
    if flood.count > COUNT_MAX {
        return Err(TrafficError::Limit {
            generator: "SYN flood",
            field: "count",
            value: flood.count.into(),
            allowed: "at most 16,777,216",
        });
    }
    let budget = Budget::new(flood.limit, stop);
    let destination = hardware_address(lab.server(), SERVER_INTERFACE)?;
    let source = hardware_address(lab.client(), CLIENT_INTERFACE)?;
    let mut frame = template(source, destination, flood.to);
    let failed = |source| TrafficError::Inject { interface: CLIENT_INTERFACE.to_owned(), source };
    let ip = wire::ip_frame(&frame).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
    lab.client().run(|| {
        let mut sender = inject::open(CLIENT_INTERFACE).map_err(failed)?;
        let started_ns = monotonic_ns();
        for number in 0..flood.count {
            if number.is_multiple_of(SPAN) {
                budget.check("flood")?;
            }
            forge(&mut frame, &ip, number);
            sender.send_to(&frame, None).unwrap_or(Ok(())).map_err(failed)?;
        }
        let duration_ns = monotonic_ns() - started_ns;
        Ok(Flooded { syns: flood.count, duration_ns })
    })?
}

fn hardware_address(namespace: &Namespace, name: &str) -> Result<[u8; 6], TrafficError> {
    let interfaces = namespace.run(datalink::interfaces)?;
    let interface = interfaces.into_iter().find(|interface| interface.name == name);
    let address = interface.and_then(|interface| interface.mac).ok_or_else(|| {
        let source = io::ErrorKind::NotFound.into();
        TrafficError::Inject { interface: name.to_owned(), source }
    })?;
    Ok(address.octets())
}

fn template(source: [u8; 6], destination: [u8; 6], to: SocketAddrV4) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&source);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[IPV4..IPV4 + 10].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6]);
    frame[IPV4 + 16..TCP].copy_from_slice(&to.ip().octets());
    frame[TCP + 2..TCP + 4].copy_from_slice(&to.port().to_be_bytes());
    frame[TCP + 12..TCP + 16].copy_from_slice(&[0x50, flag::SYN, 0xfa, 0xf0]);
    frame
}

/// Makes the frame the one with this number, with right checksums.
fn forge(frame: &mut [u8; FRAME_BYTES], ip: &IpFrame, number: u32) {
    let host = number & ((1 << HOST_BITS) - 1);
    let address = (FORGED.to_bits() | host).to_be_bytes();
    let [_, _, high, low] = (FIRST_PORT + (number >> HOST_BITS)).to_be_bytes();
    frame[IPV4 + 12..IPV4 + 16].copy_from_slice(&address);
    frame[TCP..TCP + 2].copy_from_slice(&[high, low]);
    frame[TCP + 4..TCP + 8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    for (at, sum) in [(IPV4 + 10, None), (TCP + 16, Some(ip))] {
        frame[at..at + 2].fill(0);
        let sum = match sum {
            None => wire::checksum(&[&frame[IPV4..TCP]]),
            Some(ip) => wire::tcp_checksum(frame, ip, TCP),
        };
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_syn_is_another_connection_with_right_checksums() {
        let to = SocketAddrV4::new(Ipv4Addr::new(10, 77, 0, 2), 80);
        let mut frame = template([2; 6], [4; 6], to);
        let ip = wire::ip_frame(&frame).expect("an IP frame");
        let numbers = (0..300_000).step_by(7).chain([COUNT_MAX - 1]);
        let mut sources = HashSet::new();
        for number in numbers.clone() {
            forge(&mut frame, &ip, number);
            let segment = wire::tcp_segment(&frame, &ip).expect("a segment");
            assert_eq!((segment.dst, segment.flags), (to.into(), flag::SYN));
            assert_eq!(wire::checksum(&[&frame[IPV4..TCP]]), 0);
            assert_eq!(wire::tcp_checksum(&frame, &ip, TCP), 0);
            sources.insert(segment.src);
        }
        assert_eq!(sources.len(), numbers.count());
    }
}
