//! Reading classic pcap and pcapng, one packet at a time, in constant memory.
//! Never loads a whole file, never seeks, never guesses past damage: what tshark would not read as
//! a packet is not one here either.
//!
//! # What `pcap-file` does here and what it does not
//!
//! `pcap-file` 3.0.0-rc.3 decodes the header and the records of classic files and checks the
//! framing of pcapng blocks (both length fields and their alignment; `byteorder_slice` is there to
//! name the byte orders in its signatures). Around it stands our own code for what tshark (wiretap 4.0 to 4.6) reads and `pcap-file` refuses or drops:
//!
//! * its readers allocate 8 MB each and report a cut tail like any I/O error: `source.rs` is ours;
//! * classic: records longer than the header's snaplen and original lengths below the captured one
//!   (its typed packets refuse them, its raw ones do not), the patched record headers of magic
//!   0xa1b2cd34 and of Red Hat 6.1, swapped lengths before version 2.4, the FCS bits: `classic.rs`;
//! * pcapng: `if_tsresol` finer than 10^-9 or 2^-29, a reserved field that is not zero, text that
//!   is not UTF-8, original lengths below the captured one, times before 1970, block lengths
//!   without their padding, and the options `epb_packetid` and `epb_queue`. Its typed blocks turn
//!   each of these into an error for the whole block, so bodies are decoded in `sections.rs`.

mod block;
mod bytes;
mod classic;
mod error;
mod interfaces;
mod options;
mod sections;
mod source;
pub mod stream;
mod variant;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{CapturedPacket, Format, InterfaceDescription, LinkType};
use classic::Classic;
use error::Fault;
pub use error::{Damage, NotACapture, ReadError};
use sections::Sections;
use source::Source;

/// Most interfaces kept of one file; a file with more is read up to the first one too many.
///
/// Concatenated ring files repeat their interfaces once per section, which is what this leaves
/// room for.
pub const INTERFACES_MAX: usize = 65_536;

/// A packet as read, with its place in the file and its link type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPacket<'a> {
    /// Number of the packet in the file, from 1; tshark's `frame.number` unless the file holds
    /// custom blocks, journal entries or system calls, which tshark counts as frames.
    pub number: u64,
    /// Link type of the packet's interface.
    pub link_type: LinkType,
    /// The packet; `packet.interface` is an index into [`PacketReader::interfaces`].
    pub packet: CapturedPacket<'a>,
}

/// Reads packets from a capture file or stream.
///
/// A packet borrows the reader's buffer until the next one is asked for. Memory is bounded by the
/// longest packet in the file, at most 128 MiB, and grows only as bytes arrive, so that a false
/// length in a short file costs nothing.
///
/// A classic file's first packet is given once its first three are there: the record layout is
/// told by looking at them, as tshark does.
#[derive(Debug)]
pub struct PacketReader<R: Read> {
    source: Source<R>,
    records: Records,
    interfaces: Vec<InterfaceDescription>,
    packets_read: u64,
    finished: bool,
}

#[derive(Debug)]
enum Records {
    Classic(Classic),
    Sections(Sections),
}

impl PacketReader<File> {
    /// Opens a capture file of either format.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let file = File::open(path)
            .map_err(|source| ReadError::Open { path: path.to_path_buf(), source })?;
        Self::new(file)
    }
}

impl<R: Read> PacketReader<R> {
    /// Reads the file header of `input`, which needs no buffering of its own.
    pub fn new(input: R) -> Result<Self, ReadError> {
        let mut source = Source::new(input);
        let mut interfaces = Vec::new();
        let records =
            Self::records(&mut source, &mut interfaces).map_err(|fault| fault.after(0))?;
        Ok(Self { source, records, interfaces, packets_read: 0, finished: false })
    }

    fn records(
        source: &mut Source<R>,
        interfaces: &mut Vec<InterfaceDescription>,
    ) -> Result<Records, Fault> {
        source.fill(classic::MAGIC_LEN)?;
        if let Some(magic) = classic::Magic::recognise(source.bytes()) {
            let (classic, interface) = Classic::open(magic, source)?;
            interfaces.push(interface);
            return Ok(Records::Classic(classic));
        }
        if sections::is_section_header(source)? {
            return Ok(Records::Sections(Sections::new()));
        }
        Err(Fault::NotACapture(NotACapture::recognise(source.bytes())))
    }

    /// The next packet, or `None` at the end of the file.
    ///
    /// Damage is an error once, after the last packet before it; then the reader is at its end.
    pub fn next_packet(&mut self) -> Result<Option<ReadPacket<'_>>, ReadError> {
        if self.finished {
            return Ok(None);
        }
        let next = match &mut self.records {
            Records::Classic(classic) => classic.next_record(&mut self.source),
            Records::Sections(sections) => {
                sections.next_record(&mut self.source, &mut self.interfaces)
            }
        };
        match next {
            Ok(Some((link_type, packet))) => {
                self.packets_read += 1;
                Ok(Some(ReadPacket { number: self.packets_read, link_type, packet }))
            }
            Ok(None) => {
                self.finished = true;
                Ok(None)
            }
            Err(fault) => {
                self.finished = true;
                Err(fault.after(self.packets_read))
            }
        }
    }

    /// The interfaces described so far; more can follow while a pcapng file is read.
    pub fn interfaces(&self) -> &[InterfaceDescription] {
        &self.interfaces
    }

    /// Packets given so far.
    pub fn packets_read(&self) -> u64 {
        self.packets_read
    }

    /// Which format the file turned out to be.
    pub fn format(&self) -> Format {
        match self.records {
            Records::Classic(_) => Format::Pcap,
            Records::Sections(_) => Format::Pcapng,
        }
    }
}
