//! Configuration: a TOML file, then the environment, then flags; the later wins. What passes here is valid.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use datapath::layout::{
    EMBRYONIC_DEFAULT, FLOWS_DEFAULT, FLOWS_MAX, FRAGMENTS_DEFAULT, FRAGMENTS_MAX, RULES_MAX,
};
use serde::Deserialize;
use toml::Spanned;

use crate::{
    flow::{RECORDS_DEFAULT, expiry::Timeouts},
    kernel::{Feature, NoFeature, NoRelease, Pretence},
    live::{MapSizes, OnDisplaced, OnStop, ParseAttachError, WatchRequest},
    rules::{self, ReadRule},
    sandbox::{Mode, USER_DEFAULT},
};

/// Where pins are, where nothing else is said.
pub const PIN_DIR_DEFAULT: &str = "/sys/fs/bpf/linnet";
/// Where the file is looked for when none is named.
pub const CONFIG_PATH: &str = "/etc/linnet/linnet.toml";
/// Version of the file's layout.
const SCHEMA: u32 = 1;
/// Where HTTP is served.
const LISTEN_DEFAULT: &str = "127.0.0.1:8470";
/// Time between two sweeps, and its bounds.
const SWEEP_DEFAULT_MS: u64 = 1_000;
const SWEEP_MIN_MS: u64 = 100;
const SWEEP_MAX_MS: u64 = 60_000;
/// The capture ring, and the largest.
const RING_DEFAULT_MIB: u32 = 16;
const RING_MAX_MIB: u32 = 1_024;
/// What the kernel copies of a packet at most.
const COPIED_MAX: u32 = 65_536;
const _: () = assert!(COPIED_MAX as usize == datapath::layout::CAPTURE_BYTES_MAX);

