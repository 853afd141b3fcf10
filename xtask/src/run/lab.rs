//! The lab as a program: what it says about itself when it is ready. Must never know how a lab is built.

use super::Programs;
use crate::process::{GRACE, Group, Process, TICK, lines};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

/// `ip netns` keeps the names of namespaces here.
const NAMESPACES: &str = "/run/netns";

/// How a lab did not come up.
#[derive(Debug)]
pub(super) enum LabError {
    /// It lacks a privilege; a replay does not.
    NoPrivilege,
    /// Anything else.
    Failed(anyhow::Error),
}

/// A lab that is up. It ends with this value, and its namespaces with it.
#[derive(Debug)]
pub(super) struct Lab {
    process: Process,
    // Kept open: a lab that writes to a closed pipe would be ended by that.
    _said: Receiver<String>,
    description: Description,
}

/// The one line that a lab prints.
#[derive(Debug, PartialEq, Eq)]
struct Description {
    namespaces: Vec<String>,
    interfaces: Vec<String>,
    client: Option<String>,
}

impl Lab {
    pub(super) fn up(programs: &Programs) -> Result<Self, LabError> {
        let failed = LabError::Failed;
        let mut command = Command::new(&programs.lab);
        command
            .args(["up", "--stay-while-stdin-open"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::start("lab", Group::Own, &mut command).map_err(failed)?;
        let pipe =
            process.pipes().stdout.take().context("the lab has no output").map_err(failed)?;
        let said = lines(pipe);
        let mut waited = Duration::ZERO;
        let line = loop {
            match said.recv_timeout(TICK) {
                Ok(line) => break line,
                Err(RecvTimeoutError::Timeout) if waited < GRACE => waited += TICK,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(failed(anyhow!("the lab is not ready after {GRACE:?}")));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(ended_early(&mut process)),
            }
        };
        let description = Description::parse(&line).map_err(failed)?;
        Ok(Self { process, _said: said, description })
    }

    /// Packets for a replay, made without any privilege.
    pub(super) fn generate(programs: &Programs, file: &Path) -> Result<()> {
        let status = Command::new(&programs.lab)
            .arg("generate")
            .arg(file)
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot run `{}`", programs.lab.display()))?;
        if !status.success() {
            bail!("`lab generate` ended with {status}");
        }
        Ok(())
    }

    /// For `--interface`, in the order in which the lab names them.
    pub(super) fn interfaces(&self) -> &[String] {
        &self.description.interfaces
    }

    /// Where the client's side of every flow is seen.
    pub(super) fn client_interface(&self) -> Option<&str> {
        self.description.client.as_deref()
    }

    pub(super) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A lab that had to be killed could not remove its namespaces.
        let _ = self.process.stop(GRACE, None);
        for name in &self.description.namespaces {
            if Path::new(NAMESPACES).join(name).exists() {
                let _ = Command::new("ip").args(["netns", "delete", name]).status();
            }
        }
    }
}

/// The lab closed its output. A program's pipes close a moment before its exit can be waited for.
fn ended_early(process: &mut Process) -> LabError {
    match process.wait(GRACE) {
        Ok(Some(status)) if status.code() == Some(super::NO_PRIVILEGE) => LabError::NoPrivilege,
        Ok(Some(status)) => LabError::Failed(anyhow!(
            "the lab ended before it was ready, with {status}; its message is above"
        )),
        Ok(None) => LabError::Failed(anyhow!(
            "the lab closed its output before it was ready, and still runs after {GRACE:?}"
        )),
        Err(error) => LabError::Failed(error),
    }
}

impl Description {
    /// `{"namespaces":{"client":NAME,..},"interfaces":[{"spec":"NAME/c0","role":"client"},..]}`.
    fn parse(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line)
            .with_context(|| format!("the lab did not describe itself in JSON: `{line}`"))?;
        let namespaces = value["namespaces"]
            .as_object()
            .context("the lab names no `namespaces`")?
            .values()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        let interfaces = value["interfaces"]
            .as_array()
            .context("the lab names no `interfaces`")?
            .iter()
            .map(argument)
            .collect::<Result<Vec<_>>>()?;
        if interfaces.is_empty() {
            bail!("the lab has no interfaces");
        }
        let of_client = |interface: &&Value| interface["role"] == "client";
        let client = value["interfaces"].as_array().into_iter().flatten().find(of_client);
        let client = client.and_then(|client| client["spec"].as_str()).map(str::to_owned);
        Ok(Self { namespaces, interfaces, client })
    }
}

/// XDP sees a packet first and is attached where it changes least, on the router; TC at the ends.
fn argument(interface: &Value) -> Result<String> {
    let text = |key: &str| {
        interface[key].as_str().with_context(|| format!("an interface of the lab has no `{key}`"))
    };
    let spec = text("spec")?;
    Ok(match text("role")? {
        "router" => format!("{spec},ingress=xdp"),
        _ => spec.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routers_interfaces_get_xdp_and_the_ends_get_tc() {
        let line = r#"{"namespaces":{"client":"lab-1-c","router":"lab-1-r"},
            "interfaces":[{"spec":"lab-1-c/c0","role":"client"},{"spec":"lab-1-r/r0","role":"router"}]}"#;

        let description = Description::parse(line).unwrap();

        assert_eq!(description.interfaces, ["lab-1-c/c0", "lab-1-r/r0,ingress=xdp"]);
        assert_eq!(description.namespaces, ["lab-1-c", "lab-1-r"]);
        assert_eq!(description.client.as_deref(), Some("lab-1-c/c0"));
    }

    #[test]
    fn a_line_that_is_no_description_is_quoted_in_the_error() {
        let error = Description::parse("hello").unwrap_err().to_string();

        assert!(error.contains("`hello`"), "{error}");
    }

    #[test]
    fn a_lab_without_interfaces_is_refused() {
        assert!(Description::parse(r#"{"namespaces":{},"interfaces":[]}"#).is_err());
    }
}
