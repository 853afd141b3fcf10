//! pcapng: sections of blocks, of which some are packets.
//! Never keeps a block; only what later packets need of it: byte order, interfaces, the last time.
//!
//! What holds packets: Enhanced, Simple and the obsolete Packet Blocks. Everything else is stepped
//! over, but checked as far as tshark checks it, since a broken block means that what follows
//! cannot be trusted. tshark shows three kinds of block as frames that are no packets and are none
//! here: custom blocks, systemd journal entries and sysdig's system calls.

use std::borrow::Cow;
use std::io::Read;

use super::INTERFACES_MAX;
use super::block::{Block, FRAME_LEN, HEAD_LEN, Head, SECTION_HEADER, section_endian};
use super::bytes::{Endian, index, padded};
use super::error::{Damage, Fault};
use super::interfaces::{SectionInterface, TEXT_MAX, describe, text_len};
use super::options::{Options, PacketOptions};
use super::source::Source;
use crate::{CapturedPacket, InterfaceDescription, LinkType};

pub(super) const INTERFACE_DESCRIPTION: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const NAME_RESOLUTION: u32 = 4;
pub(super) const INTERFACE_STATISTICS: u32 = 5;
pub(super) const ENHANCED_PACKET: u32 = 6;
const DECRYPTION_SECRETS: u32 = 10;
const CUSTOM: u32 = 0x0bad;
const CUSTOM_NO_COPY: u32 = 0x4000_0bad;

/// Whether the input begins with a section header, as far as its first bytes are there.
pub(super) fn is_section_header<R: Read>(source: &mut Source<R>) -> Result<bool, Fault> {
    let have = source.fill(FRAME_LEN)?;
    let bytes = source.bytes();
    Ok(bytes.starts_with(&SECTION_HEADER.to_be_bytes())
        && (have < FRAME_LEN || section_endian(bytes).is_some()))
}

/// An open pcapng file.
#[derive(Debug)]
pub(super) struct Sections {
    endian: Endian,
    /// The interfaces of the current section, by their number in it.
    interfaces: Vec<SectionInterface>,
    /// Time of the previous packet, for Simple Packet Blocks, which carry none.
    previous_ns: u64,
    /// Bytes of text kept of interface descriptions so far.
    text_kept: usize,
}

impl Sections {
    pub(super) fn new() -> Self {
        Self { endian: Endian::Little, interfaces: Vec::new(), previous_ns: 0, text_kept: 0 }
    }

