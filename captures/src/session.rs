//! One running capture: packets are offered, and a pcapng file or stream comes of it.
//! Never reads a clock, never opens a file, never decides when to stop but by its limits.
//!
//! Blocks are gathered and written in batches of 64 KiB; [`Capture::heartbeat`] and
//! [`Capture::flush`] write what is there. When the sink fails the capture ends, and
//! [`Summary::whole_bytes`] says where to cut the file so that it holds whole blocks only.

mod counters;
mod sink;

use std::io::{self, ErrorKind, Write};

use thiserror::Error;

use crate::format::pcapng::{self, InterfaceStatistics, SectionHeader};
use crate::{CapturedPacket, Filter, InterfaceDescription, LinkType, Snaplen};
pub use counters::{Counters, Loss, Lost, StopReason};
use sink::{BlockSink, Failure};

/// Most interfaces of one capture.
pub const CAPTURE_INTERFACES_MAX: usize = 256;

/// Bytes of an Interface Statistics Block with every option.
const STATISTICS_LEN: u64 = 112;

/// What to capture.
#[derive(Clone, Debug)]
pub struct CaptureSpec {
    /// What the file says about its origin.
    pub section: SectionHeader,
    /// The interfaces packets come from; a packet's `interface` is an index here. Their `snaplen`
    /// and `filter` are taken from below.
    pub interfaces: Vec<InterfaceDescription>,
    /// Which packets: one expression, compiled for each link type of the interfaces; empty for all packets.
    pub filters: Vec<Filter>,
    /// How much of each packet.
    pub snaplen: Snaplen,
    /// When to stop.
    pub limits: Limits,
}

/// Where a capture ends by itself; `None` is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Packets in the file.
    pub packets: Option<u64>,
    /// Bytes of the file, final statistics included.
    pub bytes: Option<u64>,
    /// Nanoseconds from the start, by the packets' times and by heartbeats.
    pub duration_ns: Option<u64>,
}

/// What became of an offered packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is in the file, or in the batch that is written next.
    Written,
    /// The filter does not want it, or the capture does not have its interface.
    NotMatched,
    /// The capture has ended, before this packet or with it; it is not in the file.
    Ended(StopReason),
}

/// A capture into `W`, which should not buffer by itself.
#[derive(Debug)]
pub struct Capture<W> {
    sink: BlockSink<W>,
    filters: Vec<Filter>,
    snaplen: Snaplen,
    packets_max: u64,
    /// Bytes that may be used before the final statistics.
    bytes_max: u64,
    /// Packets at this time and later are no part of the capture.
    deadline_ns: u64,
    started_ns: u64,
    interfaces: Vec<Tally>,
    /// Packets lost of which the interface is not known.
    lost_anywhere: u64,
    counters: Counters,
    first_packet_ns: Option<u64>,
    last_packet_ns: Option<u64>,
    stopped: Option<StopReason>,
    error: Option<io::Error>,
}

/// What is counted per interface, for its statistics.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Index of the filter for its packets; `None` for all of them.
    filter: Option<usize>,
    matched: u64,
    written: u64,
    lost: u64,
    received: Option<u64>,
    dropped: Option<u64>,
}

impl<W: Write> Capture<W> {
    /// Starts a capture: encodes the section and its interfaces, and writes them to `sink`.
    pub fn start(spec: CaptureSpec, sink: W, started_ns: u64) -> Result<Self, CaptureError> {
        let interfaces = spec.interfaces.len();
        if interfaces == 0 || interfaces > CAPTURE_INTERFACES_MAX {
            return Err(CaptureError::Interfaces { interfaces });
        }
        let mut blocks = BlockSink::new(sink);
        blocks.append(None, u64::MAX, |out| pcapng::section_header(out, &spec.section));
        let mut tallies = Vec::with_capacity(interfaces);
        for interface in spec.interfaces {
            let fits = |filter: &Filter| filter.link_type() == interface.link_type;
            let filter = spec.filters.iter().position(fits);
            if filter.is_none() && !spec.filters.is_empty() {
                return Err(CaptureError::LinkType {
                    interface: interface.name.unwrap_or_default(),
                    link_type: interface.link_type,
                });
            }
            tallies.push(Tally { filter, ..Tally::default() });
            let filter = filter.map(|index| &spec.filters[index]);
            let description = described(interface, filter, spec.snaplen);
            blocks.append(None, u64::MAX, |out| pcapng::interface_description(out, &description));
        }
        let final_len = STATISTICS_LEN * interfaces as u64;
        let needed = blocks.bytes() + final_len;
        let limit = spec.limits.bytes.unwrap_or(u64::MAX);
        if limit < needed {
            return Err(CaptureError::BytesTooFew { limit, needed });
        }
        blocks.flush().map_err(|failure| CaptureError::Write(failure.error))?;
        let duration_ns = spec.limits.duration_ns.unwrap_or(u64::MAX);
        Ok(Self {
            sink: blocks,
            filters: spec.filters,
            snaplen: spec.snaplen,
            packets_max: spec.limits.packets.unwrap_or(u64::MAX),
            bytes_max: limit - final_len,
            deadline_ns: started_ns.saturating_add(duration_ns),
            started_ns,
            interfaces: tallies,
            lost_anywhere: 0,
            counters: Counters::default(),
            first_packet_ns: None,
            last_packet_ns: None,
            stopped: (spec.limits.packets == Some(0)).then_some(StopReason::PacketLimit),
            error: None,
        })
    }

