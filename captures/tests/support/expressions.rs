//! Filter expressions by the hundred: pcap-filter(7)'s examples and keywords, and a grammar that draws others.
//! Never says what they choose.

/// The examples of pcap-filter(7) and tcpdump(1); names in them are addresses here, since nobody resolves them.
const EXAMPLES: &[&str] = &[
    "host 127.0.0.1",
    "host 10.0.0.1 and (192.168.1.1 or 192.168.0.1)",
    "ip host 10.0.0.1 and not 192.168.1.1",
    "net 128.3",
    "ip and not net 192.168",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and not src and dst net 192.168",
    "tcp[tcpflags] & (tcp-rst|tcp-ack) == (tcp-rst|tcp-ack)",
    "tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)",
    "ip[2:2] > 576",
    "ether[0] & 1 = 0 and ip[16] >= 224",
    "icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply",
    "icmp6[icmp6type] != icmp6-echo and icmp6[icmp6type] != icmp6-echoreply",
    "not host 10.0.0.1 and 192.168.1.1",
    "not (host 10.0.0.1 or 192.168.1.1)",
    "tcp dst port ftp or ftp-data or domain",
    "tcp dst port ftp or tcp dst port ftp-data or tcp dst port domain",
    "vlan 100 && vlan 200",
    "vlan && vlan 300 && ip",
    "mpls 100000 && mpls 1024",
    "mpls && mpls 1024 && host 192.9.200.1",
    "pppoes 0x27 && ip",
    "geneve 0xb && ip",
    "ether proto \\ip and host 10.0.0.1",
    "src or dst port 53",
    "src and dst port 53",
    "port ftp-data",
    "portrange 6000-6008",
    "udp portrange 7000-7009",
    "arp net 128.3",
    "ether[0] & 1 != 0",
    "ip[0] & 0xf != 5",
    "ip[6:2] & 0x1fff = 0",
    "tcp[13] == 2",
    "tcp[13] & 2 == 2",
    "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
    "gateway 10.0.0.1 and ip[2:2] > 576",
];

