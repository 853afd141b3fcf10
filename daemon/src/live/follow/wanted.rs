//! What is to be watched, as people say it: interfaces by name, by pattern or by index, or every one that is up; and
//! which of them an interface is. Knows no kernel.

use std::{fmt, str::FromStr};

use crate::live::{
    AttachRequest, ParseAttachError,
    links::Interface,
    verb::{EgressChoice, IngressChoice},
};

/// Which interfaces of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whichever has this name.
    Name(String),
    /// The one with this index, whatever its name.
    Index(u32),
    /// All whose names match: `*` is any characters, `?` is any one.
    Pattern(String),
    /// All that are up but loopback.
    EveryUp,
}

/// Interfaces to watch, and how.
///
/// Text form: `[NAMESPACE/]NAME|PATTERN|#INDEX[,ingress=..][,egress=..]`, with the choices of [`AttachRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// Network namespace by its name under /run/netns, or `pid:` and a process in it; absent for the daemon's own.
    pub namespace: Option<String>,
    /// Which of its interfaces.
    pub target: Target,
    /// How to watch what they receive.
    pub ingress: IngressChoice,
    /// How to watch what they send.
    pub egress: EgressChoice,
}

impl WatchRequest {
    /// What is watched where nothing is named.
    #[must_use]
    pub const fn every_up() -> Self {
        Self {
            namespace: None,
            target: Target::EveryUp,
            ingress: IngressChoice::Auto,
            egress: EgressChoice::Auto,
        }
    }

    /// Whether it is for one interface, which then has to be there at the start.
    #[must_use]
    pub const fn is_of_one(&self) -> bool {
        matches!(self.target, Target::Name(_) | Target::Index(_))
    }

    /// To attach to the interface that has this name now; `None` where that is no name that can be written.
    pub(in crate::live) fn of(&self, name: &str) -> Option<AttachRequest> {
        let mut request = AttachRequest::named(name).ok()?;
        request.namespace.clone_from(&self.namespace);
        (request.ingress, request.egress) = (self.ingress, self.egress);
        Some(request)
    }

    /// Whether it is for this interface of its namespace. One that is watched stays so when it goes down.
    fn is_for(&self, interface: &Interface, watched: bool) -> bool {
        match &self.target {
            Target::Name(name) => interface.name == name.as_bytes(),
            Target::Index(index) => interface.ifindex == *index,
            Target::Pattern(pattern) => matches(pattern.as_bytes(), &interface.name),
            Target::EveryUp => (interface.up || watched) && !interface.loopback,
        }
    }

    /// Whether it asks for what is attached already.
    pub(in crate::live) fn asks_for(&self, attached: &AttachRequest) -> bool {
        (self.ingress, self.egress) == (attached.ingress, attached.egress)
    }

    const fn rank(&self) -> u8 {
        match self.target {
            Target::Name(_) => 0,
            Target::Index(_) => 1,
            Target::Pattern(_) => 2,
            Target::EveryUp => 3,
        }
    }
}

impl FromStr for WatchRequest {
    type Err = ParseAttachError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (place, options) =
            text.split_once(',').map_or((text, ""), |(place, _)| (place, &text[place.len()..]));
        let (front, last) = place.rfind('/').map_or(("", place), |slash| place.split_at(slash + 1));
        let bad = || ParseAttachError::Name(place.to_owned());
        let target = match last.strip_prefix('#') {
            Some(index) => {
                Target::Index(index.parse().ok().filter(|index| *index > 0).ok_or_else(bad)?)
            }
            None if last.contains(['*', '?']) => {
                AttachRequest::named(last).map_err(|_| bad())?;
                Target::Pattern(last.to_owned())
            }
            None => Target::Name(last.to_owned()),
        };
        // The name stands for whatever the target is, as long as it is one.
        let name = if matches!(target, Target::Name(_)) { last } else { "x" };
        let request: AttachRequest = format!("{front}{name}{options}").parse()?;
        Ok(Self {
            namespace: request.namespace,
            target,
            ingress: request.ingress,
            egress: request.egress,
        })
    }
}

impl fmt::Display for WatchRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        match &self.target {
            Target::Name(text) | Target::Pattern(text) => f.write_str(text),
            Target::Index(index) => write!(f, "#{index}"),
            Target::EveryUp => f.write_str("every interface that is up"),
        }
    }
}

