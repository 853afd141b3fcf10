//! One capture of linnet's as several files, each of a span of time and readable by itself.
//! Never gives a packet twice or to no file, and never reorders: a packet is in the file that was begun when it came.
//!
//! Spans follow each other from the capture's start. A file ends with the first packet of a later span, so spans
//! without packets have no file. Every file begins with the section and the interfaces described so far, and ends
//! with statistics of its own: over all files they add up to those of the capture.

use std::io;
use std::num::NonZeroU64;

use thiserror::Error;

use super::pcapng::{self, InterfaceStatistics};
use super::read::stream::{Blocks, Content, INTERFACES_MAX, StreamError, StreamedPacket};

/// Where the files go.
pub trait Files {
    /// The next file begins, whose span starts at this time. Not called for the first one.
    fn begin(&mut self, start_ns: u64) -> io::Result<()>;
    /// Whole blocks of the file that was begun last.
    fn write(&mut self, blocks: &[u8]) -> io::Result<()>;
}

/// How a capture is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    /// When the first one starts: the capture's start, nanoseconds since 1970.
    pub start_ns: u64,
    /// How long each is.
    pub length_ns: NonZeroU64,
    /// Most files; the last one takes what is left. `None` is any number.
    pub files_max: Option<NonZeroU64>,
}

/// Divides a capture as it comes.
#[derive(Debug)]
pub struct Splitter {
    spans: Spans,
    blocks: Blocks,
    part: Part,
}

/// The file that is being written.
#[derive(Debug)]
struct Part {
    start_ns: u64,
    /// From 1.
    number: u64,
    /// Section and interfaces so far, with which every file begins.
    preamble: Vec<u8>,
    interfaces: Vec<Tally>,
    /// Time of the latest statistics.
    counted_ns: u64,
    /// Blocks that wait to be written.
    out: Vec<u8>,
}

/// What is known of an interface.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// The capture's counters when they came last.
    latest: InterfaceStatistics,
    /// What of them is in earlier files.
    told: InterfaceStatistics,
    /// Packets in this file.
    written: u64,
}

impl Splitter {
    /// Begins with the first file, which is open already.
    pub fn new(spans: Spans) -> Self {
        let part = Part {
            start_ns: spans.start_ns,
            number: 1,
            preamble: Vec::new(),
            interfaces: Vec::new(),
            counted_ns: 0,
            out: Vec::new(),
        };
        Self { spans, blocks: Blocks::default(), part }
    }

    /// Takes the next bytes of the capture's pcapng.
    pub fn push(&mut self, bytes: &[u8], files: &mut impl Files) -> Result<(), SplitError> {
        self.blocks.push(bytes);
        while let Some(block) = self.blocks.next_block()? {
            match block.content {
                Content::Section => self.part.preamble.clear(),
                Content::Packet(packet) => {
                    if let Some(start_ns) = self.spans.later(&self.part, packet.time_ns) {
                        self.part.end(start_ns, files)?;
                    }
                    self.part.count(packet)?;
                }
                Content::Statistics(statistics) => {
                    self.part.note(statistics)?;
                    continue;
                }
                Content::Interface { .. } | Content::Other => {}
            }
            if let Content::Section | Content::Interface { .. } = block.content {
                self.part.describe(block.bytes, block.content)?;
            }
            self.part.out.extend_from_slice(block.bytes);
        }
        self.part.flush(files)
    }

    /// Whether the capture ends here between two blocks.
    pub fn finish(&self) -> Result<(), SplitError> {
        Ok(self.blocks.finish()?)
    }

    /// Files begun so far.
    pub fn files(&self) -> u64 {
        self.part.number
    }
}

impl Spans {
    /// Start of the span that a time is in, if that is a later one than the file's and may have a file.
    fn later(&self, part: &Part, time_ns: u64) -> Option<u64> {
        if self.files_max.is_some_and(|most| part.number >= most.get()) {
            return None;
        }
        let spans = time_ns.checked_sub(self.start_ns)? / self.length_ns;
        let start_ns = self.start_ns + spans * self.length_ns.get();
        (start_ns > part.start_ns).then_some(start_ns)
    }
}

