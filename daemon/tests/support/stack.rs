//! What the kernel's own stack knows of many connections at once: `ss` at an end, conntrack, and the counters of an
//! interface. Must never take a figure from linnet.

use std::{collections::BTreeMap, fs};

use lab::Namespace;
use serde_json::Value;

/// The figures of one end of a connection, as `ss -ti` prints them: `name:value`.
#[derive(Debug)]
pub(crate) struct Socket(String);

impl Socket {
    /// 0 where it prints none.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        let value = |word: &str| word.strip_prefix(name)?.strip_prefix(':').map(ToOwned::to_owned);
        let value = self.0.split_whitespace().find_map(value).unwrap_or_else(|| "0".to_owned());
        // `retrans:1/17` is what is out, and all there ever were.
        value.rsplit('/').next().unwrap().parse().unwrap()
    }

    /// Whether the other end has everything, the SYN among it where this end sent one.
    pub(crate) fn is_acknowledged(&self) -> bool {
        let sent = self.figure("bytes_sent") - self.figure("bytes_retrans");
        self.figure("bytes_acked") >= sent && self.figure("unacked") == 0
    }
}

/// Every established connection of a server's port at one end, by the client's port.
pub(crate) fn sockets(namespace: &Namespace, port: u16) -> BTreeMap<u64, Socket> {
    let only = format!("sport = :{port} or dport = :{port}");
    let output = namespace.command("ss").args(["-tinHO", &only]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let port_of = |address: &str| address.rsplit(':').next()?.parse().ok();
    text.lines()
        .map(|line| {
            let ends = line.split_whitespace().filter(|word| word.contains(':')).take(2);
            let ports: Vec<u64> = ends.filter_map(port_of).collect();
            let client = *ports.iter().find(|end| **end != u64::from(port)).unwrap();
            (client, Socket(line.to_owned()))
        })
        .collect()
}

/// One connection of conntrack: its state, and packets and bytes of each way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tracked {
    pub(crate) state: String,
    pub(crate) original: (u64, u64),
    pub(crate) reply: (u64, u64),
}

/// Turns connection tracking with counters on. Closed connections are kept for as long as a test may need them.
pub(crate) fn track(namespace: &Namespace) {
    let settings = [("nf_conntrack_acct", "1"), ("nf_conntrack_tcp_timeout_close", "600")];
    for (name, value) in settings {
        let path = format!("/proc/sys/net/netfilter/{name}");
        namespace.run(|| fs::write(path, value)).unwrap().unwrap();
    }
    let rules = "table inet watch { chain in { type filter hook input priority 0; ct state invalid counter; }; }";
    assert!(namespace.command("nft").arg(rules).status().unwrap().success());
}

/// Every TCP connection that conntrack has to a server's port, by the client's port.
pub(crate) fn tracked(namespace: &Namespace, port: u16) -> BTreeMap<u64, Tracked> {
    let mut conntrack = namespace.command("conntrack");
    conntrack.args(["-L", "-o", "extended", "-f", "ipv4", "-p", "tcp"]);
    let output = conntrack.args(["--orig-port-dst", &port.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(parse_tracked).collect()
}

/// `ipv4 2 tcp 6 299 ESTABLISHED src=.. dst=.. sport=.. dport=.. packets=.. bytes=.. src=.. ..`.
fn parse_tracked(line: &str) -> (u64, Tracked) {
    let words: Vec<_> = line.split_whitespace().collect();
    let values = |name: &str| {
        let value = |word: &&str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        words.iter().filter_map(value).collect::<Vec<u64>>()
    };
    let (ports, packets, bytes) = (values("sport"), values("packets"), values("bytes"));
    let tracked = Tracked {
        state: words[5].to_owned(),
        original: (packets[0], bytes[0]),
        reply: (packets[1], bytes[1]),
    };
    (ports[0], tracked)
}

/// What an interface has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) rx_packets: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) rx_dropped: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_dropped: u64,
}

impl Counted {
    pub(crate) fn by(namespace: &Namespace, interface: &str) -> Self {
        let show = ["-j", "-s", "link", "show", "dev", interface];
        let output = namespace.command("ip").args(show).output().unwrap();
        let links: Value = serde_json::from_slice(&output.stdout).unwrap();
        let figure = |way: &str, name: &str| links[0]["stats64"][way][name].as_u64().unwrap();
        Self {
            rx_packets: figure("rx", "packets"),
            rx_bytes: figure("rx", "bytes"),
            rx_dropped: figure("rx", "dropped"),
            tx_packets: figure("tx", "packets"),
            tx_bytes: figure("tx", "bytes"),
            tx_dropped: figure("tx", "dropped"),
        }
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            rx_packets: self.rx_packets - before.rx_packets,
            rx_bytes: self.rx_bytes - before.rx_bytes,
            rx_dropped: self.rx_dropped - before.rx_dropped,
            tx_packets: self.tx_packets - before.tx_packets,
            tx_bytes: self.tx_bytes - before.tx_bytes,
            tx_dropped: self.tx_dropped - before.tx_dropped,
        }
    }
}