    /// Adds an interface that has come since the start; its index. `None` where there is no room for it, or no filter
    /// for what its frames start with.
    pub fn add_interface(&mut self, interface: InterfaceDescription) -> Option<u32> {
        let index = self.interfaces.len();
        let fits = |filter: &Filter| filter.link_type() == interface.link_type;
        let filter = self.filters.iter().position(fits);
        if index >= CAPTURE_INTERFACES_MAX || (filter.is_none() && !self.filters.is_empty()) {
            return None;
        }
        // Room for its final statistics, too.
        let bytes_max = self.bytes_max.checked_sub(STATISTICS_LEN)?;
        let description =
            described(interface, filter.map(|index| &self.filters[index]), self.snaplen);
        let appended = self.sink.append(None, bytes_max, |out| {
            pcapng::interface_description(out, &description);
        });
        if !appended {
            return None;
        }
        self.bytes_max = bytes_max;
        self.interfaces.push(Tally { filter, ..Tally::default() });
        u32::try_from(index).ok()
    }

    /// Offers a packet: filters it by its whole data, cuts it to the snaplen, writes it.
    ///
    /// A packet that a limit keeps out is not counted: it came after the capture. One that a
    /// failing sink does not take is matched and lost.
    pub fn offer(&mut self, packet: &CapturedPacket<'_>) -> Offer {
        let filter = self.interfaces.get(packet.interface as usize).and_then(|it| it.filter);
        let filter = filter.and_then(|index| self.filters.get(index));
        let matches = filter.is_none_or(|it| it.matches(&packet.data, packet.original_len));
        self.take(packet, matches)
    }

    /// The same with a packet that somebody else has filtered.
    pub fn offer_matched(&mut self, packet: &CapturedPacket<'_>) -> Offer {
        self.take(packet, true)
    }

    fn take(&mut self, packet: &CapturedPacket<'_>, matches: bool) -> Offer {
        if packet.time_ns >= self.deadline_ns {
            self.stop(StopReason::DurationLimit);
        }
        if let Some(reason) = self.stopped {
            return Offer::Ended(reason);
        }
        if !matches || packet.interface as usize >= self.interfaces.len() {
            self.counters.offered += 1;
            return Offer::NotMatched;
        }
        let snaplen = self.snaplen;
        let appended = self.sink.append(Some(packet.interface), self.bytes_max, |out| {
            pcapng::enhanced_packet(out, packet, snaplen);
        });
        if !appended {
            self.stop(StopReason::ByteLimit);
            return Offer::Ended(StopReason::ByteLimit);
        }
        self.count_written(packet.interface as usize, packet.time_ns);
        if let Err(failure) = self.sink.write_batch() {
            return Offer::Ended(self.fail(failure));
        }
        Offer::Written
    }

    fn count_written(&mut self, index: usize, time_ns: u64) {
        self.counters.offered += 1;
        self.counters.matched += 1;
        self.counters.written += 1;
        self.interfaces[index].matched += 1;
        self.interfaces[index].written += 1;
        self.first_packet_ns = Some(self.first_packet_ns.map_or(time_ns, |ns| ns.min(time_ns)));
        self.last_packet_ns = Some(self.last_packet_ns.map_or(time_ns, |ns| ns.max(time_ns)));
        if self.counters.written >= self.packets_max {
            self.stop(StopReason::PacketLimit);
        }
    }

    /// Counts packets that were lost on their way here, of one interface where that is known. In the file those of
    /// unknown interfaces stand with the first one, so that the sum over all statistics is what was lost.
    pub fn lose(&mut self, interface: Option<u32>, loss: Loss, packets: u64) {
        self.counters.offered += packets;
        self.counters.matched += packets;
        *self.counters.lost.of(loss) += packets;
        if let Some(tally) = interface.and_then(|index| self.interfaces.get_mut(index as usize)) {
            tally.matched += packets;
            tally.lost += packets;
        } else {
            self.lost_anywhere += packets;
        }
    }

    /// Notes what an interface itself has received and dropped since the capture began, for its
    /// statistics.
    pub fn note_interface(&mut self, interface: u32, received: u64, dropped: u64) {
        if let Some(tally) = self.interfaces.get_mut(interface as usize) {
            (tally.received, tally.dropped) = (Some(received), Some(dropped));
        }
    }

    /// Writes statistics of every interface and all that is buffered; ends the capture when its
    /// duration is over. Call it every second or two: a live reader sees packets no later than
    /// this, and Wireshark closes its end before the final statistics.
    pub fn heartbeat(&mut self, now_ns: u64) {
        if now_ns >= self.deadline_ns {
            self.stop(StopReason::DurationLimit);
        }
        if self.stopped.is_none() {
            // Where they do not fit the limit they are left out; the final ones have their room.
            self.append_statistics(now_ns, None, self.bytes_max);
        }
        self.flush();
    }

