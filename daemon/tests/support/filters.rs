//! Filters and packets for the program that runs filters in the kernel, and the maps around it. Never attaches anything.

use captures::{Filter, Libpcap, LinkType, PacketReader, Snaplen, filter::Instruction};
use daemon::{
    live::{
        Object,
        filters::{Alternative, FilterSet, FiltersError, FiltersProgram, Slot, Trial, View},
    },
    offline,
};
use datapath::{
    Link,
    layout::{VIEW_BYTES_MAX, Views},
};
use std::{os::fd::BorrowedFd, path::Path};

use super::Random;

/// Bytes of a packet that both sides see.
const CUT: usize = 3_500;

/// Of Ethernet, all that pcap-filter(7) has: qualifiers, lengths, arithmetic, and the forms that use indirect loads,
/// header lengths and scratch words.
pub(crate) const EXPRESSIONS: &[&str] = &[
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
    "net 10.0.0.0/8 and not port 22",
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
    "tcp[4:4] & 0x80000000 != 0",
    "tcp[4:4] > 0x80000000",
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
    "ether host 00:00:00:00:00:00",
    "ether broadcast",
    "ether multicast or ip multicast or ip6 multicast",
    "ether proto 0x0800",
    "ether[12:2] > 0x600 and ether[0] & 1 = 0",
    "ether[len - 1] = 0",
    "ether[ether[14] & 0xf] > 7",
    "ether[3499] = 0 or ether[3496:4] = 1",
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

/// So many different compiled filters: the expressions, and then two of them joined at a time.
pub(crate) fn compiled(libpcap: &Libpcap, count: usize) -> Vec<Filter> {
    let mut random = Random(0x5151);
    let mut pick = || EXPRESSIONS[random.below(EXPRESSIONS.len() as u64) as usize];
    let compile = |text: &str| libpcap.compile(text, LinkType::ETHERNET, Snaplen::WHOLE);
    let mut filters: Vec<_> = EXPRESSIONS.iter().map(|text| compile(text).unwrap()).collect();
    while filters.len() < count {
        let (one, other) = (pick(), pick());
        // Some make no sense together, which libpcap says.
        let joined = [format!("({one}) and not ({other})"), format!("({one}) or ({other})")];
        filters.extend(joined.iter().filter_map(|text| compile(text).ok()));
    }
    filters.truncate(count);
    filters
}

/// Codes that the interpreter knows.
const CODES: [u16; 49] = [
    0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1, 0x00, 0x01, 0x80, 0x81, 0x60, 0x61, 0x02, 0x03, 0x04,
    0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x94,
    0x9c, 0xa4, 0xac, 0x84, 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x06, 0x16, 0x07,
    0x87,
];

/// A sound program of any instructions.
pub(crate) fn random_filter(random: &mut Random) -> Filter {
    let sound = |program: &[Instruction]| {
        let tail = [Instruction { code: 0x16, jt: 0, jf: 0, k: 0 }; 4];
        Filter::try_new("random", LinkType::ETHERNET, [program, &tail].concat())
    };
    let mut program = Vec::new();
    for _ in 0..4 + random.below(36) {
        program.push(random_instruction(random));
        if sound(&program).is_err() {
            program.pop();
        }
    }
    sound(&program).unwrap()
}

fn random_instruction(random: &mut Random) -> Instruction {
    let mut code = CODES[random.below(CODES.len() as u64) as usize];
    if matches!(code, 0x06 | 0x16) && random.below(4) > 0 {
        // Else most are over soon.
        code = 0x28;
    }
    let is_load = matches!(code, 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 | 0xb1);
    let k = match random.below(if is_load { 16 } else { 8 }) {
        0 => [0x7fff_ffff, 0x8000_0000, 0x8000_0001, u32::MAX][random.below(4) as usize],
        1 => [60, 1_000, 3_496, 3_499, 4_090, 4_095, 4_096, 4_097][random.below(8) as usize],
        2 => random.next() as u32,
        3 => [31, 32, 0x0800, 0x86dd, 17, 6][random.below(6) as usize],
        _ => random.below(54) as u32,
    };
    let skip = |random: &mut Random| random.below(4) as u8;
    let k = if code == 0x05 { u32::from(skip(random)) } else { k };
    let is_branch = code & 7 == 5 && code != 0x05;
    let [jt, jf] = if is_branch { [skip(random), skip(random)] } else { [0; 2] };
    Instruction { code, jt, jf, k }
}

/// One packet as both sides see it.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) original_len: u32,
    pub(crate) data: Vec<u8>,
}