/// The file as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    schema: Option<Spanned<u32>>,
    interfaces: Vec<Spanned<String>>,
    source: Option<Spanned<String>>,
    on_displaced: Option<Spanned<String>>,
    listen: Option<Spanned<String>>,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    pin_dir: Option<PathBuf>,
    on_stop: Option<Spanned<String>>,
    user: Option<String>,
    sandbox: Option<Spanned<String>>,
    flows: RawFlows,
    capture: RawCapture,
    kernel: RawKernel,
    rules: Vec<Spanned<serde_json::Value>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawFlows {
    capacity: Option<Spanned<u32>>,
    embryonic: Option<Spanned<u32>>,
    fragments: Option<Spanned<u32>>,
    records: Option<Spanned<usize>>,
    sweep_interval_ms: Option<Spanned<u64>>,
    keep_ended_seconds: Option<u64>,
    timeouts: BTreeMap<String, Spanned<u32>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCapture {
    ring_mib: Option<Spanned<u32>>,
    payload_max: Option<Spanned<u32>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawKernel {
    without: Vec<Spanned<String>>,
    pretend: Option<Spanned<String>>,
}

/// What flags and environment say.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--interface`, each `[NAMESPACE/]NAME[,ingress=..][,egress=..]`.
    pub interfaces: Vec<String>,
    /// `--source`.
    pub source: Option<String>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--run-dir`.
    pub run_dir: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--pin-dir`.
    pub pin_dir: Option<PathBuf>,
    /// `--flows`.
    pub flows: Option<u32>,
}

/// By what interfaces are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WatchBy {
    /// Programs in the kernel, or sockets where it refuses them.
    #[default]
    Auto,
    /// Programs in the kernel.
    Ebpf,
    /// AF_PACKET sockets.
    AfPacket,
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to watch; empty means every interface that is up.
    pub interfaces: Vec<WatchRequest>,
    /// By what.
    pub source: WatchBy,
    /// What to do when another tool takes linnet off a hook.
    pub on_displaced: OnDisplaced,
    /// Where to serve HTTP beside the unix socket; a loopback address.
    pub listen: SocketAddr,
    /// Socket, lock and token.
    pub run_dir: PathBuf,
    /// Captures.
    pub state_dir: PathBuf,
    /// Pinned maps.
    pub pin_dir: PathBuf,
    /// What a stop does with them.
    pub on_stop: OnStop,
    /// Whose the daemon is.
    pub user: String,
    /// What to do where the daemon cannot be confined.
    pub sandbox: Mode,
    /// Sizes of the kernel's maps.
    pub sizes: MapSizes,
    /// Most bytes of a packet that any capture may have behind its headers; absent for all that is
    /// copied.
    pub payload_max: Option<u32>,
    /// Records of flows in user space.
    pub records_max: usize,
    /// From one sweep to the next.
    pub sweep_interval: Duration,
    /// When flows have ended.
    pub timeouts: Timeouts,
    /// What of the kernel is to be treated as missing.
    pub kernel: Pretence,
    /// What is tracked, until it is changed.
    pub rules: Vec<ReadRule>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no valid TOML, or has a key that is not known.
    #[error(
        "`{path}` is no valid configuration: {source}\n(keys: schema, interfaces, source, on_displaced, listen, run_dir, state_dir, pin_dir, on_stop, user, sandbox, flows.{{capacity,embryonic,fragments,records,sweep_interval_ms,keep_ended_seconds,timeouts}}, capture.{{ring_mib,payload_max}}, kernel.{{without,pretend}}, rules)"
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value cannot be used.
    #[error("{place}: {problem}")]
    Value {
        /// The flag, or the file, line and key.
        place: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

/// The file's place and text, for what is said about its values.
#[derive(Clone, Copy, Debug)]
struct Written<'a> {
    path: &'a Path,
    text: &'a str,
}

/// A value, and where it comes from.
#[derive(Clone, Debug)]
struct Given<T> {
    value: T,
    place: String,
}

impl<T> Given<T> {
    fn bad(&self, problem: impl Into<String>) -> ConfigError {
        ConfigError::Value { place: self.place.clone(), problem: problem.into() }
    }
}

impl Written<'_> {
    fn place(self, key: &str, offset: usize) -> String {
        let line = self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
        format!("`{}`, line {line}: `{key}`", self.path.display())
    }

    fn value<T>(self, key: &str, value: Spanned<T>) -> Given<T> {
        let place = self.place(key, value.span().start);
        Given { value: value.into_inner(), place }
    }

    /// What the flag says, else the file, else the default.
    fn choose<T>(
        self,
        flag: Option<(&str, T)>,
        (key, file): (&str, Option<Spanned<T>>),
        default: T,
    ) -> Given<T> {
        match (flag, file) {
            (Some((flag, value)), _) => Given { value, place: format!("`{flag}`") },
            (None, Some(value)) => self.value(key, value),
            (None, None) => Given { value: default, place: format!("the default of `{key}`") },
        }
    }
}