impl Part {
    /// Ends the file with its statistics, and begins the next one.
    fn end(&mut self, start_ns: u64, files: &mut impl Files) -> Result<(), SplitError> {
        // Counters may have come from behind the span, if no packet did.
        let end_ns = start_ns.max(self.counted_ns);
        for number in 0..self.interfaces.len() {
            self.statistics(number, end_ns, Some(end_ns));
        }
        self.flush(files)?;
        for tally in &mut self.interfaces {
            *tally = Tally { told: tally.latest, written: 0, ..*tally };
        }
        (self.start_ns, self.number) = (start_ns, self.number + 1);
        files.begin(start_ns).map_err(SplitError::Write)?;
        self.out.extend_from_slice(&self.preamble);
        Ok(())
    }

    fn describe(&mut self, block: &[u8], content: Content<'_>) -> Result<(), SplitError> {
        if let Content::Section = content {
            self.interfaces.clear();
        } else if self.interfaces.len() == INTERFACES_MAX {
            return Err(SplitError::Interfaces);
        } else {
            self.interfaces.push(Tally::default());
        }
        self.preamble.extend_from_slice(block);
        Ok(())
    }

    fn count(&mut self, packet: StreamedPacket<'_>) -> Result<(), SplitError> {
        self.tally(packet.interface)?.written += 1;
        Ok(())
    }

    fn note(&mut self, statistics: InterfaceStatistics) -> Result<(), SplitError> {
        let InterfaceStatistics { interface, time_ns, end_ns, .. } = statistics;
        self.tally(interface)?.latest = statistics;
        self.counted_ns = self.counted_ns.max(time_ns);
        self.statistics(interface as usize, time_ns, end_ns);
        Ok(())
    }

    fn tally(&mut self, interface: u32) -> Result<&mut Tally, SplitError> {
        self.interfaces.get_mut(interface as usize).ok_or(SplitError::Interface { interface })
    }

    /// Statistics of one interface in this file, as of the capture's latest.
    fn statistics(&mut self, number: usize, time_ns: u64, end_ns: Option<u64>) {
        let Tally { latest, told, written } = self.interfaces[number];
        let since = |latest: Option<u64>, told: Option<u64>| {
            latest.map(|latest| latest.saturating_sub(told.unwrap_or_default()))
        };
        let lost = since(latest.os_dropped, told.os_dropped);
        let statistics = InterfaceStatistics {
            interface: u32::try_from(number).unwrap_or(u32::MAX),
            time_ns,
            start_ns: Some(self.start_ns),
            end_ns,
            received: since(latest.received, told.received),
            dropped: since(latest.dropped, told.dropped),
            // The capture's own rule, which holds for each of its files.
            filter_accepted: Some(written + lost.unwrap_or_default()),
            os_dropped: lost,
            delivered: Some(written),
        };
        pcapng::interface_statistics(&mut self.out, &statistics);
    }

    fn flush(&mut self, files: &mut impl Files) -> Result<(), SplitError> {
        if !self.out.is_empty() {
            files.write(&self.out).map_err(SplitError::Write)?;
            self.out.clear();
        }
        Ok(())
    }
}

/// Why a capture could not be divided, or not further.
#[derive(Debug, Error)]
pub enum SplitError {
    /// A file could not be begun or written.
    #[error(transparent)]
    Write(io::Error),
    /// The capture is none of linnet's, or broken.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A packet or counters of an interface that was not described.
    #[error("the capture has something of interface {interface}, which it does not describe")]
    Interface {
        /// Its number.
        interface: u32,
    },
    /// Too many interfaces.
    #[error("the capture describes more than {INTERFACES_MAX} interfaces")]
    Interfaces,
}

#[cfg(test)]
mod tests;
