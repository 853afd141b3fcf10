//! Classic pcap and files by time: the same packets as in the pcapng of the same traffic, read by everybody's tools
//! without a word. Replays where no kernel is needed, and a lab with tcpdump beside where one is.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use captures::{
    Capture, CaptureSpec, CapturedPacket, Format, InterfaceDescription, Limits, LinkType, Snaplen,
    StopReason,
    format::{
        pcapng::SectionHeader,
        read::stream::{Blocks, Content},
    },
};
use lab::{
    CLIENT_INTERFACE, Lab, Plan,
    capture::Tcpdump,
    traffic::udp_stream::{self, UdpStream},
};
use serde_json::{Value, json};
use support::{
    linnet::Linnet,
    packets::{Packet, packets, read},
    served::{Daemon, wait_until},
    tools::{self, assert_read_by_tools, assert_silent, download, files, interrupt, linnet, said},
};

const CAPTURES: &str = "/api/v1/captures";

fn in_microseconds(packets: &[Packet]) -> Vec<Packet> {
    let cut =
        |packet: &Packet| Packet { time_ns: packet.time_ns / 1_000 * 1_000, ..packet.clone() };
    packets.iter().map(cut).collect()
}

/// The route of a capture that was started.
fn route_of(answer: &Value) -> String {
    format!("{CAPTURES}/{}", answer["capture"]["id"].as_str().unwrap())
}

/// A finished capture's route.
fn captured(daemon: &Daemon, packets: u64) -> String {
    let (status, answer) = daemon.post(CAPTURES, &json!({ "limits": { "packets": packets } }));
    assert_eq!(status, 201, "{answer}");
    let route = route_of(&answer);
    wait_until("the capture's end", || daemon.get(&route).1["capture"]["state"] == "finished");
    route
}

#[test]
fn every_format_of_a_capture_has_the_same_packets() {
    let daemon = Daemon::start();
    let route = captured(&daemon, 300);
    let path = |name: &str| daemon.folder().join(name);
    let stored = path("stored.pcapng");
    let head = download(&daemon.socket(), &format!("{route}/file?format=pcapng"), &stored, &[]);
    assert!(head.contains("etag: ") && head.contains("accept-ranges: bytes"), "{head}");
    let (format, expected) = read(&stored);
    assert_eq!((format, expected.len()), (Format::Pcapng, 300));
    assert_read_by_tools(&stored, 300);
    assert_ne!(expected, in_microseconds(&expected), "there are nanoseconds to be kept");

    for end in ["file", "live"] {
        for (format, name) in [("pcap", "us.pcap"), ("pcap-ns", "ns.pcap")] {
            let (to, route) = (path(name), format!("{route}/{end}?format={format}"));
            // A part is not to be had: the whole comes.
            let head = download(&daemon.socket(), &route, &to, &["-r", "5-9"]);
            assert!(head.starts_with("http/1.1 200"), "{head}");
            assert!(!head.contains("accept-ranges") && !head.contains("etag"), "{head}");
            assert!(head.contains("content-type: application/vnd.tcpdump.pcap"), "{head}");
            assert!(head.contains(".pcap\""), "{head}");
            let (found, packets) = read(&to);
            assert_eq!(found, Format::Pcap, "{route}");
            let expected =
                if format == "pcap" { in_microseconds(&expected) } else { expected.clone() };
            assert!(packets == expected, "{route}: {} packets", packets.len());
            assert_read_by_tools(&to, 300);
        }
    }
    let magic = |name| fs::read(path(name)).unwrap()[..4].to_vec();
    assert_eq!(magic("us.pcap"), 0xa1b2_c3d4_u32.to_le_bytes());
    assert_eq!(magic("ns.pcap"), 0xa1b2_3c4d_u32.to_le_bytes());

    for (query, word) in [("format=cap", "pcap-ns"), ("from=1", "known are format")] {
        let answer = daemon.ask_unix(&[], &format!("{route}/file?{query}"));
        let (status, code, detail) = answer.problem();
        assert_eq!((status, code), (400, "invalid_parameter"));
        assert!(detail.contains(word), "{detail}");
    }
}

