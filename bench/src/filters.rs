//! What capture filters cost as one program in the kernel: one, eight and sixty-four of them on one packet, and what the
//! program costs the verifier. Refuses to report filters that do not find what the interpreter finds.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, ensure};
use captures::{Filter, Libpcap, LinkType, Snaplen};
use daemon::live::{
    Object,
    filters::{Alternative, FilterSet, FiltersProgram, Slot, Trial, View},
};
use datapath::{Link, layout::Views};

use crate::{
    frames,
    gates::milliseconds,
    measure::{REPEATS, ROUNDS, Rounds},
};

/// Filters on their own, and the start of longer lists.
const ALONE: [&str; 3] = ["tcp", "tcp port 443", "net 10.0.0.0/8 and not port 22"];

/// What one list of filters costs on one kind of hook.
#[derive(Clone, Debug)]
pub struct FiltersCost {
    /// The hook.
    pub object: Object,
    /// The filters.
    pub name: String,
    /// The program with none of them wanted.
    pub idle: Rounds,
    /// With all of them.
    pub wanted: Rounds,
    /// How many match.
    pub matched: u32,
    /// Instructions that the verifier walked, and those of the program.
    pub verified: u32,
    /// Of the program.
    pub instructions: u32,
    /// The shortest time to load it, translation included.
    pub load: Duration,
}

/// Measures every list on both kinds of hooks.
pub fn all() -> anyhow::Result<Vec<FiltersCost>> {
    lab::processor::stay_on_one(0).context("cannot stay on one processor")?;
    let libpcap = Libpcap::load()?;
    let mut lists: Vec<_> = ALONE.map(|text| (format!("`{text}`"), vec![text.to_owned()])).into();
    lists.extend([8, 64].map(|count| (format!("{count} different"), list(count))));
    let mut costs = Vec::new();
    for (name, texts) in lists {
        let compile = |text: &String| libpcap.compile(text, LinkType::ETHERNET, Snaplen::WHOLE);
        let filters = texts.iter().map(compile).collect::<Result<Vec<_>, _>>()?;
        for object in [Object::Xdp, Object::Tc] {
            costs.push(measure(object, &name, &filters)?);
        }
    }
    Ok(costs)
}

/// Different expressions as people write them: by host, network, port and protocol.
fn list(count: usize) -> Vec<String> {
    let mut texts = ALONE.map(str::to_owned).to_vec();
    for number in 1_u32.. {
        if texts.len() >= count {
            break;
        }
        texts.extend([
            format!("host 10.0.0.{number}"),
            format!("tcp port {}", 8_000 + number),
            format!("udp port {} or icmp", 5_000 + number),
            format!("src net 172.{number}.0.0/16 and tcp"),
            format!("greater {} and not arp", 60 + number),
        ]);
    }
    texts.truncate(count);
    texts
}

fn measure(object: Object, name: &str, filters: &[Filter]) -> anyhow::Result<FiltersCost> {
    let mut set = FilterSet::default();
    for (number, filter) in (0..).zip(filters) {
        let slot = Slot::new(number).context("there are more filters than slots")?;
        let instructions = filter.instructions().to_vec();
        set.push(slot, Alternative { view: View::Wire, link: Link::Ethernet, instructions });
    }
    let trial = Trial::new()?;
    let (program, load) = load(&trial, &set, object)?;
    let frame = frames::data();
    let mut views = Box::<Views>::default();
    let length = u32::try_from(frame.bytes.len()).context("frames here are short")?;
    (views.original_len, views.len[0]) = (length, length);
    views.bytes[..frame.bytes.len()].copy_from_slice(&frame.bytes);
    let (mut idle, mut wanted) = (Rounds::default(), Rounds::default());
    for round in 0..=ROUNDS {
        for (bits, rounds) in [(0, &mut idle), (u64::MAX, &mut wanted)] {
            views.wanted = bits;
            trial.put(&views)?;
            let run = program.run(REPEATS)?;
            if round > 0 {
                rounds.push(run.ns.into());
            }
        }
    }
    let found = trial.matched()?;
    let matches =
        |(slot, filter): (usize, &Filter)| u64::from(filter.matches(&frame.bytes, length)) << slot;
    let expected: u64 = filters.iter().enumerate().map(matches).sum();
    ensure!(found == expected, "{name} found {found:x}, not {expected:x}: a fault of linnet");
    let cost = program.cost()?;
    Ok(FiltersCost {
        object,
        name: name.to_owned(),
        idle,
        wanted,
        matched: found.count_ones(),
        verified: cost.verified,
        instructions: cost.instructions,
        load,
    })
}

fn load(
    trial: &Trial,
    set: &FilterSet,
    object: Object,
) -> anyhow::Result<(FiltersProgram, Duration)> {
    let mut shortest = Duration::MAX;
    for _ in 1..crate::gates::LOADS {
        let start_ns = lab::clock::monotonic_ns();
        let _program = trial.load(set, object)?;
        let taken_ns = lab::clock::monotonic_ns() - start_ns;
        shortest = shortest.min(Duration::from_nanos(taken_ns));
    }
    Ok((trial.load(set, object)?, shortest))
}

/// The figures, one line for each list and hook.
#[must_use]
pub fn table(costs: &[FiltersCost]) -> String {
    let mut text = String::from(
        "| filters | hook | match | ns net, min | ns net, median | whole, min | none wanted, min | verified | instructions | load, ms |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for cost in costs {
        let FiltersCost { object, name, idle, wanted, .. } = cost;
        writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} |",
            object.name(),
            cost.matched,
            wanted.min().saturating_sub(idle.min()),
            wanted.median().saturating_sub(idle.median()),
            wanted.min(),
            idle.min(),
            cost.verified,
            cost.instructions,
            milliseconds(cost.load),
        )
        .expect("writing into a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_filters_of_a_list_are_all_different() {
        for count in [8, 64] {
            let texts = list(count);
            assert_eq!(texts.len(), count);
            assert_eq!(texts.iter().collect::<HashSet<_>>().len(), count);
        }
    }
}
