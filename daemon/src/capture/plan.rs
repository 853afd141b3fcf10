//! From what a client asks for to what is captured: bounds, interfaces, the compiled filter. Starts nothing.

use std::collections::{BTreeSet, HashMap};

use captures::{Filter, InterfaceDescription, Libpcap, LinkType, Snaplen, Treatment};
use datapath::Link;

use super::{
    BYTES_MAX, CaptureError, CaptureRequest, DURATION_DEFAULT_S, DURATION_MAX_S, RequestLimits,
    default_snaplen,
};
use crate::{
    board::InterfaceView,
    live::{StageConfig, filters::Alternative},
};

/// A capture that could be started.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) request: CaptureRequest,
    pub(super) snaplen: Snaplen,
    pub(super) seconds: u64,
    /// The expression, compiled for each link type; empty for every packet.
    pub(super) filters: Vec<Filter>,
    /// The interfaces as the file has them.
    pub(super) descriptions: Vec<InterfaceDescription>,
    /// Observation point and direction -> index of those.
    pub(super) indexes: HashMap<(u32, u32), u32>,
    /// The one observation point, if only one.
    pub(super) point: Option<u32>,
}

impl Plan {
    /// Checks and compiles. A filter with names in it can take seconds: not for a thread that must not wait.
    pub(super) fn new(
        mut request: CaptureRequest,
        interfaces: &[InterfaceView],
    ) -> Result<Self, CaptureError> {
        let field = |field, problem| CaptureError::Field { field, problem };
        let snaplen = Snaplen::try_new(request.snaplen)
            .map_err(|error| field("snaplen", error.to_string()))?;
        request.limits = checked(request.limits)?;
        let wanted = wanted(request.interface.as_deref(), interfaces)
            .map_err(|problem| field("interface", problem))?;
        let filters = compiled(&request, &wanted, snaplen)?;
        let seconds = request.limits.seconds.unwrap_or(DURATION_DEFAULT_S);
        let point = request.interface.is_some().then_some(wanted[0].point);
        let mut descriptions = Vec::new();
        let mut indexes = HashMap::new();
        for interface in wanted {
            let sides = [("ingress", &interface.ingress), ("egress", &interface.egress)];
            for (direction, (way, side)) in (0..).zip(sides) {
                let Some(side) = side else { continue };
                let index = u32::try_from(descriptions.len()).unwrap_or(u32::MAX);
                indexes.insert((interface.point, direction), index);
                let mut description =
                    InterfaceDescription::new(link_type(interface.link), snaplen.bytes());
                description.name = Some(format!("{}@{}-{way}", interface.name, side.hook));
                descriptions.push(description);
            }
        }
        Ok(Self { request, snaplen, seconds, filters, descriptions, indexes, point })
    }

    /// What the stage is to copy from `now_ns` on, CLOCK_MONOTONIC.
    pub(super) fn stage_config(&self, now_ns: u64) -> StageConfig {
        let limits = self.request.limits;
        StageConfig {
            snaplen: self.snaplen.bytes().min(default_snaplen()),
            payload_max: self.request.payload_bytes,
            deadline_ns: now_ns.saturating_add(self.seconds * 1_000_000_000),
            packets_max: budget(limits.packets, BUDGET_PACKETS_MORE),
            bytes_max: budget(limits.bytes, BUDGET_BYTES_MORE),
            point: self.point,
            filter: (!self.filters.is_empty()).then(|| Alternative::of(&self.filters)),
        }
    }
}

/// What the kernel may copy beyond a limit, which is kept here: what is lost on the way does not count for it.
const BUDGET_PACKETS_MORE: u64 = 1 << 20;
const BUDGET_BYTES_MORE: u64 = 256 << 20;

fn budget(limit: Option<u64>, more: u64) -> u64 {
    limit.map_or(u64::MAX, |limit| limit.saturating_mul(2).saturating_add(more))
}

/// The expression for each link type that the interfaces have; none of an empty one.
fn compiled(
    request: &CaptureRequest,
    interfaces: &[&InterfaceView],
    snaplen: Snaplen,
) -> Result<Vec<Filter>, CaptureError> {
    let expression = request.filter.as_str();
    if expression.trim().is_empty() {
        return Ok(Vec::new());
    }
    let treatment = treatment(request.strict);
    let libpcap = Libpcap::load()?;
    let link_types: BTreeSet<_> =
        interfaces.iter().map(|interface| link_type(interface.link)).collect();
    let compile = |link_type| Ok(libpcap.compile_as(treatment, expression, link_type, snaplen)?);
    link_types.into_iter().map(compile).collect()
}

