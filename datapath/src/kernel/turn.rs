//! For the bench alone: makes each repetition of one frame the next segment of another flow, and what a look at such a
//! flow costs by itself. Never part of a program that is attached: these write into the frame.

use super::maps::FLOWS;
use crate::{
    atomic::add,
    flow_key::{FlowKey, IpAddress},
    hint::opaque,
};

/// Where a frame says whose turn it is: at the start of its payload, which the datapath does not read.
#[repr(C, packed)]
struct Turn {
    /// Flows that take turns.
    flows: u32,
    /// From one to the next; less than `flows`, and without a common divisor with it.
    step: u32,
    /// The last one.
    at: u32,
    /// Flows whose turn it is before the first one's comes again.
    left: u32,
    /// Bytes of payload: what a flow's sequence number advances by each time.
    payload: u32,
}

/// The network whose addresses are the flows.
const SOURCES: u32 = 10 << 24;
/// Ethernet, IPv4 without options, TCP with timestamps alone.
const IP_ID_AT: usize = 14 + 4;
const SOURCE_AT: usize = 14 + 12;
const DESTINATION_AT: usize = SOURCE_AT + 4;
const PORTS_AT: usize = DESTINATION_AT + 4;
const SEQUENCE_AT: usize = PORTS_AT + 4;
const PAYLOAD_AT: usize = PORTS_AT + 32;
const READ_TO: usize = PAYLOAD_AT + size_of::<Turn>();
const TCP: u8 = 6;

/// Makes the segment of data the next one of the next flow. Leaves a shorter frame alone.
#[inline(always)]
pub fn next(start: usize, end: usize) {
    let start = opaque(start);
    if opaque(start + READ_TO) > end {
        return;
    }
    // SAFETY: the bytes up to `READ_TO` were just compared with the end of the packet, and belong to this run.
    unsafe {
        let turn = (start + PAYLOAD_AT) as *mut Turn;
        let flows = (*turn).flows;
        let mut at = (*turn).at.wrapping_add((*turn).step);
        if at >= flows {
            at -= flows;
        }
        (*turn).at = at;
        let source = (start + SOURCE_AT) as *mut u32;
        source.write_unaligned((SOURCES | at).to_be());
        let mut left = (*turn).left;
        if left == 0 {
            left = flows;
            let sequence = (start + SEQUENCE_AT) as *mut u32;
            let next = u32::from_be(sequence.read_unaligned()).wrapping_add((*turn).payload);
            sequence.write_unaligned(next.to_be());
            let ip_id = (start + IP_ID_AT) as *mut u16;
            ip_id.write_unaligned(u16::from_be(ip_id.read_unaligned()).wrapping_add(1).to_be());
        }
        (*turn).left = left - 1;
    }
}

/// The key of the frame's flow at a point, where the source is the smaller address.
#[inline(always)]
fn key(start: usize, end: usize, point: u32) -> Option<FlowKey> {
    let start = opaque(start);
    if opaque(start + READ_TO) > end {
        return None;
    }
    // SAFETY: as in `next`.
    let (source, destination, ports) = unsafe {
        (
            ((start + SOURCE_AT) as *const [u8; 4]).read(),
            ((start + DESTINATION_AT) as *const [u8; 4]).read(),
            ((start + PORTS_AT) as *const [u16; 2]).read_unaligned(),
        )
    };
    Some(FlowKey {
        lower: IpAddress::from_ipv4(source),
        upper: IpAddress::from_ipv4(destination),
        lower_port: ports[0],
        upper_port: ports[1],
        protocol: TCP,
        flags: 0,
        vlan: 0,
        observation_point: point,
        vni: 0,
    })
}

/// Looks for the frame's flow, and no more.
#[inline(always)]
pub fn look(start: usize, end: usize, point: u32) {
    if let Some(key) = key(start, end, point) {
        // The helper runs, whatever is done with what it found.
        let _found = FLOWS.get_ptr_mut(&key);
    }
}

/// Looks for the frame's flow and counts a packet of its smaller endpoint.
#[inline(always)]
pub fn count(start: usize, end: usize, point: u32) {
    let Some(key) = key(start, end, point) else { return };
    if let Some(entry) = FLOWS.get_ptr_mut(&key) {
        // SAFETY: the map keeps the element alive for this program run; the counter is added to atomically.
        add(unsafe { &mut (*entry).halves[0].packets }, 1);
    }
}
