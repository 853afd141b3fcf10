//! `linnet doctor`: what this machine has for linnet, line by line, and the remedy for what it lacks.

use std::{
    io,
    path::{Path, PathBuf},
};

use captures::Libpcap;
use serde_json::Value;

use super::{ExitWith, exit, printable, say};
use crate::{
    client::{Client, SOCKET_DEFAULT},
    config::{CONFIG_PATH, Config, ConfigError, Overrides, PIN_DIR_DEFAULT, WatchBy},
    kernel::{Feature, Found, Kernel, Pretence},
    live,
    sandbox::{Act, Identity, Layer, Policy, USER_DEFAULT, Verdict},
};

/// Arguments of `linnet doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Enter the daemon's sandbox instead, try what it must refuse, and say which layer did.
    #[arg(long)]
    sandbox: bool,
    /// With --sandbox: whose the daemon would be.
    #[arg(long, default_value = USER_DEFAULT, requires = "sandbox")]
    user: String,
    /// Socket of the daemon that is asked what it is attached to [default: the configuration's].
    #[arg(long, env = "LINNET_SOCKET")]
    socket: Option<PathBuf>,
    /// Configuration file, for the kernel's features and the folders [default: /etc/linnet/linnet.toml, if it can be read].
    #[arg(long, env = "LINNET_CONFIG")]
    config: Option<PathBuf>,
}

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    /// What was found, or what to do.
    result: Result<String, String>,
    /// What cannot be done without it.
    needed: Needed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needed {
    /// To watch by programs.
    Ebpf,
    /// To watch by sockets.
    Sockets,
    /// Nothing.
    No,
}

/// Looks at everything; fails where live operation is impossible.
pub fn run(args: &DoctorArgs) -> anyhow::Result<u8> {
    let config = config(args)?;
    let pretence = config.as_ref().map(|config| config.kernel.clone()).unwrap_or_default();
    if args.sandbox {
        return sandbox(&args.user, pretence);
    }
    let kernel = Kernel::look(&pretence);
    let source = config.as_ref().map(|config| config.source).unwrap_or_default();
    let findings =
        [programs(), release(&kernel), privileges(), sockets(), bpf_fs(), libpcap(), jit()];
    let can = |by: Needed| findings.iter().all(|it| it.needed != by || it.result.is_ok());
    let by_programs = source != WatchBy::AfPacket && can(Needed::Ebpf);
    let by_sockets = source != WatchBy::Ebpf && !by_programs && can(Needed::Sockets);
    let mut said = String::new();
    for finding in &findings {
        let is_missing = match finding.needed {
            Needed::Ebpf => !by_sockets,
            Needed::Sockets => !by_programs && source != WatchBy::Ebpf,
            Needed::No => false,
        };
        let (verdict, text) = match &finding.result {
            Ok(found) => ("ok", found),
            Err(remedy) if is_missing => ("missing", remedy),
            Err(remedy) => ("limited", remedy),
        };
        said += &format!("{verdict:<8} {:<16} {text}\n", finding.what);
    }
    said += "\nwhat linnet uses of the kernel:\n";
    said += &matrix(&kernel);
    if !(by_programs || by_sockets) {
        said += "\n`linnet run --interface ..` cannot work yet; `linnet analyze` and `linnet run --replay` can\n";
        say(&said)?;
        return Ok(exit::FAILED);
    }
    let of_config = config.as_ref().map(|config| config.run_dir.join("api.sock"));
    let socket = args.socket.clone().or(of_config);
    said += &interfaces(&socket.unwrap_or_else(|| SOCKET_DEFAULT.into()));
    let pins = config.map_or_else(|| PIN_DIR_DEFAULT.into(), |config| config.pin_dir);
    said += match live::left_in(&pins) {
        true => {
            "\nan attacher was killed: what is watched is counted on. `linnet run` goes on from there, and `linnet detach` removes it\n"
        }
        false if by_sockets => {
            "\nready, without eBPF: `linnet run --interface NAME` reads interfaces by AF_PACKET sockets here\n"
        }
        false => "\nready: `linnet run --interface NAME`\n",
    };
    say(&said)?;
    Ok(0)
}

