//! Captures on their way out of the daemon, and everybody's tools that read them. Must never pass over what one of those
//! complains of.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::packets::packets;

/// What a tool prints; it must succeed, and say nothing but what it reads and as whom.
pub(crate) fn said(tool: &str, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(tool).args(args).output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    let is_fault = |line: &&str| {
        !line.starts_with("reading from file") && !line.starts_with("Running as user")
    };
    let faults: Vec<_> = stderr.lines().filter(is_fault).collect();
    assert!(status.success() && faults.is_empty(), "{tool} {args:?}: {status} {stderr}");
    String::from_utf8(stdout).unwrap()
}

/// Every tool reads the file to its end, finds so many packets, and no fault.
pub(crate) fn assert_read_by_tools(path: &Path, count: usize) {
    let text = path.to_str().unwrap();
    let copy = path.with_extension("copy");
    for tool in ["tshark", "tcpdump", "capinfos", "editcap"] {
        if !lab::require_tool(tool, "files of captures") {
            continue;
        }
        let found = match tool {
            "tshark" => said(tool, &["-n", "-r", text, "-T", "fields", "-e", "frame.number"])
                .lines()
                .count(),
            "tcpdump" => said(tool, &["-n", "-t", "-q", "-r", text])
                .lines()
                .filter(|line| !line.starts_with([' ', '\t']))
                .count(),
            "capinfos" => {
                let table = said(tool, &["-Tmcr", text]);
                table.trim().rsplit_once(',').unwrap().1.parse().unwrap()
            }
            _ => {
                said(tool, &[text, copy.to_str().unwrap()]);
                let found = packets(&copy).len();
                fs::remove_file(&copy).unwrap();
                found
            }
        };
        assert_eq!(found, count, "{tool} {text}");
    }
}

/// Downloads a route into a file; the head of the answer.
pub(crate) fn download(socket: &Path, route: &str, to: &Path, args: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args(["-sf", "-m", "60", "-D", "-", "-o"]).arg(to).arg("--unix-socket").arg(socket);
    let output = curl.args(args).arg(format!("http://localhost{route}")).output().unwrap();
    assert!(output.status.success(), "{route}: {output:?}");
    String::from_utf8(output.stdout).unwrap().to_lowercase()
}

/// `linnet capture` as a process.
pub(crate) fn linnet(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linnet"));
    command.arg("capture").args(args).arg("--socket").arg(socket);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Interrupts one; it must end well and say nothing.
pub(crate) fn interrupt(child: Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_silent(&child.wait_with_output().unwrap());
}

pub(crate) fn assert_silent(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

/// The files of a folder whose names begin with this, by name.
pub(crate) fn files(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let ours = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(begin);
    let mut files: Vec<_> = paths.filter(ours).collect();
    files.sort();
    files
}
