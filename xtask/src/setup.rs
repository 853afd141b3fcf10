//! `cargo xtask setup`: finds what linnet needs to be built, run or tested, and installs what is missing.
//! Must never install twice what is there, and never fail silently: what it cannot do it prints as commands.

mod debian;
mod packages;

use crate::console::{Step, Stopwatch, seconds};
use anyhow::{Result, bail};
use debian::{Apt, Install};
use packages::Package;
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};
use xtask::{
    bpf::{self, Compiler, LINKER_VERSION, Search, forget_outer_cargo},
    workspace::Workspace,
};

/// How much is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// The BPF toolchain and what linnet and its lab call when they run.
    Run,
    /// Also what the tests compare against.
    Test,
}

/// What is still missing, with the commands that would change it.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    entries: Vec<(String, String, Vec<String>)>,
}

impl Missing {
    fn add(&mut self, what: &str, why: impl fmt::Display, commands: Vec<String>) {
        self.entries.push((what.to_owned(), why.to_string(), commands));
    }

    /// For tasks that cannot do without: an error that repeats what is missing.
    pub(crate) fn refuse(&self) -> Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let names: Vec<_> =
            self.entries.iter().map(|(what, why, _)| format!("{what} ({why})")).collect();
        bail!("missing: {}", names.join("; "));
    }

    fn print(&self) {
        if self.entries.is_empty() {
            return;
        }
        println!("\nto do by hand, as root where it says apt-get:");
        let mut said = Vec::new();
        for command in self.entries.iter().flat_map(|(_, _, commands)| commands) {
            if !said.contains(&command) {
                println!("    {command}");
                said.push(command);
            }
        }
    }
}

/// Goes through everything that `level` needs. What cannot be had is reported, not an error: the workspace
/// builds and tests without it, and says so where it matters.
pub(crate) fn prepare(workspace: &Workspace, level: Level) -> Missing {
    let clock = Stopwatch::start();
    let mut apt = Apt::of_this_host();
    let mut missing = Missing::default();
    toolchain(&mut apt, &mut missing);
    programs("run-time packages", &packages::RUN, &mut apt, &mut missing);
    match level {
        Level::Run => {}
        Level::Test => programs("test packages", &packages::TEST, &mut apt, &mut missing),
    }
    // The daemon's build script watches this record: it embeds objects once there is a toolchain.
    if let Err(error) = bpf::Record::of_xtask(workspace).note(&Search::of_this_host()) {
        missing.add("build directory", format!("{error:#}"), Vec::new());
    }
    missing.print();
    println!("setup took {}", seconds(clock.elapsed()));
    missing
}

fn toolchain(apt: &mut Apt, missing: &mut Missing) {
    if let Some(off) = Search::of_this_host().switched_off() {
        Step::begin("bpf compiler").present(off.reason);
        return;
    }
    if let Some(compiler) = compiler(apt, missing) {
        linker(&compiler, apt, missing);
    }
}

/// The compiler that a later build will choose, once it has a linker.
fn compiler(apt: &mut Apt, missing: &mut Missing) -> Option<Compiler> {
    let what = "bpf compiler";
    let mut step = Step::begin(what);
    let first = |search: &Search| {
        // A compiler that has its linker already is better than a preferred one without.
        let mut usable: Vec<_> = search.compilers().into_iter().flatten().collect();
        let linked = usable.iter().position(|one| search.linker(one.llvm_major).is_ok());
        let at = linked.unwrap_or(0);
        (at < usable.len()).then(|| usable.swap_remove(at))
    };
    if let Some(compiler) = first(&Search::of_this_host()) {
        step.present(&compiler);
        return Some(compiler);
    }
    let names: Vec<&str> = packages::COMPILER.iter().map(|package| package.name).collect();
    let outcome = apt.install(&names, &mut step);
    let found = first(&Search::of_this_host());
    match (&found, outcome) {
        (Some(_), _) => step.installed(),
        (None, outcome) => {
            let why = match outcome {
                Install::Done => reasons(&Search::of_this_host()),
                Install::NotPossible(why) | Install::Failed(why) => why,
            };
            step.failed(&why);
            missing.add(
                what,
                why,
                vec![
                    debian::UPDATE.to_owned(),
                    debian::command(&names),
                    "or, elsewhere: rustup toolchain install nightly --component rust-src"
                        .to_owned(),
                ],
            );
        }
    }
    found
}

fn reasons(search: &Search) -> String {
    let reasons: Vec<_> = search.compilers().into_iter().filter_map(Result::err).collect();
    reasons.join("; ")
}

