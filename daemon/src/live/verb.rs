//! What may be asked of the privileged side: a closed set of verbs with bounded arguments, none of which carries a
//! path, a pointer or code but the classic BPF of a filter, which is checked; and what interfaces are watched, as both sides speak of it.

use std::{fmt, str::FromStr};

use datapath::rules::Rule;

pub use super::stage_config::StageConfig;
use super::{WatchedPoint, process};

/// How received packets are to be watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IngressChoice {
    /// TC; see [`Hook`].
    #[default]
    Auto,
    /// TC by a TCX link.
    Tcx,
    /// TC by a clsact filter.
    Clsact,
    /// XDP in the driver.
    Xdp,
    /// XDP behind the driver.
    XdpGeneric,
    /// Not at all.
    Off,
}

/// How packets about to be sent are to be watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressChoice {
    /// TC; see [`Hook`].
    #[default]
    Auto,
    /// TC by a TCX link.
    Tcx,
    /// TC by a clsact filter.
    Clsact,
    /// Not at all.
    Off,
}

/// What was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP in the driver.
    Xdp,
    /// XDP behind the driver: after receive offload, without segment counts.
    XdpGeneric,
    /// A TCX link (kernel 6.6 and later).
    Tcx,
    /// A filter in a clsact qdisc.
    Clsact,
}

impl Hook {
    /// All of them. Each one's place, from 1, is its number in the register.
    pub(super) const ALL: [Self; 4] = [Self::Xdp, Self::XdpGeneric, Self::Tcx, Self::Clsact];

    /// Its number; 0 is for none.
    pub(super) fn number(hook: Option<Self>) -> u32 {
        let place = hook.and_then(|hook| Self::ALL.iter().position(|it| *it == hook));
        place.and_then(|place| u32::try_from(place + 1).ok()).unwrap_or(0)
    }

    /// The hook of a number.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        Self::ALL.get((number as usize).checked_sub(1)?).copied()
    }

    /// As in every answer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One interface to watch.
///
/// Text form: `[NAMESPACE/]NAME[,ingress=auto|tcx|clsact|xdp|xdp-generic|off][,egress=auto|tcx|clsact|off]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// Network namespace by its name under /run/netns, or `pid:` and a process in it; absent for the daemon's own.
    pub namespace: Option<String>,
    /// Interface name.
    pub interface: String,
    /// How to watch what it receives.
    pub ingress: IngressChoice,
    /// How to watch what it sends.
    pub egress: EgressChoice,
}

/// A text that names no interface to watch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseAttachError {
    /// The name cannot be an interface's (1 to 15 characters, no slash or space).
    #[error(
        "`{0}` cannot be the name of an interface; write [NAMESPACE/]NAME[,ingress=..][,egress=..]"
    )]
    Name(String),
    /// The namespace's name would leave its folder.
    #[error(
        "`{0}` cannot be the name of a network namespace; `ip netns list` shows what there is, and pid:NUMBER is that of a process"
    )]
    Namespace(String),
    /// Neither `ingress=` nor `egress=`.
    #[error("`{0}` is no option of an interface; known are ingress=.. and egress=..")]
    Option(String),
    /// Neither direction is watched.
    #[error(
        "`{0}` has both directions off, so that nothing is watched; leave one on, or leave it out"
    )]
    Nothing(String),
    /// No such choice.
    #[error("`{value}` is no choice for `{option}`; use one of {known}")]
    Choice {
        /// `ingress` or `egress`.
        option: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        known: &'static str,
    },
}

/// Longest interface name (IFNAMSIZ less its end).
pub(super) const INTERFACE_NAME_MAX: usize = 15;
/// Longest namespace name.
pub(super) const NAMESPACE_NAME_MAX: usize = 255;

/// What no name of an interface or namespace has.
fn is_bad(c: char) -> bool {
    c == '/' || c.is_whitespace() || c.is_control()
}

/// Whether this can be the name of a namespace: one that stays in its folder.
pub(super) fn is_namespace(name: &str) -> bool {
    !(name.is_empty()
        || name.len() > NAMESPACE_NAME_MAX
        || name.contains(is_bad)
        || process::is_misspelt(name)
        || matches!(name, "." | ".."))
}

impl AttachRequest {
    /// An interface of the daemon's own namespace by exactly this name, commas and all.
    pub fn named(interface: &str) -> Result<Self, ParseAttachError> {
        if interface.is_empty()
            || interface.len() > INTERFACE_NAME_MAX
            || interface.contains(is_bad)
            || matches!(interface, "." | "..")
        {
            return Err(ParseAttachError::Name(interface.to_owned()));
        }
        Ok(Self {
            namespace: None,
            interface: interface.to_owned(),
            ingress: IngressChoice::Auto,
            egress: EgressChoice::Auto,
        })
    }
}

impl FromStr for AttachRequest {
    type Err = ParseAttachError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(',');
        let place = parts.next().unwrap_or_default();
        let (namespace, interface) = match place.split_once('/') {
            Some((namespace, interface)) => (Some(namespace.to_owned()), interface),
            None => (None, place),
        };
        let mut request =
            Self::named(interface).map_err(|_| ParseAttachError::Name(place.to_owned()))?;
        if let Some(name) = &namespace
            && !is_namespace(name)
        {
            return Err(ParseAttachError::Namespace(name.clone()));
        }
        request.namespace = namespace;
        for part in parts {
            match part.split_once('=') {
                Some(("ingress", value)) => request.ingress = value.parse()?,
                Some(("egress", value)) => request.egress = value.parse()?,
                _ => return Err(ParseAttachError::Option(part.to_owned())),
            }
        }
        if request.ingress == IngressChoice::Off && request.egress == EgressChoice::Off {
            return Err(ParseAttachError::Nothing(request.to_string()));
        }
        Ok(request)
    }
}

