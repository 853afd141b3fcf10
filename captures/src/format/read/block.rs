//! The framing of pcapng blocks: head, body, tail.
//! Never knows what a body means, except for the byte order that a section header brings.

use byteorder_slice::{BigEndian, LittleEndian};
use pcap_file::pcapng::{PcapNgFormatError, RawBlock, RawBlockParseError};

use super::bytes::{Endian, index, padded};
use super::error::Damage;

pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;

/// Type and length before a block's body.
pub(super) const HEAD_LEN: usize = 8;
/// Type and both lengths: the shortest block.
pub(super) const FRAME_LEN: usize = 12;

/// Longest block that is read: the longest packet of any link type with 128 KiB of options, which
/// is Wireshark's limit.
pub(super) const BLOCK_MAX: usize = 32 + 128 * 1024 * 1024 + 128 * 1024;

/// Byte order of the section whose header begins `bytes`, by its magic number.
pub(super) fn section_endian(bytes: &[u8]) -> Option<Endian> {
    match Endian::Little.u32(bytes, HEAD_LEN)? {
        0x1a2b_3c4d => Some(Endian::Little),
        0x4d3c_2b1a => Some(Endian::Big),
        _ => None,
    }
}

/// The first bytes of a block, understood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) block_type: u32,
    /// Byte order of this block: a section header brings its own.
    endian: Endian,
    /// Whole length with padding; some files leave the padding out of the field.
    pub(super) padded_len: usize,
}

impl Head {
    /// Reads the head of the block that begins `bytes`, at least [`HEAD_LEN`] of them.
    pub(super) fn read(section: Endian, bytes: &[u8]) -> Result<Self, Damage> {
        let block_type = section.u32(bytes, 0).unwrap_or_default();
        let endian = if block_type == SECTION_HEADER && bytes.len() >= FRAME_LEN {
            let magic = section.u32(bytes, HEAD_LEN).unwrap_or_default();
            section_endian(bytes).ok_or(Damage::ByteOrder(magic))?
        } else {
            section
        };
        let padded_len = padded(index(endian.u32(bytes, 4).unwrap_or_default()));
        if padded_len < FRAME_LEN {
            return Err(Damage::BlockTooShort { block_type, len: padded_len as u64 });
        }
        if padded_len > BLOCK_MAX {
            return Err(Damage::BlockTooLong { len: padded_len as u64, max: BLOCK_MAX as u64 });
        }
        Ok(Self { block_type, endian, padded_len })
    }

    /// The block in `bytes`, all of its [`Head::padded_len`].
    ///
    /// `pcap-file` checks the framing; lengths without their padding, which it refuses, are checked
    /// by hand.
    pub(super) fn block(self, bytes: &[u8]) -> Result<Block<'_>, Damage> {
        let framed = match self.endian {
            Endian::Little => RawBlock::from_slice::<LittleEndian>(bytes),
            Endian::Big => RawBlock::from_slice::<BigEndian>(bytes),
        };
        let tail = bytes.len().saturating_sub(4);
        let second = self.endian.u32(bytes, tail).unwrap_or_default();
        let unpadded = match framed {
            Ok(_) => true,
            Err(RawBlockParseError::InvalidFormat(
                PcapNgFormatError::BlockNotAligned(_) | PcapNgFormatError::BlockLengthMismatch(..),
            )) => padded(index(second)) == self.padded_len,
            Err(_) => false,
        };
        let body = bytes.get(HEAD_LEN..tail).filter(|_| unpadded);
        let first = u32::try_from(self.padded_len).unwrap_or(u32::MAX);
        let body = body.ok_or(Damage::BlockLengths { first, second })?;
        Ok(Block { block_type: self.block_type, endian: self.endian, body })
    }
}

/// A whole block. Reading past its body is damage: the block is too short for its type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    pub(super) block_type: u32,
    pub(super) endian: Endian,
    pub(super) body: &'a [u8],
}

impl<'a> Block<'a> {
    pub(super) fn u16(self, at: usize) -> Result<u16, Damage> {
        self.endian.u16(self.body, at).ok_or_else(|| self.too_short())
    }

    pub(super) fn u32(self, at: usize) -> Result<u32, Damage> {
        self.endian.u32(self.body, at).ok_or_else(|| self.too_short())
    }

    /// A time in the unit of its interface.
    pub(super) fn ticks(self, at: usize) -> Result<u64, Damage> {
        self.endian.high_low(self.body, at).ok_or_else(|| self.too_short())
    }

    /// The body from `at` on.
    pub(super) fn from(self, at: usize) -> Result<&'a [u8], Damage> {
        self.body.get(at..).ok_or_else(|| self.too_short())
    }

    /// `len` bytes from `at` on, and what follows them and their padding.
    pub(super) fn split(self, at: usize, len: u32) -> Result<(&'a [u8], &'a [u8]), Damage> {
        let rest = self.from(at)?;
        let field = rest.get(..index(len)).ok_or_else(|| self.too_short())?;
        let after = rest.get(padded(field.len())..).ok_or_else(|| self.too_short())?;
        Ok((field, after))
    }

    fn too_short(self) -> Damage {
        let len = (self.body.len() + FRAME_LEN) as u64;
        Damage::BlockTooShort { block_type: self.block_type, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(first: u32, body: &[u8], second: u32) -> Vec<u8> {
        [&0x99_u32.to_le_bytes()[..], &first.to_le_bytes(), body, &second.to_le_bytes()].concat()
    }

    fn block(bytes: &[u8]) -> Result<&[u8], Damage> {
        Head::read(Endian::Little, bytes)?.block(bytes).map(|block| block.body)
    }

    #[test]
    fn lengths_may_leave_out_the_padding_at_either_end() {
        for (first, second) in [(16, 16), (13, 13), (13, 16), (16, 15)] {
            assert_eq!(block(&bytes(first, b"abcd", second)), Ok(&b"abcd"[..]));
        }
    }

    #[test]
    fn different_lengths_at_both_ends_are_damage() {
        let damage = Damage::BlockLengths { first: 16, second: 20 };
        assert_eq!(block(&bytes(16, b"abcd", 20)), Err(damage));
    }

    #[test]
    fn blocks_shorter_than_their_frame_or_longer_than_the_limit_are_damage() {
        let short = Damage::BlockTooShort { block_type: 0x99, len: 8 };
        assert_eq!(block(&bytes(8, b"", 8)), Err(short));
        let len = u64::from(u32::MAX) + 1;
        let long = Damage::BlockTooLong { len, max: BLOCK_MAX as u64 };
        assert_eq!(block(&bytes(u32::MAX, b"", 8)), Err(long));
    }

    #[test]
    fn a_section_header_brings_its_byte_order() {
        let mut header = bytes(0x1c00_0000, &[0x1a, 0x2b, 0x3c, 0x4d], 0);
        header[..4].copy_from_slice(&SECTION_HEADER.to_le_bytes());
        let head = Head::read(Endian::Little, &header).unwrap();
        assert_eq!((head.endian, head.padded_len), (Endian::Big, 28));
        header[8] = 0;
        let damage = Head::read(Endian::Big, &header).unwrap_err();
        assert_eq!(damage, Damage::ByteOrder(0x002b_3c4d));
    }
}
