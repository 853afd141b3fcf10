//! Who may ask and in which form: sockets, tokens, sessions, sites, problems. Over real sockets, as a client would.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, says what it measured, and makes its own numbers"
)]

mod support;

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use support::served::{Answer, Daemon, timed};

const JSON: &str = "content-type: application/json";

#[test]
fn a_stranger_gets_nothing_and_the_token_everything() {
    let daemon = Daemon::start();
    let bearer = daemon.bearer();
    for path in ["/api/v1/flows", "/api/v1/status", "/metrics", "/api/v1/captures"] {
        let refused = daemon.ask(&[], path);
        assert_eq!(refused.problem().1, "unauthorized", "{path} without a token");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        assert_eq!(daemon.ask(&["-H", "authorization: Bearer linnet_0"], path).status, 401);
        assert_eq!(daemon.ask(&["-H", &bearer], path).status, 200, "{path} with the token");
        assert_eq!(daemon.get(path).0, 200, "{path} over the unix socket");
    }
    for path in ["/healthz", "/livez", "/readyz", "/", "/assets/page.js"] {
        let answer = daemon.ask(&[], path);
        assert_eq!(answer.status, 200, "{path} is open");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'"), "{path}");
        for name in ["x-content-type-options", "referrer-policy", "cache-control", "x-request-id"] {
            assert!(answer.header(name).is_some(), "{path}: {name}");
        }
    }
}

/// Needs root for a group of its own and for asking as another user.
#[test]
fn the_unix_socket_is_for_the_group_and_for_nobody_else() {
    if !support::root("the test of the unix socket's group") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let groups = folder.path().join("group");
    std::fs::write(&groups, "root:x:0:\nlinnet:x:4242:nobody\nother:x:4343:\n").unwrap();
    let script = format!("mount --bind '{}' /etc/group && exec \"$0\" \"$@\"", groups.display());
    let daemon = Daemon::start_by(&["unshare", "--mount", "sh", "-c", &script]);
    let ask = |identity: &[&str]| -> Answer {
        let socket = daemon.socket();
        let output = Command::new("setpriv")
            .args(identity)
            .args(["curl", "-s", "-i", "-m", "20", "--unix-socket", socket.to_str().unwrap()])
            .arg("http://localhost/api/v1/status")
            .output()
            .unwrap();
        Answer::new(&String::from_utf8_lossy(&output.stdout))
    };
    let status = |identity: &[&str]| ask(identity).status;
    let stranger = ["--reuid=12345", "--regid=4343", "--clear-groups"];
    assert_eq!(status(&["--reuid=0"]), 200, "root");
    assert_eq!(status(&["--reuid=12345", "--regid=4242", "--clear-groups"]), 200, "its group");
    assert_eq!(status(&["--reuid=65534", "--regid=65534", "--groups=4242"]), 200, "a member");
    assert_eq!(status(&stranger), 0, "the socket's mode keeps others out");
    // Also where somebody opened it to everyone.
    for (path, mode) in [(daemon.run_dir(), 0o755), (daemon.socket(), 0o666)] {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, permissions).unwrap();
    }
    let refused = ask(&stranger);
    assert_eq!(refused.problem().1, "forbidden");
    assert!(refused.problem().2.contains("`linnet`"), "{refused:?}");
    let metrics = daemon.ask_unix(&[], "/metrics").body;
    let counted = "linnet_auth_failures_total{reason=\"unix_peer\"} 1\n";
    assert!(metrics.as_str().unwrap().contains(counted), "{metrics}");
}

#[test]
fn an_address_beyond_this_host_is_refused_with_the_reason() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8470"] {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_linnet"))
            .args(["run", "--replay", "none.pcap", "--listen", address, "--run-dir"])
            .arg(folder.path().join("run"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(address) && said.contains("TLS") && said.contains("ssh"), "{said}");
        assert!(!folder.path().join("run").exists(), "nothing was begun");
    }
}

