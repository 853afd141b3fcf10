//! The only way to a packet's bytes. Implementations must never hand out a byte beyond the captured end.

use crate::{
    book,
    frame::Frame,
    layout::HookCounters,
    parse::{Headers, tcp},
    pipeline,
    tables::Tables,
};

/// A window on the captured bytes of one frame.
pub trait PacketBytes {
    /// Whether bytes that are out of reach may be had by a second look, in [`PacketBytes::rest`].
    const FETCHES: bool = false;

    /// `N` bytes at `offset` from the start of the frame, or `None` where they were not captured.
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;

    /// Reads the TCP options at `headers.option_offset`. The kernel's doors do it in a function of its own, which the
    /// verifier walks once, wherever it is called from.
    #[inline(always)]
    fn tcp_options(&self, headers: &mut Headers) {
        tcp::options(self, headers);
    }

    /// [`book::book`]; in the kernel in a function of its own for the same reason.
    #[inline(always)]
    fn book<T: Tables>(
        &self,
        frame: &Frame,
        headers: &mut Headers,
        counters: &mut HookCounters,
        tables: &mut T,
    ) {
        book::book(frame, headers, counters, tables);
    }

    /// [`pipeline::rest`]; as above.
    #[inline(always)]
    fn rest<T: Tables>(
        &self,
        frame: &Frame,
        headers: &mut Headers,
        counters: &mut HookCounters,
        tables: &mut T,
    ) {
        pipeline::rest(self, frame, headers, counters, tables);
    }
}

impl PacketBytes for [u8] {
    #[inline]
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.get(offset..)?.first_chunk()
    }
}

impl<P: PacketBytes + ?Sized> PacketBytes for &P {
    const FETCHES: bool = P::FETCHES;

    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        (**self).at(offset)
    }

    #[inline(always)]
    fn tcp_options(&self, headers: &mut Headers) {
        (**self).tcp_options(headers);
    }

    #[inline(always)]
    fn book<T: Tables>(
        &self,
        frame: &Frame,
        headers: &mut Headers,
        counters: &mut HookCounters,
        tables: &mut T,
    ) {
        (**self).book(frame, headers, counters, tables);
    }

    #[inline(always)]
    fn rest<T: Tables>(
        &self,
        frame: &Frame,
        headers: &mut Headers,
        counters: &mut HookCounters,
        tables: &mut T,
    ) {
        (**self).rest(frame, headers, counters, tables);
    }
}

/// Big-endian 16 bits at a constant offset of a header.
#[inline(always)]
pub(crate) const fn be16(header: &[u8], offset: usize) -> u32 {
    u16::from_be_bytes([header[offset], header[offset + 1]]) as u32
}

/// Big-endian 32 bits at a constant offset of a header.
#[inline(always)]
pub(crate) const fn be32(header: &[u8], offset: usize) -> u32 {
    u32::from_be_bytes([header[offset], header[offset + 1], header[offset + 2], header[offset + 3]])
}

/// Eight bytes as they lie on the wire, in one word.
#[inline(always)]
pub(crate) const fn wire64(header: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes([
        header[offset],
        header[offset + 1],
        header[offset + 2],
        header[offset + 3],
        header[offset + 4],
        header[offset + 5],
        header[offset + 6],
        header[offset + 7],
    ])
}

/// Two bytes as they lie on the wire, in one word.
#[inline(always)]
pub(crate) const fn wire16(header: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes([header[offset], header[offset + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_beyond_the_capture_are_absent() {
        let frame: &[u8] = &[1, 2, 3];
        assert_eq!(frame.at::<2>(1), Some(&[2, 3]));
        assert_eq!(frame.at::<2>(2), None);
        assert_eq!(frame.at::<1>(usize::MAX), None);
    }
}
