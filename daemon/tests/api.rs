//! The API's answers over real sockets: a daemon that replays a capture, asked as a client would.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use serde_json::{Value, json};
use support::served::Daemon;

#[test]
fn pages_hold_the_flows_in_order_and_every_list_its_losses() {
    let daemon = Daemon::start();
    let mut seen = Vec::new();
    let mut path = "/api/v1/flows?sort=first_seen&limit=2".to_owned();
    loop {
        let (status, page) = daemon.get(&path);
        assert_eq!(status, 200, "{page}");
        let loss = &page["loss"];
        let sum: u64 = loss["ledger"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(loss["seen"].as_u64(), Some(sum), "the ledger balances");
        for flow in page["flows"].as_array().unwrap() {
            seen.push((flow["first_seen"].as_str().unwrap().to_owned(), flow["id"].clone()));
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/flows?sort=first_seen&limit=2&cursor={next}");
    }
    assert!(seen.len() > 3);
    assert!(seen.is_sorted_by(|a, b| a.0 <= b.0), "{seen:?}");
    let id = seen[0].1.as_str().unwrap();
    assert_eq!(daemon.get(&format!("/api/v1/flows/{id}")).1["flow"]["id"], seen[0].1);
}

#[test]
fn services_and_interfaces_have_the_round_trips_of_the_flows() {
    let daemon = Daemon::start();
    let samples = |summary: &Value| summary["samples"].as_u64().unwrap();
    // The file is played again and again, and its flows end with it: what is there is at least one pass.
    let services = support::wait_for("a service with round trips", || {
        let services = daemon.get("/api/v1/services").1["services"].take();
        let services = services.as_array().unwrap().clone();
        services.iter().any(|service| samples(&service["from_originator"]) > 0).then_some(services)
    });
    for service in &services {
        assert_eq!(service["protocol"], "tcp");
        assert!(service["port"].as_u64().unwrap() > 0);
        for half in ["from_originator", "from_responder"] {
            let summary = &service[half];
            let value = |name: &str| summary[name].as_u64().unwrap();
            let rising = ["min_ns", "p50_ns", "p95_ns", "p99_ns", "max_ns"].map(value);
            assert!(rising.is_sorted(), "{summary}");
            assert_eq!(summary["error_factor"], 1.125);
        }
    }
    let interfaces = daemon.get("/api/v1/interfaces").1["interfaces"].take();
    let all = samples(&interfaces[0]["ingress"]["rtt"]);
    let by_service: u64 = services
        .iter()
        .map(|service| samples(&service["from_originator"]) + samples(&service["from_responder"]))
        .sum();
    assert!(all >= by_service && by_service > 0, "{all} in all, {by_service} of services");
}

#[test]
fn a_bad_request_says_what_is_wrong() {
    let daemon = Daemon::start();
    for (path, status, code, word) in [
        ("/api/v1/flows?sort=speed", 400, "invalid_parameter", "rtt.p99_ns"),
        ("/api/v1/flows?limit=0", 400, "invalid_parameter", "1000"),
        ("/api/v1/flows?address=here", 400, "invalid_parameter", "here"),
        ("/api/v1/flows?limit=1001", 400, "invalid_parameter", "1000"),
        ("/api/v1/flows?limit=-1", 400, "invalid_parameter", "`-1`"),
        ("/api/v1/flows?port=70000", 400, "invalid_parameter", "a number from 0 to 65535"),
        ("/api/v1/flows?port=", 400, "invalid_parameter", "`` is no port"),
        ("/api/v1/flows?sort=", 400, "invalid_parameter", "leave it out"),
        ("/api/v1/flows?live=maybe", 400, "invalid_parameter", "`maybe` is neither"),
        ("/api/v1/flows?protocol=300", 400, "invalid_parameter", "255"),
        ("/api/v1/flows?interface=none", 400, "invalid_parameter", "/api/v1/interfaces"),
        ("/api/v1/flows?sort=--bytes", 400, "invalid_parameter", "`-bytes`"),
        ("/api/v1/flows?limit=1&limit=2", 400, "invalid_parameter", "twice"),
        ("/api/v1/flows?colour=red", 400, "invalid_parameter", "protocol, address"),
        ("/api/v1/interfaces?limit=1", 400, "invalid_parameter", "has none"),
        ("/api/v1/services?port=80", 400, "invalid_parameter", "has none"),
        ("/api/v1/captures?state=running", 400, "invalid_parameter", "`state`"),
        ("/api/v1/status?x", 400, "invalid_parameter", "`x`"),
        ("/api/v1/flows?cursor=x", 400, "invalid_parameter", "next"),
        ("/api/v1/flows?state=odd", 400, "invalid_parameter", "ESTABLISHED"),
        ("/api/v1/flows/short/events", 400, "invalid_parameter", "26"),
        ("/api/v1/flows/00000000000000000000000000/events", 404, "not_found", "ended"),
        (
            "/api/v1/flows/00000000000000000000000000/events?kind=odd",
            400,
            "invalid_parameter",
            "rto",
        ),
        ("/api/v1/flows/00000000000000000000000000/events?kind=", 400, "invalid_parameter", "``"),
        (
            "/api/v1/flows/00000000000000000000000000/events?limit=0",
            400,
            "invalid_parameter",
            "512",
        ),
        (
            "/api/v1/flows/00000000000000000000000000/events?limit=513",
            400,
            "invalid_parameter",
            "512",
        ),
        (
            "/api/v1/flows/00000000000000000000000000/events?after=x",
            400,
            "invalid_parameter",
            "`x`",
        ),
        (
            "/api/v1/flows/00000000000000000000000000/events?from=1",
            400,
            "invalid_parameter",
            "kind",
        ),
        ("/api/v1/tcp/summary?limit=1", 400, "invalid_parameter", "has none"),
        ("/api/v1/flows/short", 400, "invalid_parameter", "26"),
        ("/api/v1/flows/00000000000000000000000000", 404, "not_found", "ended"),
        ("/api/v1/nothing", 404, "not_found", "docs/api.md"),
        ("/api/v1/captures/none", 404, "not_found", "none"),
        ("/api/v1/captures/none/file", 404, "not_found", "none"),
    ] {
        let answer = daemon.ask_unix(&[], path);
        let (got, got_code, detail) = answer.problem();
        assert_eq!((got, got_code), (status, code), "{path}: {answer:?}");
        assert!(detail.contains(word), "{path}: {answer:?}");
    }
    let captures = "/api/v1/captures";
    for (body, status, code) in [
        (json!({ "filter": "tcp prot 80" }), 400, "invalid_filter"),
        (json!({ "snaplen": 0 }), 422, "invalid_field"),
        (json!({ "limits": { "seconds": 0 } }), 422, "invalid_field"),
        (json!({ "interface": "nowhere" }), 422, "invalid_field"),
        (json!({ "colour": "red" }), 400, "invalid_body"),
    ] {
        let (got, problem) = daemon.post(captures, &body);
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{body}: {problem}");
    }
}

#[test]
fn a_filter_is_explained_or_refused_with_its_place() {
    let daemon = Daemon::start();
    let validate = |body: Value| daemon.post("/api/v1/filters/validate", &body);
    let (status, answer) = validate(json!({ "filter": "tcp port 80" }));
    if answer["code"] == "libpcap_missing" {
        println!("skipped: {answer}");
        return;
    }
    assert_eq!((status, &answer["valid"]), (200, &json!(true)), "{answer}");
    assert_eq!((&answer["treatment"], &answer["link"]), (&json!("tolerant"), &json!("ethernet")));
    assert_eq!(answer["programs"][0]["views"], json!(["untagged", "inner"]));
    assert_eq!(answer["instructions"], answer["programs"][0]["instructions"]);
    let (_, strict) =
        validate(json!({ "filter": "tcp port 80", "strict": true, "link": "raw_ip" }));
    assert_eq!((&strict["treatment"], &strict["link"]), (&json!("strict"), &json!("raw_ip")));
    assert_eq!(strict["programs"][0]["views"], json!(["as_it_is"]));
    assert!(strict["reach_bytes"].as_u64() < answer["reach_bytes"].as_u64(), "{strict}");
    let (status, problem) = validate(json!({ "filter": "tcp port 80 and prot 7" }));
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_filter")), "{problem}");
    assert_eq!((&problem["parameter"], &problem["position"]), (&json!("filter"), &json!(16)));
    for body in [json!({}), json!({ "filter": "tcp", "link": "token_ring" })] {
        let (status, problem) = validate(body);
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_body")), "{problem}");
    }
}

#[test]
fn a_parameter_at_fault_is_named_and_a_cursor_keeps_its_order() {
    let daemon = Daemon::start();
    for name in ["colour", "limit", "cursor", "sort", "port", "address", "state", "live"] {
        let problem = daemon.ask_unix(&[], &format!("/api/v1/flows?{name}=~"));
        assert_eq!(problem.problem().1, "invalid_parameter");
        assert_eq!(problem.body["parameter"], name);
    }
    let page = daemon.get("/api/v1/flows?sort=bytes&limit=1").1;
    let next = page["next"].as_str().unwrap();
    let other = daemon.ask_unix(&[], &format!("/api/v1/flows?sort=-bytes&limit=1&cursor={next}"));
    assert!(other.problem().2.contains("sorted by `bytes`"), "{other:?}");
}

#[test]
fn captures_run_beside_each_other_and_their_files_are_whole() {
    let daemon = Daemon::start();
    let (status, answer) =
        daemon.post("/api/v1/captures", &json!({ "filter": "tcp", "limits": { "packets": 120 } }));
    assert_eq!(status, 201, "{answer}");
    let id = answer["capture"]["id"].as_str().unwrap().to_owned();
    let (status, beside) = daemon.post("/api/v1/captures", &json!({ "filter": "udp" }));
    assert_eq!(status, 201, "{beside}");
    let file = daemon.folder().join("live.pcapng");
    let socket = daemon.socket();
    let args =
        ["--unix-socket", socket.to_str().unwrap(), "--no-include", "-o", file.to_str().unwrap()];
    // The stream ends with the capture.
    daemon.ask(&args, &format!("/api/v1/captures/{id}/live"));
    let capture = daemon.get(&format!("/api/v1/captures/{id}")).1["capture"].clone();
    assert_eq!(capture["state"], "finished", "{capture}");
    assert_eq!(capture["stop_reason"], "packet_limit");
    assert_eq!(capture["written"], 120);
    assert_eq!(capture["matched"], capture["written"]);
    let mut reader = captures::PacketReader::open(&file).unwrap();
    let mut packets = 0;
    while reader.next_packet().unwrap().is_some() {
        packets += 1;
    }
    assert_eq!(packets, 120);
    let beside = beside["capture"]["id"].as_str().unwrap();
    let (status, answer) = daemon.post(&format!("/api/v1/captures/{beside}/stop"), &json!({}));
    let stopped = &answer["capture"];
    assert_eq!((status, &stopped["stop_reason"]), (200, &json!("user_request")), "{answer}");
    assert_eq!(stopped["written"], stopped["matched"]);
    assert!(stopped["written"].as_u64() > Some(0), "{answer}");
    let deleted = daemon.ask_unix(&["-X", "DELETE"], &format!("/api/v1/captures/{id}"));
    assert_eq!(deleted.status, 204);
    assert_eq!(daemon.get(&format!("/api/v1/captures/{id}")).0, 404);
}

#[test]
fn metrics_are_prometheus_text_that_names_nobody() {
    let daemon = Daemon::start();
    let flow = daemon.get("/api/v1/flows?limit=1").1["flows"][0].clone();
    let id = flow["id"].as_str().unwrap();
    daemon.get(&format!("/api/v1/flows/{id}"));
    daemon.get("/no/such/route");
    let answer = daemon.ask_unix(&[], "/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.body.as_str().unwrap();
    let one = r#"linnet_http_requests_total{method="GET",route="/api/v1/flows/{id}",code="200"} 1"#;
    assert!(text.contains(one), "{text}");
    assert!(text.contains(r#"route="none",code="404"} 1"#), "{text}");
    let address = flow["originator"]["address"].as_str().unwrap();
    assert!(!text.contains(id) && !text.contains(address) && !text.contains("/no/such"), "{text}");
    let documentation = include_str!("../../docs/api.md");
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
        assert!(documentation.contains(&format!("`{name}`")), "{line}");
    }
}
