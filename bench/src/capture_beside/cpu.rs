//! Who used the processors, by the scheduler's own count in ns (`/proc/PID/task/TID/schedstat`), and by the machine's count
//! in ticks (`/proc/stat`). Reads only.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use nix::unistd::{SysconfVar, sysconf};

/// Time that was used until a moment, ns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// By the processes of the tool.
    pub tool_ns: u64,
    /// By `ksoftirqd`, which takes over what the kernel puts off.
    pub softirq_ns: u64,
    /// By everything on all processors.
    pub machine_ns: u64,
}

impl Used {
    /// What was used since an earlier moment.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            tool_ns: self.tool_ns.saturating_sub(earlier.tool_ns),
            softirq_ns: self.softirq_ns.saturating_sub(earlier.softirq_ns),
            machine_ns: self.machine_ns.saturating_sub(earlier.machine_ns),
        }
    }
}

/// Reads the counts.
#[derive(Debug)]
pub struct Meter {
    softirq: Vec<u32>,
    tick_ns: u64,
}

impl Meter {
    /// Finds the kernel's threads. Refuses a kernel that says that it counts softirqs apart from threads: what hooks do would
    /// be in no count.
    pub fn new() -> anyhow::Result<Self> {
        if has_interrupt_accounting() {
            bail!(
                "this kernel has CONFIG_IRQ_TIME_ACCOUNTING: threads are not charged with softirqs; boot with \
                 `tsc=noirqtime`"
            );
        }
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no length of a tick")?;
        let tick_ns = 1_000_000_000 / u64::try_from(ticks)?;
        Ok(Self { softirq: named("ksoftirqd/")?, tick_ns })
    }

    /// What has been used so far, by these processes among others.
    pub fn read(&self, processes: &[u32]) -> anyhow::Result<Used> {
        let sum = |pids: &[u32]| pids.iter().map(|pid| of_process(*pid)).sum::<io::Result<u64>>();
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Ok(Used {
            tool_ns: sum(processes).context("a process of the tool has gone")?,
            softirq_ns: sum(&self.softirq)?,
            machine_ns: busy_ticks(&stat).context("/proc/stat has no `cpu`")? * self.tick_ns,
        })
    }
}

/// Whether softirqs are charged to no thread; no, where the kernel does not say.
fn has_interrupt_accounting() -> bool {
    let output = Command::new("zcat").arg("/proc/config.gz").stderr(Stdio::null()).output();
    let is_set = |line: &str| line == "CONFIG_IRQ_TIME_ACCOUNTING=y";
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).lines().any(is_set))
}

/// Processes whose name begins so.
fn named(prefix: &str) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may go while it is looked at.
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with(prefix) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Time that all threads of a process ran, ns.
fn of_process(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))? {
        // A thread may have ended meanwhile; what it used is lost, and no tool has such threads while it captures.
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        sum += ran_ns(&text).unwrap_or(0);
    }
    Ok(sum)
}

/// The first of `schedstat`'s numbers.
fn ran_ns(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// Ticks of all processors in which something ran: user, nice, system, irq and softirq.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|tick| tick.parse().ok()).collect();
    let [user, nice, system, _idle, _waiting, interrupts, softirqs, ..] = ticks[..] else {
        return None;
    };
    Some(user + nice + system + interrupts + softirqs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_use() {
        let stat = "cpu  10 1 20 1000 500 3 4 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(38));
        assert_eq!(busy_ticks("intr 1\n"), None);
    }

    #[test]
    fn the_first_number_is_the_time_that_a_thread_ran() {
        assert_eq!(ran_ns("229612070 224934299 111\n"), Some(229_612_070));
        assert_eq!(ran_ns(""), None);
    }

    #[test]
    fn this_process_has_used_some() {
        assert!(of_process(std::process::id()).unwrap() > 0);
    }
}