#[test]
fn a_running_captures_classic_file_ends_with_a_whole_packet() {
    let daemon = Daemon::start();
    let (_, answer) = daemon.post(CAPTURES, &json!({}));
    let route = route_of(&answer);
    let written = || daemon.get(&route).1["capture"]["written"].as_u64();
    wait_until("packets", || written() > Some(20));
    let path = daemon.folder().join("part.pcap");
    for _ in 0..5 {
        download(&daemon.socket(), &format!("{route}/file?format=pcap"), &path, &[]);
        assert!(packets(&path).len() > 20);
    }
    assert_read_by_tools(&path, packets(&path).len());

    let (live, stored) = (daemon.folder().join("live.pcap"), daemon.folder().join("stored.pcapng"));
    std::thread::scope(|scope| {
        let (socket, route) = (daemon.socket(), format!("{route}/live?format=pcap-ns"));
        let stream = scope.spawn({
            let live = &live;
            move || download(&socket, &route, live, &[])
        });
        wait_until("the stream", || live.metadata().is_ok_and(|file| file.len() > 24));
        let before = written();
        wait_until("more packets", || written() > before);
        daemon.post(&format!("{}/stop", route_of(&answer)), &json!({}));
        stream.join().unwrap();
    });
    download(&daemon.socket(), &format!("{route}/file"), &stored, &[]);
    assert!(packets(&live) == packets(&stored), "the live stream has what is stored");
    assert_read_by_tools(&live, packets(&live).len());
}

#[test]
fn a_pipe_has_packets_and_no_words() {
    if !lab::require_tool("tcpdump", "a pipe of packets") {
        return;
    }
    let daemon = Daemon::start();
    for format in ["pcapng", "pcap", "pcap-ns"] {
        let args = ["-c", "25", "--format", format, "-w", "-"];
        let mut ours = linnet(&daemon.socket(), &args).spawn().unwrap();
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-n", "-t", "-q", "-r", "-"]).stdin(ours.stdout.take().unwrap());
        let read = tcpdump.output().unwrap();
        let lines = String::from_utf8(read.stdout).unwrap();
        assert!(read.status.success(), "{format}");
        let count = lines.lines().filter(|line| !line.starts_with([' ', '\t'])).count();
        assert_eq!(count, 25, "{format}");
        assert_silent(&ours.wait_with_output().unwrap());
    }
}

/// A replay of raw IP packets and Ethernet frames in turn.
fn mixed() -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mixed.pcapng");
    let links = [LinkType::RAW, LinkType::ETHERNET];
    let spec = CaptureSpec {
        section: SectionHeader::default(),
        interfaces: links.map(|link| InterfaceDescription::new(link, 0)).into(),
        filters: Vec::new(),
        snaplen: Snaplen::WHOLE,
        limits: Limits::default(),
    };
    let mut capture = Capture::start(spec, fs::File::create(&file).unwrap(), 0).unwrap();
    let datagram = [
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 0, 8, 0, 0,
    ];
    let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &datagram].concat();
    for (interface, data) in [(0, &datagram[..]), (1, &frame)] {
        let time_ns = 1_000_000 * (1 + u64::from(interface));
        capture.offer(&CapturedPacket { interface, ..CapturedPacket::new(time_ns, data) });
    }
    capture.finish(StopReason::UserRequest, 3_000_000);
    let daemon = Daemon::replay(&[], folder, &file, &[]);
    let interfaces = || daemon.get("/api/v1/interfaces").1["interfaces"].clone();
    wait_until("both interfaces", || interfaces().as_array().is_some_and(|all| all.len() == 2));
    daemon
}

#[test]
fn link_types_that_differ_are_refused_as_pcap_and_leave_nothing() {
    let daemon = mixed();
    let route = captured(&daemon, 4);
    for end in ["file", "live"] {
        let answer = daemon.ask_unix(&[], &format!("{route}/{end}?format=pcap"));
        let (status, code, detail) = answer.problem();
        assert_eq!((status, code), (409, "mixed_link_types"));
        assert!(detail.contains("RAW and ETHERNET"), "{detail}");
    }
    daemon.ask_unix(&["-X", "DELETE"], &route);

    let path = daemon.folder().join("out.pcap");
    let args = ["--format", "pcap", "-w", path.to_str().unwrap()];
    let refused = linnet(&daemon.socket(), &args).output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(64), "{told}");
    assert!(told.contains("RAW and ETHERNET") && told.contains("-i IF"), "{told}");
    assert!(!path.exists());
    assert_eq!(daemon.get(CAPTURES).1["captures"], json!([]));

    let one = [&args[..], &["-i", "mixed.pcapng:ethernet", "-c", "2"]].concat();
    assert_silent(&linnet(&daemon.socket(), &one).output().unwrap());
    assert_eq!(packets(&path).len(), 2, "one interface has one");
}

