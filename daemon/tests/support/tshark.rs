//! What tshark, which nobody here wrote, says about a capture: its frames, and the conversations they make. Must never
//! use linnet's own reader or parser.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

/// Both ends of a conversation, the smaller first; ports are 0 where the protocol has none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Conversation {
    pub(crate) protocol: String,
    pub(crate) ends: [(IpAddr, u16); 2],
}

impl Conversation {
    pub(crate) fn new(protocol: &str, a: (IpAddr, u16), b: (IpAddr, u16)) -> Self {
        Self { protocol: protocol.to_owned(), ends: [a.min(b), a.max(b)] }
    }
}

/// What a conversation holds, both ways together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) community_ids: BTreeSet<String>,
}

pub(crate) type Conversations = BTreeMap<Conversation, Counted>;

/// A capture as tshark dissects it.
#[derive(Debug, Default)]
pub(crate) struct Dissected {
    pub(crate) frames: u64,
    pub(crate) conversations: Conversations,
    /// Frames that are more than Ethernet, VLAN tags and one IP header, by the layer that is.
    pub(crate) layered: BTreeMap<String, u64>,
}

/// The protocols that are compared.
const COMPARED: [&str; 4] = ["tcp", "udp", "icmp", "icmpv6"];
const FIELDS: [&str; 12] = [
    "frame.protocols",
    "frame.len",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "communityid",
    "ipv6.plen",
];

/// Reads a file in one run, each fragment for itself. What tshark reads of a damaged file counts.
pub(crate) fn dissect(file: &Path) -> Dissected {
    let fragments = ["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"];
    let mut dissected = Dissected::default();
    for row in
        fields(file, &[&["--enable-protocol", "communityid"], &fragments[..]].concat(), &FIELDS)
    {
        dissected.frames += 1;
        let layers: Vec<&str> = row[0].split(':').collect();
        // Segmentation offload beyond 64 kB without a jumbo option, which tshark 4.0 does not follow.
        let endless = row[11] == "0" && !layers.contains(&"ipv6.hopopts");
        if let Some(layer) = endless.then_some("ipv6.plen 0").or_else(|| beyond_plain_ip(&layers)) {
            *dissected.layered.entry(layer.to_owned()).or_default() += 1;
        }
        if let Some(conversation) = conversation(&layers, &row) {
            let counted = dissected.conversations.entry(conversation).or_default();
            counted.packets += 1;
            counted.bytes += row[1].parse::<u64>().unwrap();
            counted.community_ids.extend((!row[10].is_empty()).then(|| row[10].clone()));
        }
    }
    dissected
}

/// The first occurrence of each field, for each frame.
pub(crate) fn fields(file: &Path, options: &[&str], names: &[&str]) -> Vec<Vec<String>> {
    let output = run(file, options, names);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.split('\t').map(ToOwned::to_owned).collect::<Vec<_>>())
        .inspect(|row| assert_eq!(row.len(), names.len(), "tshark's line `{row:?}`"))
        .collect()
}

