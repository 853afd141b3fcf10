//! What a request means on this host: which hooks, as which interfaces of the file, through which filters. Never
//! starts anything.

use std::collections::HashMap;

use captures::{Filter, InterfaceDescription, Libpcap, LinkType, Snaplen, filter::Instruction};
use datapath::{Link, layout::CAPTURE_BYTES_MAX};

use super::{CaptureError, reach::reach, request::Wanted};
use crate::board::InterfaceView;

/// What the first interface of a file says of itself.
const LOSS_NOTE: &str = "packets that the kernel's ring lost, of any interface, are counted here";

/// A request, made ready for the interfaces that there are.
#[derive(Debug)]
pub(super) struct Plan {
    /// Interfaces of the file, by their number in it.
    pub(super) interfaces: Vec<InterfaceDescription>,
    /// The filter's text for the file; the packets that get there have passed it.
    pub(super) passed: Option<Filter>,
    /// What is known of the packets of a point and direction.
    pub(super) taps: HashMap<(u32, u32), Tap>,
    /// The only point, if there is only one.
    pub(super) point: Option<u32>,
    /// Bytes of each frame that filter and file need.
    pub(super) stage_snaplen: u32,
}

/// One point and direction.
#[derive(Clone, Debug)]
pub(super) struct Tap {
    /// Number in the file.
    pub(super) interface: u32,
    /// Which of its packets; all where absent.
    pub(super) filter: Option<Pick>,
}

/// What a filter does with packets of one link type.
#[derive(Clone, Debug)]
pub(super) enum Pick {
    /// Those that match.
    Matching(std::sync::Arc<Filter>),
    /// None: the expression has no meaning there, such as `ether host` without Ethernet.
    Nothing,
}

impl Tap {
    /// Whether a packet is wanted.
    pub(super) fn wants(&self, data: &[u8], original_len: u32) -> bool {
        match &self.filter {
            None => true,
            Some(Pick::Matching(filter)) => filter.matches(data, original_len),
            Some(Pick::Nothing) => false,
        }
    }
}

impl Plan {
    /// Makes a plan. Loads libpcap where there is a filter, which may ask the system's resolver: call it where that
    /// may take seconds.
    pub(super) fn new(wanted: &Wanted, interfaces: &[InterfaceView]) -> Result<Self, CaptureError> {
        let chosen = choose(wanted, interfaces)?;
        let filters = Filters::compile(wanted, &chosen)?;
        let mut plan = Self {
            interfaces: Vec::new(),
            passed: filters.passed(wanted, &chosen),
            taps: HashMap::new(),
            point: wanted.interface.is_some().then_some(chosen[0].point),
            stage_snaplen: filters.stage_snaplen(wanted.snaplen),
        };
        for interface in chosen {
            let Some(link_type) = link_type(interface.link) else { continue };
            let sides = [(0, "ingress", &interface.ingress), (1, "egress", &interface.egress)];
            for (direction, way, side) in sides {
                let Some(side) = side else { continue };
                let number = u32::try_from(plan.interfaces.len()).unwrap_or(u32::MAX);
                let filter = filters.by_link.get(&link_type).cloned();
                plan.taps.insert((interface.point, direction), Tap { interface: number, filter });
                let mut description = InterfaceDescription::new(link_type, wanted.snaplen.bytes());
                description.name = Some(format!("{}@{}-{way}", interface.name, side.hook));
                description.description = (number == 0).then(|| LOSS_NOTE.to_owned());
                plan.interfaces.push(description);
            }
        }
        Ok(plan)
    }
}

/// The interfaces that a request names, at least one of which can be captured.
fn choose<'a>(
    wanted: &Wanted,
    interfaces: &'a [InterfaceView],
) -> Result<Vec<&'a InterfaceView>, CaptureError> {
    let wrong = |problem: String| CaptureError::Field { field: "interface", problem };
    let Some(name) = &wanted.interface else {
        let chosen: Vec<_> = interfaces
            .iter()
            .filter(|interface| interface.state == ATTACHED && link_type(interface.link).is_some())
            .collect();
        if chosen.is_empty() {
            return Err(wrong("linnet watches no interface yet; try again in a second".into()));
        }
        return Ok(chosen);
    };
    let Some(interface) = interfaces.iter().find(|interface| interface.name == *name) else {
        let known: Vec<_> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        return Err(wrong(format!(
            "linnet does not watch `{name}`; it watches {}",
            if known.is_empty() { "nothing yet".into() } else { known.join(", ") }
        )));
    };
    if interface.state != ATTACHED {
        return Err(wrong(format!("`{name}` is gone; /interfaces lists what is there")));
    }
    if link_type(interface.link).is_none() {
        return Err(wrong(format!("the frames of `{name}` are of a kind that linnet cannot name")));
    }
    Ok(vec![interface])
}

/// `InterfaceView::state` of an interface whose frames are seen.
const ATTACHED: &str = "attached";

/// The link type of a link's name; `None` where frames have no type that a file could carry.
fn link_type(name: &str) -> Option<LinkType> {
    [
        (Link::Ethernet, LinkType::ETHERNET),
        (Link::RawIp, LinkType::RAW),
        (Link::Null, LinkType::NULL),
    ]
    .into_iter()
    .find_map(|(link, link_type)| (super::link_name(link) == name).then_some(link_type))
}