/// When the span of a file starts, as its statistics say.
fn span_start(file: &Path) -> u64 {
    let mut blocks = Blocks::default();
    blocks.push(&fs::read(file).unwrap());
    loop {
        let block = blocks.next_block().unwrap().expect("every file ends with statistics");
        if let Content::Statistics(statistics) = block.content {
            return statistics.start_ns.unwrap();
        }
    }
}

#[test]
fn rotated_files_have_each_packet_of_a_replay_once() {
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let whole =
        linnet(&daemon.socket(), &["--seconds", "6", "-w", &path("whole")]).spawn().unwrap();
    let parts = path("part-%s.pcapng");
    let rotated = ["-G", "1", "-W", "4", "-w", &parts];
    assert_silent(&linnet(&daemon.socket(), &rotated).output().unwrap());
    assert_silent(&whole.wait_with_output().unwrap());

    let files = files(folder.path(), "part-");
    assert!((2..=4).contains(&files.len()), "{files:?}");
    let each: Vec<_> = files.iter().map(|file| packets(file)).collect();
    for (file, packets) in files.iter().zip(&each) {
        assert_read_by_tools(file, packets.len());
        let times: Vec<_> = packets.iter().map(|packet| packet.time_ns).collect();
        // The span's own bounds: a replayed packet is dated when it was due, which can be before the capture's start.
        let (start, last) = (span_start(file), *times.iter().max().unwrap());
        assert!(last < start + 1_000_000_000, "{file:?}: {last} is not within 1 s from {start}");
    }
    let (rotated, whole) = (each.concat(), packets(Path::new(&path("whole"))));
    // The longer capture began before the other, and went on behind it.
    let begin = whole.iter().position(|packet| *packet == rotated[0]).unwrap();
    println!("{} of {} packets in {} files", rotated.len(), whole.len(), files.len());
    assert!(rotated == whole[begin..begin + rotated.len()]);
    assert_eq!(daemon.get(CAPTURES).1["captures"], json!([]));
}

#[test]
fn a_terminal_sees_progress_and_a_summary() {
    if !lab::require_tool("script", "a terminal") {
        return;
    }
    let daemon = Daemon::start();
    let file = daemon.folder().join("out.pcapng");
    let (socket, file) = (daemon.socket(), file.to_str().unwrap());
    let line = format!(
        "{} capture --seconds 3 -w {file} --socket {}",
        env!("CARGO_BIN_EXE_linnet"),
        socket.display()
    );
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{shown}");
    let written = packets(Path::new(file)).len();
    let summary = format!("{written} packets captured, {written} received by filter, 0 lost\r\n");
    let (progress, _) = shown.split_once(&summary).expect(&shown);
    assert!(progress.contains(" packets, ") && progress.contains(" 0 lost, 1 s"), "{shown:?}");
}

#[test]
fn what_cannot_be_rotated_is_said() {
    let daemon = Daemon::start();
    for (args, word) in [
        (&["-G", "1", "-w", "-"][..], "standard output"),
        (&["-G", "86400", "-W", "2", "-w", "x"], "86400"),
        (&["-G", "1", "-w", "%"], "%%"),
        (&["-W", "2", "-w", "x"], "--rotate"),
        (&["--format", "cap", "-w", "x"], "pcap-ns"),
    ] {
        let refused = linnet(&daemon.socket(), args).current_dir(daemon.folder()).output().unwrap();
        let told = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{args:?}: {told}");
        assert!(told.contains(word), "{args:?}: {told}");
    }
    assert_eq!(daemon.get(CAPTURES).1["captures"], json!([]));
}

/// A capture of the lab's datagrams that goes on until it is interrupted.
fn beside(linnet: &Linnet, interface: &str, args: &[&str]) -> Child {
    let args = [&["-i", interface, "-f", "udp port 5004"], args].concat();
    tools::linnet(&linnet.socket(), &args).spawn().unwrap()
}

