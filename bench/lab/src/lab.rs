//! The lab itself: client – router – server on one segment, with its relays. Never outlives its
//! value: dropped, namespaces, interfaces and threads are gone.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Stdio;

use serde::Serialize;

use crate::error::LabError;
use crate::namespace::{Namespace, reap_stale};
use crate::offload;
use crate::plan::Plan;
use crate::relay::{LabReport, Relay, Way};

/// The client's interface.
pub const CLIENT_INTERFACE: &str = "c0";
/// The router's interface towards the client.
pub const ROUTER_CLIENT_INTERFACE: &str = "r0";
/// The router's interface towards the server.
pub const ROUTER_SERVER_INTERFACE: &str = "r1";
/// The server's interface.
pub const SERVER_INTERFACE: &str = "s0";

const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// 10.77.0.0/24.
    V4,
    /// fd77::/64.
    V6,
}

/// An end of an interface, as others need it to attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LabInterface {
    /// `<namespace>/<interface>`.
    pub spec: String,
    /// `client`, `router` or `server`.
    pub role: &'static str,
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: relays stop before their namespaces go.
    relays: Option<Relays>,
    client: Namespace,
    router: Option<Namespace>,
    server: Namespace,
    plan: Plan,
}

#[derive(Debug)]
struct Relays {
    to_server: Relay,
    to_client: Relay,
}

impl Lab {
    /// Builds the lab; when it returns, frames flow and both address families answer. Leftovers of
    /// dead labs are reaped first.
    pub fn build(plan: Plan) -> Result<Self, LabError> {
        plan.check()?;
        reap_stale()?;
        let client = Namespace::create(&plan.label, "client")?;
        let server = Namespace::create(&plan.label, "server")?;
        let router =
            if plan.direct { None } else { Some(Namespace::create(&plan.label, "router")?) };
        match &router {
            Some(router) => connect_through(router, &client, &server)?,
            None => connect_directly(&client, &server)?,
        }
        let ends = [
            (&client, CLIENT_INTERFACE, CLIENT_V4, CLIENT_V6),
            (&server, SERVER_INTERFACE, SERVER_V4, SERVER_V6),
        ];
        for (namespace, interface, v4, v6) in ends {
            configure_end(namespace, interface, v4, v6)?;
            if !plan.offload {
                namespace.run(|| offload::wire_truth(interface))??;
                // TCP makes super-packets whatever the interface can do, which are cut behind its hooks.
                ip_batch(namespace, &format!("link set {interface} gso_max_segs 1\n"))?;
            }
        }
        let relays = match &router {
            Some(router) if plan.bridge => {
                start_bridge(router)?;
                None
            }
            Some(router) => Some(start_relays(router, &plan)?),
            None => None,
        };
        Ok(Self { relays, client, router, server, plan })
    }

    /// Where connections start.
    #[must_use]
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where frames are impaired; `None` in a direct lab.
    #[must_use]
    pub fn router(&self) -> Option<&Namespace> {
        self.router.as_ref()
    }

    /// Where servers listen.
    #[must_use]
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// The plan it was built from.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The client's address.
    #[must_use]
    pub fn client_address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => CLIENT_V4.into(),
            Family::V6 => CLIENT_V6.into(),
        }
    }

    /// The server's address.
    #[must_use]
    pub fn server_address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => SERVER_V4.into(),
            Family::V6 => SERVER_V6.into(),
        }
    }

    /// The server's address with a port.
    #[must_use]
    pub fn server_socket(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.server_address(family), port)
    }

    /// Every interface end, from client to server.
    #[must_use]
    pub fn interfaces(&self) -> Vec<LabInterface> {
        let end = |namespace: &Namespace, interface: &str, role| LabInterface {
            spec: format!("{}/{interface}", namespace.name()),
            role,
        };
        let mut ends = vec![end(&self.client, CLIENT_INTERFACE, "client")];
        if let Some(router) = &self.router {
            ends.push(end(router, ROUTER_CLIENT_INTERFACE, "router"));
            ends.push(end(router, ROUTER_SERVER_INTERFACE, "router"));
        }
        ends.push(end(&self.server, SERVER_INTERFACE, "server"));
        ends
    }

    /// What the relays did so far; all zero in a lab without them.
    #[must_use]
    pub fn report(&self) -> LabReport {
        let Some(relays) = &self.relays else { return LabReport::default() };
        LabReport { to_server: relays.to_server.report(), to_client: relays.to_client.report() }
    }
}