impl FromStr for IngressChoice {
    type Err = ParseAttachError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Ok(match value {
            "auto" | "tc" => Self::Auto,
            "tcx" => Self::Tcx,
            "clsact" => Self::Clsact,
            "xdp" => Self::Xdp,
            "xdp-generic" => Self::XdpGeneric,
            "off" => Self::Off,
            _ => {
                return Err(ParseAttachError::Choice {
                    option: "ingress",
                    value: value.to_owned(),
                    known: "auto, tcx, clsact, xdp, xdp-generic, off",
                });
            }
        })
    }
}

impl FromStr for EgressChoice {
    type Err = ParseAttachError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Ok(match value {
            "auto" | "tc" => Self::Auto,
            "tcx" => Self::Tcx,
            "clsact" => Self::Clsact,
            "off" => Self::Off,
            _ => {
                return Err(ParseAttachError::Choice {
                    option: "egress",
                    value: value.to_owned(),
                    known: "auto, tcx, clsact, off",
                });
            }
        })
    }
}

impl fmt::Display for AttachRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.interface)
    }
}

/// What a daemon may ask of its attacher. Which interfaces are watched is the configuration's to say, and the attacher's
/// to follow: no verb attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Copy these packets for the capture of a slot, which is at rest.
    StartCapture {
        /// Its place, below [`datapath::layout::CAPTURES_MAX`].
        slot: u8,
        /// Which packets.
        config: StageConfig,
    },
    /// Copy nothing more for that capture: when this is answered nothing more is counted for it.
    StopCapture {
        /// Its place.
        slot: u8,
    },
    /// Copy nothing more for any capture.
    StopCaptures,
    /// Put these rules in force, in place of those before; at most [`datapath::layout::RULES_MAX`].
    SetRules(Vec<RuleRequest>),
    /// The same with rules that were in force before: one of an interface that is not there waits for it.
    RestoreRules(Vec<RuleRequest>),
    /// Say what is watched.
    Look {
        /// Observation points that have gone and of which no flow is left: their ids may be used again.
        left: Vec<u32>,
    },
    /// The daemon serves from here on: what ends it now is no failed start.
    Serving,
    /// It was told to end, and does.
    Ending,
}

/// A rule with its interface as a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRequest {
    /// The rule; its observation point is set by the interface alone.
    pub rule: Rule,
    /// `[NAMESPACE/]NAME` of an interface that is watched; every one where absent.
    pub interface: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Rules are in force.
    RulesSet {
        /// How often that has been done.
        generation: u64,
    },
    /// What is watched.
    Watched(Watching),
    /// Done; nothing to say.
    Done,
}

/// What is watched, as of the last look at the interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watching {
    /// The observation points.
    pub points: Vec<WatchedPoint>,
    /// Sentences about what is not watched, or not as it should be.
    pub notices: Vec<String>,
}

/// An interface that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Observation point id.
    pub point: u32,
    /// Interface index in its namespace.
    pub ifindex: u32,
    /// Whether its frames start with an Ethernet header.
    pub link: datapath::Link,
    /// What feeds ingress.
    pub ingress: Option<AttachedHook>,
    /// What feeds egress.
    pub egress: Option<AttachedHook>,
}

/// An interface that is watched, with what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedPoint {
    /// What was asked for.
    pub request: AttachRequest,
    /// What came of it.
    pub attached: Attached,
}

/// One direction of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedHook {
    /// Which hook.
    pub hook: Hook,
    /// Why this one.
    pub reason: String,
    /// Program id in the kernel.
    pub program_id: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_with_its_namespace_and_choices() {
        let request: AttachRequest = "blue/eth0,ingress=xdp,egress=off".parse().unwrap();
        assert_eq!(request.namespace.as_deref(), Some("blue"));
        assert_eq!(request.interface, "eth0");
        assert_eq!(request.ingress, IngressChoice::Xdp);
        assert_eq!(request.egress, EgressChoice::Off);
        assert_eq!(request.to_string(), "blue/eth0");
    }

    #[test]
    fn what_cannot_be_an_interface_is_refused_with_its_reason() {
        for text in ["", "/", "a/", "..", "an-interface-name-too-long", "a b", "x/y/z"] {
            assert!(text.parse::<AttachRequest>().is_err(), "{text}");
        }
        for text in ["pid:0/eth0", "pid:007/eth0", "pid:1x/eth0", "pid:1@5/eth0"] {
            assert!(matches!(text.parse::<AttachRequest>(), Err(ParseAttachError::Namespace(_))));
        }
        assert_eq!("pid:7/eth0".parse::<AttachRequest>().unwrap().to_string(), "pid:7/eth0");
        assert!("../eth0".parse::<AttachRequest>().is_err(), "namespaces stay in their folder");
        let error = "eth0,ingress=off,egress=off".parse::<AttachRequest>().unwrap_err().to_string();
        assert!(error.contains("both directions off"), "{error}");
        let error = "eth0,ingress=fast".parse::<AttachRequest>().unwrap_err().to_string();
        assert!(error.contains("`fast`") && error.contains("xdp-generic"), "{error}");
    }
}
