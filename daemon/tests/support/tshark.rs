//! What tshark, which nobody here wrote, says about a capture: its frames, and the conversations they make. Must never
//! use linnet's own reader or parser.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
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
    /// Those of every level: a packet inside of another one counts with the whole frame's bytes, as does the outer one.
    pub(crate) conversations: Conversations,
    /// Frames that tshark 4.0 does not follow: beyond 64 kB by segmentation offload, without a jumbo option.
    pub(crate) beyond_tshark: u64,
}

/// The protocols that are compared.
const COMPARED: [&str; 4] = ["tcp", "udp", "icmp", "icmpv6"];
/// Of each frame; a field that occurs at several levels has a value for each.
const FIELDS: [&str; 20] = [
    "frame.protocols",
    "frame.len",
    "communityid",
    "ipv6.plen",
    "ip.src",
    "ip.dst",
    "ip.proto",
    "ip.id",
    "ip.frag_offset",
    "ip.flags.mf",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.fraghdr.nxt",
    "ipv6.fraghdr.ident",
    "ipv6.fraghdr.offset",
    "ipv6.fraghdr.more",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
];

/// Reads a file in one run, each fragment for itself. What tshark reads of a damaged file counts.
pub(crate) fn dissect(file: &Path) -> Dissected {
    let options = [
        ["--enable-protocol", "communityid"],
        ["-o", "ip.defragment:FALSE"],
        ["-o", "ipv6.defragment:FALSE"],
    ];
    let mut dissected = Dissected::default();
    let mut first_fragments = FirstFragments::new();
    for row in rows(file, &options.concat(), "a", &FIELDS) {
        dissected.frames += 1;
        let frame = Levels::new(&row).conversations(&mut first_fragments);
        let endless = row[3].split(',').any(|length| length == "0") && !row[0].contains("hopopts");
        dissected.beyond_tshark += u64::from(endless);
        let innermost = frame.len();
        for (level, (conversation, is_later_fragment)) in (1..).zip(frame) {
            let counted = dissected.conversations.entry(conversation).or_default();
            counted.packets += 1;
            counted.bytes += row[1].parse::<u64>().unwrap();
            // tshark prints one, the innermost's; for a fragment without its ports.
            if level == innermost && !is_later_fragment && !row[2].is_empty() {
                counted.community_ids.insert(row[2].clone());
            }
        }
    }
    dissected
}

/// Conversations of first fragments, by addresses, protocol and identification: only they have the ports.
type FirstFragments = BTreeMap<[String; 4], Conversation>;

/// One frame's fields, taken level by level in the order of its layers.
struct Levels<'a> {
    layers: Vec<&'a str>,
    fields: BTreeMap<&'static str, VecDeque<&'a str>>,
}

impl<'a> Levels<'a> {
    fn new(row: &'a [String]) -> Self {
        let values = |text: &'a String| text.split(',').collect();
        Self {
            layers: row[0].split(':').collect(),
            fields: FIELDS.iter().copied().zip(row.iter().map(values)).collect(),
        }
    }

    /// The next level's value of a field.
    fn next(&mut self, field: &str) -> &'a str {
        self.fields.get_mut(field).and_then(VecDeque::pop_front).unwrap_or_default()
    }

    /// From the outside in; with whether it is known from a first fragment alone. What an ICMP message quotes is no
    /// packet of its own.
    fn conversations(mut self, first: &mut FirstFragments) -> Vec<(Conversation, bool)> {
        let mut found = Vec::new();
        let mut network: Option<Network> = None;
        for layer in std::mem::take(&mut self.layers) {
            match layer {
                "ip" => {
                    let [source, destination, protocol, identification] =
                        ["ip.src", "ip.dst", "ip.proto", "ip.id"]
                            .map(|field| self.next(field).to_owned());
                    let fragment = ["ip.frag_offset", "ip.flags.mf"].map(|field| self.next(field));
                    network = Network::new(&source, &destination).map(|network| Network {
                        key: [source, destination, protocol, identification],
                        fragment: Fragment::new(fragment),
                        ..network
                    });
                }
                "ipv6" => {
                    let [source, destination] =
                        ["ipv6.src", "ipv6.dst"].map(|field| self.next(field).to_owned());
                    network = Network::new(&source, &destination);
                }
                "ipv6.fraghdr" => {
                    let [protocol, identification] = ["ipv6.fraghdr.nxt", "ipv6.fraghdr.ident"]
                        .map(|field| self.next(field).to_owned());
                    let fragment =
                        ["ipv6.fraghdr.offset", "ipv6.fraghdr.more"].map(|field| self.next(field));
                    let Some(of) = &mut network else { continue };
                    let [source, destination] = of.ends.map(|end| end.to_string());
                    of.key = [source, destination, protocol, identification];
                    of.fragment = Fragment::new(fragment);
                }
                transport if COMPARED.contains(&transport) => {
                    let is_icmp = transport.starts_with("icmp");
                    let ports = match transport {
                        "tcp" => ["tcp.srcport", "tcp.dstport"].map(|field| self.next(field)),
                        "udp" => ["udp.srcport", "udp.dstport"].map(|field| self.next(field)),
                        _ => ["0"; 2],
                    };
                    let [Ok(from), Ok(to)] = ports.map(str::parse) else { continue };
                    let Some(of) = network.take() else { continue };
                    let [source, destination] = of.ends;
                    let conversation =
                        Conversation::new(transport, (source, from), (destination, to));
                    if of.fragment == Fragment::First {
                        first.insert(of.key, conversation.clone());
                    }
                    found.push((conversation, false));
                    if is_icmp {
                        break;
                    }
                }
                _ => {}
            }
            if let Some(of) = network.take_if(|of| of.fragment == Fragment::Later) {
                found.extend(first.get(&of.key).map(|conversation| (conversation.clone(), true)));
                break;
            }
        }
        found
    }
}

