//! A segment between two simulated hosts, in stream offsets (SYN is offset 0, data begins at 1).
//! Never holds payload: the stream does.

/// One segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// Offset of the first byte.
    pub start: u64,
    /// Bytes of data.
    pub data: u64,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    /// The last segment of what the process wrote.
    pub push: bool,
    /// Next offset expected from the other side, where something was received.
    pub ack: Option<u64>,
    /// Bytes of window beyond `ack`.
    pub window: u64,
    /// Selectively acknowledged ranges, the latest first.
    pub sack: Vec<(u64, u64)>,
    /// True for everything but the first sending.
    pub retransmission: bool,
    pub tsval: u32,
    pub tsecr: u32,
    pub ip_id: u16,
}

impl Segment {
    /// Offset behind it; SYN and FIN count one.
    pub(super) fn end(&self) -> u64 {
        self.start + self.data + u64::from(self.syn) + u64::from(self.fin)
    }
}
