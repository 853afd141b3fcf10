//! Which names a part of the sources may use: the walls between the crates and inside the daemon. Must never
//! be loosened for one file without saying so here, next to the reason.

use super::{
    Broken,
    files::Tree,
    text::{code_of, has_word, names_crate},
};
use std::path::Path;

/// A crate that only some places may name.
struct Confined {
    krate: &'static str,
    places: &'static [&'static str],
    why: &'static str,
}

const CONFINED: [Confined; 9] = [
    Confined {
        krate: "aya",
        places: &["daemon/src/live/", "daemon/tests/", "bench/src/", "bench/benches/"],
        why: "only `daemon/src/live` talks to the kernel's BPF",
    },
    Confined {
        krate: "aya_obj",
        places: &["daemon/src/live/", "daemon/tests/", "bench/src/", "bench/benches/"],
        why: "only `daemon/src/live` talks to the kernel's BPF",
    },
    Confined {
        krate: "aya_ebpf",
        places: &["xdp/src/", "tc/src/", "datapath/src/"],
        why: "it exists only inside the kernel programs",
    },
    Confined {
        krate: "axum",
        places: &["daemon/src/api/", "daemon/src/app.rs", "daemon/tests/", "bench/benches/"],
        why: "HTTP stays behind `daemon/src/api`",
    },
    Confined {
        krate: "pcap_file",
        places: &["captures/src/format/", "captures/tests/"],
        why: "one place reads and writes capture files",
    },
    Confined {
        krate: "pnet",
        places: &["daemon/src/live/", "daemon/tests/", "bench/"],
        why: "raw sockets and interface lists belong to the live side and to the lab",
    },
    Confined {
        krate: "dashmap",
        places: &["daemon/src/flow/"],
        why: "there is one concurrent table: the flow table",
    },
    Confined {
        krate: "tokio",
        places: &["daemon/", "bench/"],
        why: "everything but the process itself is synchronous",
    },
    Confined {
        krate: "libloading",
        places: &["captures/src/filter/"],
        why: "libpcap is the only library loaded at run time",
    },
];

/// Phrases that an area must not contain.
struct Banned {
    areas: &'static [&'static str],
    /// Files below the areas to which the rule does not apply.
    except: &'static [&'static str],
    rule: &'static str,
    phrases: &'static [&'static str],
    why: &'static str,
}

const BANNED: [Banned; 10] = [
    Banned {
        areas: &["datapath/src/"],
        except: &["datapath/src/kernel/"],
        rule: "pure datapath",
        phrases: &[
            "std::time",
            "Instant",
            "SystemTime",
            "bpf_ktime_get_ns",
            "serde",
            "std::fs",
            "std::net",
        ],
        why: "the same code runs in the kernel and on a file: time is an argument, there is no I/O",
    },
    Banned {
        areas: &["xdp/src/", "tc/src/", "datapath/src/"],
        except: &[],
        rule: "verdict",
        phrases: &[
            "XDP_ABORTED",
            "XDP_DROP",
            "XDP_TX",
            "XDP_REDIRECT",
            "TC_ACT_SHOT",
            "TC_ACT_STOLEN",
            "TC_ACT_REDIRECT",
            "TC_ACT_QUEUED",
            "TCX_DROP",
            "TCX_REDIRECT",
        ],
        why: "the observer does not change the observed: linnet never drops, sends or redirects",
    },
    Banned {
        areas: &["xdp/src/", "tc/src/"],
        except: &[],
        rule: "thin doors",
        phrases: &["from_be_bytes", "from_be", "to_be", "EtherType", "IPPROTO_TCP", "ETH_P_IP"],
        why: "a door contains no parsing and no policy; both live in `datapath`",
    },
    Banned {
        areas: &["daemon/src/analysis/", "daemon/src/diagnosis/", "daemon/src/flow/"],
        except: &[],
        rule: "pure analysis",
        phrases: &[
            "tokio::",
            "axum::",
            "aya::",
            "aya_obj::",
            "crate::clock",
            "Instant",
            "SystemTime",
        ],
        why: "flows and analyses are the same live and offline: no runtime, no HTTP, no kernel, no clock",
    },
    Banned {
        areas: &[
            "daemon/src/flow/",
            "daemon/src/analysis/",
            "daemon/src/diagnosis/",
            "daemon/src/live/",
        ],
        except: &[],
        rule: "nothing knows the api",
        phrases: &["crate::api", "super::api"],
        why: "handlers call the parts, never the other way round",
    },
    Banned {
        areas: &["captures/src/"],
        except: &[],
        rule: "synchronous captures",
        phrases: &["async fn", "async move", ".await", "tokio::"],
        why: "the daemon decides on which thread files are written",
    },
    Banned {
        areas: &["daemon/src/", "captures/src/", "webui/src-rs/"],
        except: &["daemon/src/clock.rs"],
        rule: "one clock",
        phrases: &[
            "Instant::now",
            "SystemTime::now",
            "Timestamp::now",
            "Zoned::now",
            "clock_gettime",
            ".elapsed()",
        ],
        why: "only `daemon/src/clock.rs` reads time; everything else is given it",
    },
    Banned {
        areas: &["daemon/src/", "captures/src/"],
        except: &[],
        rule: "bounded queues",
        phrases: &["unbounded_channel", "unbounded", "UnboundedSender", "mpsc::channel()"],
        why: "every queue has a limit, named `*_MAX`, and counts what it drops",
    },
    Banned {
        areas: &[""],
        except: &[],
        rule: "no ignored tests",
        phrases: &["#[ignore"],
        why: "a test that cannot run says why, and fails under `CI=true`",
    },
    Banned {
        areas: &[""],
        except: UNSAFE_PLACES,
        rule: "unsafe",
        phrases: &["unsafe"],
        why: "unsafe code stays where kernel memory, shared layouts and foreign libraries are",
    },
];