/// One IP header.
struct Network {
    ends: [IpAddr; 2],
    key: [String; 4],
    fragment: Fragment,
}

impl Network {
    fn new(source: &str, destination: &str) -> Option<Self> {
        let ends = [source.parse().ok()?, destination.parse().ok()?];
        Some(Self { ends, key: Default::default(), fragment: Fragment::Whole })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fragment {
    Whole,
    First,
    Later,
}

impl Fragment {
    /// From offset and whether more follow, as tshark prints them.
    fn new([offset, more]: [&str; 2]) -> Self {
        match (offset, more) {
            ("0", "1" | "True") => Self::First,
            ("0", _) => Self::Whole,
            _ => Self::Later,
        }
    }
}

/// Each class of `tcp.analysis.*`, and the letter that stands for it.
pub(crate) const CLASSES: [(&str, char); 15] = [
    ("retransmission", 'R'),
    ("fast_retransmission", 'F'),
    ("spurious_retransmission", 'S'),
    ("out_of_order", 'O'),
    ("duplicate_ack", 'D'),
    ("lost_segment", 'L'),
    ("ack_lost_segment", 'A'),
    ("keep_alive", 'K'),
    ("keep_alive_ack", 'k'),
    ("zero_window", 'Z'),
    ("zero_window_probe", 'P'),
    ("zero_window_probe_ack", 'p'),
    ("window_update", 'W'),
    ("window_full", 'U'),
    ("reused_ports", 'N'),
];

/// Letters by frame.
pub(crate) type Letters = BTreeMap<u64, BTreeSet<char>>;

/// The frames that tshark flags. What is fast or spurious it prints as a plain retransmission as well.
pub(crate) fn flagged(file: &Path) -> Letters {
    let names: Vec<_> = CLASSES.iter().map(|(name, _)| format!("tcp.analysis.{name}")).collect();
    let names: Vec<_> =
        ["frame.number"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let options = ["-o", "tcp.check_checksum:TRUE", "-Y", "tcp.analysis.flags"];
    let mut flagged = Letters::new();
    for row in fields(file, &options, &names) {
        let set = CLASSES.iter().zip(&row[1..]).filter(|(_, value)| !value.is_empty());
        let mut letters: BTreeSet<_> = set.map(|((_, letter), _)| *letter).collect();
        if letters.contains(&'F') || letters.contains(&'S') {
            letters.remove(&'R');
        }
        // The field is also there for a flag that is no class of its own.
        if !letters.is_empty() {
            flagged.insert(row[0].parse().unwrap(), letters);
        }
    }
    flagged
}

/// tshark's version as its first two numbers: `4.0`.
pub(crate) fn release() -> String {
    let output = Command::new("tshark").arg("--version").output().expect("tshark is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version =
        text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    version.map(|version| version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")).unwrap()
}

/// The first occurrence of each field, for each frame.
pub(crate) fn fields(file: &Path, options: &[&str], names: &[&str]) -> Vec<Vec<String>> {
    rows(file, options, "f", names)
}

/// The first occurrence (`f`) of each field, or all of them (`a`).
pub(crate) fn rows(
    file: &Path,
    options: &[&str],
    occurrence: &str,
    names: &[&str],
) -> Vec<Vec<String>> {
    let output = run(file, options, occurrence, names);
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

fn run(file: &Path, options: &[&str], occurrence: &str, names: &[&str]) -> Output {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-r"]).arg(file).args(options).args(["-T", "fields", "-E"]);
    tshark.arg(format!("occurrence={occurrence}"));
    tshark.args(names.iter().flat_map(|name| ["-e", name])).stdin(Stdio::null());
    tshark.output().expect("tshark is installed")
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

/// Where two accounts differ: one line for each conversation, the first account's figures first. tshark names the
/// Community IDs of innermost packets alone.
pub(crate) fn differences(ours: &Conversations, theirs: &Conversations) -> Vec<String> {
    let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let equal = |key: &&Conversation| match (ours.get(key), theirs.get(key)) {
        (Some(ours), Some(theirs)) => {
            (ours.packets, ours.bytes) == (theirs.packets, theirs.bytes)
                && ours.community_ids.is_superset(&theirs.community_ids)
        }
        _ => false,
    };
    keys.into_iter()
        .filter(|key| !equal(key))
        .map(|key| {
            let [a, b] = key.ends;
            format!("{} {a:?} {b:?}: {:?} and {:?}", key.protocol, ours.get(key), theirs.get(key))
        })
        .collect()
}
