//! What one connection can do to the others: slow, idle, stuck and many ones, and how the daemon stops with them.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

use serde_json::json;
use support::served::{Daemon, read_answer, read_to_end, timed, wait_until, wait_within};

/// Head, body and idle limits of 10 s, and what a loaded machine adds.
const CLOSED_WITHIN: Duration = Duration::from_secs(16);
/// Connections over loopback at a time.
const TCP_MAX: usize = 256;
/// Several times the buffers of a unix socket (net.core.wmem_default).
const LARGE_BYTES: u64 = 1 << 20;
/// An answer while nothing is wrong.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Sends one byte every half second until the other end has had enough, which it says by closing.
fn trickle(stream: &mut TcpStream, text: &str) {
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    for byte in text.bytes().cycle().take(100) {
        if stream.write_all(&[byte]).is_err() {
            return;
        }
        match stream.peek(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return,
        }
    }
    panic!("still open after 50 s");
}

#[test]
fn slow_and_idle_connections_are_closed_after_a_while() {
    let daemon = Daemon::start();
    let closed = |what: &str, act: &(dyn Fn() -> String + Sync)| {
        let (answer, took) = timed(act);
        println!("{what}: closed after {took:?}");
        assert!(took < CLOSED_WITHIN, "{what}: {took:?}");
        answer
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            closed("nothing sent", &|| read_to_end(daemon.connect_tcp()));
        });
        scope.spawn(|| {
            closed("nothing sent over the unix socket", &|| read_to_end(daemon.connect_unix()));
        });
        scope.spawn(|| {
            let answer = closed("slow headers", &|| {
                let mut stream = daemon.connect_tcp();
                stream.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
                trickle(&mut stream, "x-slow: 1\r\n");
                read_to_end(stream)
            });
            assert!(!answer.contains("200 OK"), "{answer}");
        });
        scope.spawn(|| {
            let answer = closed("slow body", &|| {
                let mut stream = daemon.connect_tcp();
                let bearer = daemon.bearer();
                let headers = [&*bearer, "content-type: application/json", "content-length: 90"];
                stream
                    .write_all(daemon.head("POST /api/v1/captures", &headers).as_bytes())
                    .unwrap();
                trickle(&mut stream, " ");
                read_to_end(stream)
            });
            assert!(
                answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"),
                "{answer}"
            );
        });
        scope.spawn(|| {
            closed("idle after an answer", &|| {
                let mut stream = daemon.connect_tcp();
                for _ in 0..2 {
                    stream.write_all(daemon.head("GET /healthz", &[]).as_bytes()).unwrap();
                    assert!(read_answer(&mut stream).contains("200 OK"));
                }
                read_to_end(stream)
            });
        });
    });
    assert_eq!(daemon.get("/healthz").0, 200);
}

#[test]
fn connections_have_a_bound_and_the_unix_socket_its_own() {
    let daemon = Daemon::start();
    let mut connections: Vec<_> = (0..TCP_MAX).map(|_| daemon.connect_tcp()).collect();
    // Each is answered once, so that all of them have their places.
    let health = daemon.head("GET /healthz", &[]);
    for connection in &mut connections {
        connection.write_all(health.as_bytes()).unwrap();
        assert!(read_answer(connection).contains("200 OK"));
    }
    let mut waiting = daemon.connect_tcp();
    waiting.write_all(health.as_bytes()).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let error = waiting.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "it has no place yet");
    let (status, took) = timed(|| daemon.get("/api/v1/flows").0);
    assert!(status == 200 && took < AT_ONCE, "the unix socket has places: {took:?}");
    drop(connections.pop());
    waiting.set_read_timeout(Some(CLOSED_WITHIN)).unwrap();
    let (answer, took) = timed(|| read_answer(&mut waiting));
    assert!(answer.contains("200 OK") && took < AT_ONCE, "the place is free: {took:?}");
}

/// A finished capture that does not fit into the buffers of a unix socket, with the bytes of its file.
fn large_capture(daemon: &Daemon) -> (String, u64) {
    let limits = json!({ "limits": { "bytes": LARGE_BYTES } });
    let (status, answer) = daemon.post("/api/v1/captures", &limits);
    assert_eq!(status, 201, "{answer}");
    let path = format!("/api/v1/captures/{}", answer["capture"]["id"].as_str().unwrap());
    let mut bytes = 0;
    wait_until("the capture ends", || {
        let capture = daemon.get(&path).1["capture"].clone();
        bytes = capture["bytes"].as_u64().unwrap();
        capture["state"] == "finished"
    });
    (path, bytes)
}

#[test]
fn a_stuck_reader_holds_up_neither_others_nor_the_stop() {
    let mut daemon = Daemon::start();
    let (path, bytes) = large_capture(&daemon);
    assert!(bytes > LARGE_BYTES / 2, "{bytes}");
    let head = daemon.head(&format!("GET {path}/file"), &[]);
    let mut stuck: Vec<_> = (0..20).map(|_| daemon.connect_unix()).collect();
    for stream in &mut stuck {
        stream.write_all(head.as_bytes()).unwrap();
        // The file has begun to come; nobody reads it further.
        stream.read_exact(&mut [0; 1_000]).unwrap();
    }
    let bearer = daemon.bearer();
    for _ in 0..10 {
        let (status, took) = timed(|| daemon.ask(&["-H", &bearer], "/api/v1/flows").status);
        assert!(status == 200 && took < AT_ONCE, "{status} after {took:?}");
    }
    let (got, took) = timed(|| daemon.download(&format!("{path}/file")));
    assert!(got == bytes && took < AT_ONCE, "{got} of {bytes} bytes after {took:?}");
    let (status, took) = timed(|| daemon.stop());
    println!("stopped with stuck readers after {took:?}");
    assert!(status.success() && took < Duration::from_secs(6), "stopped after {took:?}");
}

/// Without a token: whoever can connect could otherwise take all places for good.
#[test]
fn a_stranger_who_reads_nothing_is_closed_after_a_while() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect_tcp();
    stream.set_nonblocking(true).unwrap();
    let page = daemon.head("GET /assets/page.js", &[]);
    let ((), took) = timed(|| {
        wait_within(Duration::from_secs(45), "closed", || match stream.write(page.as_bytes()) {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => {
                let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                assert!(gone.contains(&error.kind()), "{error}");
                true
            }
        });
    });
    println!("a stuck stranger: closed after {took:?}");
    assert!(took > Duration::from_secs(29), "{took:?}");
}

#[test]
fn the_stop_is_quick_with_idle_connections_and_leaves_no_socket() {
    let mut daemon = Daemon::start();
    let health = daemon.head("GET /healthz", &[]);
    let mut idle: Vec<_> = (0..20).map(|_| daemon.connect_tcp()).collect();
    for stream in &mut idle {
        stream.write_all(health.as_bytes()).unwrap();
        assert!(read_answer(stream).contains("200 OK"));
    }
    let (status, took) = timed(|| daemon.stop());
    println!("stopped with idle connections after {took:?}");
    assert!(status.success() && took < Duration::from_millis(1_900), "stopped after {took:?}");
    for stream in idle {
        assert_eq!(read_to_end(stream), "");
    }
    assert!(!daemon.socket().exists());
}
