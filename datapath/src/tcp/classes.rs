//! Wireshark's classes of TCP segments (`tcp.analysis.*`), as bits and by name.

/// Number of classes.
pub const CLASSES: usize = 15;

macro_rules! classes {
    ($($(#[$doc:meta])* $constant:ident = $bit:literal, $name:literal, $letter:literal;)*) => {
        $($(#[$doc])* pub const $constant: u32 = 1 << $bit;)*

        /// Name and letter of each class, in the order of the bits. The names are the counters' in every answer.
        pub const NAMES: [(&str, char); CLASSES] = [$(($name, $letter),)*];
    };
}

classes! {
    /// Sent again, and neither fast, spurious nor out of order.
    RETRANSMISSION = 0, "retransmissions", 'R';
    /// A hole before it: the segment before was not captured.
    LOST_SEGMENT = 1, "lost_segments", 'L';
    /// Acknowledges what was not captured.
    ACKED_UNSEEN = 2, "acked_unseen", 'A';
    /// Keep-alive probe (RFC 9293, 3.8.4).
    KEEP_ALIVE = 3, "keep_alives", 'K';
    /// Repeats the acknowledgment before it.
    DUPLICATE_ACK = 4, "duplicate_acks", 'D';
    /// Advertises that nothing can be received.
    ZERO_WINDOW = 5, "zero_windows", 'Z';
    /// One byte into a zero window.
    ZERO_WINDOW_PROBE = 6, "zero_window_probes", 'P';
    /// The answer to it.
    ZERO_WINDOW_PROBE_ACK = 7, "zero_window_probe_acks", 'p';
    /// The answer to a keep-alive.
    KEEP_ALIVE_ACK = 8, "keep_alive_acks", 'k';
    /// Late by less than the handshake's round trip.
    OUT_OF_ORDER = 9, "out_of_order", 'O';
    /// Sent again after two or more duplicate acknowledgments, within 20 ms.
    FAST_RETRANSMISSION = 10, "fast_retransmissions", 'F';
    /// Only the window changed.
    WINDOW_UPDATE = 11, "window_updates", 'W';
    /// Fills the peer's window to the last byte.
    WINDOW_FULL = 12, "window_full", 'U';
    /// The same ports with a new initial sequence number.
    REUSED_PORTS = 13, "reused_ports", 'N';
    /// Sent again though it was acknowledged.
    SPURIOUS_RETRANSMISSION = 14, "spurious_retransmissions", 'S';
}

/// Classes that mean "sent again", whichever way: what the sender's kernel counts as retransmitted.
pub const RETRANSMITTED: u32 =
    RETRANSMISSION | FAST_RETRANSMISSION | SPURIOUS_RETRANSMISSION | OUT_OF_ORDER;
