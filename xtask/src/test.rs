//! `cargo xtask test`: the checks that CI runs, in one order, each timed. Must never pass by skipping: under
//! `CI=true` whatever is missing is a failure.

use crate::{
    console::{Stopwatch, heading, seconds},
    setup::{self, Level},
    tidy,
};
use anyhow::{Context, Result, bail};
use std::{
    env,
    ffi::OsString,
    process::{Command, ExitCode},
    time::Duration,
};
use xtask::{
    bpf::{self, Messages, Objects, Record},
    workspace::Workspace,
};

/// The release of cargo-deny that `.deny.toml` is written for.
const DENY_VERSION: &str = "0.20.2";

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What CI runs, in less than half an hour on two cores.
    Usual,
    /// Also the long tests (`LINNET_FULL=1`) and the licences of all dependencies.
    Full,
}

/// One check, its time and what was wrong.
#[derive(Debug)]
struct Stage {
    name: &'static str,
    took: Duration,
    problem: Option<String>,
}

/// Runs every stage, also after one has failed, so that one run names all that is wrong.
pub(crate) fn test(workspace: &Workspace, extent: Extent) -> Result<ExitCode> {
    let ci = env::var_os("CI").is_some_and(|value| value == "true");
    let mut stages = Stages::default();
    stages.run("setup", || {
        let missing = setup::prepare(workspace, Level::Test);
        if ci { missing.refuse() } else { Ok(()) }
    });
    stages.run("fmt", || cargo(workspace, &["fmt", "--all", "--check"], &[]));
    stages.run("clippy", || {
        let all = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        cargo(workspace, &all, &[])
    });
    stages.run("tidy", || {
        let broken = tidy::broken(&workspace.root)?;
        broken.iter().for_each(|rule| println!("{rule}"));
        if broken.is_empty() { Ok(()) } else { bail!("{} rules broken", broken.len()) }
    });
    stages.run("bpf", || {
        match bpf::objects(workspace, &Record::of_xtask(workspace), Messages::Shown)? {
            Objects::Built { toolchain, .. } => println!("built with {toolchain}"),
            Objects::NotBuilt(not_built) if ci => bail!("not built: {not_built}"),
            Objects::NotBuilt(not_built) => println!("not built: {not_built}"),
        }
        Ok(())
    });
    stages.run("test", || {
        // Optimised, since whole captures go through the pipeline, with overflow checks and assertions on.
        let mut variables =
            vec![("CARGO_PROFILE_DEV_OPT_LEVEL", "1"), ("CARGO_PROFILE_TEST_OPT_LEVEL", "1")];
        match extent {
            Extent::Usual => {}
            Extent::Full => variables.push(("LINNET_FULL", "1")),
        }
        cargo(workspace, &["test", "--workspace", "--no-fail-fast"], &variables)
    });
    stages.run("doc", || {
        let flags = [("RUSTDOCFLAGS", "--deny warnings")];
        cargo(workspace, &["doc", "--workspace", "--no-deps"], &flags)
    });
    match extent {
        Extent::Usual => {}
        Extent::Full => {
            stages.run("bounds", || {
                // Of answers' times, which hold for the daemon as users have it.
                let flood = ["test", "--release", "--package", "daemon", "--test", "syn_flood"];
                cargo(workspace, &flood, &[("LINNET_FULL", "1")])
            });
            stages.run("deny", || deny(workspace));
        }
    }
    Ok(stages.summary())
}

#[derive(Debug, Default)]
struct Stages {
    done: Vec<Stage>,
}

impl Stages {
    fn run(&mut self, name: &'static str, check: impl FnOnce() -> Result<()>) {
        heading(name);
        let clock = Stopwatch::start();
        let problem = check().err().map(|error| format!("{error:#}"));
        if let Some(problem) = &problem {
            println!("{name} FAILED: {problem}");
        }
        self.done.push(Stage { name, took: clock.elapsed(), problem });
    }

    fn summary(&self) -> ExitCode {
        heading("summary");
        for Stage { name, took, problem } in &self.done {
            let outcome = problem.as_ref().map_or("ok", |_| "FAILED");
            println!("{name:<8} {outcome:<7} {:>14}", seconds(*took));
        }
        let took = self.done.iter().map(|stage| stage.took).sum();
        let failed = self.done.iter().filter(|stage| stage.problem.is_some()).count();
        println!("{} stages, {failed} failed, {}", self.done.len(), seconds(took));
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn cargo(workspace: &Workspace, arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let shown: Vec<String> =
        variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    println!("$ {}cargo {}", shown.concat(), arguments.join(" "));
    let status = Command::new(&cargo)
        .current_dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target)
        .envs(variables.iter().copied())
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run `{}`", cargo.to_string_lossy()))?;
    if !status.success() {
        bail!("`cargo {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Licences, bans and sources from the lock file; advisories where their database can be fetched.
fn deny(workspace: &Workspace) -> Result<()> {
    let installed = Command::new("cargo").args(["deny", "--version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        cargo(workspace, &["install", "cargo-deny", "--locked", "--version", DENY_VERSION], &[])?;
    }
    cargo(workspace, &["deny", "check", "bans", "licenses", "sources"], &[])?;
    if let Err(error) = cargo(workspace, &["deny", "fetch", "db"], &[]) {
        println!("advisories not judged, their database cannot be fetched: {error:#}");
        return Ok(());
    }
    cargo(workspace, &["deny", "check", "--disable-fetch", "advisories"], &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_stage_does_not_hide_the_later_ones() {
        let mut stages = Stages::default();
        stages.run("first", || bail!("broken"));
        stages.run("second", || Ok(()));

        assert_eq!(stages.done.len(), 2);
        assert_eq!(stages.done[0].problem.as_deref(), Some("broken"));
        assert_eq!(stages.done[1].problem, None);
        assert_eq!(format!("{:?}", stages.summary()), format!("{:?}", ExitCode::FAILURE));
    }
}
