//! A capture of linnet's with comments on its packets, piece by piece, as it comes. Never gives half a block, never holds
//! more than a block and a piece, and changes nothing but the options of the packets that get a comment.
//!
//! A comment is the one thing said about a packet that every tool keeps: Wireshark 4.0 writes `epb_verdict` back as
//! another option, which nothing reads then, and leaves out what it does not know.

use thiserror::Error;

use super::pcapng::{self, Options};
use super::read::stream::{Block, Blocks, Content, INTERFACES_MAX, StreamError, StreamedPacket};
use crate::LinkType;

/// Code of a packet's block, and of a comment (`draft-ietf-opsawg-pcapng`, 4.3 and 3.5.1).
const ENHANCED_PACKET: u32 = 6;
const COMMENT: u16 = 1;

/// Type and length before a block's body, and the length behind it.
const HEAD_LEN: usize = 8;
const TAIL_LEN: usize = 4;

/// Who has something to say about packets.
pub trait Commentator {
    /// Appends what there is to say about the next packet, whose interface has this link type; nothing for no comment.
    /// Asked once about each packet, in their order.
    fn comment(&mut self, link_type: LinkType, packet: &StreamedPacket<'_>, comment: &mut String);
}

/// A capture on its way, and who comments on it.
#[derive(Debug)]
pub struct Annotator<C> {
    commentator: C,
    blocks: Blocks,
    /// Link types of the section's interfaces.
    interfaces: Vec<LinkType>,
    comment: String,
}

impl<C: Commentator> Annotator<C> {
    /// Begins a capture.
    pub fn new(commentator: C) -> Self {
        let (blocks, interfaces) = (Blocks::default(), Vec::new());
        Self { commentator, blocks, interfaces, comment: String::new() }
    }

    /// Takes the next bytes of the pcapng, and appends the whole blocks among them to `out`, with their comments. After
    /// an error `out` has what came before it.
    pub fn annotate(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), AnnotateError> {
        self.blocks.push(bytes);
        while let Some(block) = self.blocks.next_block()? {
            self.comment.clear();
            match block.content {
                Content::Section => self.interfaces.clear(),
                Content::Interface { .. } if self.interfaces.len() == INTERFACES_MAX => {
                    return Err(AnnotateError::Interfaces);
                }
                Content::Interface { link_type, .. } => self.interfaces.push(link_type),
                Content::Packet(packet) => {
                    let interface = packet.interface;
                    let index = usize::try_from(interface).unwrap_or(usize::MAX);
                    let link_type = self.interfaces.get(index);
                    let link_type = *link_type.ok_or(AnnotateError::Interface { interface })?;
                    self.commentator.comment(link_type, &packet, &mut self.comment);
                    if !self.comment.is_empty() {
                        commented(&block, &packet, &self.comment, out)?;
                        continue;
                    }
                }
                Content::Statistics(_) | Content::Other => {}
            }
            out.extend_from_slice(block.bytes);
        }
        Ok(())
    }

    /// Whether the capture ends here between two blocks.
    pub fn finish(&self) -> Result<(), AnnotateError> {
        Ok(self.blocks.finish()?)
    }
}

/// Appends a packet's block with one more option behind those that it has.
fn commented(
    block: &Block<'_>,
    packet: &StreamedPacket<'_>,
    comment: &str,
    out: &mut Vec<u8>,
) -> Result<(), StreamError> {
    let offset = block.offset;
    let end = packet.options_end().map_err(|what| StreamError { offset, what })?;
    let (kept, behind) = packet.options.split_at(end);
    let body = &block.bytes[HEAD_LEN..block.bytes.len() - TAIL_LEN];
    let fixed = &body[..body.len() - packet.options.len()];
    pcapng::block(out, ENHANCED_PACKET, |out| {
        out.extend_from_slice(fixed);
        out.extend_from_slice(kept);
        let mut options = Options::new(out);
        options.text(COMMENT, Some(comment));
        if behind.is_empty() {
            options.end();
        } else {
            out.extend_from_slice(behind);
        }
    });
    Ok(())
}

/// Why a capture could not be commented on, or not further.
#[derive(Debug, Error)]
pub enum AnnotateError {
    /// It is none of linnet's, or broken.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A packet of an interface that was not described.
    #[error("the capture has a packet of interface {interface}, which it does not describe")]
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
