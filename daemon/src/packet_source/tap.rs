//! One interface with its socket: packets become frames of its observation point, and packets of captures. When its
//! interface has gone the socket is read to its end, and what was counted stays.

use std::sync::mpsc;

use datapath::{Direction, Frame, Ktime, frame::NO_VLAN, layout::HookCounters, rules::Rule};

use super::HOOK;
use crate::{
    board::InterfaceView,
    capture::{RawPacket, Recorder},
    clock::Moment,
    flow::view::{HookNames, PointName},
    live::{Opened, Packet, PacketBuffer, PacketInterface, PacketSocket, Received, Standing},
    offline,
    software::{Place, Software, attachment},
};

/// What came of reading from a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// Packets.
    pub(super) packets: u64,
    /// Packets that the kernel could not describe.
    pub(super) unreadable: u64,
}

/// An observation point.
#[derive(Debug)]
pub(super) struct Tap {
    point: u32,
    interface: PacketInterface,
    /// Absent once its interface has gone and it has been read to its end.
    socket: Option<PacketSocket>,
    /// What was received and what was sent.
    counters: [HookCounters; 2],
    /// The time of its last packet: those of a flow never go back.
    last_ns: u64,
    /// Nothing was left in it when it was read for the last time.
    is_empty: bool,
    /// Its interface had gone by the last sweep: nothing more comes, and what waits is read.
    is_leaving: bool,
    /// Reading or asking has failed, and that was said.
    is_failing: bool,
}

/// Puts those in force that have come last.
pub(super) fn take_rules(rules: &mpsc::Receiver<Vec<Rule>>, software: &mut Software) {
    while let Ok(rules) = rules.try_recv() {
        software.set_rules(&rules);
    }
}

impl Tap {
    pub(super) fn new(point: u32, Opened { interface, socket }: Opened) -> Self {
        Self {
            point,
            interface,
            socket: Some(socket),
            counters: [HookCounters::default(); 2],
            last_ns: 0,
            is_empty: false,
            is_leaving: false,
            is_failing: false,
        }
    }

