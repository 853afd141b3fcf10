//! The option lists of pcapng blocks, and the options of packet blocks.
//! Never keeps an option it has no use for, and never lets a broken list pass for a shorter one.

use std::borrow::Cow;

use super::bytes::{Endian, padded};
use super::error::Damage;
use crate::Direction;
use crate::packet::COMMENTS_MAX;

/// Walks an option list: `code`, `length`, value, padding to 4 bytes, until code 0 or the end.
#[derive(Debug)]
pub(super) struct Options<'a> {
    pub(super) endian: Endian,
    rest: &'a [u8],
}

impl<'a> Options<'a> {
    pub(super) fn new(endian: Endian, list: &'a [u8]) -> Self {
        Self { endian, rest: list }
    }

    /// Bytes that have not been walked over.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next option's code and value.
    pub(super) fn next_option(&mut self) -> Result<Option<(u16, &'a [u8])>, Damage> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (Some(code), Some(len)) =
            (self.endian.u16(self.rest, 0), self.endian.u16(self.rest, 2))
        else {
            return Err(Damage::OptionsOverrun);
        };
        let value = self.rest.get(4..4 + usize::from(len)).ok_or(Damage::OptionsOverrun)?;
        let next = 4 + padded(usize::from(len));
        self.rest = self.rest.get(next..).ok_or(Damage::OptionsOverrun)?;
        match code {
            0 => {
                // What follows the end of options is not looked at.
                self.rest = &[];
                Ok(None)
            }
            // Custom options begin with an enterprise number.
            2988 | 2989 | 19372 | 19373 if len < 4 => Err(Damage::OptionLength { code, len }),
            _ => Ok(Some((code, value))),
        }
    }

    /// Walks to the end, for blocks whose options are not used.
    pub(super) fn check(mut self) -> Result<(), Damage> {
        while self.next_option()?.is_some() {}
        Ok(())
    }
}

/// What the options of a packet block say; where one is repeated the first counts.
#[derive(Debug, Default)]
pub(super) struct PacketOptions<'a> {
    pub(super) direction: Option<Direction>,
    pub(super) drop_count: Option<u64>,
    pub(super) packet_id: Option<u64>,
    pub(super) queue: Option<u32>,
    pub(super) comments: Vec<Cow<'a, str>>,
}

impl<'a> PacketOptions<'a> {
    /// Reads a packet block's options; a wrong length is damage, as it is to tshark.
    pub(super) fn read(mut options: Options<'a>) -> Result<Self, Damage> {
        let endian = options.endian;
        let mut read = Self::default();
        let mut flags = None;
        while let Some((code, value)) = options.next_option()? {
            match code {
                1 if read.comments.len() < COMMENTS_MAX => {
                    read.comments.push(String::from_utf8_lossy(value));
                }
                2 => flags = flags.or(endian.u32(sized(code, value, 4)?, 0)),
                4 => read.drop_count = read.drop_count.or(endian.u64(sized(code, value, 8)?, 0)),
                5 => read.packet_id = read.packet_id.or(endian.u64(sized(code, value, 8)?, 0)),
                6 => read.queue = read.queue.or(endian.u32(sized(code, value, 4)?, 0)),
                7 => check_verdict(code, value)?,
                _ => {}
            }
        }
        read.direction = match flags.unwrap_or(0) & 3 {
            1 => Some(Direction::Inbound),
            2 => Some(Direction::Outbound),
            _ => None,
        };
        Ok(read)
    }
}

/// The value, if it has the length that its option must have.
fn sized(code: u16, value: &[u8], len: usize) -> Result<&[u8], Damage> {
    if value.len() == len { Ok(value) } else { Err(wrong_length(code, value)) }
}

/// A verdict is a type and its data; those of TC (1) and XDP (2) have 8 bytes of data.
fn check_verdict(code: u16, value: &[u8]) -> Result<(), Damage> {
    match (value.first(), value.len()) {
        (None, _) => Err(wrong_length(code, value)),
        (Some(1 | 2), len) if len != 9 => Err(wrong_length(code, value)),
        _ => Ok(()),
    }
}

fn wrong_length(code: u16, value: &[u8]) -> Damage {
    Damage::OptionLength { code, len: u16::try_from(value.len()).unwrap_or(u16::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(code: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = code.to_le_bytes().to_vec();
        bytes.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        bytes.extend(value);
        bytes.resize(padded(bytes.len()), 0);
        bytes
    }

    fn read(list: &[u8]) -> Result<PacketOptions<'_>, Damage> {
        PacketOptions::read(Options::new(Endian::Little, list))
    }

    #[test]
    fn what_follows_the_end_of_options_is_not_read() {
        let list = [option(6, &[9, 0, 0, 0]), option(0, &[]), vec![0xff; 8]].concat();
        assert_eq!(read(&list).unwrap().queue, Some(9));
    }

    #[test]
    fn the_first_of_a_repeated_option_counts_and_comments_add_up() {
        let list = [
            option(2, &[1, 0, 0, 0]),
            option(2, &[2, 0, 0, 0]),
            option(1, b"a"),
            option(1, b"\xff"),
        ]
        .concat();
        let options = read(&list).unwrap();
        assert_eq!(options.direction, Some(Direction::Inbound));
        assert_eq!(options.comments, ["a", "\u{fffd}"]);
    }

    #[test]
    fn wrong_lengths_are_damage() {
        for (code, value) in
            [(2, &b"12345"[..]), (4, b"1234"), (5, b""), (6, b"12345678"), (7, b"\x02123")]
        {
            let list = option(code, value);
            let len = u16::try_from(value.len()).unwrap();
            assert_eq!(read(&list).unwrap_err(), Damage::OptionLength { code, len });
        }
        assert_eq!(
            read(&option(2988, b"abc")).unwrap_err(),
            Damage::OptionLength { code: 2988, len: 3 }
        );
    }

    #[test]
    fn lists_that_run_past_their_block_are_damage() {
        for list in
            [&b"\x01\x00"[..], b"\x01\x00\x05\x00abcd", b"\x01\x00\x03\x00abc", b"\x00\x00\x09\x00"]
        {
            assert_eq!(read(list).unwrap_err(), Damage::OptionsOverrun);
        }
    }
}
