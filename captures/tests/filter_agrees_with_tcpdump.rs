//! Our interpreter and tcpdump choose the same packets, for many expressions over every file of
//! the corpus.
//! Never compares programs, only what they choose.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use captures::{Filter, Libpcap, LinkType, PacketReader, Snaplen};

/// Most of what pcap-filter(7) has: every qualifier that link types share, lengths, arithmetic,
/// and the forms that use indirect loads, header lengths and scratch words.
const EXPRESSIONS: &[&str] = &[
    "",
    "ip",
    "ip6",
    "arp or rarp",
    "tcp",
    "udp",
    "icmp or icmp6",
    "sctp",
    "ip proto 47",
    "ip6 proto 6",
    "proto 17",
    "not tcp and not udp",
    "host 192.168.1.1",
    "src host 10.0.0.1 or dst host 10.0.0.1",
    "net 10.0.0.0/8",
    "net 192.168.0.0 mask 255.255.0.0",
    "ip6 net fe80::/10",
    "src net 172.16.0.0/12 and not dst net 172.16.0.0/12",
    "port 80",
    "tcp port 443",
    "udp port 53 or tcp port 53",
    "src port 80",
    "dst portrange 1-1023",
    "tcp portrange 1024-65535",
    "portrange 6000-6008",
    "less 64",
    "greater 1000",
    "len > 100 and len <= 1514",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[tcpflags] == tcp-syn",
    "tcp[tcpflags] & tcp-push != 0 and tcp[14:2] > 1000",
    "tcp[13] & 7 != 0",
    "tcp[4:4] & 1 = 1",
    "(ip[2:2] - ((ip[0] & 0xf) << 2)) - ((tcp[12] & 0xf0) >> 2) != 0",
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
    "ip[0] & 0xf != 5",
    "ip[6:2] & 0x1fff != 0",
    "ip[8] < 64",
    "ip6[7] * 2 > 100",
    "ip[2:2] % 7 = 3",
    "ip[2:2] / 0x40 > 3",
    "ip[8] ^ 0xff > 100",
    "udp[4:2] > 100 and udp[0:2] | 1 = 53",
    "1 << (ip[0] & 0xf) = 32",
    "ip[4:2] / (ip[1] & 3) > 1000",
    "ip[4:2] % (ip[1] & 3) = 0",
    "tcp and not (port 22 or port 80) and (src net 10.0.0.0/8 or greater 200)",
];

/// What only Ethernet has.
const ETHERNET_EXPRESSIONS: &[&str] = &[
    "ether host 00:00:00:00:00:00",
    "ether broadcast",
    "ether multicast or ip multicast or ip6 multicast",
    "ether proto 0x0800",
    "ether[12:2] > 0x600 and ether[0] & 1 = 0",
    "ether[len - 1] = 0",
    "ether[ether[14] & 0xf] > 7",
    "vlan",
    "vlan 100",
    "vlan and ip",
    "vlan and vlan and tcp",
    "mpls",
    "mpls and ip",
    "pppoes",
    "pppoes and ip and tcp",
    "geneve",
    "geneve and tcp",
    "stp or llc",
];

/// One packet, as both sides keep it: its original length and its bytes. Times are compared with
/// tshark elsewhere; libpcap has others for odd files.
type Packet = (u32, Vec<u8>);

/// All packets of a file that `tcpdump -r` could read, which has one link type.
///
/// libpcap cuts packets that are longer than their file's snaplen; tshark and our reader do not.
fn packets(path: &Path) -> Option<(LinkType, Vec<Packet>)> {
    let mut reader = PacketReader::open(path).ok()?;
    let mut packets = Vec::new();
    let mut link_type = None;
    while let Some(read) = reader.next_packet().ok()? {
        if *link_type.get_or_insert(read.link_type) != read.link_type {
            return None;
        }
        packets.push((read.packet.original_len, read.packet.data.into_owned()));
    }
    let snaplen = reader.interfaces().first()?.snaplen as usize;
    if snaplen > 0 {
        packets.iter_mut().for_each(|(_, data)| data.truncate(snaplen));
    }
    Some((link_type?, packets))
}

/// What tcpdump chooses, or `None` where it refuses the expression or the file.
fn theirs(path: &Path, expression: &str) -> Option<Vec<Packet>> {
    let mut child = Command::new("tcpdump")
        .args(["-r", support::text(path), "-w", "-", expression])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut chosen = Vec::new();
    if let Ok(mut reader) = PacketReader::new(child.stdout.take()?) {
        while let Ok(Some(read)) = reader.next_packet() {
            chosen.push((read.packet.original_len, read.packet.data.into_owned()));
        }
    }
    child.wait().ok()?.success().then_some(chosen)
}

fn chosen_by<'p>(filter: &Filter, packets: &'p [Packet]) -> Vec<&'p Packet> {
    packets.iter().filter(|(len, data)| filter.matches(data, *len)).collect()
}

#[derive(Debug, Default)]
struct Comparison {
    compared: usize,
    /// Those that chose some packets and not others.
    telling: usize,
    differences: Vec<String>,
}

impl Comparison {
    fn file(&mut self, libpcap: &Libpcap, path: &Path) {
        let Some((link_type, packets)) = packets(path) else { return };
        if link_type == LinkType::NULL {
            // tcpdump looks for the address families of every system when it reads a file.
            return;
        }
        if theirs(path, "").is_none() {
            // libpcap reads no file with interfaces of different link types or snaplens.
            return;
        }
        let ethernet = if link_type == LinkType::ETHERNET { ETHERNET_EXPRESSIONS } else { &[] };
        for expression in EXPRESSIONS.iter().chain(ethernet) {
            let theirs = theirs(path, expression);
            let ours = libpcap.compile(expression, link_type, Snaplen::WHOLE);
            let difference = match (theirs, ours) {
                (Some(theirs), Ok(filter)) => {
                    let ours = chosen_by(&filter, &packets);
                    self.compared += 1;
                    self.telling += usize::from(!ours.is_empty() && ours.len() < packets.len());
                    let same = ours.iter().copied().eq(&theirs);
                    (!same).then(|| format!("{} here, {} there", ours.len(), theirs.len()))
                }
                (None, Err(_)) => None,
                (None, Ok(_)) => Some("refused there only".to_owned()),
                (Some(_), Err(error)) => Some(format!("refused here only: {error}")),
            };
            let told =
                difference.map(|what| format!("`{expression}` on {}: {what}", path.display()));
            self.differences.extend(told);
        }
    }
}

#[test]
fn every_expression_chooses_tcpdumps_packets_in_every_corpus_file() {
    let Some(files) = support::corpus() else { return };
    if !support::has_tool("tcpdump") {
        return;
    }
    let libpcap = match Libpcap::load() {
        Ok(libpcap) => libpcap,
        Err(error) => return support::skip(&error.to_string()),
    };
    // The time is tcpdump's start, so that two at once are twice as fast.
    let (front, back) = files.split_at(files.len() / 2);
    let compare = |files: &[PathBuf]| {
        let mut comparison = Comparison::default();
        files.iter().for_each(|path| comparison.file(&libpcap, path));
        comparison
    };
    let both = thread::scope(|scope| {
        let other = scope.spawn(|| compare(back));
        [compare(front), other.join().expect("comparing does not panic")]
    });
    support::note(&format!(
        "{} comparisons on {} files, {} of which chose some packets and not others",
        both.iter().map(|half| half.compared).sum::<usize>(),
        files.len(),
        both.iter().map(|half| half.telling).sum::<usize>(),
    ));
    let differences: Vec<_> = both.into_iter().flat_map(|half| half.differences).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
