//! Services: the ports that connections are made to. Never looks at a packet.

use crate::{
    flow_key::FlowKey,
    layout::{FlowEntry, SYN_SEEN},
};

const TCP: u8 = 6;

/// What a flow's service is known by: protocol and port; `None` where no round trips are measured, as where one side
/// alone was seen.
///
/// The port is the responder's. Where no SYN showed who that is, it is the lower of the two.
#[inline(always)]
#[must_use]
pub fn of(key: &FlowKey, entry: &FlowEntry) -> Option<u32> {
    let [one, other] = &entry.halves;
    if key.protocol != TCP || one.packets == 0 || other.packets == 0 {
        return None;
    }
    let (lower, upper) = (u16::from_be(key.lower_port), u16::from_be(key.upper_port));
    let port = if entry.head.bits & SYN_SEEN == 0 {
        if lower < upper { lower } else { upper }
    } else if entry.head.originator == 0 {
        upper
    } else {
        lower
    };
    Some(u32::from(key.protocol) << 16 | u32::from(port))
}

/// Protocol number and port of what [`of`] returns.
#[must_use]
pub const fn parts(service: u32) -> (u8, u16) {
    let [_, protocol, high, low] = service.to_be_bytes();
    (protocol, u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(lower: u16, upper: u16) -> FlowKey {
        FlowKey {
            lower_port: lower.to_be(),
            upper_port: upper.to_be(),
            protocol: TCP,
            ..FlowKey::default()
        }
    }

    fn of_both_sides() -> FlowEntry {
        let mut entry = FlowEntry::EMPTY;
        entry.halves.iter_mut().for_each(|half| half.packets = 1);
        entry
    }

    #[test]
    fn the_responder_has_the_service() {
        let mut entry = of_both_sides();
        entry.head.bits = SYN_SEEN;
        entry.head.originator = 1;
        assert_eq!(of(&key(9_000, 443), &entry).map(parts), Some((TCP, 9_000)));
        entry.head.originator = 0;
        assert_eq!(of(&key(9_000, 443), &entry).map(parts), Some((TCP, 443)));
    }

    #[test]
    fn without_a_handshake_it_is_the_lower_port() {
        assert_eq!(of(&key(9_000, 443), &of_both_sides()).map(parts), Some((TCP, 443)));
        assert_eq!(of(&FlowKey { protocol: 17, ..key(1, 2) }, &of_both_sides()), None);
        assert_eq!(of(&key(9_000, 443), &FlowEntry::EMPTY), None);
    }
}
