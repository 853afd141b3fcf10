//! Rules as people write them, in TOML and in JSON: every value checked, every mistake named by its place. Never
//! guesses what was meant.

use std::net::IpAddr;

use datapath::{
    Direction,
    rules::{Action, Network, Ports, Rule, SAMPLE_MAX, SAMPLE_MIN, decide::has_ports},
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    flow::view::{protocol_name, protocol_number},
    live::RuleRequest,
};

/// What a rule can say.
const ACTIONS: &str = "`track`, `ignore` or `sample`";
/// Every key of a rule.
const KEYS: [&str; 9] = [
    "action",
    "one_in",
    "network",
    "port",
    "peer_network",
    "peer_port",
    "protocol",
    "interface",
    "direction",
];

/// A list that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// There is no list.
    #[error("{0}")]
    NoList(String),
    /// A key is there twice.
    #[error("`{}`: {}", self.place(), self.problem())]
    Twice(String),
    /// A rule, or a value of it, cannot be used.
    #[error("`{}`: {problem}", self.place())]
    Field {
        /// The rule's place in the list, from 0.
        rule: usize,
        /// Which value; the rule itself where empty.
        key: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

impl RuleError {
    /// The path of what is at fault, as `rules[3].network`.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::NoList(_) => "rules".to_owned(),
            Self::Twice(place) => place.clone(),
            Self::Field { rule, key, .. } if key.is_empty() => format!("rules[{rule}]"),
            Self::Field { rule, key, .. } => format!("rules[{rule}].{key}"),
        }
    }

    /// What is wrong, without its place.
    #[must_use]
    pub fn problem(&self) -> &str {
        match self {
            Self::NoList(problem) | Self::Field { problem, .. } => problem,
            Self::Twice(_) => "it is there twice; leave one out",
        }
    }
}

/// A rule as it is shown; read back it is the same rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleView {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    one_in: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_network: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_port: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
}

/// A rule that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRule {
    /// As it is shown.
    pub view: RuleView,
    /// As it is put in force.
    pub request: RuleRequest,
}

/// Reads `{"rules": [..]}`.
pub fn read_list(body: Value) -> Result<Vec<ReadRule>, RuleError> {
    let no_list = |problem: &str| RuleError::NoList(format!("{problem}; write a list `rules`"));
    let Value::Object(mut body) = body else { return Err(no_list("this is no table")) };
    let rules = body.remove("rules").ok_or_else(|| no_list("there are no `rules`"))?;
    if let Some(key) = body.keys().next() {
        return Err(no_list(&format!("`{key}` is not known here, only `rules` is")));
    }
    let Value::Array(rules) = rules else { return Err(no_list("`rules` is no list")) };
    let count = rules.len();
    if count > datapath::layout::RULES_MAX {
        let most = datapath::layout::RULES_MAX;
        let problem = format!("{count} rules are more than {most}, the most; join some");
        return Err(RuleError::NoList(problem));
    }
    rules.into_iter().enumerate().map(|(number, rule)| read(number, rule)).collect()
}

/// Reads the rule at `number` of a list.
pub fn read(number: usize, rule: Value) -> Result<ReadRule, RuleError> {
    let Value::Object(rule) = rule else {
        let problem = "this is no rule; write a table with an `action`".to_owned();
        return Err(RuleError::Field { rule: number, key: String::new(), problem });
    };
    Fields { number, rule: &rule }.read()
}

