//! Captures with linnet's verdicts in comments: on each packet the fields that tshark itself sets when it reads that very
//! file, and files that everybody's tools read, and keep the comments of. Must never take a difference for granted: each
//! one that may be is in [`EXCEPTED`].
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use captures::{
    PacketReader,
    format::{
        annotate::Annotator,
        pcapng::{self, SectionHeader},
    },
};
use daemon::verdict_comments::VerdictComments;
use lab::{
    CLIENT_INTERFACE, Lab, Loss, Plan, Reorder,
    traffic::bulk::{self, Bulk},
};
use serde_json::{Value, json};
use support::{
    linnet::Linnet,
    packets::packets,
    served::{Daemon, wait_until},
    tools::{assert_read_by_tools, assert_silent, download, files, interrupt, linnet, said},
    tshark,
};

const CAPTURES: &str = "/api/v1/captures";
const COMMENT: &str = "verdicts=comment";

/// Captures in which frames may differ, how many, and why, by the last part of their name. Each reason is in docs/tcp.md,
/// where linnet's flows are not tshark's streams.
const EXCEPTED: [(&str, usize, &str); 10] = [
    ("6syns.pcap", 42, BEHIND_THE_FRAME),
    ("fast_reuse.pcap", 369, BEHIND_THE_FRAME),
    ("long_rtt.pcap", 23, BEHIND_THE_FRAME),
    ("tcp_reassembly.pcap", 8, BEHIND_THE_FRAME),
    ("pppoe-over-qinq.pcap", 13, BEHIND_THE_FRAME),
    ("erspan.pcap", 8, IN_FRAGMENTS),
    ("gtp1_gn_normal_incl_fragmentation.pcap", 4, IN_FRAGMENTS),
    ("vlan-collisions.pcap", 23, "a connection in two VLANs is two flows"),
    ("http-ooo2.pcap", 4, AT_THE_START_OF_TIME),
    ("tcp-badsegments.pcap", 2, AT_THE_START_OF_TIME),
];
const BEHIND_THE_FRAME: &str = "segments that end behind the frame or session which they are in";
const IN_FRAGMENTS: &str = "segments in fragments";
const AT_THE_START_OF_TIME: &str = "a SYN at 0 s since 1970, which is none to tshark";

/// A file's bytes with comments on its packets.
fn commented(stored: &[u8]) -> Vec<u8> {
    let (mut annotator, mut out) = (Annotator::new(VerdictComments::new()), Vec::new());
    for piece in stored.chunks(64 * 1024) {
        annotator.annotate(piece, &mut out).unwrap();
    }
    annotator.finish().unwrap();
    out
}

/// Any capture as linnet would have stored it, without comments of others.
fn as_stored(path: &Path) -> Vec<u8> {
    let Ok(mut reader) = PacketReader::open(path) else { return Vec::new() };
    let (mut stored, mut described) = (Vec::new(), 0);
    pcapng::section_header(&mut stored, &SectionHeader::default());
    let mut bodies = Vec::new();
    while let Ok(Some(read)) = reader.next_packet() {
        let mut packet = read.packet.into_owned();
        packet.comments.clear();
        bodies.push(packet);
    }
    for interface in reader.interfaces() {
        pcapng::interface_description(&mut stored, interface);
        described += 1;
    }
    assert!(described > 0 || bodies.is_empty());
    for packet in bodies {
        pcapng::enhanced_packet(&mut stored, &packet, captures::Snaplen::WHOLE);
    }
    stored
}

/// What is said of a frame by linnet's comment and by tshark.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frame {
    comment: String,
    theirs: BTreeSet<String>,
}

impl Frame {
    /// The fields that the comment names.
    fn ours(&self) -> BTreeSet<String> {
        let words = self.comment.split(|c: char| !(c.is_ascii_lowercase() || "._".contains(c)));
        words.filter(|word| word.starts_with("tcp.")).map(ToOwned::to_owned).collect()
    }
}

