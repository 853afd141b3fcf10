//! File formats: how packets at rest are read and written.
//! The only folder that names the `pcap-file` crate; never filters or counts packets.

pub mod annotate;
pub mod convert;
pub mod pcap;
pub mod pcapng;
pub mod read;
pub mod split;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use self::pcap::Resolution;

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

/// As what a capture is handed out: its own pcapng, or a classic file made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Export {
    /// As it was captured.
    #[default]
    Pcapng,
    /// Classic pcap with times in this unit.
    Pcap(Resolution),
}

impl Export {
    /// Every one by its name in the API and on the command line.
    const NAMES: [(&'static str, Self); 3] = [
        ("pcapng", Self::Pcapng),
        ("pcap", Self::Pcap(Resolution::Microseconds)),
        ("pcap-ns", Self::Pcap(Resolution::Nanoseconds)),
    ];
}

impl FromStr for Export {
    type Err = UnknownExport;

    fn from_str(text: &str) -> Result<Self, UnknownExport> {
        let found = Self::NAMES.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, export)| export).ok_or(UnknownExport)
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(_, export)| export == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

/// No name of an [`Export`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("there is no such format; known are pcapng, pcap (microseconds) and pcap-ns (nanoseconds)")]
pub struct UnknownExport;

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

    #[test]
    fn exports_are_found_by_the_names_that_they_show() {
        for (name, export) in Export::NAMES {
            assert_eq!((name.parse(), export.to_string().as_str()), (Ok(export), name));
        }
        assert_eq!("pcap-us".parse::<Export>(), Err(UnknownExport));
    }
}