impl Packet {
    pub(crate) fn new(original_len: u32, data: &[u8]) -> Self {
        Self { original_len, data: data[..data.len().min(CUT)].to_vec() }
    }
}

/// Up to `most` packets of a capture, from all over it.
pub(crate) fn packets(path: &Path, most: usize) -> Vec<Packet> {
    let mut packets = Vec::new();
    let Ok(mut reader) = PacketReader::open(path) else { return packets };
    // A damaged tail ends the file for both sides.
    while let Ok(Some(read)) = reader.next_packet() {
        if offline::link(read.link_type) == Link::Ethernet && !read.packet.data.is_empty() {
            packets.push(Packet::new(read.packet.original_len, &read.packet.data));
        }
    }
    let step = packets.len().div_ceil(most).max(1);
    packets.into_iter().step_by(step).collect()
}

/// The maps around a program. The thread that makes it stays on one CPU.
pub(crate) struct Stage(Trial);

impl Stage {
    pub(crate) fn new() -> Self {
        lab::processor::stay_on_one(0).unwrap();
        Self(Trial::new().unwrap())
    }

    pub(crate) fn next(&self) -> BorrowedFd<'_> {
        self.0.next()
    }

    pub(crate) fn try_load(
        &self,
        filters: &FilterSet,
        object: Object,
    ) -> Result<FiltersProgram, FiltersError> {
        self.0.load(filters, object)
    }

    pub(crate) fn load(&self, filters: &FilterSet, object: Object) -> FiltersProgram {
        self.try_load(filters, object).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn write(&self, views: &Views) {
        self.0.put(views).unwrap();
    }

    /// What the last run found.
    pub(crate) fn matched(&self) -> u64 {
        self.0.matched().unwrap()
    }

    /// Which of the wanted filters match.
    pub(crate) fn run(&self, program: &FiltersProgram, object: Object, views: &Views) -> u64 {
        self.write(views);
        let pass = if object == Object::Xdp { 2 } else { u32::MAX };
        assert_eq!(program.run(1).unwrap().returned, pass, "the filters pass every packet");
        self.matched()
    }
}

/// A packet of Ethernet without other views, for these filters.
pub(crate) fn views(packet: &Packet, wanted: u64) -> Box<Views> {
    let mut views = Box::<Views>::default();
    (views.wanted, views.original_len) = (wanted, packet.original_len);
    // What an earlier packet left there is not what this one gives.
    views.matched = 0x5555_5555_5555_5555;
    put(&mut views, View::Wire, 0, &packet.data);
    views
}

/// Makes these bytes a view.
pub(crate) fn put(views: &mut Views, view: View, at: usize, data: &[u8]) {
    assert!(data.len() <= VIEW_BYTES_MAX);
    views.at[view as usize] = at as u32;
    views.len[view as usize] = data.len() as u32;
    views.bytes[at..at + data.len()].copy_from_slice(data);
}

/// A filter on the frame as it is.
pub(crate) fn strict(filter: &Filter) -> Alternative {
    let instructions = filter.instructions().to_vec();
    Alternative { view: View::Wire, link: Link::Ethernet, instructions }
}

/// Slots 0, 1, ... with a filter each.
pub(crate) fn set_of(filters: &[Filter]) -> FilterSet {
    let mut set = FilterSet::default();
    for (slot, filter) in filters.iter().enumerate() {
        set.push(Slot::new(slot as u8).unwrap(), strict(filter));
    }
    set
}