/// The interfaces that are meant and are there. Invariant: at least one.
fn wanted<'a>(
    name: Option<&str>,
    interfaces: &'a [InterfaceView],
) -> Result<Vec<&'a InterfaceView>, String> {
    let named = |interface: &&InterfaceView| name.is_none_or(|name| name == interface.name);
    let known: Vec<_> = interfaces.iter().filter(named).collect();
    let shown = name.unwrap_or("any");
    if known.is_empty() {
        return Err(format!("linnet watches no interface `{shown}`; /interfaces lists them"));
    }
    let present: Vec<_> = known.into_iter().filter(|interface| interface.is_present()).collect();
    if present.is_empty() {
        return Err(format!("the interface `{shown}` has gone; /interfaces lists those there are"));
    }
    Ok(present)
}

fn checked(limits: RequestLimits) -> Result<RequestLimits, CaptureError> {
    let within = |field, value: Option<u64>, max: u64| match value {
        Some(value) if value == 0 || value > max => Err(CaptureError::Field {
            field,
            problem: format!("{value} is not between 1 and {max}"),
        }),
        other => Ok(other),
    };
    Ok(RequestLimits {
        packets: within("limits.packets", limits.packets, u64::MAX)?,
        bytes: within("limits.bytes", limits.bytes, BYTES_MAX)?.or(Some(BYTES_MAX)),
        seconds: within("limits.seconds", limits.seconds, DURATION_MAX_S)?
            .or(Some(DURATION_DEFAULT_S)),
        unread_seconds: within("limits.unread_seconds", limits.unread_seconds, DURATION_MAX_S)?,
    })
}

/// How frames are read where `strict` is or is not asked for.
pub(super) const fn treatment(strict: bool) -> Treatment {
    if strict { Treatment::Strict } else { Treatment::Tolerant }
}

pub(super) fn link_type(name: &str) -> LinkType {
    if name == Link::RawIp.name() { LinkType::RAW } else { LinkType::ETHERNET }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::AttachmentView;

    fn interface(name: &str, point: u32, state: &'static str) -> InterfaceView {
        InterfaceView {
            name: name.into(),
            point,
            state,
            link: Link::Ethernet.name(),
            ingress: Some(AttachmentView { hook: "tcx".into(), ..AttachmentView::default() }),
            ..InterfaceView::default()
        }
    }

    fn request(json: &str) -> CaptureRequest {
        serde_json::from_str(json).unwrap()
    }

    fn refused(json: &str) -> (&'static str, String) {
        let interfaces = [interface("a", 1, "attached"), interface("b", 2, "gone")];
        match Plan::new(request(json), &interfaces) {
            Err(CaptureError::Field { field, problem }) => (field, problem),
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn values_out_of_bounds_are_named_with_their_bounds() {
        for (json, field, word) in [
            (r#"{"snaplen": 0}"#, "snaplen", "262144"),
            (r#"{"snaplen": 262145}"#, "snaplen", "262144"),
            (r#"{"limits": {"packets": 0}}"#, "limits.packets", "between 1 and"),
            (r#"{"limits": {"bytes": 17179869185}}"#, "limits.bytes", "17179869184"),
            (r#"{"limits": {"seconds": 86401}}"#, "limits.seconds", "86400"),
            (r#"{"interface": "c"}"#, "interface", "no interface `c`"),
            (r#"{"interface": "b"}"#, "interface", "gone"),
        ] {
            let (got, problem) = refused(json);
            assert!(got == field && problem.contains(word), "{json}: {got}: {problem}");
        }
    }

    #[test]
    fn all_interfaces_are_those_that_are_there() {
        let interfaces = [interface("a", 1, "attached"), interface("b", 2, "gone")];
        let plan = Plan::new(request("{}"), &interfaces).unwrap();
        assert_eq!((plan.descriptions.len(), plan.point), (1, None));
        assert_eq!(plan.indexes.get(&(1, 0)), Some(&0));
    }

    #[test]
    fn a_filter_is_for_every_link_type_that_is_captured() {
        let tunnel = InterfaceView { link: Link::RawIp.name(), ..interface("tun0", 2, "attached") };
        let interfaces = [interface("a", 1, "attached"), tunnel];
        match Plan::new(request(r#"{"filter": "udp port 53"}"#), &interfaces) {
            Ok(plan) => {
                let types = |filters: &[Filter]| filters.iter().map(Filter::link_type).collect();
                let described: Vec<_> =
                    plan.descriptions.iter().map(|interface| interface.link_type).collect();
                assert_eq!(described, [LinkType::ETHERNET, LinkType::RAW]);
                let filtered: Vec<_> = types(&plan.filters);
                assert_eq!(filtered, described);
            }
            Err(CaptureError::Filter(error)) => println!("skipped: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
}