/// Where `unsafe` is part of the job. In the datapath's counters it replaces an index expression: the check
/// stands right before it, and the panic of an index does not load as a kernel program.
const UNSAFE_PLACES: &[&str] = &[
    "datapath/src/atomic.rs",
    "datapath/src/hint.rs",
    "datapath/src/kernel/",
    "datapath/src/layout/",
    "datapath/src/pipeline.rs",
    "datapath/src/rtt.rs",
    "xdp/src/",
    "tc/src/",
    "daemon/src/live/",
    "daemon/tests/",
    "captures/src/filter/compile.rs",
    "bench/",
];

pub(super) fn check(tree: &Tree) -> Vec<Broken> {
    let mut broken = Vec::new();
    for (path, source) in tree.with_extension("rs") {
        for (number, line) in code_of(source).lines().enumerate() {
            check_line(path, number + 1, line, &mut broken);
        }
    }
    for kind in ["ts", "svelte", "js"] {
        for (path, source) in tree.with_extension(kind) {
            check_fetch(path, source, &mut broken);
        }
    }
    broken
}

fn check_line(path: &Path, number: usize, line: &str, broken: &mut Vec<Broken>) {
    for confined in &CONFINED {
        if !within(path, confined.places) && names_crate(line, confined.krate) {
            let why = format!("`{}` is named here, but {}", confined.krate, confined.why);
            broken.push(Broken::new(path, number, "confined crate", why));
        }
    }
    for banned in &BANNED {
        if !within(path, banned.areas) || within(path, banned.except) {
            continue;
        }
        if let Some(phrase) = banned.phrases.iter().find(|phrase| has_word(line, phrase)) {
            let why = format!("`{phrase}`: {}", banned.why);
            broken.push(Broken::new(path, number, banned.rule, why));
        }
    }
}

fn check_fetch(path: &Path, source: &str, broken: &mut Vec<Broken>) {
    if !path.starts_with("webui/src") || path == Path::new("webui/src/api.ts") {
        return;
    }
    for (number, line) in source.lines().enumerate() {
        if has_word(line, "fetch(") {
            let why = "only `webui/src/api.ts` calls `fetch`; views render state";
            broken.push(Broken::new(path, number + 1, "one caller of fetch", why));
        }
    }
}