#[test]
fn a_login_works_once_and_its_session_until_it_is_ended() {
    let daemon = Daemon::start();
    let body = json!({ "login": daemon.login }).to_string();
    let jar = daemon.folder().join("cookies");
    let jar = jar.to_str().unwrap();
    let login = ["-c", jar, "-H", JSON, "-d", &body];
    let answer = daemon.ask(&login, "/api/v1/sessions");
    assert_eq!((answer.status, &answer.body), (201, &json!({})));
    let cookie = answer.header("set-cookie").unwrap();
    for part in ["linnet_session=", "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert_eq!(daemon.ask(&["-b", jar], "/api/v1/flows").status, 200);
    assert_eq!(daemon.ask(&login, "/api/v1/sessions").problem().1, "unauthorized", "used up");
    let ended = daemon.ask(&["-b", jar, "-X", "DELETE"], "/api/v1/sessions/current");
    assert_eq!(ended.status, 204);
    assert!(ended.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(daemon.ask(&["-b", jar], "/api/v1/flows").status, 401, "logged out");
}

#[test]
fn guessing_ends_for_a_while_but_holds_up_nobody_who_is_in() {
    let daemon = Daemon::start();
    let bearer = daemon.bearer();
    let token = bearer.rsplit(' ').next().unwrap();
    let post = |body: Value| daemon.ask(&["-H", JSON, "-d", &body.to_string()], "/api/v1/sessions");
    assert_eq!(post(json!({ "token": token })).status, 201, "the token too makes a session");
    for _ in 0..20 {
        assert_eq!(post(json!({ "token": "linnet_0" })).problem().1, "unauthorized");
    }
    let refused = post(json!({ "token": token }));
    assert_eq!((refused.problem().0, refused.problem().1), (429, "too_many_logins"));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(refused.body["retry_after_s"], seconds);
    assert_eq!(daemon.ask(&["-H", &bearer], "/api/v1/flows").status, 200);
}

#[test]
fn other_sites_pages_get_nothing_but_may_link_here() {
    let daemon = Daemon::start();
    let bearer = daemon.bearer();
    let ask = |path: &str, headers: &[&str]| {
        let headers = headers.iter().flat_map(|header| ["-H", header]);
        let args: Vec<_> = ["-H", &bearer].into_iter().chain(headers).collect();
        daemon.ask(&args, path)
    };
    let link = ["sec-fetch-site: cross-site", "sec-fetch-mode: navigate"];
    assert_eq!(ask("/", &link).status, 200, "a link from elsewhere opens the page");
    let (_, port) = daemon.address.split_once(':').unwrap();
    for refused in [
        &link[..],
        &["host: evil.example"],
        &["host: localhost"],
        &["origin: http://evil.example"],
        &["origin: null"],
        &["origin: http://127.0.0.1:1"],
        &["sec-fetch-site: same-site"],
    ] {
        for path in ["/api/v1/flows", "/metrics", "/api/v1/nothing"] {
            let answer = ask(path, refused);
            assert_eq!(answer.problem().1, "cross_site", "{path} {refused:?}");
        }
    }
    assert_eq!(ask("/", &["host: evil.example"]).status, 403, "a name that was rebound");
    assert_eq!(daemon.ask(&["-H", "host: evil.example"], "/api/v1/sessions").status, 403);
    let ours = [format!("host: localhost:{port}"), format!("origin: http://localhost:{port}")];
    let ours = [&*ours[0], &*ours[1], "sec-fetch-site: same-origin"];
    assert_eq!(ask("/api/v1/flows", &ours).status, 200, "our own page");
}

#[test]
fn every_refusal_is_a_whole_problem() {
    let daemon = Daemon::start();
    let large = daemon.folder().join("large.json");
    std::fs::write(&large, format!("{{\"filter\": \"{}\"}}", " ".repeat(64 * 1024))).unwrap();
    let large = format!("@{}", large.display());
    let captures = "/api/v1/captures";
    for (args, path, status, code, word) in [
        (&[][..], "/nothing", 404, "not_found", "docs/api.md"),
        (&[], "/assets/none.js", 404, "not_found", "none.js"),
        (&["-X", "DELETE"], "/api/v1/flows", 405, "method_not_allowed", "DELETE"),
        (&["-X", "PUT"], "/api/v1/sessions", 405, "method_not_allowed", "PUT"),
        (&["-X", "BREW"], "/metrics", 405, "method_not_allowed", "BREW"),
        (&["-d", "{}"], captures, 415, "unsupported_media_type", "application/json"),
        (&["-d", "token=x"], "/api/v1/sessions", 415, "unsupported_media_type", "JSON"),
        (&["-H", JSON, "-d", "{"], captures, 400, "invalid_body", "line 1"),
        (&["-H", JSON, "-d", "7"], captures, 400, "invalid_body", "struct"),
        (&["-H", JSON, "-d", "{\"snaplen\": -1}"], captures, 400, "invalid_body", "snaplen"),
        (&["-H", JSON, "-d", "{}"], "/api/v1/sessions", 400, "invalid_body", "\"login\""),
        (&["-H", JSON, "-d", "{\"token\": 1}"], "/api/v1/sessions", 400, "invalid_body", "token"),
        (
            &["-H", JSON, "-d", "{\"token\":\"a\",\"login\":\"b\"}"],
            "/api/v1/sessions",
            400,
            "invalid_body",
            "send",
        ),
        (&["-H", JSON, "-d", &large], captures, 413, "body_too_large", "65536"),
        (
            &["-H", JSON, "-H", "transfer-encoding: chunked", "-d", &large],
            captures,
            413,
            "body_too_large",
            "65536",
        ),
        (&[], "/api/v1/captures/%ff", 400, "invalid_request", "docs/api.md"),
        (&["-X", "DELETE"], "/api/v1/sessions/current?x=1", 400, "invalid_parameter", "`x`"),
    ] {
        let answer = daemon.ask_unix(args, path);
        let (got, got_code, detail) = answer.problem();
        assert_eq!((got, got_code), (status, code), "{args:?} {path}: {answer:?}");
        assert!(detail.contains(word), "{args:?} {path}: {answer:?}");
        assert_eq!(answer.body["instance"], path.split('?').next().unwrap());
        assert_eq!(answer.header("allow").is_some(), status == 405, "{path}: {answer:?}");
    }
    let head = daemon.ask_unix(&["-I"], "/nothing");
    assert_eq!((head.status, head.header("content-type")), (404, Some("application/problem+json")));
    let ((), took) = timed(|| assert_eq!(daemon.get("/api/v1/flows").0, 200));
    assert!(took < Duration::from_secs(5), "it is well");
}

#[test]
fn every_code_in_the_source_is_documented() {
    let documentation = include_str!("../../docs/api.md");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    let mut codes = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Ok(source) = std::fs::read_to_string(&path) else { continue };
        // The code is the first literal of each call.
        let calls = ["ApiError::new(", "Self::new("].map(|call| source.split(call).skip(1));
        for call in calls.into_iter().flatten() {
            codes.extend(call.split('"').nth(1).filter(|text| is_code(text)).map(str::to_owned));
        }
    }
    assert!(codes.contains("too_many_captures") && codes.contains("too_many_logins"), "{codes:?}");
    for code in &codes {
        assert!(documentation.contains(&format!("| `{code}` |")), "docs/api.md lacks `{code}`");
    }
}

fn is_code(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
