//! File formats: how packets at rest are read and written.
//! The only folder that names the `pcap-file` crate; never filters or counts packets.

pub mod pcap;
pub mod pcapng;
pub mod read;

use std::fmt;

/// The two capture file formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Classic pcap: one link type, times and bytes, nothing else.
    Pcap,
    /// pcapng: several interfaces, directions, comments, statistics.
    Pcapng,
}

impl Format {
    /// Every format, the one to prefer first.
    pub const ALL: [Self; 2] = [Self::Pcapng, Self::Pcap];

    /// Media type for HTTP, as Wireshark's desktop entry and IANA have it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Pcap => "application/vnd.tcpdump.pcap",
            Self::Pcapng => "application/x-pcapng",
        }
    }

    /// File name extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Pcap => "pcap",
            Self::Pcapng => "pcapng",
        }
    }

    /// The format with this extension (any case), which is also its name in the API.
    pub fn from_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| extension.eq_ignore_ascii_case(format.extension()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_find_their_format_in_any_case() {
        for format in Format::ALL {
            assert_eq!(Format::from_extension(format.extension()), Some(format));
        }
        assert_eq!(Format::from_extension("PCAPNG"), Some(Format::Pcapng));
        assert_eq!(Format::from_extension("cap"), None);
    }
}