/// Every keyword of pcap-filter(7) that stands alone, on any link type; what libpcap refuses for one, tcpdump refuses too.
const KEYWORDS: &[&str] = &[
    "ip",
    "ip6",
    "arp",
    "rarp",
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "icmp6",
    "igmp",
    "igrp",
    "pim",
    "ah",
    "esp",
    "vrrp",
    "carp",
    "atalk",
    "aarp",
    "decnet",
    "lat",
    "sca",
    "moprc",
    "mopdl",
    "iso",
    "clnp",
    "esis",
    "isis",
    "l1",
    "l2",
    "iih",
    "lsp",
    "snp",
    "csnp",
    "psnp",
    "stp",
    "ipx",
    "netbeui",
    "broadcast",
    "multicast",
    "ether broadcast",
    "ether multicast",
    "ip broadcast",
    "ip multicast",
    "ip6 multicast",
    "vlan",
    "mpls",
    "pppoed",
    "pppoes",
    "geneve",
    "llc",
    "llc i",
    "llc s",
    "llc u",
    "llc rr",
    "llc ui",
    "llc xid",
    "inbound",
    "outbound",
    "ifname eth0",
    "rulenum 1",
    "lane",
    "oam",
    "oamf4",
    "oamf4s",
    "oamf4e",
    "metac",
    "bcc",
    "sc",
    "ilmic",
    "connectmsg",
    "metaconnect",
    "vpi 1",
    "vci 1",
    "fisu",
    "lssu",
    "msu",
    "hfisu",
    "opc 1",
    "dpc 1",
    "sls 1",
    "sio 1",
    "type mgt",
    "subtype beacon",
    "dir tods",
    "wlan addr1 00:11:22:33:44:55",
    "ra 00:11:22:33:44:55",
    "less 100",
    "greater 100",
    "len < 100",
    "proto 6",
    "proto \\tcp",
    "proto \\icmp",
    "ip proto \\igmp",
    "ip6 proto \\udp",
    "ip proto \\sctp",
    "proto \\esp",
    "ip6 proto 58",
    "ip6 proto ipv6-icmp",
    "ip proto 4",
    "ip proto 41",
    "ip6 proto 41",
    "proto gre",
    "ip proto gre",
    "iso proto \\clnp",
    "ether proto \\arp",
    "ether proto \\ip6",
    "ether proto loopback",
    "ether proto \\stp",
    "ether proto \\ipx",
    "ether proto \\atalk",
    "ether proto 0x8847",
    "ether proto 0x88a8",
    "link proto 0x806",
    "fddi proto \\ip",
    "tr proto \\ip",
    "wlan proto \\ip",
    "ppp proto 0x21",
    "slip proto 1",
    "decnet host 1.2",
    "decnet src 1.2",
    "ether host 00:00:00:00:00:00",
    "ether src 00:00:00:00:00:00",
    "ether dst ff:ff:ff:ff:ff:ff",
    "fddi host 00:11:22:33:44:55",
    "tr host 00:11:22:33:44:55",
    "wlan host 00:11:22:33:44:55",
    "ether host 0011.2233.4455",
    "ether host 00-11-22-33-44-55",
    "host ::1",
    "ip6 host fe80::1",
    "ip6 src net fe80::/10",
    "dst net ff02::/16",
    "src net 10",
    "dst net 10.1",
    "net 10.1.2",
    "net 10.0.0.0 mask 255.0.0.0",
    "src net 10.0.0.0/8",
    "rarp host 10.0.0.1",
    "arp host 10.0.0.1",
    "arp src 10.0.0.1",
    "ip src 10.0.0.1",
    "src host 10.0.0.1",
    "dst host 10.0.0.1",
    "sctp port 80",
    "sctp src portrange 1-9",
    "tcp src port http",
    "udp dst port domain",
    "port https",
    "tcp portrange 0-65535",
    "vlan 0",
    "vlan 4095",
    "mpls 0",
    "mpls 1048575",
    "pppoes 1",
    "geneve 1",
    "vxlan",
    "vxlan 1",
    "ip protochain 6",
    "arp[6:2] = 1",
    "arp[7] = 2",
    "rarp[7] = 3",
    "icmp[0] = 8",
    "icmp[icmpcode] = 1",
    "icmp6[0] = 135",
    "icmp6[icmp6code] = 0",
    "igmp[0] > 0x10",
    "pim[0] > 0",
    "vrrp[0] > 0",
    "carp[0] > 0",
    "igrp[0] > 0",
    "sctp[12] = 1",
    "ip6[6] = 17",
    "ip6[40] > 0",
    "atalk[0] = 0",
    "aarp[0] = 0",
    "decnet[0] = 0",
    "lat[0] = 0",
    "moprc[0] = 0",
    "sca[0] = 0",
    "link[0] & 1 = 1",
    "ppp[0] > 1",
    "radio[0] = 0",
    "ether[12:2] <= 1500",
    "tcp[tcpflags] & tcp-urg != 0",
    "tcp[tcpflags] & tcp-ece != 0",
    "tcp[tcpflags] & tcp-cwr != 0",
    "tcp[tcpflags] == tcp-syn|tcp-ack",
    "tcp[tcpflags] & tcp-push != 0",
    "not tcp",
    "!tcp",
    "tcp || udp",
    "tcp && ip",
    "tcp and not udp and not icmp",
    "(tcp)",
    "not (not tcp)",
    "1 = 1",
    "1 = 2",
    "len = len",
    "ip[0] + 1 > ip[1]",
    "ip[8] * 2 > 100",
    "ip[8] / 2 > 30",
    "ip[8] % 3 = 0",
    "ip[8] ^ 0xff > 100",
    "ip[8] | 1 = 65",
    "ip[8] & 1 = 0",
    "ip[8] << 1 > 100",
    "ip[8] >> 1 > 30",
    "-1 = 0xffffffff",
    "ip[2:2] - 20 > 0",
    "ip[12:4] = 0x0a000001",
    "ip[8] != 64",
    "ip[8] >= 64",
    "ip[8] <= 64",
];

/// Numbers that are the same in every run (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// What the packets at hand have, so that what is drawn chooses some of them.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) hosts: Vec<String>,
    pub(crate) ports: Vec<u16>,
}

