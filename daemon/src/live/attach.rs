//! Putting a program onto a hook, and choosing which. Changes nothing that is not ours: no foreign qdisc, filter or
//! program is replaced or removed.

use std::{error::Error, io};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::FdLink,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use datapath::Direction;

use crate::kernel::{Feature, Lacks};

use super::{
    LiveError,
    link_pins::{LinkPins, Pin},
    namespace::Device,
    netlink::Socket,
    qdisc,
    records::FilterRecord,
    register::Register,
    verb::{AttachRequest, AttachedHook, EgressChoice, Hook, IngressChoice},
};

/// Programs of the objects, by the names that `bpftool prog` shows.
pub(super) mod program {
    pub(in super::super) const XDP: &str = "linnet_xdp";
    pub(in super::super) const XDP_CAPTURE: &str = "linnet_xdp_cap";
    pub(in super::super) const XDP_COPY: &str = "linnet_xdp_copy";
    pub(in super::super) const INGRESS: &str = "linnet_ingress";
    pub(in super::super) const EGRESS: &str = "linnet_egress";
    pub(in super::super) const CAPTURE_INGRESS: &str = "linnet_cap_in";
    pub(in super::super) const CAPTURE_EGRESS: &str = "linnet_cap_out";
    pub(in super::super) const CAPTURE_COPY: &str = "linnet_cap_copy";
}

/// Priority of our filters in a clsact qdisc: in front of the kernel's own default of 49152.
const CLSACT_PRIORITY: u16 = 4_217;

/// What to do where a hook that was asked for is missing.
const USE_AUTO: &str = "leave the choice to linnet (`auto`)";

/// A program on a hook; taken off when dropped, unless it is pinned.
#[derive(Debug)]
pub(super) enum Link {
    Xdp(#[expect(dead_code, reason = "held for its drop")] XdpLink),
    Tc(SchedClassifierLink),
    /// Another tool has taken it off.
    Lost,
}

impl Link {
    /// Lets go of a program whose interface has gone, or that another tool has taken off. A filter is known by
    /// interface, priority and handle alone, and what has those now is not ours.
    pub(super) fn abandon(self) {
        match self {
            Self::Tc(link) if <&FdLink>::try_from(&link).is_err() => std::mem::forget(link),
            // Descriptors, which mean the same wherever their interface is.
            Self::Tc(_) | Self::Xdp(_) | Self::Lost => {}
        }
    }
}

/// The two objects of one namespace, and what their kernel is known to lack.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) tc: Ebpf,
    pub(super) xdp: Ebpf,
    pub(super) lacks: Lacks,
}

impl Objects {
    /// Refuses a hook that this kernel is known not to have.
    fn has(
        &self,
        feature: Feature,
        hook: Hook,
        request: &AttachRequest,
        remedy: &'static str,
    ) -> Result<(), LiveError> {
        let Some(why) = self.lacks.get(&feature).cloned() else { return Ok(()) };
        let interface = request.to_string();
        Err(LiveError::Lacking { feature, hook, interface, why, remedy })
    }
}

/// A tracker on its hook; taken off when dropped.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) hook: AttachedHook,
    pub(super) link: Link,
    /// Of a link. A filter stays by itself.
    pin: Option<Pin>,
}

impl Tracker {
    /// Lets go of it as [`Link::abandon`] does.
    pub(super) fn abandon(self) {
        self.link.abandon();
    }

    /// Another tool has taken it off.
    pub(super) fn lose(&mut self) {
        std::mem::replace(&mut self.link, Link::Lost).abandon();
        self.pin = None;
    }

    /// Leaves it on its hook, for a successor to take over.
    pub(super) fn leave(self) {
        self.pin.into_iter().for_each(Pin::leave);
        self.link.abandon();
    }
}

/// An interface that is to be watched, and what is known of it.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) request: &'a AttachRequest,
    pub(super) device: Device,
    pub(super) record: &'a FilterRecord,
    pub(super) pins: &'a LinkPins,
    pub(super) point: u32,
    /// Programs of a dead attacher, by direction, that may be in its clsact qdisc.
    pub(super) filters: [[u32; 2]; 2],
    pub(super) register: &'a mut Register,
}

