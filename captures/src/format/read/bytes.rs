//! Integers in the byte order of a file.
//! Never reads past a slice: what is not there is `None`.

/// Byte order of a file or of a pcapng section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endian {
    Little,
    Big,
}

impl Endian {
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let field = array(bytes, at)?;
        Some(match self {
            Self::Little => u16::from_le_bytes(field),
            Self::Big => u16::from_be_bytes(field),
        })
    }

    pub(super) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let field = array(bytes, at)?;
        Some(match self {
            Self::Little => u32::from_le_bytes(field),
            Self::Big => u32::from_be_bytes(field),
        })
    }

    pub(super) fn u64(self, bytes: &[u8], at: usize) -> Option<u64> {
        let field = array(bytes, at)?;
        Some(match self {
            Self::Little => u64::from_le_bytes(field),
            Self::Big => u64::from_be_bytes(field),
        })
    }

    pub(super) fn i64(self, bytes: &[u8], at: usize) -> Option<i64> {
        self.u64(bytes, at).map(u64::cast_signed)
    }

    /// A 64-bit time as pcapng writes it: the high word first in either byte order.
    pub(super) fn high_low(self, bytes: &[u8], at: usize) -> Option<u64> {
        let high = self.u32(bytes, at)?;
        let low = self.u32(bytes, at.checked_add(4)?)?;
        Some(u64::from(high) << 32 | u64::from(low))
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// `len` as an index; 32-bit lengths fit everywhere linnet runs (64-bit hosts).
pub(super) fn index(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// The next multiple of 4, without overflow.
pub(super) fn padded(len: usize) -> usize {
    len.saturating_add(3) & !3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_follow_the_byte_order_and_stop_at_the_end() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(Endian::Little.u16(&bytes, 0), Some(0x0201));
        assert_eq!(Endian::Big.u32(&bytes, 4), Some(0x0506_0708));
        assert_eq!(Endian::Little.high_low(&bytes, 0), Some(0x0403_0201_0807_0605));
        assert_eq!(Endian::Big.u64(&bytes, 1), None);
        assert_eq!(Endian::Big.u16(&bytes, usize::MAX), None);
    }

    #[test]
    fn padding_goes_to_the_next_word_and_never_overflows() {
        assert_eq!([0, 1, 4, 5].map(padded), [0, 4, 4, 8]);
        assert_eq!(padded(usize::MAX), usize::MAX & !3);
    }
}