/// All examples and keywords, and `drawn` expressions by the grammar.
pub(crate) fn expressions(pool: &Pool, drawn: usize) -> Vec<String> {
    let mut all: Vec<String> =
        EXAMPLES.iter().chain(KEYWORDS).map(|&text| text.to_owned()).collect();
    let mut dice = Dice(20_240_229);
    all.extend((0..drawn).map(|_| expression(&mut dice, pool, 2)));
    all
}

fn expression(dice: &mut Dice, pool: &Pool, depth: usize) -> String {
    if depth == 0 {
        return primitive(dice, pool);
    }
    let next = depth - 1;
    match dice.below(6) {
        0 => format!("not {}", primitive(dice, pool)),
        1 => format!("not ({})", expression(dice, pool, next)),
        2 | 3 => {
            let joint = dice.one(&["and", "or", "&&", "||", "and not", "or not"]);
            let left = expression(dice, pool, next);
            format!("{left} {joint} {}", expression(dice, pool, next))
        }
        4 => {
            let joint = dice.one(&["and", "or"]);
            let left = primitive(dice, pool);
            format!("{left} {joint} ({})", expression(dice, pool, next))
        }
        _ => primitive(dice, pool),
    }
}

fn primitive(dice: &mut Dice, pool: &Pool) -> String {
    let host = pool.hosts[dice.below(pool.hosts.len())].clone();
    let port = pool.ports[dice.below(pool.ports.len())];
    let way = dice.one(&["", "src ", "dst ", "src or dst ", "src and dst "]);
    match dice.below(16) {
        0..=2 => format!("{way}host {host}"),
        3 => format!("{} {way}port {port}", dice.one(&["tcp", "udp", "sctp"])),
        4 | 5 => format!("{way}port {port}"),
        6 => format!("{way}portrange {port}-{}", port.saturating_add(100)),
        7 if !host.contains(':') => {
            let bits = 8 * (1 + dice.below(3));
            let octets: Vec<_> = host.split('.').take(bits / 8).collect();
            format!("{way}net {}/{bits}", octets.join("."))
        }
        7 => format!("{way}net {host}/128"),
        8 => dice.one(&["tcp", "udp", "icmp", "icmp6", "ip", "ip6", "arp", "sctp"]).to_owned(),
        9 => format!("{} {}", dice.one(&["less", "greater"]), 40 + dice.below(1400)),
        10 => format!(
            "{} proto {}",
            dice.one(&["ip", "ip6"]),
            dice.one(&["6", "17", "1", "58", "50"])
        ),
        11 => comparison(dice),
        12 => dice
            .one(&[
                "vlan",
                "mpls",
                "pppoes",
                "geneve",
                "ip proto 47",
                "ip proto 41",
                "udp port 4789",
                "llc",
                "ether proto 0x800",
            ])
            .to_owned(),
        13 => dice
            .one(&["ether broadcast", "ether multicast", "ip multicast", "ip6 multicast"])
            .to_owned(),
        14 => format!("len {} {}", dice.one(&["<", ">", ">=", "!="]), 40 + dice.below(200)),
        _ => format!(
            "tcp[tcpflags] & ({}|{}) != 0",
            dice.one(&["tcp-syn", "tcp-fin"]),
            dice.one(&["tcp-rst", "tcp-push"])
        ),
    }
}

/// Arithmetic on what packets hold.
fn comparison(dice: &mut Dice) -> String {
    let field = |dice: &mut Dice| {
        let base = dice.one(&["ip", "tcp", "udp", "ip6", "icmp", "ip", "tcp"]);
        let size = dice.one(&["", ":2", ":4"]);
        format!("{base}[{}{size}]", dice.below(20))
    };
    let left = field(dice);
    let operator = dice.one(&["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"]);
    let right = if dice.below(3) == 0 { field(dice) } else { (1 + dice.below(31)).to_string() };
    let relation = dice.one(&["=", "!=", "<", ">", "<=", ">="]);
    format!("{left} {operator} {right} {relation} {}", dice.below(256))
}
