//! ICMP and ICMPv6 echo by the `ping` program. Never floods: the interval is at least 10 ms.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde::Serialize;

use super::{Budget, Stop, TrafficError};
use crate::error::LabError;
use crate::lab::{Family, Lab};

/// Most echoes of one run.
pub const COUNT_MAX: u32 = 100_000;
/// Shortest interval.
pub const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// What to do.
#[derive(Debug, Clone)]
pub struct Ping {
    /// ICMP or ICMPv6.
    pub family: Family,
    /// How many, 1 to [`COUNT_MAX`].
    pub count: u32,
    /// From one to the next, at least [`INTERVAL_MIN`].
    pub interval: Duration,
    /// Time for everything.
    pub limit: Duration,
}

impl Default for Ping {
    fn default() -> Self {
        Self {
            family: Family::V4,
            count: 10,
            interval: Duration::from_millis(100),
            limit: Duration::from_secs(60),
        }
    }
}

/// What ping said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Smallest round-trip time; 0 without replies.
    pub min_ns: u64,
    /// Mean round-trip time.
    pub mean_ns: u64,
    /// Largest round-trip time.
    pub max_ns: u64,
}

/// Pings the lab's server from its client.
pub fn run(lab: &Lab, plan: &Ping) -> Result<Measured, TrafficError> {
    run_until(lab, plan, &Stop::new())
}

/// As [`run`], or gives up at the stop.
pub fn run_until(lab: &Lab, plan: &Ping, stop: &Stop) -> Result<Measured, TrafficError> {
    if !(1..=COUNT_MAX).contains(&plan.count) {
        let (field, value, allowed) = ("count", plan.count.into(), "1 to 100000");
        return Err(TrafficError::Limit { generator: "ping", field, value, allowed });
    }
    let budget = Budget::new(plan.limit, stop);
    let absent = |source| LabError::Program { program: "ping", package: "iputils-ping", source };
    let interval = plan.interval.max(INTERVAL_MIN).as_secs_f64();
    let mut command = lab.client().command("ping");
    command.args(["-n", "-q", "-c", &plan.count.to_string(), "-i", &format!("{interval:.3}")]);
    command.args(["-W", "1", &lab.server_address(plan.family).to_string()]);
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    die_with_parent(&mut command);
    let mut child = command.spawn().map_err(absent)?;
    let ended = wait(&mut child, &budget);
    if ended.is_err() {
        child.kill().ok();
    }
    child.wait().map_err(absent)?;
    ended?;
    let mut said = String::new();
    if let Some(stdout) = &mut child.stdout {
        stdout.read_to_string(&mut said).map_err(absent)?;
    }
    parse(&said).ok_or_else(|| TrafficError::Answer {
        peer: lab.server_socket(plan.family, 0),
        what: format!("`{}`, which is not ping's summary", said.trim()),
    })
}

/// The thread that starts it waits for it, so the child goes with the thread.
fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only prctl(2) runs, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
    }
}

/// Waits until ping ends; its summary of a few lines fits the pipe, so it cannot block on us.
fn wait(child: &mut Child, budget: &Budget) -> Result<(), TrafficError> {
    loop {
        let absent =
            |source| LabError::Program { program: "ping", package: "iputils-ping", source };
        if child.try_wait().map_err(absent)?.is_some() {
            return Ok(());
        }
        budget.check("wait for ping")?;
        budget.stop().wait(Duration::from_millis(20));
    }
}

/// From `10 packets transmitted, 9 received, ...` and `rtt min/avg/max/mdev = 0.1/0.2/0.3/0.1 ms`.
fn parse(said: &str) -> Option<Measured> {
    let line = said.lines().find(|line| line.contains("packets transmitted"))?;
    let mut counts = line.split(", ").map(|part| part.split_whitespace().next()?.parse().ok());
    let (sent, received) = (counts.next()??, counts.next()??);
    let mut measured = Measured { sent, received, ..Measured::default() };
    if let Some((_, times)) = said.lines().find_map(|line| line.split_once("max/mdev = ")) {
        let mut times = times.split('/').map(milliseconds);
        measured.min_ns = times.next()??;
        measured.mean_ns = times.next()??;
        measured.max_ns = times.next()??;
    }
    Some(measured)
}

/// A decimal of milliseconds as nanoseconds, without a detour over floating point.
fn milliseconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    Some(whole.trim().parse::<u64>().ok()? * 1_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_ping_is_understood() {
        let said = "--- 10.77.0.2 ping statistics ---\n\
            10 packets transmitted, 9 received, 10% packet loss, time 901ms\n\
            rtt min/avg/max/mdev = 20.041/20.1/21.000/0.2 ms\n";
        let expected = Measured {
            sent: 10,
            received: 9,
            min_ns: 20_041_000,
            mean_ns: 20_100_000,
            max_ns: 21_000_000,
        };
        assert_eq!(parse(said), Some(expected));
        assert_eq!(parse("ping: unknown host"), None);
    }
}