/// The configuration. Whoever may not read the default one asks without it.
fn config(args: &DoctorArgs) -> anyhow::Result<Option<Config>> {
    match Config::load(args.config.as_deref(), Overrides::default()) {
        Ok(config) => Ok(Some(config)),
        Err(ConfigError::Read { source, .. })
            if args.config.is_none() && source.kind() == io::ErrorKind::PermissionDenied =>
        {
            say(&format!("limited  `{CONFIG_PATH}` cannot be read: what it says is left out\n"))?;
            Ok(None)
        }
        Err(error) => Err(ExitWith { code: exit::USAGE, message: error.to_string() }.into()),
    }
}

/// Enters the sandbox layer by layer, and tries after each what has not been refused yet.
fn sandbox(user: &str, pretence: Pretence) -> anyhow::Result<u8> {
    let identity = Identity::of(user)
        .map_err(|error| ExitWith { code: exit::USAGE, message: error.to_string() })?;
    let policy = Policy { identity, folders: Vec::new(), pretence };
    Policy::prepare();
    let (mut lacks, mut refused) = (Vec::new(), Vec::new());
    for layer in Layer::ALL {
        lacks.extend(policy.enter(layer));
        for act in Act::ALL {
            let is_known = refused.iter().any(|(known, _)| *known == act);
            if !is_known && act.attempt() != Verdict::Allowed {
                refused.push((act, layer));
            }
        }
    }
    let mut said = String::new();
    for lack in lacks {
        said += &format!("limited  {lack}\n");
    }
    let mut allowed = 0;
    for act in Act::ALL {
        let layer = refused.iter().find(|(known, _)| *known == act).map(|(_, layer)| layer);
        said += &match (act.attempt(), layer) {
            (Verdict::Refused(code), Some(layer)) => {
                let why = io::Error::from_raw_os_error(code);
                format!("refused  {:<22} first by {}: {why}\n", act.name(), layer.name())
            }
            (Verdict::Absent, _) => format!("absent   {:<22} there is no such file\n", act.name()),
            (Verdict::Refused(_) | Verdict::Allowed, _) => {
                allowed += 1;
                format!("ALLOWED  {}\n", act.name())
            }
        };
    }
    say(&said)?;
    Ok(if allowed == 0 { 0 } else { exit::FAILED })
}

/// What a daemon that runs is attached to: on which hook, why, and who is before and behind it.
fn interfaces(socket: &Path) -> String {
    let asked = Client::connect(socket)
        .and_then(|client| Ok((client.get("/api/v1/interfaces")?, client.get("/api/v1/status")?)));
    let (answer, status) = match asked {
        Ok(asked) => asked,
        Err(error) => return format!("\nno daemon tells what it is attached to: {error}\n"),
    };
    let mut said = String::new();
    for row in answer["interfaces"].as_array().into_iter().flatten() {
        said += &format!(
            "\n{} (index {}): {}\n",
            text(&row["name"]),
            row["ifindex"],
            text(&row["state"])
        );
        // What has gone has no hooks.
        let ways = ["ingress", "egress"].into_iter().filter(|_| row["state"] != "gone");
        ways.for_each(|way| said += &direction(way, &row[way]));
    }
    let notices = status["status"]["notices"].as_array().into_iter().flatten();
    let notices: String = notices.map(|notice| format!("notice   {}\n", text(notice))).collect();
    if !notices.is_empty() {
        said += &format!("\n{notices}");
    }
    said
}

/// One direction of an interface.
fn direction(way: &str, side: &Value) -> String {
    if side.is_null() {
        return format!("  {way:<8} not watched\n");
    }
    let displaced = if side["displaced"] == true { ", but taken off by another tool" } else { "" };
    let (hook, reason) = (text(&side["hook"]), text(&side["reason"]));
    let mut said = format!("  {way:<8} on {hook}{displaced}: {reason}\n");
    let chain: Vec<_> = side["chain"].as_array().into_iter().flatten().map(link).collect();
    if !chain.is_empty() {
        said += &format!("  {:<8} in the order of packets: {}\n", "", chain.join(" > "));
    }
    said
}

