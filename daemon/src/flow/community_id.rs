//! Community ID v1 (github.com/corelight/community-id-spec): the join key that Wireshark, Zeek and Suricata print.

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use datapath::{
    FlowKey, IpAddress,
    flow_key::{KEY_ICMP_ONE_WAY, KEY_ICMP_QUERY_SHIFT, KEY_ICMP_UPPER_ASKS, KEY_IPV6},
    parse::icmp::{QUERIES_V4, QUERIES_V6},
};
use sha1::{Digest as _, Sha1};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
/// The default seed; all tools must use the same.
const SEED: [u8; 2] = [0, 0];

/// The address of a key's endpoint, in the family of the packets.
#[must_use]
pub fn address(key: &FlowKey, address: IpAddress) -> IpAddr {
    let octets = address.octets();
    if key.flags & KEY_IPV6 != 0 {
        IpAddr::from(octets)
    } else {
        let [.., a, b, c, d] = octets;
        IpAddr::from([a, b, c, d])
    }
}

/// The ICMP types of question and answer that a key's query class stands for.
#[must_use]
pub fn icmp_types(key: &FlowKey) -> Option<(u8, u8)> {
    let class = key.flags >> KEY_ICMP_QUERY_SHIFT;
    let table: &[_] = if key.flags & KEY_IPV6 != 0 { &QUERIES_V6 } else { &QUERIES_V4 };
    let query = table.iter().find(|query| query.class == class)?;
    Some((query.request, query.reply))
}

/// The Community ID of a flow, whoever opened it.
#[must_use]
pub fn community_id(key: &FlowKey) -> String {
    let mut lower = (address(key, key.lower), u16::from_be(key.lower_port));
    let mut upper = (address(key, key.upper), u16::from_be(key.upper_port));
    let upper_asks = key.flags & KEY_ICMP_UPPER_ASKS != 0;
    if key.flags & KEY_ICMP_ONE_WAY != 0 {
        // The sender's port is the type, the receiver's the code; one-way messages are never reordered.
        let (sender, receiver) = if upper_asks { (upper, lower) } else { (lower, upper) };
        return digest(key.protocol, sender, receiver);
    }
    if let Some((request, reply)) = icmp_types(key) {
        let (asks, answers) =
            if upper_asks { (&mut upper, &mut lower) } else { (&mut lower, &mut upper) };
        (asks.1, answers.1) = (u16::from(request), u16::from(reply));
    }
    if lower > upper {
        std::mem::swap(&mut lower, &mut upper);
    }
    digest(key.protocol, lower, upper)
}

fn digest(protocol: u8, first: (IpAddr, u16), second: (IpAddr, u16)) -> String {
    let mut hash = Sha1::new();
    hash.update(SEED);
    for endpoint in [first, second] {
        match endpoint.0 {
            IpAddr::V4(address) => hash.update(address.octets()),
            IpAddr::V6(address) => hash.update(address.octets()),
        }
    }
    hash.update([protocol, 0]);
    if matches!(protocol, TCP | UDP | ICMP | ICMPV6 | SCTP) {
        hash.update(first.1.to_be_bytes());
        hash.update(second.1.to_be_bytes());
    }
    format!("1:{}", STANDARD.encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> FlowKey {
        let mut key = FlowKey {
            lower: IpAddress::from_ipv4(from.0),
            upper: IpAddress::from_ipv4(to.0),
            lower_port: from.1.to_be(),
            upper_port: to.1.to_be(),
            protocol,
            ..FlowKey::default()
        };
        key.canonicalize();
        key
    }

    /// The specification's own examples (community-id-spec, baseline files).
    #[test]
    fn agrees_with_the_specification() {
        let tcp = key(TCP, ([128, 232, 110, 120], 34_855), ([66, 35, 250, 204], 80));
        assert_eq!(community_id(&tcp), "1:LQU9qZlK+B5F3KDmev6m5PMibrg=");
        let udp = key(UDP, ([192, 168, 1, 52], 54_585), ([8, 8, 8, 8], 53));
        assert_eq!(community_id(&udp), "1:d/FP5EW3wiY1vCndhwleRRKHowQ=");
    }
}
