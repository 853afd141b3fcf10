//! `cargo xtask`: everything that is done with linnet's sources besides compiling them. Must never be needed
//! by a built linnet.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool for developers: the terminal is its interface"
)]

mod console;
mod process;
mod run;
mod setup;
mod signals;
mod test;
mod tidy;

use anyhow::{Result, bail};
use setup::Level;
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    process::ExitCode,
};
use xtask::{
    bpf::{self, Messages, Objects, Record},
    workspace::Workspace,
};

const USAGE: &str = "\
usage: cargo xtask <task>

  setup [run|test]    find or install what running needs, or (by default) also what testing needs
  run [-- ARGS]       build linnet and watch the lab; ARGS go to `linnet run`, and `--interface IF`
                      watches a real interface instead
  test [--full]       everything that CI checks; --full adds the long tests and cargo-deny
  tidy                the architecture's invariants, checked on sources and manifests
  bpf [--require]     build the BPF objects; --require fails where there is no toolchain
";

/// Wrong usage, as in linnet's own exit codes.
const USAGE_CODE: u8 = 64;

fn main() -> ExitCode {
    task().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn task() -> Result<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let task = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    let workspace = Workspace::of_this_program();
    match (task.to_str().unwrap_or_default(), words(&rest).as_slice()) {
        ("setup", [] | ["test"]) => prepare(&workspace, Level::Test),
        ("setup", ["run"]) => prepare(&workspace, Level::Run),
        ("run", _) => run::run(&workspace, after_dashes(&rest)),
        ("test", []) => test::test(&workspace, test::Extent::Usual),
        ("test", ["--full"]) => test::test(&workspace, test::Extent::Full),
        ("tidy", []) => tidy::tidy(&workspace.root),
        ("bpf", []) => bpf(&workspace, Need::Optional),
        ("bpf", ["--require"]) => bpf(&workspace, Need::Required),
        ("help" | "--help" | "-h", _) => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        ("", _) => {
            eprint!("{USAGE}");
            Ok(ExitCode::from(USAGE_CODE))
        }
        (unknown, _) => {
            eprintln!("error: `cargo xtask {unknown}` with these arguments is no task\n");
            eprint!("{USAGE}");
            Ok(ExitCode::from(USAGE_CODE))
        }
    }
}

fn words(arguments: &[OsString]) -> Vec<&str> {
    arguments.iter().map(|argument| argument.to_str().unwrap_or_default()).collect()
}

/// Cargo passes the `--` of `cargo xtask run -- ARGS` on.
fn after_dashes(arguments: &[OsString]) -> &[OsString] {
    match arguments {
        [first, rest @ ..] if first == OsStr::new("--") => rest,
        all => all,
    }
}

fn prepare(workspace: &Workspace, level: Level) -> Result<ExitCode> {
    let missing = setup::prepare(workspace, level);
    missing.refuse()?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a missing toolchain is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Optional,
    Required,
}

fn bpf(workspace: &Workspace, need: Need) -> Result<ExitCode> {
    match bpf::objects(workspace, &Record::of_xtask(workspace), Messages::Shown)? {
        Objects::Built { xdp, tc, toolchain } => {
            println!("built with {toolchain}");
            for object in [xdp, tc] {
                println!("{:>9} bytes  {}", fs::metadata(&object)?.len(), object.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Objects::NotBuilt(not_built) => match need {
            Need::Optional => {
                println!("not built: {not_built}");
                Ok(ExitCode::SUCCESS)
            }
            Need::Required => bail!("not built: {not_built}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashes_before_linnets_own_arguments_are_optional() {
        let with: Vec<OsString> = vec!["--".into(), "--interface".into()];

        assert_eq!(after_dashes(&with), &with[1..]);
        assert_eq!(after_dashes(&with[1..]), &with[1..]);
    }
}
