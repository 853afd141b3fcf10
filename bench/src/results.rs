//! The figures as tables, for the terminal and for RESULTS.md. Measures nothing.

use std::fmt::Write as _;

use crate::{
    door::Size,
    gates::{INSTRUCTIONS_MAX, LOAD_MAX, VERIFIED_MAX, milliseconds},
    machine::{Machine, Noise},
    measure::{Cost, REPEATS, ROUNDS},
    report::provenance,
    rules::{NEW_FLOWS, RuleCost},
    turn::{self, InTurn, PARTS},
};

/// What makes RESULTS.md again.
pub const COMMAND: &str = "cargo run --release -p bench --bin kernel_ns -- --write";

/// The prototype's figures at the same two stages, on the same kind of machine: one warm flow, TCP, ns net.
const PROTOTYPE: &str = "\
| stage of the prototype | ns net, XDP and TC |
|---|---|
| parse, flow entry, counters | 71-79 |
| the same with TCP classes, round trips and histograms | 87-97 |
";

/// Everything that was measured.
#[derive(Clone, Debug)]
pub struct Results {
    /// On what.
    pub machine: Machine,
    /// How busy it was.
    pub noise: Noise,
    /// Of every program.
    pub sizes: Vec<Size>,
    /// Of the trackers.
    pub costs: Vec<Cost>,
    /// Of rules.
    pub rules: Vec<RuleCost>,
    /// Of one tracker with many flows.
    pub in_turn: Vec<InTurn>,
}

impl Results {
    /// The section of RESULTS.md.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        push(&mut text, "## ns per packet\n");
        push(&mut text, &provenance(&self.machine, self.noise, COMMAND));
        push(
            &mut text,
            &METHOD
                .replace("{rounds}", &ROUNDS.to_string())
                .replace("{repeats}", &thousands(REPEATS)),
        );
        push(&mut text, &costs(&self.costs));
        push(&mut text, "### Rules\n");
        push(&mut text, &RULES_TEXT.replace("{flows}", &thousands(u32::from(NEW_FLOWS))));
        push(&mut text, &rules(&self.rules));
        push(&mut text, "### Many flows in turn\n");
        push(&mut text, &IN_TURN_TEXT.replace("{repeats}", &thousands(turn::REPEATS)));
        push(&mut text, &in_turn(&self.in_turn));
        push(&mut text, "### Beside the prototype\n");
        push(&mut text, PROTOTYPE_TEXT);
        push(&mut text, PROTOTYPE);
        push(&mut text, "### Programs\n");
        push(&mut text, &gates());
        text.push_str(&sizes(&self.sizes));
        text
    }
}

const METHOD: &str = "\
`BPF_PROG_TEST_RUN`: {rounds} rounds of {repeats} repetitions of one frame, after one round to warm the caches. In \
each round the object's empty program (`linnet_xdp_nop`, `linnet_tc_nop`) runs in turn with the trackers; *net* is \
the tracker less the empty program, least less least and median less median. The kernel reports whole nanoseconds. \
Counters and flow entries are read afterwards: a run in which one frame was not booked as the table says, or in \
which a program did not pass it on, is an error and writes nothing.

These are not wire figures: one flow, warm caches, no driver, no socket buffer made. A repeated frame cannot be \
in order: repeated data is a retransmission and a repeated ACK is a duplicate one, so those rows include the cost \
of flagging. No repeated frame completes a round trip either, so that recording a sample is in no row.
";

const RULES_TEXT: &str = "\
The datagram under lists of rules of which the last one matches. A packet of a known flow is repeated as above. A new \
flow is one of {flows} different ones, each measured by itself: so the kernel's clock is in the figure, the caches \
are colder, and a tracked one makes an entry.
";

