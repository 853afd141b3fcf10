//! Link types: what the first byte of a captured packet belongs to.
//! Never decides whether linnet can parse a link type; that is the datapath's business.

use std::fmt;

/// Link-layer header type, a `LINKTYPE_` value as capture files carry it.
///
/// Source: <https://www.tcpdump.org/linktypes.html>. Every value is possible; the constants are
/// those that linnet or its tests name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkType(pub u16);

impl LinkType {
    /// BSD loopback: 4 bytes of address family in the byte order of the capturing host.
    pub const NULL: Self = Self(0);
    /// Ethernet II and 802.3.
    pub const ETHERNET: Self = Self(1);
    /// Token Ring.
    pub const IEEE802_5: Self = Self(6);
    /// PPP.
    pub const PPP: Self = Self(9);
    /// PPP in HDLC-like framing.
    pub const PPP_HDLC: Self = Self(50);
    /// PPP over Ethernet, starting at the PPPoE header.
    pub const PPP_ETHER: Self = Self(51);
    /// IPv4 or IPv6 without a link header; the version nibble tells which.
    pub const RAW: Self = Self(101);
    /// Cisco PPP with HDLC framing.
    pub const C_HDLC: Self = Self(104);
    /// 802.11 without radio information.
    pub const IEEE802_11: Self = Self(105);
    /// OpenBSD loopback: 4 bytes of address family, big endian.
    pub const LOOP: Self = Self(108);
    /// Linux "cooked" capture, version 1 (`any` device).
    pub const LINUX_SLL: Self = Self(113);
    /// 802.11 with a radiotap header.
    pub const IEEE802_11_RADIOTAP: Self = Self(127);
    /// IPv4 without a link header.
    pub const IPV4: Self = Self(228);
    /// IPv6 without a link header.
    pub const IPV6: Self = Self(229);
    /// D-Bus messages.
    pub const DBUS: Self = Self(231);
    /// Linux netfilter log.
    pub const NFLOG: Self = Self(239);
    /// USB packets as USBPcap writes them.
    pub const USBPCAP: Self = Self(249);
    /// Linux netlink messages.
    pub const NETLINK: Self = Self(253);
    /// Linux "cooked" capture, version 2 (`any` device).
    pub const LINUX_SLL2: Self = Self(276);
    /// Elektrobit high speed capture and replay.
    pub const EBHSCR: Self = Self(279);

    /// The registry's name, without `LINKTYPE_`; `None` for types without a constant here.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::NULL => "NULL",
            Self::ETHERNET => "ETHERNET",
            Self::IEEE802_5 => "IEEE802_5",
            Self::PPP => "PPP",
            Self::PPP_HDLC => "PPP_HDLC",
            Self::PPP_ETHER => "PPP_ETHER",
            Self::RAW => "RAW",
            Self::C_HDLC => "C_HDLC",
            Self::IEEE802_11 => "IEEE802_11",
            Self::LOOP => "LOOP",
            Self::LINUX_SLL => "LINUX_SLL",
            Self::IEEE802_11_RADIOTAP => "IEEE802_11_RADIOTAP",
            Self::IPV4 => "IPV4",
            Self::IPV6 => "IPV6",
            Self::DBUS => "DBUS",
            Self::NFLOG => "NFLOG",
            Self::USBPCAP => "USBPCAP",
            Self::NETLINK => "NETLINK",
            Self::LINUX_SLL2 => "LINUX_SLL2",
            Self::EBHSCR => "EBHSCR",
            Self(_) => return None,
        })
    }

    /// Longest packet, in captured bytes, that a file may hold for this link type.
    ///
    /// These are Wireshark's limits (wiretap `wtap_max_snaplen_for_encap`); a longer length in a
    /// file is damage, and tshark stops there too.
    pub fn captured_len_max(self) -> u32 {
        match self {
            Self::DBUS | Self::USBPCAP => 128 * 1024 * 1024,
            Self::EBHSCR => 32 * 1024 * 1024,
            Self(_) => 262_144,
        }
    }
}

impl fmt::Display for LinkType {
    /// The name, or `LINKTYPE_n` where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "LINKTYPE_{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unnamed_link_types_show_their_number() {
        assert_eq!(LinkType(60_000).to_string(), "LINKTYPE_60000");
        assert_eq!(LinkType::ETHERNET.to_string(), "ETHERNET");
    }

    #[test]
    fn packets_may_be_a_quarter_mebibyte_except_on_the_three_wide_link_types() {
        assert_eq!(LinkType::ETHERNET.captured_len_max(), 262_144);
        assert_eq!(LinkType::DBUS.captured_len_max(), 134_217_728);
        assert_eq!(LinkType::EBHSCR.captured_len_max(), 33_554_432);
    }
}