fn connect_through(
    router: &Namespace,
    client: &Namespace,
    server: &Namespace,
) -> Result<(), LabError> {
    let (r0, r1) = (ROUTER_CLIENT_INTERFACE, ROUTER_SERVER_INTERFACE);
    // Fixed, locally administered addresses: two runs of one plan look alike. The router's ends
    // have no IP at all, so that its own stack never speaks.
    let script = format!(
        "link set lo up\n\
         link add {r0} address 02:00:00:77:01:01 type veth peer name {CLIENT_INTERFACE} \
            address 02:00:00:77:01:02 netns {}\n\
         link add {r1} address 02:00:00:77:02:01 type veth peer name {SERVER_INTERFACE} \
            address 02:00:00:77:02:02 netns {}\n\
         link set {r0} addrgenmode none up\n\
         link set {r1} addrgenmode none up\n",
        client.name(),
        server.name(),
    );
    ip_batch(router, &script)?;
    router.run(|| [r0, r1].into_iter().try_for_each(offload::wire_truth))?
}

fn connect_directly(client: &Namespace, server: &Namespace) -> Result<(), LabError> {
    let script = format!(
        "link add {CLIENT_INTERFACE} address 02:00:00:77:01:02 type veth peer name {SERVER_INTERFACE} \
            address 02:00:00:77:02:02 netns {}\n",
        server.name(),
    );
    ip_batch(client, &script)
}

/// Gives an end its addresses, which answer at once: no duplicate address detection, no router
/// discovery.
fn configure_end(
    namespace: &Namespace,
    interface: &str,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
) -> Result<(), LabError> {
    let settings = [
        (format!("net/ipv6/conf/{interface}/accept_dad"), "0"),
        (format!("net/ipv6/conf/{interface}/accept_ra"), "0"),
        // Else a connection would start with what an earlier one learned about the path.
        ("net/ipv4/tcp_no_metrics_save".to_owned(), "1"),
    ];
    namespace.run(|| {
        settings.into_iter().try_for_each(|(key, value)| {
            let path = format!("/proc/sys/{key}");
            fs::write(&path, value).map_err(|source| {
                let namespace = namespace.name().to_owned();
                LabError::Sysctl { path, value, namespace, source }
            })
        })
    })??;
    let script = format!(
        "link set lo up\n\
         address add {v4}/24 dev {interface}\n\
         address add {v6}/64 dev {interface} nodad\n\
         link set {interface} up\n"
    );
    ip_batch(namespace, &script)
}

/// Joins the router's interfaces by a bridge that says nothing by itself.
fn start_bridge(router: &Namespace) -> Result<(), LabError> {
    let (r0, r1) = (ROUTER_CLIENT_INTERFACE, ROUTER_SERVER_INTERFACE);
    router.run(|| {
        let (path, value) = ("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
        fs::write(path, value).map_err(|source| {
            let namespace = router.name().to_owned();
            LabError::Sysctl { path: path.to_owned(), value, namespace, source }
        })
    })??;
    let script = format!(
        "link add bridge0 type bridge forward_delay 0 mcast_snooping 0\n\
         link set bridge0 addrgenmode none up\n\
         link set {r0} master bridge0\n\
         link set {r1} master bridge0\n"
    );
    ip_batch(router, &script)
}

fn start_relays(router: &Namespace, plan: &Plan) -> Result<Relays, LabError> {
    let to_server = Way {
        ingress: ROUTER_CLIENT_INTERFACE,
        egress: ROUTER_SERVER_INTERFACE,
        impairment: plan.to_server.clone(),
        seed: plan.seed,
    };
    let to_client = Way {
        ingress: ROUTER_SERVER_INTERFACE,
        egress: ROUTER_CLIENT_INTERFACE,
        impairment: plan.to_client.clone(),
        seed: !plan.seed,
    };
    Ok(Relays {
        to_server: Relay::start(router, to_server)?,
        to_client: Relay::start(router, to_client)?,
    })
}

/// Runs lines of `ip` inside a namespace, up to the first that fails.
fn ip_batch(namespace: &Namespace, script: &str) -> Result<(), LabError> {
    let absent = |source| LabError::Program { program: "ip", package: "iproute2", source };
    let mut child = namespace
        .command("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(absent)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A broken pipe means that ip gave up early: its exit status and words say more.
        stdin.write_all(script.as_bytes()).ok();
    }
    let output = child.wait_with_output().map_err(absent)?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::ProgramFailed {
        program: "ip",
        namespace: namespace.name().to_owned(),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
