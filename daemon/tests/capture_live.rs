//! T3: a capture of real traffic in a lab, held against tcpdump beside it on the same interface; many of them
//! beside each other; and what it says when its interface goes.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use captures::StopReason;
use daemon::capture::CaptureState;
use datapath::layout::CAPTURES_MAX;
use lab::{
    CLIENT_INTERFACE, Lab, Namespace, Plan, ROUTER_CLIENT_INTERFACE, SERVER_INTERFACE,
    capture::Tcpdump,
    traffic::{
        Budget, Stop,
        bulk::{self, Bulk},
        inject,
        udp_stream::{self, UdpStream},
    },
};
use support::{
    Random,
    packets::{Packet, packets},
    wait_for,
    watch::Watch,
};

/// tcpdump's time and linnet's are taken at neighbouring places of the kernel.
const TIME_APART_MAX_NS: u64 = 1_000_000;

/// Unix ns of RFC 3339.
fn nanos(text: &str) -> u64 {
    u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
}

/// When each of the packets with these bytes was seen: the order of different ones differs between two CPUs.
fn times(packets: &[Packet]) -> HashMap<(u32, &[u8]), Vec<u64>> {
    let mut times: HashMap<_, Vec<_>> = HashMap::new();
    for Packet { time_ns, original_len, data } in packets {
        times.entry((*original_len, data.as_slice())).or_default().push(*time_ns);
    }
    times.values_mut().for_each(|times| times.sort_unstable());
    times
}

fn can_run(what: &str) -> bool {
    support::kernel(what) && lab::require_root(what) && lab::require_tool("tcpdump", what)
}

/// UDP at a pace and a megabyte of TCP, with a capture and tcpdump beside each other.
fn agree(name: &str, namespace: &Namespace, lab: &Lab, interface: &str, choice: &str) {
    const FILTER: &str = "udp port 5004 or (tcp port 5001 and greater 100)";
    let spec = format!("{}/{interface}{choice}", namespace.name());
    let mut watch = Watch::new(name, &spec, 16 << 20);
    let before = watch.seen();
    let file = watch.folder.path().join("tcpdump.pcap");
    let tcpdump = Tcpdump::start(namespace, interface, &file, FILTER).unwrap();
    let id = watch.start(FILTER);
    let plan = UdpStream { interval: Duration::from_millis(1), ..UdpStream::default() };
    let sent = udp_stream::run(lab, &plan).unwrap().sent;
    bulk::run(lab, &Bulk::default()).unwrap();
    // It waits until nothing more comes.
    let counts = tcpdump.stop().unwrap();
    let view = watch.stop(&id);

    assert_eq!(counts.dropped_by_kernel, 0, "tcpdump has everything");
    let (ours, theirs) = (watch.packets(&view), packets(&file));
    let (our_times, their_times) = (times(&ours), times(&theirs));
    let mut apart_max_ns = 0;
    for (packet, times) in &their_times {
        let found = our_times.get(packet).map_or(&[][..], Vec::as_slice);
        assert_eq!(found.len(), times.len(), "a packet of {} bytes", packet.0);
        let apart = found.iter().zip(times).map(|(a, b)| a.abs_diff(*b));
        apart_max_ns = apart_max_ns.max(apart.max().unwrap());
    }
    println!("{spec}: {} packets, at most {apart_max_ns} ns apart, {view:?}", ours.len());
    assert!(ours.len() > sent as usize + 700, "all traffic passed here");
    assert_eq!(ours.len(), theirs.len());
    assert!(apart_max_ns < TIME_APART_MAX_NS, "{apart_max_ns} ns");
    assert_eq!(view.lost.total(), 0);
    assert!(watch.seen() - before > view.matched + 10, "small segments were not wanted");
    watch.assert_balanced();
}

#[test]
fn a_capture_has_what_tcpdump_has() {
    if !can_run("a capture beside tcpdump") {
        return;
    }
    let lab = Lab::build(Plan::new("capture")).unwrap();
    agree("capture-tc", lab.client(), &lab, CLIENT_INTERFACE, "");
    let router = lab.router().unwrap();
    agree("capture-xdp", router, &lab, ROUTER_CLIENT_INTERFACE, ",ingress=xdp");
}

#[test]
fn captures_begin_and_end_under_traffic() {
    if !can_run("captures under traffic") {
        return;
    }
    let lab = Lab::build(Plan { direct: true, ..Plan::new("again") }).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE},ingress=xdp", lab.client().name());
    let watch = Watch::new("again", &spec, 256 << 10);
    let stop = Stop::new();
    std::thread::scope(|scope| {
        let endless = Bulk { bytes: bulk::BYTES_MAX, ..Bulk::default() };
        let (lab, ended) = (&lab, stop.clone());
        scope.spawn(move || bulk::run_until(lab, &endless, &ended));
        let (mut captures, mut packets, mut matched) = (0, 0, 0);
        while captures < 20 || packets < 1_000 {
            captures += 1;
            assert!(captures < 1_000, "{packets} packets only");
            let id = watch.start("tcp port 5001");
            let view = watch.stop(&id);
            let times: Vec<_> = watch.packets(&view).iter().map(|packet| packet.time_ns).collect();
            let within = nanos(&view.started_at)..=nanos(view.ended_at.as_ref().unwrap());
            assert!(times.iter().all(|time| within.contains(time)), "{view:?}");
            packets += times.len();
            matched += view.matched;
            assert_eq!(watch.matched(), matched, "the kernel's figure: {view:?}");
            watch.assert_balanced();
        }
        stop.stop();
        println!("{packets} packets in {captures} captures");
    });
}

