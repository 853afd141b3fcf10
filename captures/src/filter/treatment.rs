//! How a filter reads frames: as they are, or through tags and into a tunnel; and why, by the expression's own words.
//! Never looks at a frame.
//!
//! The rules, by the words of pcap-filter(7):
//!
//! * *strict*: libpcap's program runs on the frame as it is on the wire, which is what `tcpdump -r` chooses.
//! * *tolerant*: tags are looked through and one tunnel is looked into, unless the expression looks there itself:
//!   * its words are about the *link layer*: `vlan`, `mpls`, `pppoed`, `pppoes`, `llc`, and `proto` or `[` behind `ether`
//!     or one of its other names (`fddi`, `tr`, `wlan`, `link`, `ppp`, `slip`, `radio`). The frame is read as it is,
//!     and no tunnel is looked into: `not vlan` is not meant for what a tagged frame carries.
//!   * it names a *tunnel*: `geneve`, `vxlan`, `gre`; the protocols 4, 41 and 47 by number or name behind `proto` or
//!     `protochain`, or compared with `ip[9]` or `ip6[6]`; the tunnels' ports 4789, 8472 and 6081 behind `port`. Tags
//!     are looked through, and no tunnel is looked into.
//!
//! `ether host` and other addresses, `stp`, `arp` and the like stand in the same place with tags and without, and so are
//! no words about the link layer.

use std::fmt;

use super::tokens::{Token, tokens};
use super::views::{PORT_GENEVE, PORT_VXLAN, PORT_VXLAN_LINUX};
use crate::LinkType;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Treatment {
    /// The frame as it is on the wire.
    Strict,
    /// Through tags and into one tunnel, where the expression does not look there itself.
    #[default]
    Tolerant,
}

impl Treatment {
    /// Its name in every answer.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Tolerant => "tolerant",
        }
    }
}

/// How one filter reads frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Why tags are part of what the filter sees; `None` where they are looked through.
    pub tags_kept: Option<Why>,
    /// Why no tunnel is looked into; `None` where one is.
    pub tunnel_closed: Option<Why>,
}

/// Why a frame is read as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was asked for.
    Strict,
    /// The expression is empty.
    Everything,
    /// Frames of this link type have no tags, or are not read otherwise.
    LinkType(LinkType),
    /// The expression has words about the link layer.
    LinkWords(String),
    /// The expression names a tunnel.
    TunnelWords(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strict => f.write_str("strict treatment was asked for"),
            Self::Everything => f.write_str("every frame matches"),
            Self::LinkType(LinkType::RAW) => f.write_str("raw IP packets have none"),
            Self::LinkType(other) => write!(f, "frames of link type {other} are read as they are"),
            Self::LinkWords(words) => write!(f, "`{words}` looks at the link layer itself"),
            Self::TunnelWords(words) => write!(f, "`{words}` looks at the tunnel itself"),
        }
    }
}

impl Reading {
    /// Frames as they are.
    pub(super) fn as_it_is(why: Why) -> Self {
        Self { tags_kept: Some(why.clone()), tunnel_closed: Some(why) }
    }

    /// What a treatment comes to for an expression and a link type.
    pub fn of(treatment: Treatment, expression: &str, link_type: LinkType) -> Self {
        if treatment == Treatment::Strict {
            return Self::as_it_is(Why::Strict);
        }
        if expression.trim().is_empty() {
            return Self::as_it_is(Why::Everything);
        }
        if ![LinkType::ETHERNET, LinkType::RAW].contains(&link_type) {
            return Self::as_it_is(Why::LinkType(link_type));
        }
        let tokens = tokens(expression);
        let link_words = link_words(&tokens).map(Why::LinkWords);
        let tunnel_words = || tunnel_words(&tokens).map(Why::TunnelWords);
        let no_tags = (link_type == LinkType::RAW).then_some(Why::LinkType(link_type));
        Self {
            tunnel_closed: link_words.clone().or_else(tunnel_words),
            tags_kept: no_tags.or(link_words),
        }
    }
}

/// Words that are about the link layer wherever they stand.
const LINK_WORDS: [&str; 5] = ["vlan", "mpls", "pppoed", "pppoes", "llc"];
/// `ether`, and what libpcap takes for it.
const ETHER: [&str; 8] = ["ether", "fddi", "tr", "wlan", "link", "ppp", "slip", "radio"];