/// The values of one rule.
struct Fields<'a> {
    number: usize,
    rule: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn read(&self) -> Result<ReadRule, RuleError> {
        if let Some(key) = self.rule.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let problem = format!("there is no such key; known are {}", KEYS.join(", "));
            return Err(self.bad(key, problem));
        }
        let (action_name, action) = self.action()?;
        let protocol = self.parsed("protocol", protocol)?;
        let port = self.parsed("port", ports)?;
        let peer_port = self.parsed("peer_port", ports)?;
        for (key, port) in [("port", port), ("peer_port", peer_port)] {
            if let (Some(_), Some(protocol)) = (port, protocol)
                && !has_ports(protocol)
            {
                let name = protocol_name(protocol);
                let problem = format!(
                    "`{name}` has no ports, so that nothing could match; leave out one of the two"
                );
                return Err(self.bad(key, problem));
            }
        }
        let peer_network = self.parsed("peer_network", network)?;
        let network = self.parsed("network", network)?;
        if let (Some((_, own)), Some((_, peer))) = (&network, &peer_network)
            && family(own) != family(peer)
        {
            let problem = format!(
                "it is {} and `network` is {}, so that nothing could match; write two of one kind, or leave out one",
                family(peer),
                family(own)
            );
            return Err(self.bad("peer_network", problem));
        }
        let direction = self.parsed("direction", direction)?;
        let interface = self.text("interface")?;
        let one_in = if let Action::Sample(one_in) = action { Some(one_in) } else { None };
        let view = RuleView {
            action: action_name,
            one_in,
            network: network.as_ref().map(|it| it.1.clone()),
            port: port.map(port_text),
            peer_network: peer_network.as_ref().map(|it| it.1.clone()),
            peer_port: peer_port.map(port_text),
            protocol: protocol.map(|it| protocol_name(it).into_owned()),
            interface: interface.clone(),
            direction: direction.map(direction_name),
        };
        let rule = Rule {
            action,
            network: network.map(|it| it.0),
            port,
            peer_network: peer_network.map(|it| it.0),
            peer_port,
            protocol,
            point: None,
            direction,
        };
        Ok(ReadRule { view, request: RuleRequest { rule, interface } })
    }

    fn bad(&self, key: &str, problem: impl Into<String>) -> RuleError {
        RuleError::Field { rule: self.number, key: key.to_owned(), problem: problem.into() }
    }

    /// A value as text; numbers may stand without quotes.
    fn text(&self, key: &str) -> Result<Option<String>, RuleError> {
        match self.rule.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) if number.is_u64() => Ok(Some(number.to_string())),
            Some(other) => {
                Err(self.bad(key, format!("`{other}` is no text; leave it out, or quote it")))
            }
        }
    }

    fn parsed<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, RuleError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        parse(&text).map(Some).map_err(|problem| self.bad(key, problem))
    }

    fn action(&self) -> Result<(&'static str, Action), RuleError> {
        let Some(name) = self.text("action")? else {
            return Err(self.bad("action", format!("it is missing; write {ACTIONS}")));
        };
        let one_in = self.rule.get("one_in");
        match (name.as_str(), one_in) {
            ("track", None) => Ok(("track", Action::Track)),
            ("ignore", None) => Ok(("ignore", Action::Ignore)),
            ("sample", Some(one_in)) => {
                let number = one_in.as_u64().and_then(|number| u32::try_from(number).ok());
                match number.filter(|number| (SAMPLE_MIN..=SAMPLE_MAX).contains(number)) {
                    Some(number) => Ok(("sample", Action::Sample(number))),
                    None => {
                        let bounds = format!("{SAMPLE_MIN} to {SAMPLE_MAX}");
                        Err(self.bad("one_in", format!("`{one_in}` is no number from {bounds}")))
                    }
                }
            }
            ("sample", None) => {
                Err(self.bad("one_in", "it is missing; `one_in = 100` keeps one flow in 100"))
            }
            ("track" | "ignore", Some(_)) => {
                Err(self.bad("one_in", format!("`{name}` takes none; leave it out")))
            }
            _ => Err(self.bad("action", format!("`{name}` is none; write {ACTIONS}"))),
        }
    }
}