#[test]
fn an_interface_that_goes_ends_its_capture() {
    if !can_run("a capture on an interface that goes") {
        return;
    }
    let lab = Lab::build(Plan::new("gone")).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let mut watch = Watch::new("gone", &spec, 1 << 20);
    let id = watch.start("");
    udp_stream::run(&lab, &UdpStream { datagrams: 20, ..UdpStream::default() }).unwrap();
    let removed = lab.client().command("ip").args(["link", "del", CLIENT_INTERFACE]).status();
    assert!(removed.unwrap().success());
    let point = watch.board.interfaces.latest()[0].point;
    watch.sweeper.points.go(point);
    watch.sweep();
    let view = wait_for("the capture's end", || {
        let view = watch.manager.get(&id).unwrap();
        (view.state == CaptureState::Finished).then_some(view)
    });
    assert_eq!(view.stop_reason, Some(StopReason::InterfaceRemoved));
    assert!(watch.packets(&view).len() >= 20);
    watch.assert_balanced();
}

/// A datagram to port 5004 in so many VLANs, the outermost of which is 100.
fn tagged(vlans: &[u16], number: u8) -> Vec<u8> {
    let udp = etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(5_003, 5_004);
    let payload = [number; 32];
    let mut packet = Vec::new();
    udp.write(&mut packet, &payload).unwrap();
    let mut frame = vec![0x02, 0, 0, 0, 0, 9, 0x02, 0, 0, 0, 0, 8];
    for vlan in vlans {
        frame.extend([0x81, 0x00]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend([0x08, 0x00]);
    frame.extend(packet);
    frame
}

#[test]
fn tags_are_found_and_written_wherever_the_kernel_keeps_them() {
    if !can_run("captures of VLAN tags") {
        return;
    }
    let vlans: [&[u16]; 3] = [&[], &[100], &[100, 7]];
    let frames: Vec<_> = (0..30).map(|number| tagged(vlans[number % 3], number as u8)).collect();
    let of = |tags: &[usize]| {
        let frames = frames.iter().enumerate().filter(|(number, _)| tags.contains(&(number % 3)));
        frames.map(|(_, frame)| frame.clone()).collect::<Vec<_>>()
    };
    let lab = Lab::build(Plan { direct: true, ..Plan::new("tags") }).unwrap();
    let expected = [
        (r#""filter": "udp port 5004""#, of(&[0, 1, 2])),
        (r#""filter": "udp port 5004", "strict": true"#, of(&[0])),
        (r#""filter": "vlan 100 and udp port 5004""#, of(&[1])),
        (r#""filter": "vlan 100 and vlan 7 and udp", "strict": true"#, of(&[2])),
        (r#""filter": "vlan 7 and udp""#, of(&[])),
        (r#""filter": "udp[8] = 4 or udp[8] = 5", "payload_bytes": 3"#, of(&[1, 2])[2..4].to_vec()),
    ];
    // What TC sees has its outer tag in metadata, and what XDP sees in its bytes.
    for choice in ["", ",ingress=xdp"] {
        let spec = format!("{}/{CLIENT_INTERFACE}{choice}", lab.client().name());
        let watch = Watch::new("tags", &spec, 1 << 20);
        let start = |(fields, _): &(&str, _)| {
            let request = serde_json::from_str(&format!("{{{fields}}}")).unwrap();
            watch.manager.start(request).unwrap().id
        };
        let ids: Vec<_> = expected.iter().map(start).collect();
        let budget = Budget::new(Duration::from_secs(30), &Stop::new());
        let each = frames.iter().map(Vec::as_slice);
        let sent = inject::frames(
            lab.server(),
            SERVER_INTERFACE,
            each,
            Duration::from_micros(500),
            &budget,
        );
        assert_eq!(sent.unwrap(), frames.len() as u64);
        for (id, (fields, expected)) in ids.iter().zip(&expected) {
            let found = watch.packets(&watch.stop(id));
            let mut data: Vec<_> = found.iter().map(|packet| packet.data.clone()).collect();
            if fields.contains("payload_bytes") {
                let lengths: Vec<_> = found.iter().map(|it| it.original_len as usize).collect();
                assert_eq!(lengths, expected.iter().map(Vec::len).collect::<Vec<_>>());
                assert!(
                    data.iter()
                        .zip(expected)
                        .all(|(cut, whole)| cut[..] == whole[..whole.len() - 29])
                );
                data.clone_from(expected);
            }
            assert_eq!(&data, expected, "{spec}: {fields}");
        }
        watch.assert_balanced();
    }
}

/// The number of each datagram of the stream in a capture, in the file's order.
fn numbers(packets: &[Packet]) -> Vec<u32> {
    const PAYLOAD_AT: usize = 14 + 20 + 8;
    let number = |packet: &Packet| packet.data[PAYLOAD_AT..].first_chunk().copied();
    packets.iter().filter_map(number).map(u32::from_be_bytes).collect()
}

/// TCP connections, one after the other, at a pace that this machine's two CPUs can filter up to 64 times, until told to
/// stop; returns how many.
fn transfer(lab: &Lab, stop: &Stop) -> u64 {
    let mut connections = 0;
    // An error may be the stop.
    while bulk::run_until(lab, &Bulk::default(), stop).inspect(|_| connections += 1).is_ok()
        && !stop.wait(Duration::from_millis(50))
    {}
    assert!(stop.is_set(), "a transfer failed");
    connections
}

/// Starts and stops captures until the time is over; what the first of them, which runs all the time, is to have is
/// said by what others had meanwhile.
#[expect(clippy::disallowed_methods, reason = "for so long, and how long the slowest took")]
fn start_and_stop(watch: &Watch, random: &mut Random, seconds: u64) -> (u64, usize) {
    const FILTERS: [(&str, &str); 6] = [
        ("udp port 5004", r#""snaplen": 96"#),
        ("tcp port 5001", r#""snaplen": 64"#),
        ("udp or arp or (tcp and greater 1000)", r#""payload_bytes": 0"#),
        ("not ip6", r#""snaplen": 80"#),
        ("host 203.0.113.7 or net 198.51.100.0/24 or port 53", r#""snaplen": 128"#),
        ("udp[8:4] & 3 = 1", r#""snaplen": 96, "strict": true"#),
    ];
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut running, mut ended, mut most) = (Vec::new(), 0, 0);
    let mut slowest = [Duration::ZERO; 2];
    while Instant::now() < end || !running.is_empty() {
        let is_over = Instant::now() >= end;
        if !is_over && running.len() < CAPTURES_MAX - 1 && random.below(5) < 4 {
            let (filter, more) = FILTERS[random.below(FILTERS.len() as u64) as usize];
            let limits = r#""limits": {"seconds": 3600}"#;
            let json = format!(r#"{{"filter": "{filter}", {more}, {limits}}}"#);
            let asked = Instant::now();
            let started = watch.manager.start(serde_json::from_str(&json).unwrap());
            slowest[0] = slowest[0].max(asked.elapsed());
            running.push((started.unwrap().id, filter));
            most = most.max(running.len() + 1);
        } else if !running.is_empty() {
            let (id, filter) = running.swap_remove(random.below(running.len() as u64) as usize);
            let asked = Instant::now();
            let view = watch.stop(&id);
            slowest[1] = slowest[1].max(asked.elapsed());
            let packets = watch.packets(&view);
            if filter == "udp port 5004" && view.lost.total() == 0 {
                let numbers = numbers(&packets);
                let follows = |pair: &[u32]| pair[1] == pair[0] + 1;
                assert!(numbers.windows(2).all(follows), "{view:?}: a hole, or one twice");
            }
            watch.manager.remove(&id).unwrap();
            ended += 1;
        }
    }
    println!("the slowest start took {:?}, the slowest stop {:?}", slowest[0], slowest[1]);
    (ended, most)
}

#[test]
fn captures_come_and_go_and_cost_the_others_nothing() {
    if !can_run("captures at random under load") {
        return;
    }
    let seconds = if support::full() { 60 } else { 8 };
    let lab = Lab::build(Plan { direct: true, ..Plan::new("random") }).unwrap();
    let spec = format!("{}/{CLIENT_INTERFACE}", lab.client().name());
    let mut watch = Watch::new("random", &spec, 64 << 20);
    let stop = Stop::new();
    let steady = r#"{"filter": "udp port 5004", "limits": {"seconds": 3600}}"#;
    let steady = watch.manager.start(serde_json::from_str(steady).unwrap()).unwrap().id;
    let interval = Duration::from_micros(200);
    let stream = UdpStream {
        datagrams: seconds as u32 * 5_000,
        interval,
        limit: Duration::from_secs(4 * seconds + 60),
        ..UdpStream::default()
    };
    let (sent, (ended, most)) = std::thread::scope(|scope| {
        let (lab, ended) = (&lab, stop.clone());
        scope.spawn(move || transfer(lab, &ended));
        let sending = scope.spawn(move || udp_stream::run(lab, &stream).unwrap().sent);
        let done = start_and_stop(&watch, &mut Random(0x5eed_0006), seconds);
        let sent = sending.join().unwrap();
        stop.stop();
        (sent, done)
    });
    let view = watch.stop(&steady);
    let found = numbers(&watch.packets(&view));
    println!("{ended} captures, at most {most} at once, beside {sent} datagrams; {view:?}");
    assert_eq!(view.lost.total(), 0);
    assert!(found.iter().copied().eq(0..sent), "each datagram once, in its order");
    assert!(ended > 20 && most > 10, "{ended} captures, at most {most} at once");
    assert!(watch.seen() > u64::from(sent));
    watch.assert_balanced();
}