impl Site<'_> {
    /// Takes off what a dead attacher left in a direction, but for one hook. No packet may be counted by two.
    fn clear(&mut self, direction: Direction, but: Option<Hook>) {
        let others = Hook::ALL.into_iter().filter(|hook| Some(*hook) != but);
        self.pins.clear(direction, others);
        // One whose place was taken is not among them any more.
        while let Some(filter) = self.left_filter(direction) {
            // Dropped, it takes the filter off.
            drop(filter);
        }
    }

    /// The filter that a dead attacher left in a direction; each is given once.
    fn left_filter(&mut self, direction: Direction) -> Option<SchedClassifierLink> {
        let left = &mut self.filters[direction as usize];
        if *left == [0; 2] {
            return None;
        }
        let filters = Socket::open()
            .and_then(|socket| qdisc::filters(&socket, self.device.ifindex, direction))
            .inspect_err(|error| tracing::warn!(%error, "cannot list filters"))
            .ok()?;
        let is_left = |it: &&qdisc::Filter| it.program_id.is_some_and(|id| left.contains(&id));
        let Some(filter) = filters.iter().find(is_left) else {
            *left = [0; 2];
            return None;
        };
        let id = filter.program_id;
        left.iter_mut().filter(|it| Some(**it) == id).for_each(|it| *it = 0);
        let (priority, handle) = (filter.priority(), filter.handle.into());
        let (name, at) = (&self.request.interface, attach_type(direction));
        SchedClassifierLink::attached(name, at, priority, handle, None).ok()
    }
}

/// Watches what an interface receives.
pub(super) fn ingress(
    objects: &mut Objects,
    site: &mut Site<'_>,
) -> Result<Option<Tracker>, LiveError> {
    let tc = |objects: &mut Objects, site: &mut Site<'_>, force, reason: &str| {
        attach_tc(objects, site, Direction::Ingress, force, reason).map(Some)
    };
    let choice = site.request.ingress;
    match choice {
        IngressChoice::Off => {
            site.clear(Direction::Ingress, None);
            Ok(None)
        }
        IngressChoice::Auto => {
            tc(objects, site, None, "tc sees what the stack sees and changes nothing")
        }
        IngressChoice::Tcx => tc(objects, site, Some(Hook::Tcx), "asked for"),
        IngressChoice::Clsact => tc(objects, site, Some(Hook::Clsact), "asked for"),
        IngressChoice::Xdp | IngressChoice::XdpGeneric => {
            let hook = if choice == IngressChoice::Xdp { Hook::Xdp } else { Hook::XdpGeneric };
            match attach_xdp(objects, site, hook) {
                Err(LiveError::Attach { source, .. }) if is_busy(&source) => tc(
                    objects,
                    site,
                    None,
                    "xdp was asked for, but another program holds it; `ip link show` names it",
                ),
                other => other.map(Some),
            }
        }
    }
}

/// Watches what an interface sends.
pub(super) fn egress(
    objects: &mut Objects,
    site: &mut Site<'_>,
) -> Result<Option<Tracker>, LiveError> {
    let (force, reason) = match site.request.egress {
        EgressChoice::Off => {
            site.clear(Direction::Egress, None);
            return Ok(None);
        }
        EgressChoice::Auto
            if site.device.loopback && site.request.ingress != IngressChoice::Off =>
        {
            // Every packet on loopback passes both directions: counting both would count it twice.
            site.clear(Direction::Egress, None);
            return Ok(None);
        }
        EgressChoice::Auto => (None, "the only hook that sees what is sent"),
        EgressChoice::Tcx => (Some(Hook::Tcx), "asked for"),
        EgressChoice::Clsact => (Some(Hook::Clsact), "asked for"),
    };
    attach_tc(objects, site, Direction::Egress, force, reason).map(Some)
}

fn attach_xdp(
    objects: &mut Objects,
    site: &mut Site<'_>,
    hook: Hook,
) -> Result<Tracker, LiveError> {
    let (mode, remedy) = match hook {
        Hook::XdpGeneric => (XdpMode::Skb, "use ingress=auto instead"),
        Hook::Xdp | Hook::Tcx | Hook::Clsact => (
            XdpMode::Driver,
            "the driver may not support it or may need a smaller MTU: use ingress=xdp-generic or \
             ingress=auto instead",
        ),
    };
    objects.has(Feature::Xdp, hook, site.request, USE_AUTO)?;
    let xdp = xdp_program(&mut objects.xdp, program::XDP)?;
    let ifindex = site.device.ifindex;
    let left = site.pins.take(Direction::Ingress, hook, ifindex);
    let adopted = left.and_then(|link| {
        let adopted = xdp.attach_to_link(link.try_into().ok()?).and_then(|id| xdp.take_link(id));
        adopted.inspect_err(|error| not_adopted(error, site, hook)).ok()
    });
    let link = match adopted {
        Some(link) => link,
        None => {
            // An interface has room for one. What is on TC goes once this is there: it may stay.
            site.pins.clear(Direction::Ingress, [Hook::Xdp, Hook::XdpGeneric].into_iter());
            xdp.attach_to_if_index(ifindex, mode)
                .and_then(|id| xdp.take_link(id))
                .map_err(|source| attach_error(hook, site.request, source, remedy))?
        }
    };
    site.clear(Direction::Ingress, Some(hook));
    let program_id = xdp.info().ok().map(|info| info.id());
    let hook = AttachedHook { hook, reason: "asked for".to_owned(), program_id };
    let (link, pin) = site.pins.pin(Direction::Ingress, hook.hook, link)?;
    Ok(Tracker { hook, link: Link::Xdp(link), pin: Some(pin) })
}