/// One program or filter on a hook. The daemon's attacher may not be allowed to ask for the name of another's program;
/// who runs this may be.
fn link(link: &Value) -> String {
    let id = link["program_id"].as_u64();
    let found = || live::program_name(u32::try_from(id?).ok()?);
    let name = match link["name"].as_str() {
        Some(name) => printable(name).into_owned(),
        None => found().map_or_else(|| "unknown".to_owned(), |name| printable(&name).into_owned()),
    };
    let ours = if link["ours"] == true { ", linnet" } else { "" };
    let id = id.map(|id| format!(" (program {id}{ours})")).unwrap_or_default();
    format!("{} {name}{id}", text(&link["hook"]))
}

fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or("?")).into_owned()
}

fn programs() -> Finding {
    let result = match live::not_built_reason() {
        None => Ok("built into this binary".to_owned()),
        Some(reason) => Err(format!("{reason}; run `cargo xtask setup`, then build again")),
    };
    Finding { what: "kernel programs", result, needed: Needed::Ebpf }
}

fn release(kernel: &Kernel) -> Finding {
    let result = kernel.refusal().map_or_else(|| Ok(kernel.release().to_owned()), Err);
    Finding { what: "kernel", result, needed: Needed::Ebpf }
}

/// A line for each feature: whether it is there, and what follows where it is not.
fn matrix(kernel: &Kernel) -> String {
    let line = |(feature, found): (Feature, &Found)| {
        let (verdict, text) = match found {
            Found::Present => ("ok", String::new()),
            Found::Missing(why) => {
                let verdict = if feature.is_needed() { "missing" } else { "limited" };
                let (cost, instead) = (feature.cost(), feature.instead());
                (verdict, format!("; {why}: {cost}; linnet {instead}"))
            }
            Found::Unknown(why) => ("unknown", format!("; {why}; if missing: {}", feature.cost())),
        };
        format!("{verdict:<8} {feature:<17} since {}{text}\n", feature.since())
    };
    kernel.found().map(line).collect()
}

/// Bits of the capability sets (include/uapi/linux/capability.h).
const CAPABILITIES: [(&str, u32); 3] =
    [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
const NET_RAW: u32 = 13;

/// The capabilities that a child of this process would have.
fn effective() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

fn privileges() -> Finding {
    let effective = effective();
    let absent: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| *name)
        .collect();
    let result = if absent.is_empty() {
        Ok("CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".to_owned())
    } else {
        Err(format!("{} missing: run as root", absent.join(", ")))
    };
    Finding { what: "privileges", result, needed: Needed::Ebpf }
}

fn sockets() -> Finding {
    let result = if effective() & (1 << NET_RAW) == 0 {
        Err("CAP_NET_RAW missing: without eBPF nothing can be watched; run as root".to_owned())
    } else {
        Ok("CAP_NET_RAW: interfaces can be watched where eBPF is refused".to_owned())
    };
    Finding { what: "packet sockets", result, needed: Needed::Sockets }
}

fn bpf_fs() -> Finding {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted = mounts.lines().any(|line| line.split(' ').nth(2) == Some("bpf"));
    let result = if mounted {
        Ok("mounted".to_owned())
    } else {
        Err("not mounted: `linnet run` mounts it at /sys/fs/bpf".to_owned())
    };
    Finding { what: "bpf file system", result, needed: Needed::No }
}

fn libpcap() -> Finding {
    let result = match Libpcap::load() {
        Ok(_) => Ok("found: tcpdump filters can be compiled".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    Finding { what: "libpcap", result, needed: Needed::No }
}

fn jit() -> Finding {
    let enabled = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").unwrap_or_default();
    let result = match enabled.trim() {
        "0" => Err(
            "off: programs are interpreted, several times slower; sysctl net.core.bpf_jit_enable=1"
                .to_owned(),
        ),
        "" => Ok("built in".to_owned()),
        _ => Ok("on".to_owned()),
    };
    Finding { what: "bpf jit", result, needed: Needed::No }
}