    /// Reads at most so many packets.
    pub(super) fn read(
        &mut self,
        most: usize,
        buffer: &mut PacketBuffer,
        rules: &mpsc::Receiver<Vec<Rule>>,
        software: &mut Software,
        recorder: &mut Recorder,
    ) -> Read {
        let mut read = Read::default();
        let Some(socket) = &self.socket else { return read };
        let mut now = software.clock().now();
        for _ in 0..most {
            let packet = match socket.receive(buffer) {
                Ok(Received::Packet(packet)) => packet,
                Ok(Received::Unreadable) => {
                    read.unreadable += 1;
                    continue;
                }
                Ok(Received::Nothing) => {
                    self.is_empty = true;
                    return read;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.is_failing, true) {
                        let interface = &self.interface.name;
                        tracing::error!(%error, interface, "its AF_PACKET socket cannot be read: what is lost there is not counted");
                    }
                    self.is_empty = true;
                    return read;
                }
            };
            read.packets += 1;
            if !self.interface.ways[packet.direction as usize] {
                continue;
            }
            // After it was received: rules that are said to be in force are, for whatever comes from then on.
            take_rules(rules, software);
            if packet.wall_ns.is_some_and(|wall_ns| wall_ns > now.wall_ns()) {
                now = software.clock().now();
            }
            self.last_ns = seen_ns(now, packet.wall_ns, self.last_ns);
            let frame = frame(self.point, &self.interface, &packet, self.last_ns);
            let counters = &mut self.counters[packet.direction as usize];
            let header_len = software.frame(packet.data, &frame, counters);
            recorder.packet(&RawPacket {
                seen_ns: self.last_ns,
                wall_ns: now.wall_of(self.last_ns),
                point: self.point,
                direction: packet.direction as u32,
                original_len: packet.original_len,
                data: packet.data,
                queue: 0,
                header_len,
                packet_id: None,
                chosen: None,
            });
        }
        self.is_empty = false;
        read
    }

    /// Packets that the kernel has offered to the socket since the last look, and those of them that found no room.
    pub(super) fn statistics(&mut self) -> (u64, u64) {
        let Some(socket) = &self.socket else { return (0, 0) };
        match socket.statistics() {
            Ok(counted) => counted,
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    let interface = &self.interface.name;
                    tracing::error!(%error, interface, "its AF_PACKET socket tells no losses: they are not counted");
                }
                (0, 0)
            }
        }
    }

    /// To be asked with each sweep: whether its interface has gone, and by this one all of its packets are here.
    pub(super) fn has_gone(&mut self) -> bool {
        let Some(socket) = &self.socket else { return false };
        if self.is_leaving && self.is_empty {
            self.socket = None;
            return true;
        }
        // A look that fails is repeated with the next sweep.
        self.is_leaving = matches!(socket.standing(), Ok(Standing::Gone));
        false
    }

    pub(super) const fn socket(&self) -> Option<&PacketSocket> {
        self.socket.as_ref()
    }

    pub(super) fn name(&self) -> &str {
        &self.interface.name
    }

    pub(super) const fn counters(&self) -> &[HookCounters; 2] {
        &self.counters
    }

    /// What is not as it should be.
    pub(super) fn notice(&self) -> Option<String> {
        let name = &self.interface.name;
        self.socket.is_none().then(|| {
            format!(
                "`{name}` has gone; AF_PACKET sockets do not follow interfaces: restart linnet when it is there again"
            )
        })
    }

    /// The point as a sweep shows it.
    pub(super) fn place(&self, why: &str) -> Place {
        let PacketInterface { name, namespace, ifindex, link, ways } = &self.interface;
        let [ingress, egress] =
            [0, 1].map(|way| ways[way].then(|| attachment(HOOK, why, &self.counters[way])));
        let hook = |way: usize| ways[way].then(|| HOOK.to_owned());
        let hook = HookNames { ingress: hook(0), egress: hook(1) };
        let view = InterfaceView {
            name: name.clone(),
            namespace: namespace.clone(),
            ifindex: *ifindex,
            point: self.point,
            link: link.name(),
            link_type: offline::link_type(*link),
            state: if self.socket.is_some() { "attached" } else { InterfaceView::GONE },
            ingress,
            egress,
            seen_before: [0; 2],
        };
        Place { view, name: PointName { interface: name.clone(), hook } }
    }
}

/// The kernel's time of a packet as monotonic time. Not in the future and not before the packet in front of it, whatever
/// becomes of the wall clock between the kernel's look at it and ours.
fn seen_ns(now: Moment, wall_ns: Option<u64>, last_ns: u64) -> u64 {
    let said_ns =
        wall_ns.map(|wall_ns| wall_ns.saturating_add_signed(now.offset_ns.saturating_neg()));
    said_ns.unwrap_or(now.monotonic_ns).max(last_ns).min(now.monotonic_ns)
}

fn frame(point: u32, interface: &PacketInterface, packet: &Packet<'_>, now_ns: u64) -> Frame {
    Frame {
        now: Ktime(now_ns),
        point,
        direction: packet.direction,
        link: interface.link,
        original_len: packet.original_len,
        // Of a super-packet they follow from their size.
        segments: if packet.segment_size > 0 { 0 } else { 1 },
        segment_size: packet.segment_size,
        // Its tag is in its bytes.
        vlan: NO_VLAN,
        from_socket: 0,
    }
}

const _: () = assert!(Direction::Ingress as usize == 0 && Direction::Egress as usize == 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_packets_neither_go_back_nor_ahead() {
        let now = Moment { monotonic_ns: 1_000, offset_ns: 50_000 };
        assert_eq!(seen_ns(now, Some(50_900), 0), 900);
        assert_eq!(seen_ns(now, None, 0), 1_000);
        // The wall clock was set back, or forward, since the kernel looked at it.
        assert_eq!(seen_ns(now, Some(99_999), 900), 1_000);
        assert_eq!(seen_ns(now, Some(7), 900), 900);
        let before_the_epoch = Moment { monotonic_ns: 1_000, offset_ns: -500 };
        assert_eq!(seen_ns(before_the_epoch, Some(300), 0), 800);
    }
}