/// TCX where the kernel has it, a clsact filter where it does not.
fn attach_tc(
    objects: &mut Objects,
    site: &mut Site<'_>,
    direction: Direction,
    force: Option<Hook>,
    reason: &str,
) -> Result<Tracker, LiveError> {
    let name = match direction {
        Direction::Ingress => program::INGRESS,
        Direction::Egress => program::EGRESS,
    };
    let no_tcx = objects.lacks.get(&Feature::Tcx).cloned();
    match force {
        Some(Hook::Tcx) => objects.has(Feature::Tcx, Hook::Tcx, site.request, USE_AUTO)?,
        Some(Hook::Clsact) => objects.has(Feature::Clsact, Hook::Clsact, site.request, USE_AUTO)?,
        None if no_tcx.is_some() => {
            let remedy = "boot a kernel with TCX (6.6 and later) or with the clsact qdisc";
            objects.has(Feature::Clsact, Hook::Clsact, site.request, remedy)?;
        }
        Some(Hook::Xdp | Hook::XdpGeneric) | None => {}
    }
    let tc = tc_program(&mut objects.tc, name)?;
    let program_id = tc.info().ok().map(|info| info.id());
    let mut refused = no_tcx;
    if force != Some(Hook::Clsact) && refused.is_none() {
        match adopt_tcx(tc, site, direction) {
            Ok(link) => {
                let hook = AttachedHook { hook: Hook::Tcx, reason: reason.to_owned(), program_id };
                let (link, pin) = site.pins.pin(direction, Hook::Tcx, link)?;
                return Ok(Tracker { hook, link: Link::Tc(link), pin: Some(pin) });
            }
            Err(source) if force == Some(Hook::Tcx) || !is_unsupported(&source) => {
                let remedy = "`bpftool net` shows what is attached there";
                return Err(attach_error(Hook::Tcx, site.request, source, remedy));
            }
            Err(source) => refused = Some(source.to_string()),
        }
    }
    let reason = match refused {
        Some(why) if force.is_none() => {
            format!("this kernel has no TCX ({} and later have): {why}", Feature::Tcx.since())
        }
        Some(_) | None => reason.to_owned(),
    };
    make_clsact(&site.request.interface, site.record)?;
    // Before it is there: a process can be killed at any time, and the filter stays.
    site.register.note_filter(site.point, direction as usize, program_id.unwrap_or(0))?;
    let link = adopt_filter(tc, site, direction).map_err(|source| {
        let remedy = "`tc qdisc show` shows what is in the way";
        attach_error(Hook::Clsact, site.request, source, remedy)
    })?;
    let hook = AttachedHook { hook: Hook::Clsact, reason, program_id };
    Ok(Tracker { hook, link: Link::Tc(link), pin: None })
}

/// Puts a program in the place of the one that a dead attacher left in the TCX chain, or else in front.
fn adopt_tcx(
    tc: &mut SchedClassifier,
    site: &mut Site<'_>,
    direction: Direction,
) -> Result<SchedClassifierLink, ProgramError> {
    if let Some(link) = site.pins.take(direction, Hook::Tcx, site.device.ifindex)
        && let Ok(link) = SchedClassifierLink::try_from(link)
    {
        match tc.attach_to_link(link).and_then(|id| tc.take_link(id)) {
            Ok(link) => {
                site.clear(direction, Some(Hook::Tcx));
                return Ok(link);
            }
            Err(error) => not_adopted(&error, site, Hook::Tcx),
        }
    }
    site.clear(direction, None);
    tcx(tc, &site.request.interface, direction, LinkOrder::first())
}

/// The same with a filter.
fn adopt_filter(
    tc: &mut SchedClassifier,
    site: &mut Site<'_>,
    direction: Direction,
) -> Result<SchedClassifierLink, ProgramError> {
    if let Some(link) = site.left_filter(direction) {
        match tc.attach_to_link(link).and_then(|id| tc.take_link(id)) {
            Ok(link) => {
                site.clear(direction, Some(Hook::Clsact));
                return Ok(link);
            }
            Err(error) => not_adopted(&error, site, Hook::Clsact),
        }
    }
    site.clear(direction, None);
    clsact(tc, &site.request.interface, direction)
}

