//! The window over the input: bytes arrive at its end and are taken from its start.
//! Never holds more than the caller asked for plus one chunk, whatever a length field claims.

use std::io::{ErrorKind, Read, Result};

/// Bytes asked from the input at a time.
const CHUNK: usize = 128 * 1024;

/// Buffered input that knows its place in the file.
#[derive(Debug)]
pub(super) struct Source<R> {
    input: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    offset: u64,
    ended: bool,
}

impl<R: Read> Source<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), start: 0, end: 0, offset: 0, ended: false }
    }

    /// Makes `wanted` bytes available unless the input ends first; returns how many are.
    ///
    /// The buffer grows by doubling as bytes arrive, so a claim of gigabytes in a file of a
    /// kilobyte allocates one chunk.
    pub(super) fn fill(&mut self, wanted: usize) -> Result<usize> {
        while self.available() < wanted && !self.ended {
            self.make_room();
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.available())
    }

    fn make_room(&mut self) {
        if self.end < self.buffer.len() {
            return;
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize((self.buffer.len() * 2).max(CHUNK), 0);
        }
    }

    /// Takes `count` bytes that [`Source::fill`] has made available.
    pub(super) fn take(&mut self, count: usize) -> &[u8] {
        debug_assert!(count <= self.available(), "taken before it was filled");
        let count = count.min(self.available());
        let taken = self.start..self.start + count;
        self.start += count;
        self.offset += count as u64;
        &self.buffer[taken]
    }
}

impl<R> Source<R> {
    /// What is available and not taken.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Place in the file of the first byte not taken.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    fn available(&self) -> usize {
        self.end - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte per read, with an interruption before each.
    struct Trickle<'a>(&'a [u8], bool);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn short_and_interrupted_reads_are_put_together() {
        let mut source = Source::new(Trickle(b"abcdef", false));
        assert_eq!(source.fill(4).unwrap(), 4);
        assert_eq!(source.take(4), b"abcd");
        assert_eq!(source.offset(), 4);
        assert_eq!(source.fill(9).unwrap(), 2);
        assert_eq!(source.bytes(), b"ef");
    }

    #[test]
    fn a_false_length_allocates_one_chunk() {
        let mut source = Source::new(&b"abc"[..]);
        assert_eq!(source.fill(usize::MAX).unwrap(), 3);
        assert_eq!(source.buffer.len(), CHUNK);
    }

    #[test]
    fn long_records_slide_and_grow_the_window() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5 * CHUNK).collect();
        let mut source = Source::new(bytes.as_slice());
        source.fill(CHUNK).unwrap();
        assert_eq!(source.take(CHUNK - 3), &bytes[..CHUNK - 3]);
        assert!(source.fill(3 * CHUNK).unwrap() >= 3 * CHUNK);
        assert_eq!(source.take(3 * CHUNK), &bytes[CHUNK - 3..4 * CHUNK - 3]);
    }
}
