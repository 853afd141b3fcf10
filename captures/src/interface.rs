//! What a capture file says about an interface, for reading and for writing.
//! Never says where the interface is now: names are text, not handles.

use crate::LinkType;

/// One interface of a capture file (pcapng's Interface Description Block; the header of a classic
/// file makes one without texts).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceDescription {
    /// What its packets start with.
    pub link_type: LinkType,
    /// Most bytes kept of each packet; 0 is no limit. Files lie: packets may be longer.
    pub snaplen: u32,
    /// Device name, such as `eth0`; linnet writes one interface per point of observation, such as
    /// `eth0@tc-in`.
    pub name: Option<String>,
    /// Free text for people.
    pub description: Option<String>,
    /// The capture filter in tcpdump's language.
    pub filter: Option<String>,
    /// Hardware of the interface.
    pub hardware: Option<String>,
    /// Operating system of the machine it is in.
    pub os: Option<String>,
}

impl InterfaceDescription {
    /// An interface about which nothing else is known.
    pub fn new(link_type: LinkType, snaplen: u32) -> Self {
        Self {
            link_type,
            snaplen,
            name: None,
            description: None,
            filter: None,
            hardware: None,
            os: None,
        }
    }
}
