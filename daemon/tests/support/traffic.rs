//! A short mix of real traffic through a lab. Never more than a few seconds of it.

use std::time::Duration;

use super::tshark::Conversation;
use lab::{
    Family, Lab,
    traffic::{
        bulk::{self, Bulk, Sends},
        ping::{self, Ping},
        request_response::{self, RequestResponse},
        udp_stream::{self, UdpStream},
    },
};

/// Over IPv4 echoes, a download, paced requests and a stream of datagrams; over IPv6 an upload.
pub(crate) fn mix(lab: &Lab) {
    let (family, interval) = (Family::V4, Duration::from_millis(20));
    let echoes = ping::run(lab, &Ping { count: 5, interval, ..Ping::default() }).unwrap();
    // On a busy machine ping does not wait for all of them.
    assert_eq!((echoes.sent, echoes.received > 0), (5, true));
    bulk::run(lab, &Bulk { bytes: 300_000, ..Bulk::default() }).unwrap();
    let upload = Bulk { family: Family::V6, sends: Sends::Client, port: 5_006, ..Bulk::default() };
    bulk::run(lab, &Bulk { bytes: 100_000, ..upload }).unwrap();
    let paced = RequestResponse { rounds: 20, interval, ..RequestResponse::default() };
    request_response::run(lab, &paced).unwrap();
    let stream = UdpStream { family, datagrams: 50, ..UdpStream::default() };
    udp_stream::run(lab, &stream).unwrap();
}

/// Only that mix: addresses resolve and groups are joined whenever they like.
pub(crate) const FILTER: &str =
    "(ip host 10.77.0.1 and ip host 10.77.0.2) or (tcp and ip6 host fd77::1 and ip6 host fd77::2)";

/// Whether a conversation is one of the mix.
pub(crate) fn is_mixed(conversation: &Conversation) -> bool {
    conversation.ends[0].0.is_ipv4() || conversation.protocol == "tcp"
}
