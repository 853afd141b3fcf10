//! The figures as tables. Never a figure that is not of this run.

use std::fmt::Write as _;

use super::{
    COSTS, Costs, Scene, Searched,
    bed::{Beside, Trial},
    linnet::Hook,
    search::Found,
};
use crate::{machine::Noise, report::spread};

/// linnet as it attaches by itself.
const OURS: Beside = Beside::Linnet(Hook::Tc);

/// ns for a captured packet, all but the tool's own net of the floor.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    /// Where the packet is sent: hook or tap, and what the kernel puts off.
    kernel: f64,
    /// The tool's processes.
    tool: f64,
    /// The machine's count of everything.
    machine: f64,
}

impl Cost {
    /// Of one round; `floor` is the same round without anything at the receiving end.
    fn of(trial: &Trial, floor: &Trial) -> Self {
        let each = |trial: &Trial, ns: u64| ratio(ns, trial.captured);
        let sending = |trial: &Trial| each(trial, trial.sent.busy_ns + trial.used.softirq_ns);
        let machine =
            |trial: &Trial| each(trial, trial.used.machine_ns.saturating_sub(trial.sent.waited_ns));
        Self {
            kernel: sending(trial) - sending(floor),
            tool: each(trial, trial.used.tool_ns),
            machine: machine(trial) - machine(floor),
        }
    }

    fn whole(self) -> f64 {
        self.kernel + self.tool
    }
}

/// Costs of something in a scene, one of each round.
fn costs(all: &[Costs], beside: Beside, scene: usize) -> Vec<Cost> {
    let trials = |wanted| {
        let found = all.iter().find(|costs| costs.beside == wanted);
        found.map_or(&[][..], |costs| costs.trials[scene].as_slice())
    };
    let floor = trials(Beside::Nothing);
    trials(beside).iter().zip(floor).map(|(trial, floor)| Cost::of(trial, floor)).collect()
}

/// The highest rates without loss.
#[must_use]
pub fn rates(all: &[Searched]) -> String {
    let mut text = String::from("| packets/s without loss |");
    for scene in Scene::ALL {
        write!(text, " {} |", scene.name()).expect("writing into a string cannot fail");
    }
    text.push_str("\n|---|--:|--:|--:|--:|\n");
    for (beside, found) in all {
        let cells = match found {
            Ok(found) => found.map(told).join(" | "),
            Err(_) => "does not work here | | |".to_owned(),
        };
        writeln!(text, "| {} | {cells} |", beside.name())
            .expect("writing into a string cannot fail");
    }
    let best = best_rates(all);
    for (beside, found) in all {
        if let (Beside::Linnet(_), Ok(found)) = (beside, found) {
            let of_best = |(found, best): (&Found, u64)| format!("{:.2}", ratio(found.rate, best));
            let cells: Vec<_> = found.iter().zip(best).map(of_best).collect();
            writeln!(
                text,
                "| {}, times the best of the others | {} |",
                beside.name(),
                cells.join(" | ")
            )
            .expect("writing into a string cannot fail");
        }
    }
    for (beside, found) in all {
        if let Err(error) = found {
            writeln!(text, "\n`{}` does not work here: {error}", beside.name())
                .expect("writing into a string cannot fail");
        }
    }
    text
}

/// Of each scene, among the public tools.
fn best_rates(all: &[Searched]) -> [u64; 4] {
    let mut best = [0; 4];
    for (beside, found) in all {
        if let (Beside::Tool(_), Ok(found)) = (beside, found) {
            for (best, found) in best.iter_mut().zip(found) {
                *best = found.rate.max(*best);
            }
        }
    }
    best
}

fn told(found: Found) -> String {
    let Found { rate, is_senders_limit } = found;
    match (rate, is_senders_limit) {
        (0, _) => "none".to_owned(),
        (_, true) => format!("{}* k", thousands(rate)),
        (_, false) => format!("{} k", thousands(rate)),
    }
}

/// In thousands, with a comma between thousands of them.
fn thousands(rate: u64) -> String {
    let thousands = rate / 1_000;
    match thousands / 1_000 {
        0 => thousands.to_string(),
        millions => format!("{millions},{:03}", thousands % 1_000),
    }
}