    /// The next packet, or `None` where the file ends between two blocks. Interfaces on the way to
    /// it are added to `described`.
    pub(super) fn next_record<'s, R: Read>(
        &mut self,
        source: &'s mut Source<R>,
        described: &mut Vec<InterfaceDescription>,
    ) -> Result<Option<(LinkType, CapturedPacket<'s>)>, Fault> {
        let head = loop {
            let offset = source.offset();
            let Some(head) = self.fill_block(source)? else { return Ok(None) };
            if matches!(head.block_type, PACKET | SIMPLE_PACKET | ENHANCED_PACKET) {
                break head;
            }
            head.block(source.take(head.padded_len))
                .and_then(|block| self.step_over(block, described))
                .map_err(|what| Fault::Damage { offset, what })?;
        };
        let offset = source.offset();
        head.block(source.take(head.padded_len))
            .and_then(|block| match block.block_type {
                SIMPLE_PACKET => self.simple_packet(block),
                _ => self.packet(block),
            })
            .map(Some)
            .map_err(|what| Fault::Damage { offset, what })
    }

    /// Makes the next block available and reads its head; `None` at the end of the file.
    fn fill_block<R: Read>(&self, source: &mut Source<R>) -> Result<Option<Head>, Fault> {
        let offset = source.offset();
        let cut_short = |wanted: usize, have: usize| {
            let missing = wanted.saturating_sub(have) as u64;
            Fault::Damage { offset, what: Damage::CutShort { missing } }
        };
        let have = source.fill(FRAME_LEN)?;
        if have == 0 {
            return Ok(None);
        }
        if have < HEAD_LEN {
            return Err(cut_short(FRAME_LEN, have));
        }
        let head = Head::read(self.endian, source.bytes())
            .map_err(|what| Fault::Damage { offset, what })?;
        let have = source.fill(head.padded_len)?;
        if have < head.padded_len {
            return Err(cut_short(head.padded_len, have));
        }
        Ok(Some(head))
    }

    /// Takes from a block that is no packet what later packets need, and checks the rest.
    fn step_over(
        &mut self,
        block: Block<'_>,
        described: &mut Vec<InterfaceDescription>,
    ) -> Result<(), Damage> {
        match block.block_type {
            SECTION_HEADER => self.begin_section(block),
            INTERFACE_DESCRIPTION => self.add_interface(block, described),
            NAME_RESOLUTION => check_names(block),
            INTERFACE_STATISTICS => Options::new(block.endian, block.from(12)?).check(),
            DECRYPTION_SECRETS => block.split(8, block.u32(4)?).map(|_| ()),
            CUSTOM | CUSTOM_NO_COPY => block.from(4).map(|_| ()),
            _ => Ok(()),
        }
    }

    fn begin_section(&mut self, block: Block<'_>) -> Result<(), Damage> {
        let options = Options::new(block.endian, block.from(16)?);
        let (major, minor) = (block.u16(4)?, block.u16(6)?);
        // 1.2 is what some programs write; wiretap takes it for 1.0.
        if major != 1 || !matches!(minor, 0 | 2) {
            return Err(Damage::Version { major, minor });
        }
        options.check()?;
        self.endian = block.endian;
        self.interfaces.clear();
        Ok(())
    }

    fn add_interface(
        &mut self,
        block: Block<'_>,
        described: &mut Vec<InterfaceDescription>,
    ) -> Result<(), Damage> {
        let options = Options::new(block.endian, block.from(8)?);
        let description = InterfaceDescription::new(LinkType(block.u16(0)?), block.u32(4)?);
        if described.len() == INTERFACES_MAX {
            return Err(Damage::TooManyInterfaces);
        }
        let number = u32::try_from(described.len()).unwrap_or(u32::MAX);
        let text_left = TEXT_MAX.saturating_sub(self.text_kept);
        let (description, interface) = describe(number, description, options, text_left)?;
        self.text_kept += text_len(&description);
        described.push(description);
        self.interfaces.push(interface);
        Ok(())
    }

    /// An Enhanced Packet Block, or the obsolete Packet Block, which has 16 bits each for the
    /// interface and the drop count where the other has 32 for the interface.
    fn packet<'b>(&mut self, block: Block<'b>) -> Result<(LinkType, CapturedPacket<'b>), Damage> {
        let (interface, dropped) = if block.block_type == PACKET {
            let dropped = Some(block.u16(2)?).filter(|dropped| *dropped != u16::MAX);
            (u32::from(block.u16(0)?), dropped.map(u64::from))
        } else {
            (block.u32(0)?, None)
        };
        let captured_len = block.u32(12)?;
        let (data, options) = block.split(20, captured_len)?;
        let interface = self.interface(interface)?;
        check_captured_len(interface, captured_len)?;
        let options = PacketOptions::read(Options::new(block.endian, options))?;
        let time_ns = interface.time_ns(block.ticks(4)?);
        let packet = CapturedPacket {
            time_ns,
            original_len: block.u32(16)?,
            data: Cow::Borrowed(data),
            interface: interface.number,
            direction: options.direction,
            packet_id: options.packet_id,
            queue: options.queue,
            drop_count: options.drop_count.or(dropped),
            comments: options.comments,
        };
        let link_type = interface.link_type;
        self.previous_ns = time_ns;
        Ok((link_type, packet))
    }

    /// A Simple Packet Block: the first interface, no time, and a captured length that is the
    /// lesser of the original length and the interface's snaplen.
    fn simple_packet<'b>(
        &self,
        block: Block<'b>,
    ) -> Result<(LinkType, CapturedPacket<'b>), Damage> {
        let original_len = block.u32(0)?;
        let interface = self.interface(0)?;
        let captured_len = match interface.snaplen {
            0 => original_len,
            snaplen => original_len.min(snaplen),
        };
        let (data, rest) = block.split(4, captured_len)?;
        check_captured_len(interface, captured_len)?;
        if !rest.is_empty() {
            return Err(Damage::SimplePacketLength { captured_len, more: rest.len() as u64 });
        }
        let packet = CapturedPacket {
            original_len,
            interface: interface.number,
            ..CapturedPacket::new(self.previous_ns, data)
        };
        Ok((interface.link_type, packet))
    }

    fn interface(&self, number: u32) -> Result<&SectionInterface, Damage> {
        let known = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        let unknown = Damage::Interface { interface: number, known };
        self.interfaces.get(index(number)).ok_or(unknown)
    }
}

fn check_captured_len(interface: &SectionInterface, captured_len: u32) -> Result<(), Damage> {
    let max = interface.link_type.captured_len_max();
    if captured_len > max {
        return Err(Damage::PacketTooLong { captured_len, max });
    }
    Ok(())
}

/// Walks the records of a name resolution block and the options after them.
fn check_names(block: Block<'_>) -> Result<(), Damage> {
    let overrun = Damage::ContentsOverrun { block_type: block.block_type };
    block.from(4)?;
    let mut rest = block.body;
    while let (Some(kind), Some(len)) = (block.endian.u16(rest, 0), block.endian.u16(rest, 2)) {
        rest = rest.get(4 + padded(usize::from(len))..).ok_or(overrun)?;
        if kind == 0 {
            return Options::new(block.endian, rest).check();
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(overrun) }
}