fn not_adopted(error: &ProgramError, site: &Site<'_>, hook: Hook) {
    tracing::warn!(%error, interface = %site.request, %hook, "cannot take an earlier run's place: attaching anew");
}

/// Puts a program into the TCX chain of an interface of this namespace.
pub(super) fn tcx(
    program: &mut SchedClassifier,
    interface: &str,
    direction: Direction,
    order: LinkOrder,
) -> Result<SchedClassifierLink, ProgramError> {
    let options = TcAttachOptions::TcxOrder(order);
    let id = program.attach_with_options(interface, attach_type(direction), options)?;
    program.take_link(id)
}

/// Makes the clsact qdisc of an interface of this namespace where there is none, and remembers that.
pub(super) fn make_clsact(interface: &str, record: &FilterRecord) -> Result<(), LiveError> {
    // It may exist already, ours or another's: then the filter goes beside those that are there. What else may be
    // wrong the filter meets again.
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => record.remember_qdisc(),
        Err(_) => Ok(()),
    }
}

/// Puts a program into the clsact qdisc of an interface of this namespace.
pub(super) fn clsact(
    program: &mut SchedClassifier,
    interface: &str,
    direction: Direction,
) -> Result<SchedClassifierLink, ProgramError> {
    let options =
        TcAttachOptions::Netlink(NlOptions { priority: CLSACT_PRIORITY, ..NlOptions::default() });
    let id = program.attach_with_options(interface, attach_type(direction), options)?;
    program.take_link(id)
}

/// Removes filters that a killed attacher left on an interface of this namespace; returns how many hooks had some.
pub(super) fn remove_stale_filters(interface: &str) -> usize {
    const TRACKERS: [(&str, TcAttachType); 2] =
        [(program::INGRESS, TcAttachType::Ingress), (program::EGRESS, TcAttachType::Egress)];
    let is_removed =
        |(name, at): &(&str, TcAttachType)| tc::qdisc_detach_program(interface, *at, name).is_ok();
    TRACKERS.into_iter().filter(is_removed).count() + remove_stages(interface)
}

/// The same with the filters of the capture stage alone.
pub(super) fn remove_stages(interface: &str) -> usize {
    const STAGES: [(&str, TcAttachType); 2] = [
        (program::CAPTURE_INGRESS, TcAttachType::Ingress),
        (program::CAPTURE_EGRESS, TcAttachType::Egress),
    ];
    let is_removed =
        |(name, at): &(&str, TcAttachType)| tc::qdisc_detach_program(interface, *at, name).is_ok();
    STAGES.into_iter().filter(is_removed).count()
}

/// A loaded TC program of an object.
pub(super) fn tc_program<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, LiveError> {
    let program = object.program_mut(name).ok_or(LiveError::Missing(name))?;
    let refused = |source| LiveError::Program { program: name, source };
    let program: &mut SchedClassifier = program.try_into().map_err(refused)?;
    if program.fd().is_err() {
        program.load().map_err(|source| refused_or_forbidden(name, source))?;
    }
    Ok(program)
}

/// A loaded XDP program of an object.
pub(super) fn xdp_program<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Xdp, LiveError> {
    let program = object.program_mut(name).ok_or(LiveError::Missing(name))?;
    let refused = |source| LiveError::Program { program: name, source };
    let program: &mut Xdp = program.try_into().map_err(refused)?;
    if program.fd().is_err() {
        program.load().map_err(|source| refused_or_forbidden(name, source))?;
    }
    Ok(program)
}

fn refused_or_forbidden(program: &'static str, source: ProgramError) -> LiveError {
    if is_forbidden(&source) {
        return forbidden(format!("load the program `{program}`"));
    }
    LiveError::Program { program, source }
}

const fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

fn attach_error(
    hook: Hook,
    request: &AttachRequest,
    source: ProgramError,
    remedy: &'static str,
) -> LiveError {
    if is_forbidden(&source) {
        return forbidden(format!("attach {hook} to `{request}`"));
    }
    LiveError::Attach { hook, interface: request.to_string(), source, remedy }
}

/// Whether the kernel wants a privilege for this, rather than something else.
pub(super) fn is_forbidden(error: &(dyn Error + 'static)) -> bool {
    errno(error) == Some(libc::EPERM)
}

pub(super) fn forbidden(what: String) -> LiveError {
    LiveError::Privilege { what, source: io::Error::from_raw_os_error(libc::EPERM) }
}

pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}

fn is_busy(error: &ProgramError) -> bool {
    matches!(errno(error), Some(libc::EBUSY | libc::EEXIST))
}

fn is_unsupported(error: &ProgramError) -> bool {
    matches!(errno(error), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS))
}