#[test]
fn rotated_files_of_live_traffic_have_what_tcpdump_has() {
    let what = "files by time beside tcpdump";
    if !support::kernel(what) || !lab::require_root(what) || !lab::require_tool("tcpdump", what) {
        return;
    }
    let lab = Lab::build(Plan { direct: true, ..Plan::new("formats") }).unwrap();
    let interface = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let linnet = Linnet::watch("formats", std::slice::from_ref(&interface));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let names = ["whole", "ng.pcapng", "ns.pcap", "us.pcap"].map(path);
    let children = [
        beside(&linnet, &interface, &["-w", &names[0]]),
        beside(&linnet, &interface, &["-G", "1", "-w", &names[1]]),
        beside(&linnet, &interface, &["-G", "1", "--format", "pcap-ns", "-w", &names[2]]),
        beside(&linnet, &interface, &["-G", "2", "--format", "pcap", "-w", &names[3]]),
    ];
    let list = || linnet.see(CAPTURES, "captures");
    support::wait_for("four captures", || {
        (list().as_array().unwrap().len() == children.len()).then_some(())
    });
    let theirs = folder.path().join("tcpdump.pcap");
    let tcpdump = Tcpdump::start(lab.client(), CLIENT_INTERFACE, &theirs, "udp port 5004").unwrap();
    let plan =
        UdpStream { datagrams: 4_000, interval: Duration::from_millis(1), ..UdpStream::default() };
    let sent = udp_stream::run(&lab, &plan).unwrap().sent as usize;
    assert_eq!(tcpdump.stop().unwrap().dropped_by_kernel, 0, "tcpdump has everything");
    support::wait_for("all packets", || {
        let has_all = |view: &Value| view["written"].as_u64() >= Some(sent as u64);
        list().as_array().unwrap().iter().all(has_all).then_some(())
    });
    children.into_iter().for_each(interrupt);
    assert_eq!(list(), json!([]), "nothing is left in the daemon");

    let whole = packets(Path::new(&names[0]));
    assert_eq!(whole.len(), sent);
    let bytes =
        |packets: &[Packet]| packets.iter().map(|packet| packet.data.clone()).collect::<Vec<_>>();
    assert!(bytes(&whole) == bytes(&packets(&theirs)), "tcpdump has others");
    for (begin, is_exact) in [("ng", true), ("ns", true), ("us", false)] {
        let files = files(folder.path(), begin);
        let each: Vec<_> = files.iter().map(|file| packets(file)).collect();
        println!("{begin}: {:?} packets", each.iter().map(Vec::len).collect::<Vec<_>>());
        assert!(files.len() >= 2, "{files:?}");
        let expected = if is_exact { whole.clone() } else { in_microseconds(&whole) };
        assert!(each.concat() == expected, "{begin}: {} packets", each.concat().len());
        files.iter().zip(&each).for_each(|(file, each)| assert_read_by_tools(file, each.len()));
    }
    let merged = folder.path().join("merged.pcapng");
    let parts: Vec<_> = files(folder.path(), "ng");
    let mut args = vec!["-w", merged.to_str().unwrap()];
    args.extend(parts.iter().map(|part| part.to_str().unwrap()));
    said("mergecap", &args);
    assert!(packets(&merged) == whole, "what mergecap puts together is the whole again");
}

#[test]
fn no_capture_has_more_payload_than_the_host_allows() {
    let what = "the host's limit of payload";
    if !support::kernel(what) || !lab::require_root(what) {
        return;
    }
    let lab = Lab::build(Plan { direct: true, ..Plan::new("payload") }).unwrap();
    let interface = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let linnet = Linnet::watch_with(
        "payload",
        std::slice::from_ref(&interface),
        "capture.payload_max = 4\n",
    );
    let start = |more: &Value| {
        let mut body = json!({ "filter": "udp port 5004" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = linnet.post(CAPTURES, &body);
        assert_eq!(status, 201, "{answer}");
        answer["capture"].clone()
    };
    let wishes =
        [(json!({}), 4), (json!({ "payload_bytes": 3 }), 3), (json!({ "payload_bytes": 900 }), 4)];
    let started: Vec<_> = wishes.iter().map(|(wish, _)| start(wish)).collect();
    let plan = UdpStream { datagrams: 50, ..UdpStream::default() };
    let sent = udp_stream::run(&lab, &plan).unwrap().sent as usize;
    for (view, (_, most)) in started.iter().zip(wishes) {
        assert_eq!(view["payload_bytes"], most);
        let path = format!("{CAPTURES}/{}", view["id"].as_str().unwrap());
        let (status, stopped) = linnet.post(&format!("{path}/stop"), &json!({}));
        assert_eq!((status, &stopped["capture"]["written"]), (200, &json!(sent)), "{stopped}");
        let file = linnet.folder().join("payload.pcapng");
        let fetched = linnet.curl(&format!("{path}/file")).arg("-o").arg(&file).status();
        assert!(fetched.unwrap().success());
        let packets = packets(&file);
        assert_eq!(packets.len(), sent);
        for packet in packets {
            // Ethernet, IPv4 and UDP.
            assert_eq!(packet.data.len(), 14 + 20 + 8 + most);
            assert!(packet.original_len as usize > packet.data.len());
        }
    }
}