impl Config {
    /// Reads the file (the default one may be absent) and applies the overrides.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        Self::of_text(file, &Self::text(file)?, overrides)
    }

    /// The text of the file.
    pub fn text(file: Option<&Path>) -> Result<String, ConfigError> {
        let path = file.unwrap_or_else(|| Path::new(CONFIG_PATH));
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(text),
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(format!("schema = {SCHEMA}"))
            }
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// From the text of the file, which has been read before, and the overrides.
    pub fn of_text(
        file: Option<&Path>,
        text: &str,
        overrides: Overrides,
    ) -> Result<Self, ConfigError> {
        let path = file.unwrap_or_else(|| Path::new(CONFIG_PATH));
        Self::parse(Written { path, text }, overrides)
    }

    fn parse(written: Written<'_>, over: Overrides) -> Result<Self, ConfigError> {
        let raw: RawConfig = toml::from_str(written.text).map_err(|source| {
            ConfigError::Syntax { path: written.path.to_owned(), source: Box::new(source) }
        })?;
        let schema = written.choose(None, ("schema", raw.schema), 0);
        if schema.value != SCHEMA {
            let place = written.place("schema", 0);
            let problem = format!("write `schema = {SCHEMA}` in the first line");
            return Err(ConfigError::Value { place, problem });
        }
        let interfaces = interfaces(written, over.interfaces, raw.interfaces)?;
        let flag = over.source.map(|value| ("--source (LINNET_SOURCE)", value));
        let source = written.choose(flag, ("source", raw.source), "auto".to_owned());
        let source = match source.value.as_str() {
            "auto" => WatchBy::Auto,
            "ebpf" => WatchBy::Ebpf,
            "af_packet" => WatchBy::AfPacket,
            _ => return Err(source.bad("write \"auto\", \"ebpf\" or \"af_packet\"")),
        };
        let on_displaced = on_displaced(&written.choose(
            None,
            ("on_displaced", raw.on_displaced),
            "reattach".to_owned(),
        ))?;
        let flag = over.listen.map(|value| ("--listen (LINNET_LISTEN)", value));
        let listen = listen(&written.choose(flag, ("listen", raw.listen), LISTEN_DEFAULT.into()))?;
        let flag = over.flows.map(|value| ("--flows (LINNET_FLOWS)", value));
        let flows = written.choose(flag, ("flows.capacity", raw.flows.capacity), FLOWS_DEFAULT);
        let embryonic = ("flows.embryonic", raw.flows.embryonic);
        let embryonic = written.choose(None, embryonic, EMBRYONIC_DEFAULT);
        let fragments = ("flows.fragments", raw.flows.fragments);
        let fragments = written.choose(None, fragments, FRAGMENTS_DEFAULT);
        for (size, max) in
            [(&flows, FLOWS_MAX), (&embryonic, FLOWS_MAX), (&fragments, FRAGMENTS_MAX)]
        {
            if !(1..=max).contains(&size.value) {
                return Err(size.bad(format!("{} is not between 1 and {max}", size.value)));
            }
        }
        let sweep = ("flows.sweep_interval_ms", raw.flows.sweep_interval_ms);
        let sweep_ms = written.choose(None, sweep, SWEEP_DEFAULT_MS);
        if !(SWEEP_MIN_MS..=SWEEP_MAX_MS).contains(&sweep_ms.value) {
            let problem =
                format!("{} is not between {SWEEP_MIN_MS} and {SWEEP_MAX_MS}", sweep_ms.value);
            return Err(sweep_ms.bad(problem));
        }
        let records = written.choose(None, ("flows.records", raw.flows.records), RECORDS_DEFAULT);
        if records.value == 0 {
            return Err(records.bad("0 would keep no flow; write 1 or more"));
        }
        let ring = ("capture.ring_mib", raw.capture.ring_mib);
        let ring_mib = written.choose(None, ring, RING_DEFAULT_MIB);
        if !ring_mib.value.is_power_of_two() || ring_mib.value > RING_MAX_MIB {
            let problem = format!("{} is no power of two up to {RING_MAX_MIB}", ring_mib.value);
            return Err(ring_mib.bad(problem));
        }
        let payload = ("capture.payload_max", raw.capture.payload_max);
        let payload_max = written.choose(None, payload, COPIED_MAX);
        if payload_max.value > COPIED_MAX {
            let problem = format!("{} is not between 0 and {COPIED_MAX}", payload_max.value);
            return Err(payload_max.bad(problem));
        }
        let mut timeouts = timeouts(written, raw.flows.timeouts)?;
        if let Some(seconds) = raw.flows.keep_ended_seconds {
            timeouts.keep_ended_ns = seconds.saturating_mul(1_000_000_000);
        }
        let sandbox = match raw.sandbox.map(|value| written.value("sandbox", value)) {
            None => Mode::default(),
            Some(given) => match given.value.as_str() {
                "best-effort" => Mode::BestEffort,
                "strict" => Mode::Strict,
                _ => return Err(given.bad("write \"best-effort\" or \"strict\"")),
            },
        };
        let on_stop = match raw.on_stop.map(|value| written.value("on_stop", value)) {
            None => OnStop::default(),
            Some(given) => match given.value.as_str() {
                "remove" => OnStop::Remove,
                "keep" => OnStop::Keep,
                _ => return Err(given.bad("write \"remove\" or \"keep\"")),
            },
        };
        let place = |over: Option<PathBuf>, raw: Option<PathBuf>, default: &str| {
            over.or(raw).unwrap_or_else(|| default.into())
        };
        Ok(Self {
            interfaces,
            source,
            on_displaced,
            listen,
            run_dir: place(over.run_dir, raw.run_dir, "/run/linnet"),
            state_dir: place(over.state_dir, raw.state_dir, "/var/lib/linnet"),
            pin_dir: place(over.pin_dir, raw.pin_dir, PIN_DIR_DEFAULT),
            on_stop,
            user: raw.user.unwrap_or_else(|| USER_DEFAULT.to_owned()),
            sandbox,
            sizes: MapSizes {
                flows: flows.value,
                embryonic: embryonic.value,
                fragments: fragments.value,
                capture_ring_bytes: ring_mib.value * 1024 * 1024,
            },
            payload_max: Some(payload_max.value).filter(|most| *most < COPIED_MAX),
            records_max: records.value,
            sweep_interval: Duration::from_millis(sweep_ms.value),
            timeouts,
            kernel: pretence(written, raw.kernel)?,
            rules: rules(written, raw.rules)?,
        })
    }
}

