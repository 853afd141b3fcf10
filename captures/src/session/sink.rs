//! The end of a capture that writes: whole blocks go out in batches.
//! Never forgets where the last whole block ended, whatever the sink did in the middle of one.

use std::io::{self, ErrorKind, Write};

/// Encoded bytes that are gathered before they are written.
pub(super) const WRITE_BATCH: usize = 64 * 1024;

/// Encoded blocks on their way to a sink.
#[derive(Debug)]
pub(super) struct BlockSink<W> {
    sink: W,
    buffer: Vec<u8>,
    blocks: Vec<Block>,
    whole_bytes: u64,
}

/// A block in the buffer.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// Where it ends in the buffer.
    end: usize,
    /// The interface of its packet; `None` for other blocks.
    packet_of: Option<u32>,
}

/// A write that did not go through.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: io::Error,
    /// The interfaces of the packets that did not get into the sink as a whole, in order.
    pub(super) lost: Vec<u32>,
}

impl<W: Write> BlockSink<W> {
    pub(super) fn new(sink: W) -> Self {
        Self { sink, buffer: Vec::new(), blocks: Vec::new(), whole_bytes: 0 }
    }

    /// Appends the one block that `encode` writes, unless all bytes would then be more than
    /// `bytes_max`; returns whether it was appended.
    pub(super) fn append(
        &mut self,
        packet_of: Option<u32>,
        bytes_max: u64,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let start = self.buffer.len();
        encode(&mut self.buffer);
        if self.bytes() > bytes_max {
            self.buffer.truncate(start);
            return false;
        }
        self.blocks.push(Block { end: self.buffer.len(), packet_of });
        true
    }

    /// Writes what is buffered, if that is a batch.
    pub(super) fn write_batch(&mut self) -> Result<(), Failure> {
        if self.buffer.len() < WRITE_BATCH { Ok(()) } else { self.write() }
    }

    /// Writes what is buffered, and has the sink pass on what it holds back.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.write()?;
        self.sink.flush().map_err(|error| Failure { error, lost: Vec::new() })
    }

    fn write(&mut self) -> Result<(), Failure> {
        let (sent, result) = self.send();
        let whole = |block: &&Block| block.end <= sent;
        self.whole_bytes +=
            self.blocks.iter().take_while(whole).last().map_or(0, |block| block.end as u64);
        let lost = self.blocks.iter().skip_while(whole).filter_map(|block| block.packet_of);
        let result = result.map_err(|error| Failure { error, lost: lost.collect() });
        self.buffer.clear();
        self.blocks.clear();
        result
    }

    /// Bytes that the sink took, and what stopped it.
    fn send(&mut self) -> (usize, io::Result<()>) {
        let mut sent = 0;
        while sent < self.buffer.len() {
            match self.sink.write(&self.buffer[sent..]) {
                Ok(0) => return (sent, Err(ErrorKind::WriteZero.into())),
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (sent, Err(error)),
            }
        }
        (sent, Ok(()))
    }
}

impl<W> BlockSink<W> {
    /// Bytes of whole blocks in the sink and in the buffer.
    pub(super) fn bytes(&self) -> u64 {
        self.whole_bytes + self.buffer.len() as u64
    }

    /// Bytes of whole blocks in the sink.
    pub(super) fn whole_bytes(&self) -> u64 {
        self.whole_bytes
    }

    pub(super) fn into_inner(self) -> W {
        self.sink
    }
}