/// The first words about the link layer.
fn link_words(tokens: &[Token<'_>]) -> Option<String> {
    tokens.iter().enumerate().find_map(|(index, token)| {
        let next = tokens.get(index + 1).map_or("", |next| next.text);
        if LINK_WORDS.contains(&token.text) {
            Some(token.text.to_owned())
        } else if ETHER.contains(&token.text) && matches!(next, "proto" | "[") {
            let gap = if next == "[" { "" } else { " " };
            Some(format!("{}{gap}{next}", token.text))
        } else {
            None
        }
    })
}

/// Words that name a tunnel wherever they stand.
const TUNNEL_WORDS: [&str; 3] = ["geneve", "vxlan", "gre"];
/// Names of the tunnels' protocols in /etc/protocols: 4, 41 and 47.
const TUNNEL_PROTOCOLS: [&str; 4] = ["ipencap", "ip-encap", "ipv6", "gre"];
const TUNNEL_NUMBERS: [u32; 3] = [4, 41, 47];
const TUNNEL_PORTS: [u16; 3] = [PORT_VXLAN, PORT_VXLAN_LINUX, PORT_GENEVE];

/// The first words that name a tunnel. A number belongs to the last qualifier before it: `proto 6 or 47`.
fn tunnel_words(tokens: &[Token<'_>]) -> Option<String> {
    let mut qualifier = "";
    for (index, token) in tokens.iter().enumerate() {
        if TUNNEL_WORDS.contains(&token.text) {
            return Some(token.text.to_owned());
        }
        if let Some(words) = protocol_field(&tokens[index..]) {
            return Some(words);
        }
        match token.text {
            "proto" | "protochain" | "port" | "portrange" | "host" | "net" => {
                qualifier = token.text;
            }
            "[" | "less" | "greater" => qualifier = "",
            _ => {}
        }
        let number = token.number();
        let named = match qualifier {
            "proto" | "protochain" => {
                let known = |name: &&str| name.eq_ignore_ascii_case(token.word());
                number.is_some_and(|number| TUNNEL_NUMBERS.contains(&number))
                    || TUNNEL_PROTOCOLS.iter().any(known)
            }
            "port" => {
                number.is_some_and(|number| TUNNEL_PORTS.iter().any(|&port| number == port.into()))
            }
            _ => false,
        };
        if named {
            return Some(format!("{qualifier} {}", token.text));
        }
    }
    None
}

/// `ip[9] = 47` and the like, at the start.
fn protocol_field(tokens: &[Token<'_>]) -> Option<String> {
    let [ip, open, offset, close, relation, value, ..] = tokens else { return None };
    let field = matches!((ip.text, offset.number()), ("ip", Some(9)) | ("ip6", Some(6)));
    let compared = open.text == "["
        && close.text == "]"
        && matches!(relation.text, "=" | "==" | "!=")
        && value.number().is_some_and(|number| TUNNEL_NUMBERS.contains(&number));
    let text = || format!("{}[{}] {} {}", ip.text, offset.text, relation.text, value.text);
    (field && compared).then(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(expression: &str) -> Reading {
        Reading::of(Treatment::Tolerant, expression, LinkType::ETHERNET)
    }

    #[test]
    fn what_looks_at_no_lower_layer_is_looked_for_everywhere() {
        for expression in [
            "tcp",
            "host 10.0.0.1 and port 443",
            "ether host 00:11:22:33:44:55",
            "ether broadcast",
            "arp or stp",
            "proto 6 or 17",
            "ip proto \\tcp",
            "port 47 or port 4 or port 41",
            "host 47",
            "tcp[4:4] = 47",
            "ip[9] = 6",
            "ip[8] = 47",
            "portrange 4000-5000",
            "len > 47",
            "less 47",
            "proto 6 and greater 47",
        ] {
            let Reading { tags_kept, tunnel_closed } = reading(expression);
            assert_eq!((tags_kept, tunnel_closed), (None, None), "{expression}");
        }
    }

    #[test]
    fn words_about_the_link_layer_keep_the_frame_as_it_is() {
        for (expression, words) in [
            ("vlan", "vlan"),
            ("tcp and not vlan 100", "vlan"),
            ("mpls 5 and ip", "mpls"),
            ("pppoed", "pppoed"),
            ("pppoes and tcp", "pppoes"),
            ("llc", "llc"),
            ("ether proto 0x800", "ether proto"),
            ("ether[12:2] = 0x800", "ether["),
            ("link [ 0 ] & 1 = 1", "link["),
            ("vlan and geneve", "vlan"),
        ] {
            let why = Some(Why::LinkWords(words.to_owned()));
            let expected = Reading { tags_kept: why.clone(), tunnel_closed: why };
            assert_eq!(reading(expression), expected, "{expression}");
        }
    }

    #[test]
    fn a_tunnel_that_is_named_is_not_looked_into() {
        for (expression, words) in [
            ("geneve 7", "geneve"),
            ("vxlan", "vxlan"),
            ("ip proto 47", "proto 47"),
            ("proto 0x2f", "proto 0x2f"),
            ("ip6 proto 6 or 41", "proto 41"),
            ("ip proto \\ipencap", "proto \\ipencap"),
            ("ip proto gre", "gre"),
            ("ip proto GRE", "proto GRE"),
            ("ip[9] = 4", "ip[9] = 4"),
            ("ip6[6]==41", "ip6[6] == 41"),
            ("udp port 4789", "port 4789"),
            ("port 53 or 6081", "port 6081"),
            ("dst port 8472", "port 8472"),
        ] {
            let Reading { tags_kept, tunnel_closed } = reading(expression);
            let why = Some(Why::TunnelWords(words.to_owned()));
            assert_eq!((tags_kept, tunnel_closed), (None, why), "{expression}");
        }
    }

    #[test]
    fn a_frame_is_read_as_it_is_where_there_is_nothing_to_look_through() {
        let strict = Reading::of(Treatment::Strict, "tcp", LinkType::ETHERNET);
        assert_eq!(strict, Reading::as_it_is(Why::Strict));
        assert_eq!(reading(" "), Reading::as_it_is(Why::Everything));
        let raw = Reading::of(Treatment::Tolerant, "tcp", LinkType::RAW);
        assert_eq!(raw.tags_kept, Some(Why::LinkType(LinkType::RAW)));
        assert_eq!(raw.tunnel_closed, None);
        let null = Reading::of(Treatment::Tolerant, "tcp", LinkType::NULL);
        assert_eq!(null, Reading::as_it_is(Why::LinkType(LinkType::NULL)));
    }
}
