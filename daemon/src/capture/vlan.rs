//! Putting a VLAN tag back where it was on the wire: the kernel keeps it outside of the bytes.

use std::borrow::Cow;

use datapath::layout::{CaptureRecord, VLAN_PRESENT};

/// Bytes of a tag.
pub const TAG_LEN: u32 = 4;
/// Bytes of the two addresses in front of it.
const ADDRESSES: usize = 12;

/// The frame's bytes as they are on the wire.
#[must_use]
pub fn insert<'a>(record: &CaptureRecord, data: &'a [u8]) -> Cow<'a, [u8]> {
    if record.flags & VLAN_PRESENT == 0 || data.len() < ADDRESSES {
        return Cow::Borrowed(data);
    }
    let (addresses, rest) = data.split_at(ADDRESSES);
    let mut frame = Vec::with_capacity(data.len() + TAG_LEN as usize);
    frame.extend_from_slice(addresses);
    frame.extend_from_slice(&record.vlan_protocol.to_be_bytes());
    frame.extend_from_slice(&record.vlan_tci.to_be_bytes());
    frame.extend_from_slice(rest);
    Cow::Owned(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_follows_the_addresses() {
        let data = [1; 14];
        let record = CaptureRecord {
            flags: VLAN_PRESENT,
            vlan_protocol: 0x8100,
            vlan_tci: 0x0064,
            ..CaptureRecord::default()
        };
        let frame = insert(&record, &data);
        assert_eq!(frame.len(), 18);
        assert_eq!(&frame[12..16], [0x81, 0x00, 0x00, 0x64]);
        assert_eq!(&*insert(&CaptureRecord::default(), &data), data);
    }
}