/// One expression, compiled for each link type that there is.
struct Filters {
    by_link: HashMap<LinkType, Pick>,
    reach: Option<u32>,
}

impl Filters {
    fn compile(wanted: &Wanted, chosen: &[&InterfaceView]) -> Result<Self, CaptureError> {
        let mut filters = Self { by_link: HashMap::new(), reach: Some(0) };
        if wanted.filter.is_empty() {
            return Ok(filters);
        }
        let libpcap = Libpcap::load()?;
        let mut refused = None;
        let mut links: Vec<_> = chosen.iter().filter_map(|view| link_type(view.link)).collect();
        links.sort_unstable();
        links.dedup();
        for link in links {
            // The program's verdict alone is used, so that the file's snaplen does not matter here.
            let pick = match libpcap.compile(&wanted.filter, link, Snaplen::WHOLE) {
                Ok(filter) => {
                    filters.reach = filters.reach.zip(reach(&filter)).map(|(a, b)| a.max(b));
                    Pick::Matching(std::sync::Arc::new(filter))
                }
                Err(error) => {
                    refused.get_or_insert(error);
                    Pick::Nothing
                }
            };
            filters.by_link.insert(link, pick);
        }
        let useful = filters.by_link.values().any(|pick| matches!(pick, Pick::Matching(_)));
        match refused {
            Some(error) if !useful => Err(error.into()),
            _ => Ok(filters),
        }
    }

    /// A filter that lets everything pass and carries the expression into the file. Files with several link types
    /// carry none: the encoder takes one filter for one link type.
    fn passed(&self, wanted: &Wanted, chosen: &[&InterfaceView]) -> Option<Filter> {
        const RETURN_ALL: Instruction = Instruction { code: 0x06, jt: 0, jf: 0, k: u32::MAX };
        let link = link_type(chosen.first()?.link)?;
        if self.by_link.len() != 1 {
            return None;
        }
        Filter::try_new(&wanted.filter, link, vec![RETURN_ALL]).ok()
    }

    /// Where the filter's reach has no bound, the kernel copies all that it can.
    fn stage_snaplen(&self, snaplen: Snaplen) -> u32 {
        let max = u32::try_from(CAPTURE_BYTES_MAX).expect("64 KiB");
        self.reach.map_or(max, |reach| reach.max(snaplen.bytes()).min(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{board::AttachmentView, capture::CaptureRequest};

    fn interface(name: &str, point: u32, link: &'static str) -> InterfaceView {
        let side = |hook: &str| Some(AttachmentView { hook: hook.into(), ..Default::default() });
        InterfaceView {
            name: name.into(),
            point,
            link,
            state: ATTACHED,
            ingress: side("xdp"),
            egress: side("tcx"),
            ..InterfaceView::default()
        }
    }

    fn plan(filter: &str, name: Option<&str>, snaplen: u32) -> Result<Plan, CaptureError> {
        let mut gone = interface("old0", 3, "ethernet");
        gone.state = "gone";
        let interfaces = [interface("eth0", 1, "ethernet"), interface("tun0", 2, "raw_ip"), gone];
        let request = CaptureRequest {
            filter: Some(filter.into()),
            interface: name.map(str::to_owned),
            snaplen: Some(snaplen),
            ..CaptureRequest::default()
        };
        Plan::new(&Wanted::try_from(request)?, &interfaces)
    }

    #[test]
    fn each_hook_is_an_interface_of_the_file() {
        let plan = plan("", None, 96).unwrap();
        let names: Vec<_> =
            plan.interfaces.iter().map(|interface| interface.name.as_deref().unwrap()).collect();
        let expected =
            ["eth0@xdp-ingress", "eth0@tcx-egress", "tun0@xdp-ingress", "tun0@tcx-egress"];
        assert_eq!(names, expected);
        assert_eq!((plan.point, plan.stage_snaplen), (None, 96));
        assert!(plan.taps[&(2, 1)].wants(&[], 0) && plan.taps[&(2, 1)].interface == 3);
    }

    #[test]
    fn a_filter_without_meaning_on_a_link_matches_nothing_there() {
        let plan = plan("ether broadcast", None, 96).unwrap();
        assert!(plan.taps[&(1, 0)].wants(&[0xff; 60], 60));
        assert!(!plan.taps[&(2, 0)].wants(&[0xff; 60], 60));
    }

    #[test]
    fn the_kernel_copies_what_the_filter_looks_at() {
        assert!(plan("tcp port 80", Some("eth0"), 16).unwrap().stage_snaplen >= 60);
        assert_eq!(plan("tcp port 80", Some("eth0"), 262_144).unwrap().stage_snaplen, 65_536);
        let computed = "tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420";
        assert_eq!(plan(computed, Some("eth0"), 16).unwrap().stage_snaplen, 65_536);
    }

    #[test]
    fn what_cannot_be_captured_says_why() {
        for (filter, name, part) in [
            ("tcp prot 80", Some("eth0"), "syntax error"),
            ("ether broadcast", Some("tun0"), "ether"),
            ("", Some("eth9"), "it watches eth0, tun0"),
            ("", Some("old0"), "gone"),
        ] {
            let error = plan(filter, name, 96).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