/// Each frame of a file as tshark reads it.
fn frames(file: &Path) -> Vec<Frame> {
    let names: Vec<_> =
        tshark::CLASSES.iter().map(|(name, _)| format!("tcp.analysis.{name}")).collect();
    let fields: Vec<_> =
        ["frame.comment"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let rows = tshark::rows(file, &["-o", "tcp.check_checksum:TRUE"], "a", &fields);
    let frame = |row: Vec<String>| {
        let set = names.iter().zip(&row[1..]).filter(|(_, value)| !value.is_empty());
        Frame { comment: row[0].clone(), theirs: set.map(|(name, _)| name.clone()).collect() }
    };
    rows.into_iter().map(frame).collect()
}

/// The comments alone.
fn said_of(file: &Path) -> Vec<String> {
    frames(file).into_iter().map(|frame| frame.comment).collect()
}

/// Frames whose comments do not name the fields that tshark sets.
fn differences(frames: &[Frame]) -> Vec<String> {
    let numbered = (1..).zip(frames).filter(|(_, frame)| frame.ours() != frame.theirs);
    numbered.map(|(number, frame)| format!("{number}: {frame:?}")).collect()
}

fn can_compare(what: &str) -> bool {
    lab::require_tool("tshark", what) && {
        let known = tshark::release() == "4.0";
        if !known {
            println!("skipped: {what}: comments are by the classes of tshark 4.0");
        }
        known
    }
}

#[test]
fn every_packet_has_the_fields_that_tshark_sets_on_the_same_file() {
    if !can_compare("comments against tshark") {
        return;
    }
    let files = support::corpus();
    let compared = support::in_parallel(&files, |path| {
        let stored = as_stored(path);
        let file = tempfile::NamedTempFile::new().unwrap();
        let with_comments = commented(&stored);
        fs::write(&file, &with_comments).unwrap();
        let frames = if stored.is_empty() { Vec::new() } else { frames(file.path()) };
        let count = frames.iter().filter(|frame| !frame.comment.is_empty()).count();
        let has_none = count == 0;
        assert_eq!(has_none, with_comments == stored, "{}: {count} comments", path.display());
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, count, differences(&frames))
    });
    let comments: usize = compared.iter().map(|(_, count, _)| count).sum();
    println!("{comments} comments in {} files", compared.len());
    let wrong: Vec<_> = compared
        .iter()
        .filter(|(name, _, differs)| {
            let row = EXCEPTED.iter().find(|(excepted, ..)| name.ends_with(excepted));
            if let Some((.., why)) = row {
                println!("{name}: {} frames differ: {why}", differs.len());
            }
            differs.len() > row.map_or(0, |(_, most, _)| *most)
        })
        .map(|(name, _, differs)| (name, differs.len(), &differs[..differs.len().min(5)]))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The route of a capture that was started.
fn route_of(answer: &Value) -> String {
    format!("{CAPTURES}/{}", answer["capture"]["id"].as_str().unwrap())
}

/// A finished capture's route.
fn captured(daemon: &Daemon, request: &Value) -> String {
    let (status, answer) = daemon.post(CAPTURES, request);
    assert_eq!(status, 201, "{answer}");
    let route = route_of(&answer);
    wait_until("the capture's end", || daemon.get(&route).1["capture"]["state"] == "finished");
    route
}

#[test]
fn a_capture_is_handed_out_with_comments_that_tools_read_and_keep() {
    let daemon = Daemon::start();
    let route = captured(&daemon, &json!({ "limits": { "seconds": 6 } }));
    let path = |name: &str| daemon.folder().join(name);
    let (stored, file) = (path("stored.pcapng"), path("file.pcapng"));
    download(&daemon.socket(), &format!("{route}/file?verdicts=none"), &stored, &[]);
    let expected = commented(&fs::read(&stored).unwrap());
    for end in ["file", "live"] {
        // A part is not to be had: the whole comes.
        let route = format!("{route}/{end}?{COMMENT}");
        let head = download(&daemon.socket(), &route, &file, &["-r", "5-9"]);
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(!head.contains("accept-ranges") && !head.contains("etag"), "{head}");
        assert!(!head.contains("content-length"), "{head}");
        assert!(head.contains("content-type: application/x-pcapng"), "{head}");
        assert!(head.contains(".pcapng\""), "{head}");
        assert!(fs::read(&file).unwrap() == expected, "{end}: other bytes");
    }
    assert!(packets(&file) == packets(&stored));
    assert_read_by_tools(&file, packets(&stored).len());
    if !can_compare("comments that are saved again") {
        return;
    }
    let frames = frames(&file);
    assert!(differences(&frames).is_empty(), "{:#?}", differences(&frames));
    let comments: Vec<_> = frames.into_iter().map(|frame| frame.comment).collect();
    let count = comments.iter().filter(|comment| !comment.is_empty()).count();
    println!("{count} comments on {} packets", comments.len());
    let has = |word: &str| comments.iter().any(|comment| comment.contains(word));
    assert!(has("; retransmitted_segments, ") && has("lost_"), "{comments:?}");
    let saved = path("saved.pcapng");
    for (tool, args) in [("tshark", &["-r"][..]), ("editcap", &[])] {
        let (from, to) = (file.to_str().unwrap(), saved.to_str().unwrap());
        let output = if tool == "tshark" { &["-w", to][..] } else { &[to] };
        said(tool, &[args, &[from], output].concat());
        assert_eq!(said_of(&saved), comments, "{tool}");
    }
}

#[test]
fn where_nothing_is_said_the_bytes_are_the_stored_ones() {
    let daemon = Daemon::start();
    let request = json!({ "filter": "not tcp", "limits": { "packets": 30 } });
    let route = captured(&daemon, &request);
    let path = |name: &str| daemon.folder().join(name);
    let (stored, file) = (path("stored.pcapng"), path("file.pcapng"));
    download(&daemon.socket(), &format!("{route}/file"), &stored, &[]);
    download(&daemon.socket(), &format!("{route}/file?format=pcapng&{COMMENT}"), &file, &[]);
    assert_eq!(packets(&stored).len(), 30);
    assert!(fs::read(&file).unwrap() == fs::read(&stored).unwrap());
}

#[test]
fn what_cannot_be_had_with_comments_is_refused() {
    let daemon = Daemon::start();
    let (_, answer) = daemon.post(CAPTURES, &json!({ "limits": { "seconds": 60 } }));
    let route = route_of(&answer);
    for (query, word) in [
        ("verdicts=option", "known are none and comment"),
        ("format=pcap&verdicts=comment", "format=pcap`"),
        ("verdicts=comment&format=pcap-ns", "take pcapng"),
    ] {
        for end in ["file", "live"] {
            let answer = daemon.ask_unix(&[], &format!("{route}/{end}?{query}"));
            assert_eq!(answer.body["parameter"], "verdicts");
            let (status, code, detail) = answer.problem();
            assert_eq!((status, code), (400, "invalid_parameter"));
            assert!(detail.contains(word), "{detail}");
        }
    }
    let path = daemon.folder().join("out.pcap");
    let args = ["--verdicts", "comment", "--format", "pcap", "-w", path.to_str().unwrap()];
    let refused = linnet(&daemon.socket(), &args).output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(64), "{told}");
    assert!(told.contains("--format pcap: ") && told.contains("take pcapng"), "{told}");
    assert!(!path.exists());
    assert_eq!(daemon.get(CAPTURES).1["captures"].as_array().unwrap().len(), 1);

    // Four at a time, and a place is free again when its reader goes.
    let live: Vec<_> = (0..4).map(|_| reader(&daemon, &route)).collect();
    let ask = || daemon.ask_unix(&["-I"], &format!("{route}/file?{COMMENT}")).status;
    wait_until("all places to be taken", || ask() == 409);
    let refused = daemon.ask_unix(&[], &format!("{route}/live?{COMMENT}"));
    assert_eq!(refused.problem().1, "too_many_commented");
    for mut child in live {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    wait_until("a place", || ask() == 200);
}

/// Somebody who reads a running capture with comments.
fn reader(daemon: &Daemon, route: &str) -> Child {
    let mut curl = Command::new("curl");
    curl.args(["-sN", "--unix-socket"]).arg(daemon.socket());
    curl.arg(format!("http://localhost{route}/live?{COMMENT}"));
    curl.stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn files_by_time_keep_the_comments_of_the_whole() {
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let parts = path("part-%s.pcapng");
    let args = ["--verdicts", "comment", "-G", "1", "-W", "6", "-w", &parts];
    assert_silent(&linnet(&daemon.socket(), &args).output().unwrap());
    let files = files(folder.path(), "part-");
    assert!((2..=6).contains(&files.len()), "{files:?}");
    if !lab::require_tool("mergecap", "files by time") || !can_compare("files by time") {
        return;
    }
    let merged = folder.path().join("merged.pcapng");
    let mut args = vec!["-a", "-w", merged.to_str().unwrap()];
    args.extend(files.iter().map(|part| part.to_str().unwrap()));
    said("mergecap", &args);
    let frames = frames(&merged);
    assert!(frames.iter().any(|frame| frame.comment.contains("retransmitted_segments")));
    assert!(differences(&frames).is_empty(), "comments know the files before");
    files.iter().for_each(|file| assert_read_by_tools(file, packets(file).len()));
}

#[test]
fn a_live_stream_of_lossy_traffic_has_comments_at_once() {
    let what = "comments on live traffic";
    if !support::kernel(what) || !lab::require_root(what) || !can_compare(what) {
        return;
    }
    let mut plan =
        Plan::new("comments").with_rtt(Duration::from_millis(10)).with_loss(Loss::EveryNthData(40));
    let extra_delay = Duration::from_millis(2);
    plan.to_client.reorder = Some(Reorder { every_nth: 70, extra_delay });
    let lab = Lab::build(plan).unwrap();
    let interface = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let linnet = Linnet::watch("comments", std::slice::from_ref(&interface));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live.pcapng");
    let text = path.to_str().unwrap();
    let args = ["-i", &interface, "-f", "tcp port 5001", "--verdicts", "comment", "-w", text];
    let child = support::tools::linnet(&linnet.socket(), &args).spawn().unwrap();
    let running = || linnet.see(CAPTURES, "captures").as_array().unwrap().first().cloned();
    let id = support::wait_for("the capture", || Some(running()?["id"].as_str()?.to_owned()));
    bulk::run(&lab, &Bulk { bytes: 2_000_000, ..Bulk::default() }).unwrap();
    // While the capture goes on, all that has passed is in the file with its comments.
    let stored = folder.path().join("stored.pcapng");
    support::wait_for("the stream", || {
        let route = format!("{CAPTURES}/{id}/file");
        download(&linnet.socket(), &format!("{route}?{COMMENT}"), &stored, &[]);
        let (live, stored) = (fs::read(&path).unwrap(), fs::read(&stored).unwrap());
        (stored.len() > 1_000_000 && live.starts_with(&stored)).then_some(())
    });
    interrupt(child);
    let frames = frames(&path);
    let said: Vec<_> =
        frames.iter().map(|frame| &frame.comment).filter(|it| !it.is_empty()).collect();
    println!("{} comments on {} packets, as {:?}", said.len(), frames.len(), &said[..3]);
    assert!(differences(&frames).is_empty(), "{:#?}", differences(&frames));
    for word in ["retransmitted_segments, fast", "lost_upstream", "reordered_segments"] {
        assert!(said.iter().any(|comment| comment.contains(word)), "{word}: {said:#?}");
    }
    assert_read_by_tools(&path, frames.len());
}
