//! Every capture there is, through `linnet analyze` and through tshark: the same frames, conversations and Community
//! IDs. Must never name a file: what is compared is decided by what tshark finds in it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{path::Path, process::Command};

use serde_json::Value;
use support::tshark::{self, Dissected};

/// What became of one file.
#[derive(Debug)]
struct Compared {
    name: String,
    frames: u64,
    /// Frames that tshark does not follow.
    beyond_tshark: u64,
    conversations: usize,
    /// What must not be, whatever the file holds.
    wrong: Vec<String>,
    /// Conversations on which linnet and tshark differ.
    differs: Vec<String>,
}

#[test]
fn every_capture_has_the_conversations_that_tshark_sees() {
    if !lab::require_tool("tshark", "the captures against tshark") {
        return;
    }
    let files = support::corpus();
    let compared = support::in_parallel(&files, compare);
    let frames: u64 = compared.iter().map(|file| file.frames).sum();
    let conversations: usize = compared.iter().map(|file| file.conversations).sum();
    println!("{} files, {frames} frames, {conversations} conversations", compared.len());

    let wrong: Vec<_> = compared.iter().filter(|file| !file.wrong.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (beyond, comparable): (Vec<_>, Vec<_>) =
        compared.iter().partition(|file| file.beyond_tshark > 0);
    let differing: Vec<_> = comparable.iter().filter(|file| !file.differs.is_empty()).collect();
    assert!(differing.is_empty(), "{differing:#?}");
    for file in beyond {
        println!("{}: tshark does not follow {} frames", file.name, file.beyond_tshark);
        // One of such a file's conversations for each such frame, and nothing else.
        assert!(file.differs.len() as u64 <= file.beyond_tshark, "{file:#?}");
    }
}

fn compare(path: &Path) -> Compared {
    let Dissected { frames, conversations, beyond_tshark } = tshark::dissect(path);
    let output = Command::new(env!("CARGO_BIN_EXE_linnet"))
        .args(["analyze", "--json"])
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let mut wrong = Vec::new();
    let mut must = |holds: bool, what: String| wrong.extend((!holds).then_some(what));
    let code = output.status.code();
    must(matches!(code, Some(0 | 65)), format!("exit {code:?}: {said}"));
    must((code == Some(0)) == said.is_empty(), format!("exit {code:?}, and it says `{said}`"));
    if report.is_null() {
        must(frames == 0, format!("nothing is told of {frames} frames: {said}"));
    } else {
        let ledger = report["ledger"].as_object().unwrap();
        let sum: u64 = ledger.values().filter_map(Value::as_u64).sum();
        let packets = report["packets"].as_u64().unwrap();
        must(sum == packets, format!("the ledger holds {sum} of {packets} packets"));
        must(packets == frames, format!("{packets} packets, and tshark reads {frames}"));
        let damaged = report["truncated"].as_bool().unwrap();
        must(damaged == (code == Some(65)), format!("truncated is {damaged} at exit {code:?}"));
        let reasoned = report["truncated_reason"].is_string();
        must(damaged == reasoned, format!("truncated is {damaged}, the reason {reasoned}"));
    }
    let none = Vec::new();
    let ours = tshark::rolled_up(report["flows"].as_array().unwrap_or(&none));
    Compared {
        name: path.file_name().unwrap().to_string_lossy().into_owned(),
        frames,
        beyond_tshark,
        conversations: conversations.len(),
        wrong,
        differs: tshark::differences(&ours, &conversations),
    }
}
