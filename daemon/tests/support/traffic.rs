//! A short mix of real traffic through a lab. Never more than a few seconds of it.

use std::time::Duration;

use lab::{
    Family, Lab,
    traffic::{
        bulk::{self, Bulk},
        ping::{self, Ping},
        request_response::{self, RequestResponse},
        udp_stream::{self, UdpStream},
    },
};

/// Echoes, a download, paced requests and a stream of datagrams, all over IPv4.
pub(crate) fn mix(lab: &Lab) {
    let (family, interval) = (Family::V4, Duration::from_millis(20));
    let echoes = ping::run(lab, &Ping { count: 5, interval, ..Ping::default() }).unwrap();
    // On a busy machine ping does not wait for all of them.
    assert_eq!((echoes.sent, echoes.received > 0), (5, true));
    bulk::run(lab, &Bulk { bytes: 300_000, ..Bulk::default() }).unwrap();
    let paced = RequestResponse { rounds: 20, interval, ..RequestResponse::default() };
    request_response::run(lab, &paced).unwrap();
    let stream = UdpStream { family, datagrams: 50, ..UdpStream::default() };
    udp_stream::run(lab, &stream).unwrap();
}

/// Only what goes between the lab's two ends over IPv4: addresses resolve whenever they like.
pub(crate) const FILTER: &str = "ip host 10.77.0.1 and ip host 10.77.0.2";
