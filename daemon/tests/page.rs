//! The page in a real browser on a lossy lab: from the one-time login to the packets of the slow connection, as a
//! person would click. Must never reach into the page: it clicks, types and reads what is shown.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::{
    io::{Read as _, Write as _},
    net::UdpSocket,
    process::Command,
    thread,
    time::Duration,
};

use browser::Browser;
use lab::{CLIENT_INTERFACE, Family, Lab, Loss, Plan, ROUTER_CLIENT_INTERFACE, capture::Tcpdump};
use serde_json::Value;
use support::{
    held::Held,
    linnet::{Linnet, filter_of},
    pair::Pair,
    tshark, wait_for,
};

/// More than the smallest page.
const DATAGRAM_FLOWS: u16 = 70;
const TOOLS: [&str; 7] = ["chromium", "chromedriver", "tcpdump", "tshark", "curl", "ip", "bpftool"];

#[test]
fn from_login_to_the_packets_of_the_lossy_connection() {
    let what = "the page in a browser";
    if !support::kernel(what) || !TOOLS.iter().all(|tool| lab::require_tool(tool, what)) {
        return;
    }
    let rtt = Duration::from_millis(20);
    let mut plan = Plan::new("page").with_rtt(rtt);
    plan.to_server.loss = Loss::EveryNthData(20);
    let lab = Lab::build(plan).unwrap();
    let router = lab.router().unwrap();
    let spec = format!("{}/{ROUTER_CLIENT_INTERFACE}", router.name());
    let linnet = Linnet::watch("page", std::slice::from_ref(&spec));
    let (mut lossy, mut calm) = (Pair::open(&lab, 6_400), Pair::open(&lab, 6_401));
    upload(&mut lossy, 300_000);
    // Fewer requests than the lab's first loss.
    calm.exchange(10, 2_000);
    datagrams(&lab);
    let flows = linnet.flows(&spec);
    let row = flows.iter().find(|flow| flow["originator"]["port"] == lossy.client_port()).unwrap();
    let lossy_end = format!("10.77.0.1:{}", lossy.client_port());

    let browser = Browser::start();
    browser.open(&linnet.login_url);
    browser.wait_until("document.querySelectorAll('#rows tr').length > 50");
    assert_eq!(browser.look("location.hash"), "", "the login is out of the address");
    assert_eq!(browser.look("document.querySelector('#login').hidden"), true);
    assert_eq!(browser.look("document.querySelector('#mode-text').textContent"), "live");
    browser.wait_until("document.querySelector('#loss').textContent.includes('✓ balanced')");

    browser.click("//thead//button[text()='Sent again']");
    let first = "document.querySelector('#rows tr').textContent";
    browser.wait_until(&format!("{first}.includes('{lossy_end}')"));
    let sent_again = cell(&browser, "Sent again");
    assert_eq!(sent_again.split_whitespace().next(), Some("▲"), "{sent_again}");
    let shown: u64 = digits(&sent_again).parse().unwrap();
    assert_eq!(shown, sent_again_of(row), "the page shows what the API says: {sent_again}");
    let p50 = cell(&browser, "RTT p50");
    let (figure, unit) = p50.trim_start_matches('~').split_once(' ').unwrap();
    let milliseconds: f64 = figure.parse().unwrap();
    assert_eq!(unit.get(..2), Some("ms"), "{p50}");
    assert!((10.0..=40.0).contains(&milliseconds), "{p50} is within a factor of 2 of {rtt:?}");
    println!("the lossy row: rtt {p50}, sent again {sent_again}");

    browser.write("#filter", "udp port 6402");
    browser.wait_until("document.querySelector('#total').textContent.startsWith('70 flows')");
    browser.click("//select[@id='limit']/option[text()='50']");
    browser.wait_until("document.querySelectorAll('#rows tr').length === 50");
    browser.click("//button[@id='next']");
    browser.wait_until("document.querySelector('#total').textContent.includes('page 2')");
    assert_eq!(browser.look("document.querySelectorAll('#rows tr').length"), 20);
    browser.click("//button[@id='first']");
    browser.write("#filter", &format!("tcp {lossy_end}"));
    browser.wait_until("document.querySelector('#total').textContent.startsWith('1 flow')");
    browser.wait_until(&format!("{first}.includes('{lossy_end}')"));

    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("tcpdump.pcap");
    let filter = filter_of(row);
    let tcpdump = Tcpdump::start(router, ROUTER_CLIENT_INTERFACE, &theirs, &filter).unwrap();
    browser.click("//tbody[@id='rows']//button[text()='Capture']");
    let action = "document.querySelector('#rows .action button').textContent";
    browser.wait_until(&format!("{action} === '■ Stop'"));
    upload(&mut lossy, 200_000);
    calm.exchange(10, 2_000);
    let capture = || linnet.see("/api/v1/captures", "captures")[0].clone();
    assert_eq!(capture()["filter"], filter);
    let seen = tcpdump.stop().unwrap();
    wait_for("the capture to hold it all", || {
        (capture()["written"] == seen.captured).then_some(())
    });
    browser.screenshot(&folder.path().join("capturing.png"));
    browser.click("//tbody[@id='rows']//button[text()='■ Stop']");
    browser.wait_until(&format!("{action} === 'Capture'"));
    assert_eq!(capture()["stop_reason"], "user_request");
    browser.click("//tbody[@id='rows']//a[text()='Download']");
    tshark::assert_same_frames(&browser.downloaded("pcapng"), &theirs);
    assert!(seen.captured > 150, "{seen:?}");

    browser.wait_until("document.querySelector('#loss').textContent.includes('✓ balanced')");
    assert_eq!(browser.console(), Vec::<String>::new(), "the console is quiet");
    // So that the silence means something: what the page's policy forbids is heard here.
    browser.look("document.body.append(Object.assign(new Image(), { src: 'http://192.0.2.1/' }))");
    wait_for("the refusal of an outside resource", || {
        browser.console().iter().any(|line| line.contains("Content Security Policy")).then_some(())
    });
    let picture = std::fs::read(folder.path().join("capturing.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 10_000);
}

#[test]
fn interfaces_that_are_displaced_or_gone_are_shown_as_such() {
    let what = "interfaces that are displaced or gone, in a browser";
    if !support::kernel(what) || !TOOLS.iter().all(|tool| lab::require_tool(tool, what)) {
        return;
    }
    let lab = Lab::build(Plan::direct("states")).unwrap();
    let client = lab.client();
    let ip = |args: &str| {
        assert!(client.command("ip").args(args.split(' ')).status().unwrap().success(), "{args}");
    };
    ip("link add brief0 type veth peer name other0");
    let [stays, goes] = [CLIENT_INTERFACE, "brief0"].map(|it| format!("{}/{it}", client.name()));
    let keys = "on_displaced = \"yield\"\n";
    let linnet = Linnet::watch_with("states", &[stays.clone(), goes.clone()], keys);
    let mut pair = Pair::open(&lab, 6_410);
    pair.exchange(10, 100);
    assert!(!linnet.flows(&stays).is_empty());
    let browser = Browser::start();
    browser.open(&linnet.login_url);
    let options =
        "[...document.querySelectorAll('#interface option')].map((option) => option.textContent)";
    let is_listed = |text: &str| browser.wait_until(&format!("{options}.includes('{text}')"));
    is_listed(&stays);
    is_listed(&goes);
    assert_eq!(
        browser.look("document.querySelectorAll('#rows .faint[title*=\"linnet off\"]').length"),
        0
    );

    ip("link del brief0");
    let held = Held::by(linnet.pid());
    for (id, _) in held.links.iter().filter(|(_, kind)| *kind == "tcx") {
        // Those of the interface that went have gone with it.
        let _gone =
            Command::new("bpftool").args(["link", "detach", "id", &id.to_string()]).status();
    }
    is_listed(&format!("{stays} (displaced)"));
    is_listed(&format!("{goes} (gone)"));
    let notices = "document.querySelector('#notices').textContent";
    browser.wait_until(&format!("{notices}.includes('taken linnet off the ingress of `{stays}`')"));
    let rows = "document.querySelector('#rows').textContent";
    browser.wait_until(&format!("{rows}.includes('{stays}displaced')"));
    assert_eq!(browser.console(), Vec::<String>::new(), "the console is quiet");
}

fn upload(pair: &mut Pair, bytes: usize) {
    let mut received = vec![0; bytes];
    thread::scope(|scope| {
        scope.spawn(|| pair.client.write_all(&vec![7; bytes]).unwrap());
        pair.server.read_exact(&mut received).unwrap();
    });
}

/// One datagram from each of many ports.
fn datagrams(lab: &Lab) {
    let at = lab.server_socket(Family::V4, 6_402);
    let server = lab.server().run(|| UdpSocket::bind(at)).unwrap().unwrap();
    let from = lab.client_address(Family::V4);
    let send = || {
        for index in 0..DATAGRAM_FLOWS {
            let socket = UdpSocket::bind((from, 20_000 + index)).unwrap();
            socket.send_to(b"linnet", at).unwrap();
        }
    };
    lab.client().run(send).unwrap();
    for _ in 0..DATAGRAM_FLOWS {
        server.recv(&mut [0; 16]).unwrap();
    }
}

/// The originator's line of a column, in the first row.
fn cell(browser: &Browser, column: &str) -> String {
    let heads = "[...document.querySelectorAll('#heads > *')].map((head) => head.textContent)";
    let cells = "document.querySelector('#rows tr').children";
    let text =
        browser.look(&format!("{cells}[{heads}.indexOf('{column}')].children[0].textContent"));
    text.as_str().unwrap().to_owned()
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

fn sent_again_of(flow: &Value) -> u64 {
    ["retransmissions", "fast_retransmissions", "spurious_retransmissions", "out_of_order"]
        .iter()
        .map(|class| flow["from_originator"]["tcp"][class].as_u64().unwrap())
        .sum()
}
