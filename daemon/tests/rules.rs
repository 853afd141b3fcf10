//! Rules at the daemon's edges: what the API, the command line and the configuration refuse, and how they say it.
//! Needs no privilege: the daemon here replays a file, which has no rules.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use support::served::{Answer, Daemon};

const RULES: &str = "/api/v1/rules";

fn put(daemon: &Daemon, body: &Value) -> Answer {
    put_text(daemon, &body.to_string())
}

fn put_text(daemon: &Daemon, body: &str) -> Answer {
    let path = daemon.folder().join("body.json");
    std::fs::write(&path, body).unwrap();
    let data = format!("@{}", path.display());
    let json = "content-type: application/json";
    daemon.ask_unix(&["-X", "PUT", "-H", json, "--data-binary", &data], RULES)
}

fn linnet(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_linnet"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn the_api_names_the_rule_and_the_field_at_fault() {
    let daemon = Daemon::start();
    for (body, status, code, parameter, words) in [
        (json!({ "rules": 3 }), 400, "invalid_body", None, "no list"),
        (json!({ "rulez": [] }), 400, "invalid_body", None, "`rules`"),
        (
            json!({ "rules": vec![json!({ "action": "track" }); 1_025] }),
            400,
            "invalid_body",
            None,
            "1025 rules",
        ),
        (
            json!({ "rules": [{ "action": "track" }, { "action": "ignore", "network": "10.0.0.0/33" }] }),
            422,
            "invalid_field",
            Some("rules[1].network"),
            "0 to 32",
        ),
        (
            json!({ "rules": [{ "action": "ignore", "colour": "red" }] }),
            422,
            "invalid_field",
            Some("rules[0].colour"),
            "known are",
        ),
    ] {
        let answer = put(&daemon, &body);
        assert_eq!((answer.problem().0, answer.problem().1), (status, code), "{answer:?}");
        assert_eq!(answer.body["parameter"].as_str(), parameter, "{answer:?}");
        assert!(answer.problem().2.contains(words), "{answer:?}");
    }
    let post = daemon.ask_unix(&["-X", "POST"], RULES);
    assert_eq!((post.problem().0, post.header("allow")), (405, Some("GET,HEAD,PUT")));
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    let daemon = Daemon::start();
    for (body, place) in [
        (r#"{"rules": [], "rules": [{"action": "ignore"}]}"#, "rules"),
        (
            r#"{"rules": [{"action": "track"}, {"action": "ignore", "action": "track"}]}"#,
            "rules[1].action",
        ),
    ] {
        let answer = put_text(&daemon, body);
        assert_eq!((answer.problem().0, answer.problem().1), (422, "invalid_field"), "{answer:?}");
        assert_eq!(answer.body["parameter"].as_str(), Some(place), "{answer:?}");
        assert!(answer.problem().2.contains("twice"), "{answer:?}");
        let (code, text) = said(&linnet(&["rules", "check", "-"], body));
        assert_eq!(code, Some(64));
        assert!(text.contains(&format!("standard input: `{place}`: it is there twice")), "{text}");
    }
    for body in ["", "{\"rules\": [", "{\"rules\": []} x"] {
        let answer = put_text(&daemon, body);
        assert_eq!((answer.problem().0, answer.problem().1), (400, "invalid_body"), "{answer:?}");
    }
}

#[test]
fn a_replay_says_that_rules_need_the_live_datapath() {
    let daemon = Daemon::start();
    let (status, answer) = daemon.get(RULES);
    assert_eq!((status, &answer["generation"], &answer["rules"]), (200, &json!(0), &json!([])));
    assert!(answer["loss"]["seen"].as_u64().is_some(), "{answer}");
    let answer = put(&daemon, &json!({ "rules": [{ "action": "ignore" }] }));
    assert_eq!((answer.problem().0, answer.problem().1), (503, "rules_unavailable"));
    assert!(answer.problem().2.contains("run linnet on an interface"), "{answer:?}");
    let socket = daemon.socket();
    let socket = socket.to_str().unwrap();
    let (code, text) = said(&linnet(&["rules", "--socket", socket], ""));
    assert_eq!((code, text.as_str()), (Some(0), "# generation 0\n# everything is tracked\n"));
    let set = linnet(&["rules", "set", "-", "--socket", socket], "[[rules]]\naction = 'ignore'\n");
    let (code, text) = said(&set);
    assert!(code == Some(1) && text.contains("live datapath"), "{code:?} {text}");
}

#[test]
fn the_longest_list_fits_into_a_request() {
    let daemon = Daemon::start();
    let rule = json!({
        "action": "sample", "one_in": 65_536, "interface": format!("{}/{}", "n".repeat(60), "i".repeat(15)),
        "network": "2001:db8:ffff:ffff:ffff:ffff:ffff:ff00/120", "port": "10000-20000",
        "peer_network": "2001:db8:ffff:ffff:ffff:ffff:ffff:ff00/120", "peer_port": "10000-20000",
        "protocol": "tcp", "direction": "ingress",
    });
    let answer = put(&daemon, &json!({ "rules": vec![rule; 1_024] }));
    assert_eq!(answer.problem().1, "rules_unavailable", "it was read to its end: {answer:?}");
    let answer = put(&daemon, &json!({ "rules": [], "padding": "x".repeat(530_000) }));
    assert_eq!(answer.problem().1, "body_too_large");
}

#[test]
fn a_file_is_checked_without_a_daemon() {
    let check = |text: &str| said(&linnet(&["rules", "check", "-"], text));
    let (code, text) = check("[[rules]]\naction = 'ignore'\nnetwork = '10.0.0.0/8'\nport = 22\n");
    assert_eq!((code, text.as_str()), (Some(0), "usable: 1 rule\n"));
    let (code, text) = check("[[rules]]\naction = 'track'\n[[rules]]\naction = 'sample'\n");
    assert_eq!(code, Some(64));
    assert!(text.contains("standard input: `rules[1].one_in`: it is missing"), "{text}");
    let (code, text) = said(&linnet(&["rules", "check", "/no/such/file"], ""));
    assert!(code == Some(64) && text.contains("`/no/such/file`"), "{text}");
    let (code, text) = said(&linnet(&["rules", "--socket", "/no/such/socket"], ""));
    assert!(code == Some(69) && text.contains("/no/such/socket"), "{text}");
}

#[test]
fn a_configuration_with_a_bad_rule_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("linnet.toml");
    let text = "schema = 1\n\n[[rules]]\naction = 'ignore'\n\n[[rules]]\naction = 'ignore'\nport = 70000\n";
    std::fs::write(&path, text).unwrap();
    let (code, text) = said(&linnet(&["run", "--config", path.to_str().unwrap()], ""));
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("line 6: `rules[1].port`: `70000` is no port"), "{text}");
}