/// The bytes of each frame as hexadecimal digits, in the file's order.
pub(crate) fn frames(file: &Path) -> Vec<String> {
    let output = Command::new("tshark")
        .args(["-n", "-T", "jsonraw", "-j", "frame", "-r"])
        .arg(file)
        .output()
        .expect("tshark is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = |frame: &Value| frame["_source"]["layers"]["frame_raw"][0].as_str().unwrap().into();
    list.as_array().unwrap().iter().map(bytes).collect()
}

/// The same frames, byte for byte and as often. Two CPUs may hand frames to two observers in another order.
pub(crate) fn assert_same_frames(ours: &Path, theirs: &Path) {
    let counted = |file| {
        let mut times = BTreeMap::<String, u32>::new();
        for frame in frames(file) {
            *times.entry(frame).or_default() += 1;
        }
        times
    };
    let (ours, theirs) = (counted(ours), counted(theirs));
    let frames = |times: &BTreeMap<String, u32>| times.values().sum::<u32>();
    assert_eq!(frames(&ours), frames(&theirs), "frames");
    let differs = |(frame, times): &(&String, &u32)| ours.get(*frame) != Some(times);
    assert_eq!(theirs.iter().find(differs), None, "a frame that linnet has not as often");
}

fn run(file: &Path, options: &[&str], names: &[&str]) -> Output {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-r"]).arg(file).args(options).args(["-T", "fields", "-E", "occurrence=f"]);
    tshark.args(names.iter().flat_map(|name| ["-e", name])).stdin(Stdio::null());
    tshark.output().expect("tshark is installed")
}

/// The layer that makes a frame more than plain IP; none for frames without IP, which make no conversation.
fn beyond_plain_ip<'a>(layers: &[&'a str]) -> Option<&'a str> {
    const LINK: [&str; 6] = ["eth", "ethertype", "vlan", "ieee8021ad", "raw", "null"];
    const EXTENSIONS: [&str; 4] = ["ipv6.hopopts", "ipv6.dstopts", "ipv6.routing", "ipv6.fraghdr"];
    let is_ip = |layer: &&str| matches!(*layer, "ip" | "ipv6");
    let ip = layers.iter().position(is_ip)?;
    if let Some(link) = layers[..ip].iter().find(|layer| !LINK.contains(layer)) {
        return Some(link);
    }
    let above = &layers[ip + 1..];
    let transport = above.iter().position(|layer| !EXTENSIONS.contains(layer))?;
    if above[transport].starts_with("icmp") {
        // What it quotes is no packet of its own.
        return None;
    }
    let inner = above.iter().position(|layer| is_ip(layer) || *layer == "eth")?;
    // What carries the inner packet: the layer before it that is no ethertype.
    above[..=inner]
        .iter()
        .rev()
        .skip(1)
        .find(|layer| **layer != "ethertype")
        .or(Some(&above[inner]))
        .copied()
}

/// The outermost conversation of a frame.
fn conversation(layers: &[&str], row: &[String]) -> Option<Conversation> {
    let ip = layers.iter().position(|layer| matches!(*layer, "ip" | "ipv6"))?;
    let (source, destination) =
        if layers[ip] == "ip" { (&row[2], &row[3]) } else { (&row[4], &row[5]) };
    let protocol = layers[ip..].iter().find(|layer| COMPARED.contains(layer))?;
    let (from, to) = match *protocol {
        "tcp" => (row[6].parse().ok()?, row[7].parse().ok()?),
        "udp" => (row[8].parse().ok()?, row[9].parse().ok()?),
        _ => (0, 0),
    };
    let address = |text: &String| text.parse::<IpAddr>().unwrap();
    Some(Conversation::new(protocol, (address(source), from), (address(destination), to)))
}

/// linnet's rows as conversations: rolled up over VLANs, observation points, lives of a port pair and ICMP queries.
pub(crate) fn rolled_up(flows: &[Value]) -> Conversations {
    let mut conversations = Conversations::new();
    for flow in flows {
        let protocol = flow["protocol"].as_str().unwrap();
        if !COMPARED.contains(&protocol) {
            continue;
        }
        let end = |side: &str| {
            let address = flow[side]["address"].as_str().unwrap().parse().unwrap();
            (address, u16::try_from(flow[side]["port"].as_u64().unwrap()).unwrap())
        };
        let key = Conversation::new(protocol, end("originator"), end("responder"));
        let counted = conversations.entry(key).or_default();
        for half in ["from_originator", "from_responder"] {
            counted.packets += flow[half]["packets"].as_u64().unwrap();
            counted.bytes += flow[half]["bytes"].as_u64().unwrap();
        }
        counted.community_ids.insert(flow["community_id"].as_str().unwrap().to_owned());
    }
    conversations
}

/// Where two accounts differ: one line for each conversation, the first account's figures first.
pub(crate) fn differences(ours: &Conversations, theirs: &Conversations) -> Vec<String> {
    let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    keys.into_iter()
        .filter(|key| ours.get(key) != theirs.get(key))
        .map(|key| {
            let [a, b] = key.ends;
            format!("{} {a:?} {b:?}: {:?} and {:?}", key.protocol, ours.get(key), theirs.get(key))
        })
        .collect()
}
