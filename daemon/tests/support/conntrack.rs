//! What the kernel's connection tracking says, and a namespace in which it tracks what passes through. Never takes
//! anything from linnet.

use std::{fs, net::Ipv4Addr};

use lab::{Namespace, SERVER_INTERFACE};

/// An entry of `conntrack -L -o extended`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) protocol: u8,
    /// Seconds until it ends.
    pub(crate) remaining: u64,
    /// Its state; for what has none, whether both sides have sent, in linnet's words.
    pub(crate) state: String,
    /// Who sent the first packet, to whom.
    pub(crate) original: (Ipv4Addr, Ipv4Addr),
}

impl Entry {
    /// From `ipv4 2 tcp 6 299 ESTABLISHED src=.. dst=.. sport=.. dport=.. src=.. dst=.. ..`.
    fn parse(line: &str) -> Self {
        let words: Vec<_> = line.split_whitespace().collect();
        let address = |name: &str| {
            let value = words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            value.unwrap_or_else(|| panic!("no {name} in {line}")).parse().unwrap()
        };
        let state = match words[5] {
            word if !word.contains('=') => word,
            _ if words.contains(&"[UNREPLIED]") => "UNREPLIED",
            _ => "REPLIED",
        };
        Self {
            protocol: words[3].parse().unwrap(),
            remaining: words[4].parse().unwrap(),
            state: state.to_owned(),
            original: (address("src"), address("dst")),
        }
    }
}

/// Every IPv4 entry of a namespace.
pub(crate) fn entries(namespace: &Namespace) -> Vec<Entry> {
    list(namespace).lines().map(Entry::parse).collect()
}

/// Those with ports, and the originator's.
pub(crate) fn with_ports(namespace: &Namespace) -> Vec<(u64, Entry)> {
    let port = |line: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix("sport="));
        Some((value?.parse().unwrap(), Entry::parse(line)))
    };
    list(namespace).lines().filter_map(port).collect()
}

fn list(namespace: &Namespace) -> String {
    let mut conntrack = namespace.command("conntrack");
    let output = conntrack.args(["-L", "-o", "extended", "-f", "ipv4"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Writes a setting of a namespace below /proc/sys/net.
pub(crate) fn set(namespace: &Namespace, setting: &str, value: &str) {
    let path = format!("/proc/sys/net/{setting}");
    namespace.run(|| fs::write(&path, value)).unwrap().unwrap_or_else(|error| {
        panic!("{path}: {error}");
    });
}

/// Turns connection tracking on at these hooks, with an idle connection's timeout as linnet has it.
pub(crate) fn track(namespace: &Namespace, hook: &str) {
    let rules = format!(
        "table inet watch {{ chain watch {{ type filter hook {hook} priority 0; ct state invalid counter; }}; }}"
    );
    assert!(namespace.command("nft").arg(rules).status().unwrap().success());
    set(namespace, "netfilter/nf_conntrack_tcp_timeout_established", "3600");
}

/// Makes the lab's server a router that sends what comes in on its only interface out of it again, to hosts that
/// nobody is: `10.77.0.100` to `10.77.0.249`. So each frame is tracked, and nobody answers it.
pub(crate) fn one_armed_router(namespace: &Namespace) {
    let interface = SERVER_INTERFACE;
    set(namespace, "ipv4/ip_forward", "1");
    for conf in ["all", interface] {
        set(namespace, &format!("ipv4/conf/{conf}/send_redirects"), "0");
        set(namespace, &format!("ipv4/conf/{conf}/rp_filter"), "0");
    }
    // What is forged has no checksums but IP's.
    set(namespace, "netfilter/nf_conntrack_checksum", "0");
    for host in 100..250 {
        let host = format!("10.77.0.{host}");
        let neighbor = ["neigh", "add", &host, "lladdr", "02:00:00:77:09:09", "dev", interface];
        assert!(namespace.command("ip").args(neighbor).status().unwrap().success());
    }
    track(namespace, "forward");
}
