//! The flow table in the terminal, drawn by `linnet flows`. Must never draw anything itself.

use super::Programs;
use crate::{
    console::Stopwatch,
    process::{Group, Process},
};
use anyhow::Result;
use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

/// How often the table is printed where there is no terminal to redraw.
const EVERY: Duration = Duration::from_secs(5);

/// The table.
#[derive(Debug)]
pub(super) enum Table {
    /// One program redraws it until it is ended.
    Live(Process),
    /// It is printed now and then.
    Printed { query: Query, printing: Option<Process>, since_last: Option<Stopwatch> },
}

impl Table {
    pub(super) fn live(query: &Query) -> Result<Self> {
        let mut command = query.command();
        command.arg("--watch");
        // It shares the terminal, so that it may change modes and read keys; it gets Ctrl-C too.
        Ok(Self::Live(Process::start("table", Group::Terminal, &mut command)?))
    }

    pub(super) const fn printed(query: Query) -> Self {
        Self::Printed { query, printing: None, since_last: None }
    }

    /// Keeps it going; whether the user left it.
    pub(super) fn ended(&mut self) -> Result<bool> {
        match self {
            Self::Live(process) => Ok(process.ended()?.is_some()),
            Self::Printed { query, printing, since_last } => {
                if let Some(process) = printing
                    && process.ended()?.is_some()
                {
                    *printing = None;
                }
                let due = since_last.is_none_or(|clock| clock.elapsed() >= EVERY);
                if due && printing.is_none() {
                    let mut command = query.command();
                    command.stdin(Stdio::null());
                    *printing = Some(Process::start("table", Group::Own, &mut command)?);
                    *since_last = Some(Stopwatch::start());
                }
                Ok(false)
            }
        }
    }
}

/// Whom to ask, and for which flows.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) programs: Programs,
    pub(super) socket: PathBuf,
    /// Where there are several, a flow is seen at each of them: one is enough for a first look.
    pub(super) interface: Option<String>,
}

impl Query {
    /// The flows that suffer most come first.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.programs.linnet);
        command.args(["flows", "--sort", "-retransmissions", "--socket"]).arg(&self.socket);
        if let Some(interface) = &self.interface {
            command.args(["--interface", interface]);
        }
        command
    }
}