/// When flows end: what the file says, else nf_conntrack's timeouts.
fn timeouts(
    written: Written<'_>,
    file: BTreeMap<String, Spanned<u32>>,
) -> Result<Timeouts, ConfigError> {
    let mut timeouts = Timeouts::default();
    for (key, seconds) in file {
        let seconds = written.value(&format!("flows.timeouts.{key}"), seconds);
        let Some(timeout) = timeouts.get_mut(&key) else {
            let known = Timeouts::KEYS.join(", ");
            return Err(seconds.bad(format!("unknown key; known are {known}")));
        };
        if !Timeouts::BOUNDS.contains(&seconds.value) {
            let (from, to) = (Timeouts::BOUNDS.start(), Timeouts::BOUNDS.end());
            return Err(
                seconds.bad(format!("{} is not between {from} and {to} seconds", seconds.value))
            );
        }
        *timeout = seconds.value;
    }
    Ok(timeouts)
}

/// What of the kernel is to be treated as missing.
fn pretence(written: Written<'_>, raw: RawKernel) -> Result<Pretence, ConfigError> {
    let mut pretence = Pretence::default();
    for name in raw.without {
        let name = written.value("kernel.without", name);
        let feature = name.value.parse::<Feature>();
        let feature = feature.map_err(|error: NoFeature| name.bad(error.to_string()))?;
        pretence.without.push(feature);
    }
    if let Some(release) = raw.pretend.map(|release| written.value("kernel.pretend", release))
        && !release.value.is_empty()
    {
        let read = release.value.parse();
        pretence.release = Some(read.map_err(|error: NoRelease| release.bad(error.to_string()))?);
    }
    Ok(pretence)
}

/// What to watch: each interface once.
fn interfaces(
    written: Written<'_>,
    flags: Vec<String>,
    file: Vec<Spanned<String>>,
) -> Result<Vec<WatchRequest>, ConfigError> {
    let given: Vec<_> = if flags.is_empty() {
        file.into_iter().map(|text| written.value("interfaces", text)).collect()
    } else {
        let flag = |value| Given { value, place: "`--interface`".to_owned() };
        flags.into_iter().map(flag).collect()
    };
    let mut requests: Vec<WatchRequest> = Vec::new();
    for text in given {
        let request: WatchRequest =
            text.value.parse().map_err(|error: ParseAttachError| text.bad(error.to_string()))?;
        let is_same = |other: &WatchRequest| {
            (&other.namespace, &other.target) == (&request.namespace, &request.target)
        };
        if requests.iter().any(is_same) {
            return Err(text.bad(format!("`{request}` is named twice; name it once")));
        }
        requests.push(request);
    }
    Ok(requests)
}

