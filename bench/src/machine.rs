//! What the figures were taken on: processor, kernel, sources, and how busy the machine was. Reads only.

use std::{fs, path::Path, process::Command};

use crate::BenchError;

/// Load average of one minute up to which a machine counts as quiet: the measurement itself adds up to 1.
const QUIET_LOAD_MAX: f64 = 1.3;

/// The machine and the sources.
#[derive(Clone, Debug)]
pub struct Machine {
    /// As `/proc/cpuinfo` names it.
    pub processor: String,
    /// Online processors.
    pub processors: usize,
    /// `uname -r`.
    pub kernel: String,
    /// Commit of the sources, with `+changes` where the kernel programs' sources differ from it.
    pub commit: String,
}

impl Machine {
    /// This one; `root` is the workspace.
    pub fn read(root: &Path) -> Result<Self, BenchError> {
        let cpuinfo = read("/proc/cpuinfo")?;
        let values = |name: &str| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .filter(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
                .collect::<Vec<_>>()
        };
        Ok(Self {
            // Absent on arm64, which numbers its implementers instead.
            processor: values("model name").first().map_or("unnamed", String::as_str).to_owned(),
            processors: values("processor").len(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            commit: commit(root).unwrap_or_else(|| "unknown (no git)".to_owned()),
        })
    }
}

/// Load averages of one minute before and after a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// When it began.
    pub before: f64,
    /// When it ended.
    pub after: f64,
}

impl Noise {
    /// Whether nothing else ran to speak of.
    #[must_use]
    pub fn is_quiet(self) -> bool {
        self.before.max(self.after) <= QUIET_LOAD_MAX
    }
}

/// Runnable tasks, averaged over the last minute; infinite where the kernel does not say.
pub fn load_average() -> Result<f64, BenchError> {
    let text = read("/proc/loadavg")?;
    let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
    Ok(first.unwrap_or(f64::INFINITY))
}

fn read(path: &str) -> Result<String, BenchError> {
    fs::read_to_string(path).map_err(|source| BenchError::File {
        what: "read",
        path: path.into(),
        source,
    })
}

/// `None` outside of a repository and without git.
fn commit(root: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--", "datapath/src", "xdp/src", "tc/src"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}+changes") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_busy_task_is_noise() {
        assert!(Noise { before: 0.2, after: 1.1 }.is_quiet());
        assert!(!Noise { before: 2.0, after: 1.1 }.is_quiet());
    }

    #[test]
    fn this_machine_can_be_named() {
        let machine = Machine::read(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(machine.processors > 0);
        assert!(!machine.kernel.is_empty());
    }
}
