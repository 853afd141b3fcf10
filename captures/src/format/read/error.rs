//! Why a capture file cannot be read, or not further.
//! Never holds packet bytes: damage is told by place, kind and numbers.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Reading failed. Everything before the failure has been given as packets.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file could not be opened.
    #[error("cannot open `{path}`; check that it exists and may be read")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The input is something else.
    #[error("cannot read this as a packet capture: {0}")]
    NotACapture(NotACapture),
    /// The file is a capture, and is broken or cut short at this place.
    #[error(
        "capture is damaged at byte {offset}, after {packets_read} packets: {what}; \
         the packets before it are good"
    )]
    Damaged {
        /// Packets given before the damage.
        packets_read: u64,
        /// Place in the file where the damaged record or block begins.
        offset: u64,
        /// What is wrong with it.
        what: Damage,
    },
    /// The input itself failed: nothing is known about the file's health.
    #[error("cannot read the capture on after {packets_read} packets")]
    Io {
        /// Packets given before the failure.
        packets_read: u64,
        /// What the system said.
        source: io::Error,
    },
}

/// What the input is, when it is not a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotACapture {
    /// It has no bytes.
    Empty,
    /// It is compressed; the name is that of the tool that undoes it.
    Compressed(&'static str),
    /// It begins with these bytes (fewer than four at the end of a short file are zero).
    Unknown([u8; 4]),
}

impl NotACapture {
    /// Names what begins with `bytes`, so that the message can say what to do.
    pub(super) fn recognise(bytes: &[u8]) -> Self {
        match bytes {
            [] => Self::Empty,
            [0x1f, 0x8b, ..] => Self::Compressed("gunzip"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Compressed("unzstd"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Self::Compressed("unlz4"),
            [0xfd, b'7', b'z', b'X', ..] => Self::Compressed("unxz"),
            [b'B', b'Z', b'h', ..] => Self::Compressed("bunzip2"),
            _ => {
                let mut first = [0; 4];
                for (to, from) in first.iter_mut().zip(bytes) {
                    *to = *from;
                }
                Self::Unknown(first)
            }
        }
    }
}

impl fmt::Display for NotACapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty; check that the capture was written"),
            Self::Compressed(tool) => {
                write!(f, "it is compressed; unpack it with `{tool}` and try again")
            }
            Self::Unknown(bytes) => write!(
                f,
                "it begins with {:02x}{:02x}{:02x}{:02x}, which is neither pcap nor pcapng; \
                 convert it with `editcap -F pcapng`",
                bytes[0], bytes[1], bytes[2], bytes[3]
            ),
        }
    }
}

/// What is wrong at the place of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// The file ends in the middle of a header, record or block.
    #[error("the file ends {missing} bytes too early, in the middle of a record")]
    CutShort {
        /// How many bytes of the record are not there.
        missing: u64,
    },
    /// A version that nobody knows how to read.
    #[error("format version {major}.{minor} is not supported")]
    Version {
        /// Major version in the header.
        major: u16,
        /// Minor version in the header.
        minor: u16,
    },
    /// The reserved bits of a classic file's link field are set.
    #[error("reserved bits of the link type are set ({0:#010x})")]
    LinkTypeReserved(u32),
    /// A packet longer than its link type allows, [`crate::LinkType::captured_len_max`].
    #[error("a packet claims {captured_len} captured bytes, and {max} is the most there can be")]
    PacketTooLong {
        /// Captured length in the file.
        captured_len: u32,
        /// The limit.
        max: u32,
    },
    /// A Simple Packet Block with more in it than its packet, so that its length, which is told
    /// by the interface's snaplen, cannot be trusted.
    #[error("a simple packet of {captured_len} captured bytes is followed by {more} bytes more")]
    SimplePacketLength {
        /// Captured length: the lesser of original length and snaplen.
        captured_len: u32,
        /// Bytes of the block behind the packet and its padding.
        more: u64,
    },
    /// A pcapng block longer than the longest packet could make it.
    #[error("a block claims {len} bytes, and {max} is the most there can be")]
    BlockTooLong {
        /// Length in the file, padded.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A pcapng block too short for what its type must contain.
    #[error("a block of type {block_type:#010x} has {len} bytes, too few for its contents")]
    BlockTooShort {
        /// The block's type.
        block_type: u32,
        /// Length in the file, padded.
        len: u64,
    },
    /// The length after a block differs from that before it.
    #[error("a block is {first} bytes long by its head and {second} by its tail")]
    BlockLengths {
        /// Length before the body, padded.
        first: u32,
        /// Length after the body.
        second: u32,
    },
    /// A section header whose byte-order magic is unknown.
    #[error("a section header has the unknown byte-order magic {0:#010x}")]
    ByteOrder(u32),
    /// A packet of an interface that the section has not described.
    #[error("a packet belongs to interface {interface}, but only {known} are described")]
    Interface {
        /// Interface number within the section.
        interface: u32,
        /// Interfaces described so far in the section.
        known: u32,
    },
    /// More interfaces than [`super::INTERFACES_MAX`].
    #[error("more than {max} interfaces are described", max = super::INTERFACES_MAX)]
    TooManyInterfaces,
    /// Options that run past their block.
    #[error("the options of a block run past its end")]
    OptionsOverrun,
    /// An option of the wrong length.
    #[error("option {code} of a block has the wrong length {len}")]
    OptionLength {
        /// The option's code.
        code: u16,
        /// Its length.
        len: u16,
    },
    /// Records inside a name resolution or secrets block that run past it.
    #[error("the contents of a block of type {block_type:#010x} run past its end")]
    ContentsOverrun {
        /// The block's type.
        block_type: u32,
    },
}

/// A failure before it is known how many packets preceded it.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    NotACapture(NotACapture),
    Damage { offset: u64, what: Damage },
}

impl Fault {
    /// The public error: this fault, after `packets_read` packets.
    pub(super) fn after(self, packets_read: u64) -> ReadError {
        match self {
            Self::Io(source) => ReadError::Io { packets_read, source },
            Self::NotACapture(what) => ReadError::NotACapture(what),
            Self::Damage { offset, what } => ReadError::Damaged { packets_read, offset, what },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(source: io::Error) -> Self {
        Self::Io(source)
    }
}
