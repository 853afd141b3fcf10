//! One captured packet and the limit on how much of it is kept.
//! Never parses packet bytes and never decides whether a packet is wanted.

use std::borrow::Cow;
use std::fmt;

/// Most comments of one packet that are read or written; further ones are left out.
pub const COMMENTS_MAX: usize = 64;

/// Which way a packet passed its interface, as pcapng's `epb_flags` say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Received by the interface.
    Inbound,
    /// Sent by the interface.
    Outbound,
}

/// A packet as a capture file holds it: bytes, two lengths, a time, and what was noted about it.
///
/// `data` is borrowed from the reader's or the ring's buffer where that is possible;
/// [`CapturedPacket::into_owned`] detaches it. Its length is the captured length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedPacket<'a> {
    /// Nanoseconds since 1970-01-01 00:00:00 UTC.
    pub time_ns: u64,
    /// Bytes the packet had on the wire. Normally at least `data.len()`; files exist where it is
    /// less, and the reader passes on what they say.
    pub original_len: u32,
    /// The captured bytes.
    pub data: Cow<'a, [u8]>,
    /// Index into the interfaces of the file or capture this packet belongs to.
    pub interface: u32,
    /// Which way it passed the interface, where known.
    pub direction: Option<Direction>,
    /// The same number marks the same packet seen at several interfaces or hooks.
    pub packet_id: Option<u64>,
    /// Receive or transmit queue of the interface.
    pub queue: Option<u32>,
    /// Packets of this interface lost since the previous one in the file.
    pub drop_count: Option<u64>,
    /// Free text about this packet, shown by Wireshark; at most [`COMMENTS_MAX`].
    pub comments: Vec<Cow<'a, str>>,
}

impl<'a> CapturedPacket<'a> {
    /// A whole packet on interface 0 with nothing noted about it.
    pub fn new(time_ns: u64, data: &'a [u8]) -> Self {
        Self {
            time_ns,
            original_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
            data: Cow::Borrowed(data),
            interface: 0,
            direction: None,
            packet_id: None,
            queue: None,
            drop_count: None,
            comments: Vec::new(),
        }
    }

    /// Copies what is borrowed, so that the packet outlives its reader.
    pub fn into_owned(self) -> CapturedPacket<'static> {
        CapturedPacket {
            time_ns: self.time_ns,
            original_len: self.original_len,
            data: Cow::Owned(self.data.into_owned()),
            interface: self.interface,
            direction: self.direction,
            packet_id: self.packet_id,
            queue: self.queue,
            drop_count: self.drop_count,
            comments: self
                .comments
                .into_iter()
                .map(|comment| Cow::Owned(comment.into_owned()))
                .collect(),
        }
    }

    /// Bytes that were captured, `data.len()`.
    pub fn captured_len(&self) -> u32 {
        u32::try_from(self.data.len()).unwrap_or(u32::MAX)
    }
}

/// The most bytes kept of each packet: 1 to [`Snaplen::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Snaplen(u32);

impl Snaplen {
    /// tcpdump's and Wireshark's limit; a file with longer packets is damaged to Wireshark.
    pub const MAX: u32 = 262_144;
    /// Nothing is cut.
    pub const WHOLE: Self = Self(Self::MAX);

    /// Refuses 0 (which capture tools take as "no limit", and a filter as "no match") and
    /// anything above [`Snaplen::MAX`].
    pub fn try_new(bytes: u32) -> Result<Self, SnaplenError> {
        if bytes == 0 || bytes > Self::MAX {
            return Err(SnaplenError { bytes });
        }
        Ok(Self(bytes))
    }

    /// The limit in bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// The first `self` bytes of `data`.
    pub fn cut(self, data: &[u8]) -> &[u8] {
        let len = usize::try_from(self.0).unwrap_or(usize::MAX).min(data.len());
        &data[..len]
    }
}

impl Default for Snaplen {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl fmt::Display for Snaplen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// A snaplen out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot capture with a snaplen of {bytes}: it must be from 1 to {max}; leave it out to keep whole packets",
    max = Snaplen::MAX
)]
pub struct SnaplenError {
    /// What was asked for.
    pub bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snaplen_refuses_zero_and_more_than_wireshark_reads() {
        assert!(Snaplen::try_new(0).is_err());
        assert!(Snaplen::try_new(262_145).is_err());
        assert_eq!(Snaplen::try_new(1).unwrap().bytes(), 1);
        assert_eq!(Snaplen::try_new(262_144).unwrap(), Snaplen::WHOLE);
    }

    #[test]
    fn snaplen_cuts_only_what_is_longer() {
        let snaplen = Snaplen::try_new(4).unwrap();
        assert_eq!(snaplen.cut(b"123456"), b"1234");
        assert_eq!(snaplen.cut(b"12"), b"12");
    }

    #[test]
    fn an_owned_packet_equals_the_borrowed_one() {
        let bytes = vec![1, 2, 3];
        let mut packet = CapturedPacket::new(7, &bytes);
        packet.comments.push(Cow::Borrowed("seen"));
        assert_eq!(packet.clone().into_owned(), packet);
        assert_eq!(packet.captured_len(), 3);
    }
}
