//! linnet's own verdicts through `linnet analyze --json`: on captures of which it is known what happened, and on all
//! those in which nothing did. Needs no privilege; without the corpus folder there are fewer.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it found"
)]

mod support;

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

/// What each is known for: every late segment was overtaken; every frame of one side was captured on both sides of a
/// router; tcptrace finds as many retransmissions.
const KNOWN: [(&str, &[(&str, u64)]); 3] = [
    ("wireshark4.4.18__challenge01_ooo_stream.pcapng", &[("reordered_segments", 34)]),
    ("tcptrace__hardware_dups.pcap", &[("duplicate_frames", 486)]),
    (
        "tcptrace__dsack.pcap",
        &[
            ("fast", 7),
            ("lost_downstream", 7),
            ("retransmitted_bytes", 10_136),
            ("retransmitted_segments", 7),
        ],
    ),
];

/// Classes of what is sent again or late.
const LATE: [&str; 4] =
    ["retransmissions", "fast_retransmissions", "spurious_retransmissions", "out_of_order"];

#[test]
fn what_happened_in_well_known_captures_is_told() {
    for (name, wanted) in KNOWN {
        let path = support::corpus_folder().join(name);
        if !path.exists() {
            println!("skipped: there is no {}", path.display());
            continue;
        }
        let wanted = wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(told(&path).verdicts, wanted, "{name}");
    }
}

#[test]
fn where_nothing_is_late_nothing_is_sent_again() {
    let files = support::corpus();
    let told = support::in_parallel(&files, |path| (path.to_owned(), told(path)));
    let free: Vec<_> = told.iter().filter(|(_, told)| told.late == 0).collect();
    println!("{} of {} captures have nothing late", free.len(), told.len());
    let wrong: Vec<_> = free.iter().filter(|(_, told)| !told.verdicts.is_empty()).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[derive(Debug)]
struct Told {
    /// Segments in Wireshark's classes of [`LATE`].
    late: u64,
    /// Verdicts that are not 0.
    verdicts: BTreeMap<String, u64>,
}

/// Sums over all flows of a capture.
fn told(path: &Path) -> Told {
    let mut linnet = Command::new(env!("CARGO_BIN_EXE_linnet"));
    let output = linnet.args(["analyze", "--json"]).arg(path).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let mut told = Told { late: 0, verdicts: BTreeMap::new() };
    let none = Vec::new();
    for flow in report["flows"].as_array().unwrap_or(&none) {
        for direction in ["from_originator", "from_responder"] {
            let tcp = &flow[direction]["tcp"];
            told.late += LATE.iter().filter_map(|class| tcp[class].as_u64()).sum::<u64>();
            for (name, count) in tcp["verdicts"].as_object().into_iter().flatten() {
                *told.verdicts.entry(name.clone()).or_default() += count.as_u64().unwrap();
            }
        }
    }
    told.verdicts.retain(|_, count| *count > 0);
    told
}