/// The processors' time. The machine's count is left out where other work ran: it would be that work's.
#[must_use]
pub fn times(all: &[Costs], noise: Noise) -> String {
    let mut text = String::from(
        "| frames | at the receiving end | captured, % | in the kernel, sending | in the tool | both: ns, median (least to most) | times linnet's by TC | by `/proc/stat` |\n\
         |---|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for (index, scene) in Scene::ALL.into_iter().enumerate() {
        let ours = middle(&costs(all, OURS, index), Cost::whole);
        for beside in COSTS.into_iter().skip(1) {
            let rounds = costs(all, beside, index);
            if rounds.is_empty() {
                continue;
            }
            let trials = all.iter().find(|costs| costs.beside == beside);
            let trials = trials.map_or(&[][..], |costs| costs.trials[index].as_slice());
            let (captured, arrived): (u64, u64) = trials
                .iter()
                .fold((0, 0), |sum, trial| (sum.0 + trial.captured, sum.1 + trial.arrived));
            let whole: Vec<f64> = rounds.iter().map(|cost| cost.whole()).collect();
            let [least, median, most] = spread(&whole);
            let captures = matches!(beside, Beside::Linnet(_) | Beside::Tool(_));
            writeln!(
                text,
                "| {} | {} | {} | {:.0} | {:.0} | {median:.0} ({least:.0} to {most:.0}) | {} | {} |",
                scene.name(),
                beside.name(),
                if captures { format!("{:.1}", ratio(captured * 100, arrived)) } else { String::new() },
                middle(&rounds, |cost| cost.kernel),
                middle(&rounds, |cost| cost.tool),
                if captures { format!("{:.2}", median / ours) } else { String::new() },
                if noise.is_quiet() { format!("{:.0}", middle(&rounds, |cost| cost.machine)) } else { "not quiet".to_owned() },
            )
            .expect("writing into a string cannot fail");
        }
    }
    text
}

fn middle(rounds: &[Cost], figure: impl Fn(Cost) -> f64) -> f64 {
    let figures: Vec<f64> = rounds.iter().map(|cost| figure(*cost)).collect();
    spread(&figures)[1]
}

/// What the sender itself takes for a frame, ns: the floor.
#[must_use]
pub fn floor(all: &[Costs]) -> String {
    let floor = all.iter().find(|costs| costs.beside == Beside::Nothing);
    let mut cells = Vec::new();
    for (index, scene) in Scene::ALL.into_iter().enumerate() {
        let trials = floor.map_or(&[][..], |costs| costs.trials[index].as_slice());
        let each =
            |trial: &Trial| ratio(trial.sent.busy_ns + trial.used.softirq_ns, trial.captured);
        let figures: Vec<f64> = trials.iter().map(each).collect();
        cells.push(format!("{:.0} ns ({})", spread(&figures)[1], scene.name()));
    }
    cells.join(", ")
}

#[expect(clippy::cast_precision_loss, reason = "times and counts are far below 2^53")]
fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

#[cfg(test)]
mod tests {
    use super::super::{cpu::Used, sender::Sent, tool::Tool};
    use super::*;

    fn trial(busy_ns: u64, tool_ns: u64, captured: u64) -> Trial {
        let sent = Sent { frames: 1_000, wall_ns: 1, busy_ns, waited_ns: 50_000 };
        let used = Used { tool_ns, softirq_ns: 0, machine_ns: 50_000 + busy_ns + tool_ns };
        Trial { sent, arrived: 1_000, captured, used }
    }

    fn of(beside: Beside, trial: Trial) -> Costs {
        Costs { beside, trials: [const { Vec::new() }; 4].map(|_: Vec<Trial>| vec![trial]) }
    }

    #[test]
    fn costs_are_of_captured_packets_and_net_of_the_floor() {
        let all = [
            of(Beside::Nothing, trial(200_000, 0, 1_000)),
            of(OURS, trial(300_000, 100_000, 1_000)),
            of(Beside::Tool(Tool::Dumpcap), trial(250_000, 350_000, 500)),
        ];
        let text = times(&all, Noise { before: 0.5, after: 1.0 });
        assert!(
            text.contains("| linnet by TC | 100.0 | 100 | 100 | 200 (200 to 200) | 1.00 | 200 |"),
            "{text}"
        );
        assert!(
            text.contains("| dumpcap | 50.0 | 300 | 700 | 1000 (1000 to 1000) | 5.00 | 1000 |"),
            "{text}"
        );
        assert!(times(&all, Noise { before: 5.0, after: 1.0 }).contains("| 1.00 | not quiet |"));
        assert!(floor(&all).starts_with("200 ns (64 B), "));
    }

    #[test]
    fn rates_are_beside_the_best_of_the_others() {
        let found = |rate, is_senders_limit| Ok([Found { rate, is_senders_limit }; 4]);
        let all: Vec<Searched> = vec![
            (OURS, found(1_500_000, true)),
            (Beside::Tool(Tool::Tcpdump), found(500_000, false)),
            (Beside::Tool(Tool::NetsniffNg), found(1_000_000, false)),
            (Beside::Tool(Tool::Xdpdump), Err("no such thing".to_owned())),
        ];
        let text = rates(&all);
        assert!(text.contains("| linnet by TC | 1,500* k | 1,500* k |"), "{text}");
        assert!(text.contains("| linnet by TC, times the best of the others | 1.50 |"), "{text}");
        assert!(text.contains("`xdpdump` does not work here: no such thing"), "{text}");
    }
}
