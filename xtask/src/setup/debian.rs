//! `apt-get`, used only where it can work: as root, on Debian. Must never ask a question, and updates the
//! package lists at most once and only when something is to be installed.

use super::packages::program;
use crate::console::Step;
use nix::unistd::geteuid;
use std::process::{Command, Stdio};

/// The command that brings the package lists up to date.
pub(super) const UPDATE: &str = "apt-get update";

/// This host's package manager.
#[derive(Debug)]
pub(super) struct Apt {
    unusable: Option<&'static str>,
    updated: bool,
}

/// What became of an installation.
#[derive(Debug)]
pub(super) enum Install {
    /// apt-get reported success.
    Done,
    /// There is no root or no apt-get.
    NotPossible(String),
    /// apt-get failed.
    Failed(String),
}

impl Apt {
    pub(super) fn of_this_host() -> Self {
        let unusable = if program("apt-get").is_none() {
            Some("this system has no apt-get")
        } else if !geteuid().is_root() {
            Some("only root can install packages")
        } else {
            None
        };
        Self { unusable, updated: false }
    }

    pub(super) fn install(&mut self, packages: &[&str], step: &mut Step) -> Install {
        if let Some(why) = self.unusable {
            return Install::NotPossible(why.to_owned());
        }
        if !self.updated {
            step.doing(UPDATE);
            // Old lists may still do: a failure here is one of the installation, if it comes to that.
            if let Err(why) = run(&["update"]) {
                step.doing(why);
            }
            self.updated = true;
        }
        step.doing(command(packages));
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(packages);
        match run(&arguments) {
            Ok(()) => Install::Done,
            Err(why) => Install::Failed(why),
        }
    }
}

/// What a person would type.
pub(super) fn command(packages: &[&str]) -> String {
    format!("apt-get install --yes --no-install-recommends {}", packages.join(" "))
}

fn run(arguments: &[&str]) -> Result<(), String> {
    let status = Command::new("apt-get")
        .args(["--quiet", "--option", "Dpkg::Use-Pty=0"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("`apt-get` cannot be run: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`apt-get {}` ended with {status}", arguments.first().unwrap_or(&"")))
    }
}