/// `bpf-linker`, built against the compiler's LLVM where none is installed.
fn linker(compiler: &Compiler, apt: &mut Apt, missing: &mut Missing) {
    let what = "bpf-linker";
    let mut step = Step::begin(what);
    let major = compiler.llvm_major;
    if let Ok(linker) = Search::of_this_host().linker(major) {
        step.present(linker);
        return;
    }
    let llvm = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    let names = packages::linker(major);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut commands = Vec::new();
    if let Install::NotPossible(_) | Install::Failed(_) = apt.install(&names, &mut step) {
        commands.extend([debian::UPDATE.to_owned(), debian::command(&names)]);
    }
    let Some(root) = bpf::cache() else {
        step.failed("`HOME` is not set, so there is no folder to install it to");
        missing.add(what, "`HOME` is not set", Vec::new());
        return;
    };
    let why = if has_library(&llvm.join("lib")) {
        step.doing(format_args!(
            "building bpf-linker {LINKER_VERSION} for LLVM {major} into {} (about 70 s on two cores)",
            root.display()
        ));
        install_linker(major, &llvm, &root).err()
    } else {
        Some(format!("LLVM {major} is not installed in `{}`", llvm.display()))
    };
    let found = Search::of_this_host().linker(major);
    match (found, why) {
        (Ok(_), _) => step.installed(),
        (Err(reason), why) => {
            let why = why.unwrap_or(reason);
            step.failed(&why);
            commands.push(shown(major, &llvm, &root));
            missing.add(what, why, commands);
        }
    }
}

fn has_library(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|files| {
        files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libLLVM"))
    })
}

fn install_linker(major: u32, llvm: &Path, root: &Path) -> Result<(), String> {
    let status = forget_outer_cargo(&mut Command::new("cargo"))
        .env("LLVM_PREFIX", llvm)
        .env("RUSTFLAGS", format!("-L {}", llvm.join("lib").display()))
        .args(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION, "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{major}"), "--root"])
        .arg(root)
        .status()
        .map_err(|error| format!("`cargo` cannot be run: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`cargo install bpf-linker` ended with {status}"))
    }
}

/// The same command for a person to type.
fn shown(major: u32, llvm: &Path, root: &Path) -> String {
    let (llvm, root) = (llvm.display(), root.display());
    format!(
        "LLVM_PREFIX={llvm} RUSTFLAGS=\"-L {llvm}/lib\" cargo install bpf-linker --locked --version {LINKER_VERSION} \
         --no-default-features --features llvm-{major} --root {root}"
    )
}

fn programs(what: &str, packages: &[Package], apt: &mut Apt, missing: &mut Missing) {
    let mut step = Step::begin(what);
    let absent = |packages: &[Package]| -> Vec<&'static str> {
        packages.iter().filter(|package| !package.is_there()).map(|package| package.name).collect()
    };
    let wanted = absent(packages);
    if wanted.is_empty() {
        let names: Vec<_> = packages.iter().map(|package| package.name).collect();
        step.present(names.join(" "));
        return;
    }
    let outcome = apt.install(&wanted, &mut step);
    let still = absent(packages);
    if still.is_empty() {
        step.installed();
        return;
    }
    let why = match outcome {
        Install::Done => format!("{} installed nothing that is found", still.join(" ")),
        Install::NotPossible(why) | Install::Failed(why) => format!("{}: {why}", still.join(" ")),
    };
    step.failed(&why);
    missing.add(what, why, vec![debian::UPDATE.to_owned(), debian::command(&still)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shown_command_is_the_one_that_runs() {
        let command = shown(22, Path::new("/usr/lib/llvm-22"), Path::new("/c/bpf-linker"));

        assert!(
            command
                .starts_with("LLVM_PREFIX=/usr/lib/llvm-22 RUSTFLAGS=\"-L /usr/lib/llvm-22/lib\"")
        );
        assert!(command.ends_with("--features llvm-22 --root /c/bpf-linker"), "{command}");
    }

    #[test]
    fn nothing_missing_is_no_refusal() {
        assert!(Missing::default().refuse().is_ok());
    }

    #[test]
    fn a_refusal_names_what_and_why() {
        let mut missing = Missing::default();
        missing.add("test packages", "tshark: not root", vec!["apt-get install tshark".into()]);

        let error = missing.refuse().unwrap_err().to_string();

        assert!(error.contains("test packages (tshark: not root)"), "{error}");
    }
}
