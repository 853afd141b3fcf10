//! What a filter comes to: how it reads frames and why, and its programs. Never captures anything.

use captures::{
    Filter, FilterError, Libpcap, LinkType, Snaplen, View,
    filter::{Instruction, Why, listing},
};
use datapath::Link;
use serde::{Deserialize, Serialize};

use super::{
    cost::{self, CostView},
    plan,
};
use crate::live::Object;

/// A filter to be explained.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterRequest {
    /// tcpdump's filter language.
    pub filter: String,
    /// Whether frames are filtered as they are on the wire.
    #[serde(default)]
    pub strict: bool,
    /// What frames begin with.
    #[serde(default)]
    pub link: FilterLink,
}

/// What frames begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum FilterLink {
    /// Ethernet.
    #[default]
    Ethernet,
    /// IP without anything before it, as on WireGuard and tun devices.
    #[serde(rename = "raw_ip", alias = "raw")]
    #[value(name = "raw", alias = "raw_ip")]
    RawIp,
}

/// A filter as the API and `linnet filter explain --json` show it.
#[derive(Clone, Debug, Serialize)]
pub struct FilterView {
    /// The expression.
    pub filter: String,
    /// What frames begin with, as in `/interfaces`.
    pub link: &'static str,
    /// `strict` or `tolerant`.
    pub treatment: &'static str,
    /// Whether tags are looked through.
    pub tags: RuleView,
    /// Whether a tunnel is looked into.
    pub tunnel: RuleView,
    /// Instructions of the program for the frame itself.
    pub instructions: usize,
    /// Bytes of a frame that decide whether it matches; `None` where that depends on the frame.
    pub reach_bytes: Option<u32>,
    /// The programs, and what each is shown; a frame matches if it does in one of them.
    pub programs: Vec<ProgramView>,
    /// All of them as one program for the kernel.
    pub kernel: KernelView,
}

/// A filter as the kernel runs it, by itself.
#[derive(Clone, Debug, Serialize)]
pub struct KernelView {
    /// Instructions.
    pub instructions: usize,
    /// The program for TC as the kernel's verifier prints it; that for XDP differs in what it returns.
    pub listing: Vec<String>,
    /// What it costs here, by kind of hook; `None` where that was not measured.
    pub cost: Option<Vec<CostView>>,
    /// Why not.
    pub why_no_cost: Option<String>,
}

/// One rule of the tolerant treatment.
#[derive(Clone, Debug, Serialize)]
pub struct RuleView {
    /// Whether it applies.
    pub applies: bool,
    /// Why it does not.
    pub why_not: Option<String>,
}

/// One program.
#[derive(Clone, Debug, Serialize)]
pub struct ProgramView {
    /// What it is shown of a frame.
    #[serde(serialize_with = "names")]
    pub views: Vec<View>,
    /// How long it is.
    pub instructions: usize,
    /// The program as `tcpdump -d` prints it.
    pub listing: Vec<String>,
}

/// The same with what it costs in this kernel, where it may be loaded.
pub fn explain_with_cost(request: &FilterRequest) -> Result<FilterView, FilterError> {
    let (filter, mut view) = explained(request)?;
    match cost::measure(&filter) {
        Ok(cost) => (view.kernel.cost, view.kernel.why_no_cost) = (Some(cost), None),
        Err(error) => view.kernel.why_no_cost = Some(error.to_string()),
    }
    Ok(view)
}

/// Compiles a filter and says what it comes to. One with names in it can take seconds: not for a thread that must not
/// wait.
pub fn explain(request: &FilterRequest) -> Result<FilterView, FilterError> {
    explained(request).map(|(_, view)| view)
}