const IN_TURN_TEXT: &str = "\
The same with flows that take turns, each after all the others: the worst case for caches. {repeats} repetitions a \
round, in a table with room for the flows' next power of two (65,536 at least), which holds them before. Programs that \
are never attached make the frame the next segment of the next flow first, which is the floor of the lines below it: so data \
comes in order here, as nearly all of it does, and the column of one flow is what a packet of a hot flow costs. The look-up alone waits for its bucket and the element's key, the counter for one line of the entry, the tracker \
for all that it touches: what the look-up takes more with many flows than with one is memory's latency, not work.
";

const PROTOTYPE_TEXT: &str = "\
A throw-away program measured the same way, on the same kind of machine. It had no observation points, no ledger \
by outcome at both ends of the pipeline, no connection states and no lock on the entry; the TCP rows above do what \
its second line did, and those in addition.
";

/// The costs, one line for each frame and program.
#[must_use]
pub fn costs(costs: &[Cost]) -> String {
    let mut text = String::from(
        "| program | frame | repeated, it is | net, min | net, median | whole, min | empty, min |\n\
         |---|---|---|--:|--:|--:|--:|\n",
    );
    for cost in costs {
        let line = format!(
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            cost.program,
            cost.frame,
            cost.path.name(),
            cost.net_min_ns(),
            cost.net_median_ns(),
            cost.tracker.min(),
            cost.empty.min(),
        );
        push(&mut text, &line);
    }
    text
}

/// The cost of rules, one line for each case and program.
#[must_use]
pub fn rules(costs: &[RuleCost]) -> String {
    let mut text = String::from(
        "| program | packet of a | rules | net, min | net, median | whole, min | empty, min |\n\
         |---|---|--:|--:|--:|--:|--:|\n",
    );
    for cost in costs {
        let line = format!(
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            cost.program,
            cost.packet,
            cost.rules.map_or_else(|| "none ever".to_owned(), |count| count.to_string()),
            cost.tracker.min().saturating_sub(cost.empty.min()),
            cost.tracker.median().saturating_sub(cost.empty.median()),
            cost.tracker.min(),
            cost.empty.min(),
        );
        push(&mut text, &line);
    }
    text
}

/// The costs with many flows, one line for each part.
#[must_use]
pub fn in_turn(measured: &[InTurn]) -> String {
    let mut text = String::from("| ns net, min / median | floor |");
    for InTurn { flows, room, .. } in measured {
        let heading = format!(" {} of {} flows |", thousands(*flows), thousands(*room));
        text.push_str(&heading);
    }
    text.push_str("\n|---|---|");
    text.push_str(&"--:|".repeat(measured.len()));
    text.push('\n');
    for part in &PARTS {
        let floor = part.floor.map_or_else(|| "none".to_owned(), |floor| format!("`{floor}`"));
        let mut line = format!("| {} (`{}`) | {floor} |", part.name, part.program);
        for flows in measured {
            let (least, median) = flows.net_ns(part);
            write!(line, " {least} / {median} |").expect("writing into a string cannot fail");
        }
        push(&mut text, &line);
    }
    text
}

/// The sizes, one line for each program.
#[must_use]
pub fn sizes(sizes: &[Size]) -> String {
    let mut text = String::from(
        "| program | verified instructions | instructions | machine code, B | load, ms |\n\
         |---|--:|--:|--:|--:|\n",
    );
    for size in sizes {
        let line = format!(
            "| `{}` | {} | {} | {} | {:.1} |",
            size.program,
            thousands(size.verified),
            thousands(size.instructions),
            thousands(size.jited_bytes),
            milliseconds(size.load),
        );
        push(&mut text, &line);
    }
    text
}

fn gates() -> String {
    format!(
        "Gates for each program: {} verified instructions, {} instructions, {} ms to load (the best of five). \
         The first two fail CI (`bench/tests/gates.rs`).\n",
        thousands(VERIFIED_MAX),
        thousands(INSTRUCTIONS_MAX),
        LOAD_MAX.as_millis(),
    )
}

fn thousands(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn push(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing into a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(
            [0, 999, 1_000, 60_000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "60,000", "1,234,567"]
        );
    }
}
