//! Where a packet with a source route goes in the end, which is the address that tshark knows its stream by.

use crate::{
    flow_key::{IpAddress, KEY_IPV6},
    parse::Headers,
};

const HEADER_MIN: usize = 20;
const END: u8 = 0;
const NOP: u8 = 1;
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;
/// Smallest pointer of a route: past kind, length and itself, counted from 1.
const POINTER_MIN: u8 = 4;

/// Puts the last address of a source route (RFC 791, 3.1) into the key, if there is one.
pub(super) fn follow(packet: &[u8], headers: &mut Headers) {
    if headers.key.flags & KEY_IPV6 != 0 {
        return;
    }
    let Some(last) = packet.get(headers.network as usize..).and_then(last) else { return };
    let key = &mut headers.key;
    if headers.sender != 0 {
        std::mem::swap(&mut key.lower, &mut key.upper);
        std::mem::swap(&mut key.lower_port, &mut key.upper_port);
    }
    key.upper = IpAddress::from_ipv4(last);
    headers.sender = key.canonicalize() as u32;
}

/// The last address of the source route in an IPv4 header that is not used up.
fn last(network: &[u8]) -> Option<[u8; 4]> {
    let header_len = usize::from(*network.first()? & 0xf) * 4;
    let mut left = network.get(HEADER_MIN..header_len)?;
    loop {
        match *left {
            [NOP, ..] => left = &left[1..],
            [LOOSE_ROUTE | STRICT_ROUTE, length, pointer, ..] => {
                let option = left.get(..usize::from(length))?;
                let is_valid =
                    (POINTER_MIN..=length).contains(&pointer) && pointer.is_multiple_of(4);
                return option.last_chunk().copied().filter(|_| is_valid);
            }
            [END, ..] | [] | [_] => return None,
            [_, length, ..] => left = left.get(usize::from(length.max(2))..)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 header of 32 bytes with these options.
    fn header(options: [u8; 12]) -> [u8; 32] {
        let mut header = [0; 32];
        header[0] = 0x48;
        header[HEADER_MIN..].copy_from_slice(&options);
        header
    }

    #[test]
    fn a_route_ends_at_its_last_address() {
        let route = header([1, LOOSE_ROUTE, 11, 4, 10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(last(&route), Some([10, 0, 0, 2]));
        let used_up = header([STRICT_ROUTE, 11, 12, 10, 0, 0, 1, 10, 0, 0, 2, 0]);
        assert_eq!(last(&used_up), None);
        assert_eq!(last(&header([7, 11, 4, 9, 9, 9, 9, 9, 9, 9, 9, 0])), None, "a record");
    }
}