    /// Writes all that is buffered.
    pub fn flush(&mut self) {
        if self.failed() {
            return;
        }
        if let Err(failure) = self.sink.flush() {
            self.fail(failure);
        }
    }

    /// Ends the capture: writes the final statistics, and tells what came of it.
    ///
    /// `reason` holds unless the capture has ended by itself before.
    pub fn finish(mut self, reason: StopReason, now_ns: u64) -> (Summary, W) {
        self.stop(reason);
        if !self.failed() {
            self.append_statistics(now_ns, Some(now_ns), u64::MAX);
            self.flush();
        }
        let summary = Summary {
            reason: self.stopped.unwrap_or(reason),
            counters: self.counters(),
            whole_bytes: self.sink.whole_bytes(),
            started_ns: self.started_ns,
            ended_ns: now_ns,
            first_packet_ns: self.first_packet_ns,
            last_packet_ns: self.last_packet_ns,
            error: self.error,
        };
        (summary, self.sink.into_inner())
    }

    fn append_statistics(&mut self, now_ns: u64, end_ns: Option<u64>, bytes_max: u64) {
        for (interface, tally) in (0..).zip(&self.interfaces) {
            let lost_anywhere = if interface == 0 { self.lost_anywhere } else { 0 };
            let statistics = InterfaceStatistics {
                interface,
                time_ns: now_ns,
                start_ns: Some(self.started_ns),
                end_ns,
                received: tally.received,
                dropped: tally.dropped,
                filter_accepted: Some(tally.matched + lost_anywhere),
                os_dropped: Some(tally.lost + lost_anywhere),
                delivered: Some(tally.written),
            };
            self.sink.append(None, bytes_max, |out| {
                pcapng::interface_statistics(out, &statistics);
            });
        }
    }

    fn fail(&mut self, failure: Failure) -> StopReason {
        let no_space = matches!(
            failure.error.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
        );
        let reason = if no_space { StopReason::DiskFull } else { StopReason::WriteFailed };
        for interface in failure.lost {
            self.counters.written -= 1;
            self.counters.lost.disk += 1;
            let tally = &mut self.interfaces[interface as usize];
            tally.written -= 1;
            tally.lost += 1;
        }
        self.stopped = Some(reason);
        self.error = Some(failure.error);
        reason
    }

    fn stop(&mut self, reason: StopReason) {
        self.stopped.get_or_insert(reason);
    }
}

impl<W> Capture<W> {
    /// Why the capture has ended by itself, if it has; then it only waits for
    /// [`Capture::finish`].
    pub fn stopped(&self) -> Option<StopReason> {
        self.stopped
    }

    /// The counters at this moment.
    pub fn counters(&self) -> Counters {
        Counters { bytes: self.sink.bytes(), ..self.counters }
    }

    /// Whether the sink has failed, so that nothing more can be written to it.
    fn failed(&self) -> bool {
        self.error.is_some()
    }
}

/// The interface as the file describes it.
fn described(
    interface: InterfaceDescription,
    filter: Option<&Filter>,
    snaplen: Snaplen,
) -> InterfaceDescription {
    let expression = filter.map(Filter::expression).filter(|text| !text.is_empty());
    InterfaceDescription {
        snaplen: snaplen.bytes(),
        filter: expression.map(str::to_owned),
        ..interface
    }
}

/// What came of a capture.
#[derive(Debug)]
pub struct Summary {
    /// Why it ended.
    pub reason: StopReason,
    /// What it counted.
    pub counters: Counters,
    /// Bytes of whole blocks in the sink. After a failed write the file may be longer: cut it here.
    pub whole_bytes: u64,
    /// When it began.
    pub started_ns: u64,
    /// When it was finished.
    pub ended_ns: u64,
    /// Earliest time of a packet that matched and reached the capture.
    pub first_packet_ns: Option<u64>,
    /// Latest time of such a packet.
    pub last_packet_ns: Option<u64>,
    /// What the sink said when it failed.
    pub error: Option<io::Error>,
}

/// Why a capture could not be started.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// No interface, or more than [`CAPTURE_INTERFACES_MAX`].
    #[error("cannot capture on {interfaces} interfaces: name 1 to {max}", max = CAPTURE_INTERFACES_MAX)]
    Interfaces {
        /// How many were named.
        interfaces: usize,
    },
    /// The filter was not compiled for the packets of an interface.
    #[error("cannot filter `{interface}`: the filter was not compiled for its {link_type} packets")]
    LinkType {
        /// Name of the interface.
        interface: String,
        /// What its packets start with.
        link_type: LinkType,
    },
    /// The byte limit leaves no room for a packet.
    #[error(
        "cannot capture into {limit} bytes: headers and statistics alone take {needed}; raise the limit"
    )]
    BytesTooFew {
        /// The limit.
        limit: u64,
        /// Bytes of an empty capture.
        needed: u64,
    },
    /// The sink took no headers.
    #[error(
        "cannot write the beginning of the capture; check the space and the rights at its place"
    )]
    Write(#[source] io::Error),
}