/// The rules, each with its line where it cannot be used.
fn rules(
    written: Written<'_>,
    rules: Vec<Spanned<serde_json::Value>>,
) -> Result<Vec<ReadRule>, ConfigError> {
    let place = |key: &str, at: usize| written.place(key, at);
    if let Some(beyond) = rules.get(RULES_MAX) {
        let problem = format!("{} rules are more than {RULES_MAX}, the most", rules.len());
        return Err(ConfigError::Value { place: place("rules", beyond.span().start), problem });
    }
    let read = |(number, rule): (usize, Spanned<serde_json::Value>)| {
        let at = rule.span().start;
        rules::text::read(number, rule.into_inner()).map_err(|error| ConfigError::Value {
            place: place(&error.place(), at),
            problem: error.problem().to_owned(),
        })
    };
    rules.into_iter().enumerate().map(read).collect()
}

fn on_displaced(text: &Given<String>) -> Result<OnDisplaced, ConfigError> {
    match text.value.as_str() {
        "reattach" => Ok(OnDisplaced::Reattach),
        "yield" => Ok(OnDisplaced::Yield),
        other => Err(text.bad(format!("`{other}` is neither reattach nor yield"))),
    }
}

fn listen(text: &Given<String>) -> Result<SocketAddr, ConfigError> {
    let listen: SocketAddr = text.value.parse().map_err(|_| {
        text.bad(format!("`{}` is no ADDRESS:PORT, like {LISTEN_DEFAULT}", text.value))
    })?;
    if !listen.ip().is_loopback() {
        return Err(text.bad(format!(
            "{listen} is not loopback, and this version has no TLS; listen on 127.0.0.1 and forward the port with ssh"
        )));
    }
    Ok(listen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, over: Overrides) -> Result<Config, String> {
        let written = Written { path: Path::new("/x/linnet.toml"), text };
        Config::parse(written, over).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_win_over_the_file() {
        let over = Overrides { interfaces: vec!["eth1".into()], ..Overrides::default() };
        let config =
            parse("schema = 1\ninterfaces = ['eth0']\n[flows]\ncapacity = 7\n", over).unwrap();
        assert_eq!(config.interfaces[0].to_string(), "eth1");
        assert_eq!(config.on_displaced, OnDisplaced::Reattach);
        assert_eq!(config.sizes.flows, 7);
    }

    #[test]
    fn a_stop_removes_unless_the_file_says_otherwise() {
        let on_stop = |text: &str| {
            parse(&format!("schema = 1\n{text}"), Overrides::default()).map(|it| it.on_stop)
        };
        assert_eq!(on_stop(""), Ok(OnStop::Remove));
        assert_eq!(on_stop("on_stop = 'remove'"), Ok(OnStop::Remove));
        assert_eq!(on_stop("on_stop = 'keep'"), Ok(OnStop::Keep));
        let error = on_stop("on_stop = 'leave'").unwrap_err();
        assert!(error.contains("line 2: `on_stop`") && error.contains("\"keep\""), "{error}");
    }

    #[test]
    fn what_the_kernel_is_to_lack_is_read_and_a_mistake_named_with_its_line() {
        let text =
            "schema = 1\n[kernel]\nwithout = ['tcx', 'seccomp']\npretend = '6.1.0-18-amd64'\n";
        let kernel = parse(text, Overrides::default()).unwrap().kernel;
        assert_eq!(kernel.without, [Feature::Tcx, Feature::Seccomp]);
        assert_eq!(kernel.release.unwrap().to_string(), "6.1");
        for (line, known) in
            [("without = ['tcx', 'tcxx']", "landlock-scopes"), ("pretend = 'old'", "\"6.1\"")]
        {
            let text = format!("schema = 1\n[kernel]\n{line}\n");
            let error = parse(&text, Overrides::default()).unwrap_err();
            assert!(error.contains("line 3: `kernel.") && error.contains(known), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parse("schema = 1\n[flows]\ncapacty = 7\n", Overrides::default()).unwrap_err();
        assert!(error.contains("line 3") && error.contains("capacty"), "{error}");
    }

    #[test]
    fn values_out_of_bounds_say_where_they_are() {
        for (text, line, key) in [
            ("schema = 2", 1, "schema"),
            ("interfaces = []", 1, "schema"),
            ("schema = 1\nlisten = '0.0.0.0:80'", 2, "listen"),
            ("schema = 1\n[flows]\ncapacity = 0", 3, "flows.capacity"),
            ("schema = 1\n[flows]\nembryonic = 0", 3, "flows.embryonic"),
            ("schema = 1\n[flows]\nfragments = 1_048_577", 3, "flows.fragments"),
            ("schema = 1\n[flows]\nrecords = 0", 3, "flows.records"),
            ("schema = 1\non_displaced = 'fight'", 2, "on_displaced"),
            ("schema = 1\n\n[flows]\nsweep_interval_ms = 5", 4, "flows.sweep_interval_ms"),
            ("schema = 1\n[capture]\nring_mib = 3", 3, "capture.ring_mib"),
            ("schema = 1\n[capture]\npayload_max = 65537", 3, "capture.payload_max"),
            (
                "schema = 1\n[[rules]]\naction = 'track'\n[[rules]]\naction = 'stop'",
                4,
                "rules[1].action",
            ),
            ("schema = 1\n[flows.timeouts]\nudp = 0", 3, "flows.timeouts.udp"),
            ("schema = 1\n[flows.timeouts]\nicmp = 2_592_001", 3, "flows.timeouts.icmp"),
            ("schema = 1\n[flows.timeouts]\n\ntcp_wait = 9", 4, "flows.timeouts.tcp_wait"),
            ("schema = 1\ninterfaces = [\n'eth0',\n'a b']", 4, "interfaces"),
            ("schema = 1\nsource = 'dpdk'", 2, "source"),
            ("schema = 1\ninterfaces = [\n'eth0',\n'eth0,egress=off']", 4, "interfaces"),
        ] {
            let error = parse(text, Overrides::default()).unwrap_err();
            let place = format!("`/x/linnet.toml`, line {line}: `{key}`: ");
            assert!(error.starts_with(&place), "{error}");
        }
    }

    #[test]
    fn timeouts_are_the_defaults_unless_the_file_says_otherwise() {
        let text = "schema = 1\n[flows.timeouts]\ntcp_time_wait = 5\n";
        let timeouts = parse(text, Overrides::default()).unwrap().timeouts;
        assert_eq!(timeouts, Timeouts { tcp_time_wait: 5, ..Timeouts::default() });
        let text = "schema = 1\n[flows.timeouts]\nudp = -1\n";
        let error = parse(text, Overrides::default()).unwrap_err();
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn a_flag_that_cannot_be_used_is_named_as_a_flag() {
        let flows = Overrides { flows: Some(0), ..Overrides::default() };
        let listen = Overrides { listen: Some("8470".into()), ..Overrides::default() };
        let twice = vec!["lo".to_owned(), "lo,egress=off".to_owned()];
        let twice = Overrides { interfaces: twice, ..Overrides::default() };
        let off = vec!["lo,ingress=off,egress=off".to_owned()];
        let off = Overrides { interfaces: off, ..Overrides::default() };
        for (over, flag) in
            [(flows, "--flows"), (listen, "--listen"), (twice, "--interface"), (off, "--interface")]
        {
            let error = parse("schema = 1\n[flows]\ncapacity = 7\n", over).unwrap_err();
            assert!(error.starts_with(&format!("`{flag}")), "{error}");
            assert!(!error.contains("linnet.toml"), "{error}");
        }
    }
}
