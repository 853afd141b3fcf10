//! Packets at rest: reading and writing capture files, capture filters, and one running capture.
//! Never reads a clock, never talks to the network or the kernel, never depends on tokio or HTTP.
//!
//! The paths through this crate:
//!
//! * a file becomes packets: [`PacketReader`] (classic pcap and pcapng, as tshark reads them);
//! * packets become a file: [`format::pcapng`] (our own encoder) and [`format::pcap`];
//! * a tcpdump expression becomes a [`Filter`]: [`Libpcap`] compiles it, [`Filter::matches`] runs it;
//! * a running capture: [`Capture`] filters, cuts, encodes, writes and counts what it is offered.
//!
//! Time is always an argument: nanoseconds since the Unix epoch, in fields that end in `_ns`.
#![deny(unsafe_code)]

pub mod filter;
pub mod format;
mod interface;
mod link_type;
mod packet;
pub mod session;

pub use filter::{Filter, FilterError, Libpcap, Reading, Treatment, View};
pub use format::Format;
pub use format::read::{PacketReader, ReadError, ReadPacket};
pub use interface::InterfaceDescription;
pub use link_type::LinkType;
pub use packet::{COMMENTS_MAX, CapturedPacket, Direction, Snaplen, SnaplenError};
pub use session::{Capture, CaptureSpec, Limits, Offer, StopReason, Summary};
