//! What a capture counts, and why it ends.
//! Never loses a packet silently: `matched = written + lost`, at every moment.

use std::fmt;

/// Counters of a capture. Invariants: `matched <= offered` and `matched == written + lost.total()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that reached the capture or were lost on the way to it.
    pub offered: u64,
    /// Packets that matched the filter; packets lost before it are counted here, since they might
    /// have matched.
    pub matched: u64,
    /// Packets in the file, or in the buffer that is written to it next.
    pub written: u64,
    /// Bytes of file that they and the blocks around them take.
    pub bytes: u64,
    /// Matched packets that are not in the file.
    pub lost: Lost,
}

/// Matched packets that are not in the file, by where they were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// The ring between kernel and daemon was full, or the kernel refused to copy the packet.
    pub ring: u64,
    /// The kernel's rate budget for captures was spent.
    pub budget: u64,
    /// Left out on purpose under load.
    pub shed: u64,
    /// The file could not be written.
    pub disk: u64,
    /// A live reader was too slow.
    pub reader: u64,
}

impl Lost {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.ring + self.budget + self.shed + self.disk + self.reader
    }

    pub(super) fn of(&mut self, loss: Loss) -> &mut u64 {
        match loss {
            Loss::Ring => &mut self.ring,
            Loss::Budget => &mut self.budget,
            Loss::Shed => &mut self.shed,
            Loss::Disk => &mut self.disk,
            Loss::Reader => &mut self.reader,
        }
    }
}

/// Where packets were lost; the fields of [`Lost`] say what each means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the field of `Lost` with its name")]
pub enum Loss {
    Ring,
    Budget,
    Shed,
    Disk,
    Reader,
}

/// Why a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Somebody asked for it.
    UserRequest,
    /// The packet limit was reached.
    PacketLimit,
    /// The byte limit was reached.
    ByteLimit,
    /// The duration was over.
    DurationLimit,
    /// Nobody read its live stream any more.
    Unread,
    /// The interface is gone.
    InterfaceRemoved,
    /// No space for the file, by disk, quota or file size limit.
    DiskFull,
    /// The file could not be written for another reason.
    WriteFailed,
    /// The daemon was stopped.
    DaemonStopped,
    /// The daemon, or the machine, ended without ending the capture: its file holds what had been written by then.
    Interrupted,
}

impl StopReason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::UserRequest,
        Self::PacketLimit,
        Self::ByteLimit,
        Self::DurationLimit,
        Self::Unread,
        Self::InterfaceRemoved,
        Self::DiskFull,
        Self::WriteFailed,
        Self::DaemonStopped,
        Self::Interrupted,
    ];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserRequest => "user_request",
            Self::PacketLimit => "packet_limit",
            Self::ByteLimit => "byte_limit",
            Self::DurationLimit => "duration_limit",
            Self::Unread => "unread",
            Self::InterfaceRemoved => "interface_removed",
            Self::DiskFull => "disk_full",
            Self::WriteFailed => "write_failed",
            Self::DaemonStopped => "daemon_stopped",
            Self::Interrupted => "interrupted",
        }
    }

    /// The reason with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        for reason in StopReason::ALL {
            assert_eq!(StopReason::from_name(reason.name()), Some(reason));
        }
        assert_eq!(StopReason::from_name("bored"), None);
    }

    #[test]
    fn every_loss_counts_in_the_total() {
        let mut lost = Lost::default();
        for loss in [Loss::Ring, Loss::Budget, Loss::Shed, Loss::Disk, Loss::Reader] {
            *lost.of(loss) += 1;
        }
        assert_eq!(lost.total(), 5);
    }
}
