//! The flow table in the terminal, drawn by `linnet flows`. Must never draw anything itself.

use super::Programs;
use crate::{
    console::Stopwatch,
    process::{Group, Process},
};
use anyhow::Result;
use std::{
    path::{Path, PathBuf},
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
    Printed {
        programs: Programs,
        socket: PathBuf,
        printing: Option<Process>,
        since_last: Option<Stopwatch>,
    },
}

impl Table {
    pub(super) fn live(programs: &Programs, socket: &Path) -> Result<Self> {
        let mut command = flows(programs, socket);
        command.arg("--watch");
        // It shares the terminal, so that it may change modes and read keys; it gets Ctrl-C too.
        Ok(Self::Live(Process::start("table", Group::Terminal, &mut command)?))
    }

    pub(super) fn printed(programs: &Programs, socket: &Path) -> Self {
        let (programs, socket) = (programs.clone(), socket.to_path_buf());
        Self::Printed { programs, socket, printing: None, since_last: None }
    }

    /// Keeps it going; whether the user left it.
    pub(super) fn ended(&mut self) -> Result<bool> {
        match self {
            Self::Live(process) => Ok(process.ended()?.is_some()),
            Self::Printed { programs, socket, printing, since_last } => {
                if let Some(process) = printing
                    && process.ended()?.is_some()
                {
                    *printing = None;
                }
                let due = since_last.is_none_or(|clock| clock.elapsed() >= EVERY);
                if due && printing.is_none() {
                    let mut command = flows(programs, socket);
                    command.stdin(Stdio::null());
                    *printing = Some(Process::start("table", Group::Own, &mut command)?);
                    *since_last = Some(Stopwatch::start());
                }
                Ok(false)
            }
        }
    }
}

fn flows(programs: &Programs, socket: &Path) -> Command {
    let mut command = Command::new(&programs.linnet);
    command.arg("flows").arg("--socket").arg(socket);
    command
}