/// `ADDRESS[/PREFIX]`, and how it is shown.
fn network(text: &str) -> Result<(Network, String), String> {
    let example = "write an address or a network like 10.0.0.0/8 or fd00::/8";
    let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let address: IpAddr =
        address.parse().map_err(|_| format!("`{text}` has no IP address; {example}"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let digits = prefix.is_none_or(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    let prefix: u32 = match prefix.map_or(Ok(most), str::parse) {
        Ok(prefix) if prefix <= most && digits => prefix,
        _ => return Err(format!("`{text}` has no prefix from 0 to {most}; {example}")),
    };
    let network = match address {
        IpAddr::V4(address) => Network::v4(address.octets(), prefix),
        IpAddr::V6(address) => Network::v6(address.octets(), prefix),
    };
    let Some(network) = network else { return Err(example.to_owned()) };
    let octets = network.address();
    let lowest = match address {
        IpAddr::V4(_) => IpAddr::from([octets[12], octets[13], octets[14], octets[15]]),
        IpAddr::V6(_) => IpAddr::from(octets),
    };
    let canonical = lowest.to_canonical();
    if canonical != lowest {
        return Err(format!(
            "`{text}` is IPv4 written as IPv6, and no IPv4 packet is in it; write {canonical}/{}",
            prefix - 96
        ));
    }
    if lowest != address {
        return Err(format!(
            "`{text}` has bits behind its prefix; write {lowest}/{prefix} for the network, or {address} for the one address"
        ));
    }
    Ok((network, format!("{lowest}/{prefix}")))
}

/// Of a network as it is shown.
fn family(network: &str) -> &'static str {
    if network.contains(':') { "IPv6" } else { "IPv4" }
}

/// `PORT` or `FIRST-LAST`.
fn ports(text: &str) -> Result<Ports, String> {
    let port = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(Ports { first, last }),
        (Some(first), Some(last)) => Err(format!("`{text}` goes backwards; write {last}-{first}")),
        _ => Err(format!("`{text}` is no port from 0 to 65535 and no range like 8000-8080")),
    }
}

fn port_text(Ports { first, last }: Ports) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

fn protocol(text: &str) -> Result<u8, String> {
    protocol_number(text).ok_or_else(|| {
        format!("`{text}` is no protocol; write a name like tcp, or a number to 255")
    })
}

fn direction(text: &str) -> Result<Direction, String> {
    match text {
        "ingress" => Ok(Direction::Ingress),
        "egress" => Ok(Direction::Egress),
        _ => Err(format!("`{text}` is no direction; write `ingress` or `egress`")),
    }
}

const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_is_shown_as_it_was_read() {
        let rule = json!({
            "action": "sample", "one_in": 100, "network": "10.0.0.0/8", "port": 22,
            "peer_network": "192.0.2.0/24", "peer_port": "8000-8080", "protocol": 6,
            "interface": "blue/eth0", "direction": "egress",
        });
        let rules = read_list(json!({ "rules": [rule] })).unwrap();
        let shown = serde_json::to_value(&rules[0].view).unwrap();
        assert_eq!(
            (&shown["port"], &shown["protocol"], &shown["network"]),
            (&json!("22"), &json!("tcp"), &json!("10.0.0.0/8"))
        );
        assert_eq!(read_list(json!({ "rules": [shown] })).unwrap(), rules);
        assert_eq!(rules[0].request.rule.port, Some(Ports { first: 22, last: 22 }));
        assert_eq!(rules[0].request.interface.as_deref(), Some("blue/eth0"));
        let single = read_list(json!({ "rules": [{ "action": "track", "network": "::1" }] }));
        assert_eq!(single.unwrap()[0].view.network.as_deref(), Some("::1/128"));
        let around_mapped =
            json!({ "action": "track", "network": "::/80", "peer_network": "::/0" });
        assert!(read_list(json!({ "rules": [around_mapped] })).is_ok());
    }

    #[test]
    fn every_mistake_is_named_by_rule_and_key() {
        for (rule, place, words) in [
            (json!({}), "rules[1].action", "missing"),
            (json!(3), "rules[1]", "no rule"),
            (json!({ "action": "drop" }), "rules[1].action", "`track`, `ignore` or `sample`"),
            (json!({ "action": "ignore", "colour": 1 }), "rules[1].colour", "peer_network"),
            (json!({ "action": "ignore", "one_in": 2 }), "rules[1].one_in", "leave it out"),
            (json!({ "action": "sample" }), "rules[1].one_in", "one flow in 100"),
            (json!({ "action": "sample", "one_in": 1 }), "rules[1].one_in", "2 to 65536"),
            (json!({ "action": "sample", "one_in": 65_537 }), "rules[1].one_in", "2 to 65536"),
            (json!({ "action": "sample", "one_in": "2" }), "rules[1].one_in", "2 to 65536"),
            (
                json!({ "action": "ignore", "network": "10.0.0.0/33" }),
                "rules[1].network",
                "0 to 32",
            ),
            (
                json!({ "action": "ignore", "network": "10.0.0.0/+8" }),
                "rules[1].network",
                "0 to 32",
            ),
            (
                json!({ "action": "ignore", "network": "10.0.0.1/8" }),
                "rules[1].network",
                "10.0.0.0/8",
            ),
            (json!({ "action": "ignore", "network": "here" }), "rules[1].network", "no IP address"),
            (
                json!({ "action": "ignore", "network": "::ffff:10.0.0.0/104" }),
                "rules[1].network",
                "write 10.0.0.0/8",
            ),
            (
                json!({ "action": "ignore", "network": "::ffff:10.0.0.1/104" }),
                "rules[1].network",
                "write 10.0.0.0/8",
            ),
            (
                json!({ "action": "ignore", "peer_network": "::ffff:a00:1" }),
                "rules[1].peer_network",
                "write 10.0.0.1/32",
            ),
            (
                json!({ "action": "ignore", "network": "::ffff:0:0/96" }),
                "rules[1].network",
                "write 0.0.0.0/0",
            ),
            (
                json!({ "action": "ignore", "network": "10.0.0.0/8", "peer_network": "fd00::/8" }),
                "rules[1].peer_network",
                "it is IPv6 and `network` is IPv4, so that nothing could match",
            ),
            (
                json!({ "action": "ignore", "network": "::/0", "peer_network": "0.0.0.0/0" }),
                "rules[1].peer_network",
                "it is IPv4 and `network` is IPv6, so that nothing could match",
            ),
            (json!({ "action": "ignore", "network": null }), "rules[1].network", "leave it out"),
            (
                json!({ "action": "ignore", "peer_network": "fd00::/129" }),
                "rules[1].peer_network",
                "128",
            ),
            (json!({ "action": "ignore", "port": "70000" }), "rules[1].port", "65535"),
            (json!({ "action": "ignore", "port": "+7" }), "rules[1].port", "65535"),
            (json!({ "action": "ignore", "port": "9-1" }), "rules[1].port", "write 1-9"),
            (json!({ "action": "ignore", "peer_port": "a-b" }), "rules[1].peer_port", "8000-8080"),
            (json!({ "action": "ignore", "protocol": "tpc" }), "rules[1].protocol", "like tcp"),
            (json!({ "action": "ignore", "protocol": 256 }), "rules[1].protocol", "255"),
            (json!({ "action": "ignore", "protocol": "+6" }), "rules[1].protocol", "like tcp"),
            (
                json!({ "action": "ignore", "protocol": "icmp", "port": 1 }),
                "rules[1].port",
                "no ports",
            ),
            (json!({ "action": "ignore", "direction": "in" }), "rules[1].direction", "`ingress`"),
            (json!({ "action": "ignore", "interface": ["a"] }), "rules[1].interface", "no text"),
        ] {
            let error = read_list(json!({ "rules": [{ "action": "track" }, rule] })).unwrap_err();
            assert_eq!(error.place(), place, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (body, words) in [
            (json!([]), "no table"),
            (json!({}), "no `rules`"),
            (json!({ "rules": {} }), "no list"),
            (json!({ "rules": [], "more": 1 }), "`more`"),
            (json!({ "rules": vec![json!({ "action": "track" }); 1_025] }), "1024"),
        ] {
            let error = read_list(body).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(read_list(json!({ "rules": [] })).unwrap(), []);
    }
}