fn within(path: &Path, places: &[&str]) -> bool {
    let path = path.to_string_lossy();
    places.iter().any(|place| path.starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, source: &str) -> Vec<String> {
        let mut rules: Vec<_> = check(&Tree::of(&[(path, source)]))
            .iter()
            .map(|broken| format!("{}:{}", broken.line, broken.rule))
            .collect();
        rules.sort();
        rules
    }

    #[test]
    fn aya_is_named_only_by_the_live_side() {
        let source = "//! A.\nuse aya::Ebpf;\n";

        assert_eq!(rules("daemon/src/api/flows.rs", source), ["2:confined crate"]);
        assert_eq!(rules("daemon/src/live/attach.rs", source), [""; 0]);
    }

    #[test]
    fn axum_is_named_only_by_the_api() {
        let source = "//! A.\naxum::Router::new();\n";

        assert_eq!(rules("daemon/src/ingest.rs", source), ["2:confined crate"]);
        assert_eq!(rules("daemon/src/app.rs", source), [""; 0]);
    }

    #[test]
    fn a_comment_or_a_string_may_name_anything() {
        let source = "//! Not aya::Ebpf, not axum::Router.\nf(\"tokio::spawn\"); // unsafe\n";

        assert_eq!(rules("captures/src/ring.rs", source), [""; 0]);
    }

    #[test]
    fn the_datapath_has_no_clock() {
        assert_eq!(
            rules("datapath/src/rtt.rs", "//! A.\nuse std::time::Instant;\n"),
            ["2:pure datapath"]
        );
    }

    #[test]
    fn no_program_names_another_verdict_than_pass() {
        assert_eq!(
            rules("xdp/src/main.rs", "//! A.\nreturn xdp_action::XDP_DROP;\n"),
            ["2:verdict"]
        );
        assert_eq!(rules("xdp/src/main.rs", "//! A.\nreturn xdp_action::XDP_PASS;\n"), [""; 0]);
    }

    #[test]
    fn only_the_clock_reads_time() {
        let source = "//! A.\nlet now = Instant::now();\n";

        assert_eq!(rules("daemon/src/app.rs", source), ["2:one clock"]);
        assert_eq!(rules("daemon/src/clock.rs", source), [""; 0]);
        assert_eq!(rules("daemon/src/flow/table.rs", source), ["2:one clock", "2:pure analysis"]);
    }

    #[test]
    fn flows_do_not_know_the_api() {
        assert_eq!(
            rules("daemon/src/flow/query.rs", "//! A.\nuse crate::api::page;\n"),
            ["2:nothing knows the api"]
        );
    }

    #[test]
    fn captures_do_not_wait_asynchronously() {
        assert_eq!(
            rules("captures/src/ring.rs", "//! A.\npub async fn f() {}\n"),
            ["2:synchronous captures"]
        );
    }

    #[test]
    fn a_queue_without_a_limit_is_refused() {
        assert_eq!(
            rules("daemon/src/ingest.rs", "//! A.\nlet q = mpsc::unbounded_channel();\n"),
            ["2:bounded queues"]
        );
    }

    #[test]
    fn unsafe_code_stays_where_it_has_to_be() {
        let source = "//! A.\nunsafe { f() }\n";

        assert_eq!(rules("daemon/src/api/flows.rs", source), ["2:unsafe"]);
        assert_eq!(rules("datapath/src/layout/flow.rs", source), [""; 0]);
        assert_eq!(rules("datapath/src/lib.rs", "//! A.\n#![forbid(unsafe_code)]\n"), [""; 0]);
    }

    #[test]
    fn one_file_calls_fetch() {
        assert_eq!(
            rules("webui/src/views/flows.svelte", "await fetch('/x')\n"),
            ["1:one caller of fetch"]
        );
        assert_eq!(rules("webui/src/api.ts", "await fetch('/x')\n"), [""; 0]);
        assert_eq!(rules("webui/src/views/flows.svelte", "await api.prefetch('/x')\n"), [""; 0]);
    }

    #[test]
    fn a_test_is_not_switched_off() {
        assert_eq!(
            rules("daemon/tests/api.rs", "//! A.\n#[ignore]\nfn f() {}\n"),
            ["2:no ignored tests"]
        );
    }
}