fn explained(request: &FilterRequest) -> Result<(Filter, FilterView), FilterError> {
    let (link_type, link) = match request.link {
        FilterLink::Ethernet => (LinkType::ETHERNET, Link::Ethernet),
        FilterLink::RawIp => (LinkType::RAW, Link::RawIp),
    };
    let treatment = plan::treatment(request.strict);
    let filter =
        Libpcap::load()?.compile_as(treatment, &request.filter, link_type, Snaplen::WHOLE)?;
    let reading = filter.reading();
    let view = FilterView {
        filter: request.filter.clone(),
        link: link.name(),
        treatment: treatment.name(),
        tags: rule(reading.tags_kept.as_ref()),
        tunnel: rule(reading.tunnel_closed.as_ref()),
        instructions: filter.instructions().len(),
        reach_bytes: Some(filter.reach()).filter(|&bytes| bytes < u32::MAX),
        programs: programs(&filter),
        kernel: kernel(&filter),
    };
    Ok((filter, view))
}

fn kernel(filter: &Filter) -> KernelView {
    const NOT_MEASURED: &str = "it is measured by `linnet filter explain`, as root";
    match cost::program(filter).listing(Object::Tc) {
        Ok(listing) => KernelView {
            instructions: listing.len(),
            listing,
            cost: None,
            why_no_cost: Some(NOT_MEASURED.to_owned()),
        },
        Err(error) => KernelView {
            instructions: 0,
            listing: Vec::new(),
            cost: None,
            why_no_cost: Some(error.to_string()),
        },
    }
}

fn rule(why_not: Option<&Why>) -> RuleView {
    RuleView { applies: why_not.is_none(), why_not: why_not.map(ToString::to_string) }
}

/// Views that share a program stand together.
fn programs(filter: &Filter) -> Vec<ProgramView> {
    let mut grouped: Vec<(&[Instruction], Vec<View>)> = Vec::new();
    for (view, program) in filter.views() {
        match grouped.last_mut() {
            Some((last, views)) if *last == program => views.push(view),
            Some(_) | None => grouped.push((program, vec![view])),
        }
    }
    let shown = |(program, views): (&[Instruction], _)| ProgramView {
        views,
        instructions: program.len(),
        listing: listing(program).lines().map(str::to_owned).collect(),
    };
    grouped.into_iter().map(shown).collect()
}

fn names<S: serde::Serializer>(views: &[View], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(views.iter().map(|view| view.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str) -> Option<FilterView> {
        match explain(&serde_json::from_str(json).unwrap()) {
            Err(error @ FilterError::LibpcapMissing { .. }) => {
                println!("skipped: {error}");
                None
            }
            other => Some(other.unwrap()),
        }
    }

    #[test]
    fn views_that_share_a_program_show_it_once() {
        let Some(view) = shown(r#"{"filter": "tcp"}"#) else { return };
        assert_eq!(view.programs.len(), 1);
        assert_eq!(view.programs[0].views, [View::Untagged, View::Inner]);
        assert!(view.tags.applies && view.tunnel.applies && view.treatment == "tolerant");
        let Some(view) = shown(r#"{"filter": "tcp", "link": "raw"}"#) else { return };
        let views: Vec<_> = view.programs.iter().map(|program| program.views.clone()).collect();
        assert_eq!(views, [[View::AsItIs], [View::Inner]]);
        assert_eq!((view.link, view.tags.applies), ("raw_ip", false));
    }

    #[test]
    fn a_rule_that_does_not_apply_says_why() {
        let Some(view) = shown(r#"{"filter": "vlan 7"}"#) else { return };
        assert!(view.tags.why_not.unwrap().contains("`vlan` looks at the link layer"));
        let Some(view) = shown(r#"{"filter": "tcp", "strict": true}"#) else { return };
        assert!(view.tunnel.why_not.unwrap().contains("strict"));
        assert!(view.reach_bytes.is_some_and(|bytes| bytes <= 64), "{:?}", view.reach_bytes);
        let Some(view) = shown(r#"{"filter": "ether[len - 1] = 0"}"#) else { return };
        assert_eq!(view.reach_bytes, None);
    }
}
