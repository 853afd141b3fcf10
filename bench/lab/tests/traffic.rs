//! The generators do what they say, over both address families, and stop when asked.

use std::thread;
use std::time::Duration;

use lab::traffic::dns::{self, Dns};
use lab::traffic::http::{self, Http, Reuse};
use lab::traffic::request_response::{self, RequestResponse};
use lab::traffic::{Stop, TrafficError};
use lab::{Family, Lab, Plan, require_root};

#[test]
fn http_keeps_or_closes_its_connections() {
    if !require_root("http through the lab") {
        return;
    }
    let lab = Lab::build(Plan::new("http").with_rtt(Duration::from_millis(2))).unwrap();
    for family in [Family::V4, Family::V6] {
        for (reuse, connections) in [(Reuse::KeepAlive, 1), (Reuse::Close, 10)] {
            let (response_bytes, interval) = (50_000, Duration::ZERO);
            let plan = Http { family, reuse, response_bytes, interval, ..Http::default() };
            let measured = http::run(&lab, &plan).unwrap();
            println!("{family:?} {reuse:?}: {:?}", measured.response_time);
            assert_eq!(measured.connections, connections);
            assert_eq!(measured.body_bytes, 10 * 50_000);
            assert!(measured.response_time.min_ns >= 2_000_000);
        }
    }
}

#[test]
fn dns_answers_are_as_planned() {
    if !require_root("dns through the lab") {
        return;
    }
    let lab = Lab::build(Plan::new("dns")).unwrap();
    for family in [Family::V4, Family::V6] {
        let patience = Duration::from_millis(200);
        let plan = Dns { family, patience, interval: Duration::ZERO, ..Dns::default() };
        let measured = dns::run(&lab, &plan).unwrap();
        // Of 20 queries the 10th and 20th are never answered, the 7th and 14th have no such name.
        assert_eq!((measured.queries, measured.unanswered), (20, 2));
        assert_eq!((measured.answered, measured.name_errors), (18, 2));
    }
}

#[test]
fn a_generator_stops_when_asked_and_refuses_what_is_beyond_its_limits() {
    if !require_root("stopping a generator") {
        return;
    }
    let lab = Lab::build(Plan::new("stop")).unwrap();
    let interval = Duration::from_secs(600);
    let endless = RequestResponse { interval, limit: interval, ..RequestResponse::default() };
    let stop = Stop::new();

    let outcome = thread::scope(|scope| {
        let running = scope.spawn(|| request_response::run_until(&lab, &endless, &stop));
        while lab.report().to_server.frames < 6 {
            stop.wait(Duration::from_millis(5));
        }
        stop.stop();
        running.join().unwrap()
    });
    assert!(outcome.is_err_and(|error| error.is_stop()));

    let none = RequestResponse { rounds: 0, ..RequestResponse::default() };
    let refused = request_response::run(&lab, &none);
    assert!(matches!(refused, Err(TrafficError::Limit { field: "rounds", .. })));
}

#[test]
fn a_server_that_nobody_serves_is_an_error_within_the_limit() {
    if !require_root("refused connections") {
        return;
    }
    let lab = Lab::build(Plan::new("refused")).unwrap();
    let plan = Http { limit: Duration::from_secs(5), ..Http::default() };
    let nobody = lab.server_socket(Family::V4, 81);
    let outcome = http::fetch_until(&lab, &plan, nobody, &Stop::new());
    assert!(matches!(outcome, Err(TrafficError::Socket { action: "connect", .. })), "{outcome:?}");
}
