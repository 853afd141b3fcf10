//! The loss ledger's closed set of keys: what linnet counted about a frame. It says nothing about the frame's fate.

/// Declares the enum and its names side by side, so that neither can miss a line.
macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What was counted about one frame. Exactly one for each frame, so the sum is the frames seen.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        #[must_use]
        pub enum Outcome { $($(#[$doc])* $variant,)* }

        impl Outcome {
            /// Every outcome, in the order of the ledger.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The key in every ledger that leaves linnet.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

outcomes! {
    /// Booked on its flow.
    Tracked = "tracked",
    /// A rule says to ignore it.
    IgnoredByRule = "ignored_by_rule",
    /// A rule says to sample, and it was not drawn.
    SampledOut = "sampled_out",
    /// Neither IPv4 nor IPv6 (ARP, LLC, ...).
    NotIp = "not_ip",
    /// Shorter than its link header.
    MalformedLink = "malformed_link",
    /// Version, header length or total length contradict each other (RFC 791).
    MalformedIpv4 = "malformed_ipv4",
    /// Version or extension chain contradict the length (RFC 8200).
    MalformedIpv6 = "malformed_ipv6",
    /// Data offset below 5 or beyond the segment (RFC 9293). Still booked on its flow by address and port.
    MalformedTcp = "malformed_tcp",
    /// Length field below 8 or beyond the datagram (RFC 768). Still booked on its flow by address and port.
    MalformedUdp = "malformed_udp",
    /// Shorter than the common header (RFC 9260).
    MalformedSctp = "malformed_sctp",
    /// Shorter than its header (RFC 792, RFC 4443).
    MalformedIcmp = "malformed_icmp",
    /// An encapsulation whose header contradicts itself.
    MalformedTunnel = "malformed_tunnel",
    /// The capture ends inside the headers. Still booked on its flow where address and port were captured.
    Truncated = "truncated",
    /// More tags or extension headers than the bound.
    TooDeep = "too_deep",
    /// A fragment without ports whose first fragment is not known.
    FragmentWithoutFirst = "fragment_without_first",
    /// A link type that linnet does not read.
    LinkUnsupported = "link_unsupported",
    /// Booked on a flow of its two addresses: a transport without ports that linnet reads.
    UnknownTransport = "unknown_transport",
    /// The flow table refused a new entry.
    TableFull = "table_full",
}

impl Outcome {
    /// The outcome of a stored number; `None` for what no version of linnet stores.
    #[cfg(not(target_arch = "bpf"))]
    pub fn from_u32(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// Number of ledger keys.
pub const OUTCOMES: usize = Outcome::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_numbered_in_ledger_order() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
    }

    #[test]
    fn ledger_keys_are_unique() {
        let mut names: std::vec::Vec<_> = Outcome::ALL.iter().map(|o| o.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OUTCOMES);
    }
}