/// The request that an interface falls under: by its name before by its index before by a pattern, and of several
/// patterns the first.
pub(in crate::live) fn choose<'a>(
    wanted: &'a [WatchRequest],
    namespace: Option<&str>,
    interface: &Interface,
    watched: bool,
) -> Option<&'a WatchRequest> {
    wanted
        .iter()
        .filter(|request| request.namespace.as_deref() == namespace)
        .filter(|request| request.is_for(interface, watched))
        .min_by_key(|request| request.rank())
}

/// Whether a name matches a pattern of `*` and `?`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut pos) = (0, 0);
    // Where to go on when the characters after the last star do not match: that star, and one character further.
    let mut retry: Option<(usize, usize)> = None;
    while pos < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                retry = Some((at + 1, pos + 1));
                at += 1;
            }
            Some(b'?') => (at, pos) = (at + 1, pos + 1),
            Some(byte) if *byte == name[pos] => (at, pos) = (at + 1, pos + 1),
            _ => {
                let Some((star, from)) = retry else { return false };
                (at, pos) = (star, from);
                retry = Some((star, from + 1));
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(ifindex: u32, name: &str) -> Interface {
        Interface { ifindex, name: name.into(), up: true, ..Interface::default() }
    }

    #[test]
    fn interfaces_are_wanted_by_name_pattern_and_index() {
        for (text, namespace, target) in [
            ("eth0", None, Target::Name("eth0".into())),
            ("blue/veth*,ingress=xdp", Some("blue"), Target::Pattern("veth*".into())),
            ("#7,egress=off", None, Target::Index(7)),
            ("blue/#7", Some("blue"), Target::Index(7)),
            ("a?b", None, Target::Pattern("a?b".into())),
            ("pid:7/eth*", Some("pid:7"), Target::Pattern("eth*".into())),
        ] {
            let request: WatchRequest = text.parse().unwrap();
            assert_eq!((request.namespace.as_deref(), &request.target), (namespace, &target));
            assert_eq!(request.to_string(), text.split(',').next().unwrap());
        }
        let request: WatchRequest = "blue/veth*,ingress=xdp".parse().unwrap();
        assert_eq!(request.ingress, IngressChoice::Xdp);
        for text in ["#", "#0", "#x", "#-1", "a b*", "x/y/*", "*/eth0*x", "eth*,egress=fast"] {
            assert!(text.parse::<WatchRequest>().is_err() || text.starts_with("*/"), "{text}");
        }
    }

    #[test]
    fn a_pattern_matches_whole_names() {
        for (pattern, name, is_match) in [
            ("eth*", "eth0", true),
            ("eth*", "eth", true),
            ("eth*", "weth0", false),
            ("*", "", true),
            ("e?h0", "eth0", true),
            ("eth?", "eth", false),
            ("*a*b", "xaabab", true),
            ("*a*b", "xaaba", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), is_match, "{pattern} {name}");
        }
    }

    #[test]
    fn the_closest_request_counts() {
        let wanted: Vec<WatchRequest> = ["veth*,egress=off", "#3", "veth1,ingress=off", "v*"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let chosen = |interface: &Interface| {
            choose(&wanted, None, interface, false).map(ToString::to_string)
        };
        assert_eq!(chosen(&interface(3, "veth1")).as_deref(), Some("veth1"));
        assert_eq!(chosen(&interface(3, "veth2")).as_deref(), Some("#3"));
        assert_eq!(chosen(&interface(4, "veth2")).as_deref(), Some("veth*"));
        assert_eq!(chosen(&interface(4, "eth0")), None);
        assert!(choose(&wanted, Some("blue"), &interface(3, "veth1"), false).is_none());
    }

    #[test]
    fn every_interface_that_is_up_stays_when_it_goes_down() {
        let wanted = [WatchRequest::every_up()];
        let down = Interface { up: false, ..interface(2, "eth0") };
        assert!(choose(&wanted, None, &down, false).is_none());
        assert!(choose(&wanted, None, &down, true).is_some());
        let lo = Interface { loopback: true, ..interface(1, "lo") };
        assert!(choose(&wanted, None, &lo, false).is_none());
    }
}
