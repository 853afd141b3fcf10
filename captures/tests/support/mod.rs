//! What the integration tests share: the corpus folder, outside tools, and skipping aloud.
//! Never hides a missing tool: a skip is printed, and fails where `CI=true`.
#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::print_stderr, reason = "a skip must be seen in the test's output")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Says why a test does not run; under `CI=true` that is a failure.
pub(crate) fn skip(reason: &str) {
    assert_ne!(env::var("CI").as_deref(), Ok("true"), "must not be skipped in CI: {reason}");
    eprintln!("skipped: {reason}");
}

/// Whether `tool` is installed; prints the skip where it is not.
pub(crate) fn has_tool(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        skip(&format!("`{tool}` is not installed"));
    }
    found
}

/// The capture files of the corpus folder: `LINNET_CORPUS`, or `../shared/pcaps` beside the
/// workspace. The folder is no part of the project, so that its absence is no failure anywhere.
pub(crate) fn corpus() -> Option<Vec<PathBuf>> {
    let folder = env::var_os("LINNET_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/pcaps"),
        PathBuf::from,
    );
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!("skipped: no corpus folder at {}", folder.display());
        return None;
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng")
        })
        .collect();
    files.sort();
    Some(files)
}

/// Whether the long versions run: `cargo xtask test --full`.
pub(crate) fn full() -> bool {
    env::var_os("LINNET_FULL").is_some()
}

/// Runs `command` with `arguments` and waits for it.
pub(crate) fn run(command: &str, arguments: &[&str]) -> Output {
    Command::new(command)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("`{command}` does not start: {error}"))
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test files have plain names")
}

/// What `tool` wrote to stderr, without the notices that mean nothing.
pub(crate) fn complaints(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| {
            !line.starts_with("Running as user") && !line.starts_with("reading from file")
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Says how much was compared, which a bare "ok" does not.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}
