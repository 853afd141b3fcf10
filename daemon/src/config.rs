//! Configuration: a TOML file, then the environment, then flags; the later wins. What passes here is valid.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use datapath::layout::{FLOWS_DEFAULT, FLOWS_MAX};
use serde::Deserialize;

use crate::{
    flow::{expiry::Timeouts, table::RECORDS_DEFAULT},
    live::{AttachRequest, MapSizes},
};

/// Where the file is looked for when none is named.
pub const CONFIG_PATH: &str = "/etc/linnet/linnet.toml";
/// Version of the file's layout.
const SCHEMA: u32 = 1;
/// Longest time between two sweeps.
const SWEEP_MAX_MS: u64 = 60_000;
/// Largest capture ring.
const RING_MAX_MIB: u32 = 1_024;

/// The file as written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    schema: Option<u32>,
    interfaces: Vec<String>,
    listen: Option<String>,
    run_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    pin_dir: Option<PathBuf>,
    flows: RawFlows,
    capture: RawCapture,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawFlows {
    capacity: Option<u32>,
    records: Option<usize>,
    sweep_interval_ms: Option<u64>,
    keep_ended_seconds: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawCapture {
    ring_mib: Option<u32>,
}

/// What flags and environment say.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--interface`, each `[NAMESPACE/]NAME[,ingress=..][,egress=..]`.
    pub interfaces: Vec<String>,
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

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to watch; empty means every interface that is up.
    pub interfaces: Vec<AttachRequest>,
    /// Where to serve HTTP beside the unix socket; a loopback address.
    pub listen: SocketAddr,
    /// Socket, lock and token.
    pub run_dir: PathBuf,
    /// Captures.
    pub state_dir: PathBuf,
    /// Pinned maps.
    pub pin_dir: PathBuf,
    /// Sizes of the kernel's maps.
    pub sizes: MapSizes,
    /// Records of flows in user space.
    pub records_max: usize,
    /// From one sweep to the next.
    pub sweep_interval: Duration,
    /// When flows have ended.
    pub timeouts: Timeouts,
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
        "`{path}` is no valid configuration: {source}\n(keys: schema, interfaces, listen, run_dir, state_dir, pin_dir, flows.{{capacity,records,sweep_interval_ms,keep_ended_seconds}}, capture.ring_mib)"
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value cannot be used.
    #[error("`{key}`: {problem}")]
    Value {
        /// Which key or flag.
        key: &'static str,
        /// What is wrong and what to write instead.
        problem: String,
    },
}

fn bad(key: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, problem: problem.into() }
}

impl Config {
    /// Reads the file (the default one may be absent) and applies the overrides.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let path = file.unwrap_or_else(|| Path::new(CONFIG_PATH));
        let raw = match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|source| ConfigError::Syntax {
                path: path.to_owned(),
                source: Box::new(source),
            })?,
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                RawConfig { schema: Some(SCHEMA), ..RawConfig::default() }
            }
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        Self::try_from_raw(raw, overrides)
    }

    fn try_from_raw(raw: RawConfig, over: Overrides) -> Result<Self, ConfigError> {
        if raw.schema != Some(SCHEMA) {
            return Err(bad("schema", format!("write `schema = {SCHEMA}` in the first line")));
        }
        let texts = if over.interfaces.is_empty() { raw.interfaces } else { over.interfaces };
        let interfaces = texts
            .iter()
            .map(|text| text.parse())
            .collect::<Result<Vec<AttachRequest>, _>>()
            .map_err(|error| bad("interfaces", error.to_string()))?;
        let listen = over.listen.or(raw.listen).unwrap_or_else(|| "127.0.0.1:8470".into());
        let listen: SocketAddr = listen.parse().map_err(|_| {
            bad("listen", format!("`{listen}` is no ADDRESS:PORT, like 127.0.0.1:8470"))
        })?;
        if !listen.ip().is_loopback() {
            let problem = format!(
                "{listen} is not loopback, and this version has no TLS; listen on 127.0.0.1 and forward the port with ssh"
            );
            return Err(bad("listen", problem));
        }
        let flows = over.flows.or(raw.flows.capacity).unwrap_or(FLOWS_DEFAULT);
        if flows == 0 || flows > FLOWS_MAX {
            return Err(bad("flows.capacity", format!("{flows} is not between 1 and {FLOWS_MAX}")));
        }
        let sweep_ms = raw.flows.sweep_interval_ms.unwrap_or(1_000);
        if !(100..=SWEEP_MAX_MS).contains(&sweep_ms) {
            let problem = format!("{sweep_ms} is not between 100 and {SWEEP_MAX_MS}");
            return Err(bad("flows.sweep_interval_ms", problem));
        }
        let ring_mib = raw.capture.ring_mib.unwrap_or(16);
        if !ring_mib.is_power_of_two() || ring_mib > RING_MAX_MIB {
            let problem = format!("{ring_mib} is no power of two up to {RING_MAX_MIB}");
            return Err(bad("capture.ring_mib", problem));
        }
        let mut timeouts = Timeouts::default();
        if let Some(seconds) = raw.flows.keep_ended_seconds {
            timeouts.keep_ended_ns = seconds.saturating_mul(1_000_000_000);
        }
        let place = |over: Option<PathBuf>, raw: Option<PathBuf>, default: &str| {
            over.or(raw).unwrap_or_else(|| default.into())
        };
        Ok(Self {
            interfaces,
            listen,
            run_dir: place(over.run_dir, raw.run_dir, "/run/linnet"),
            state_dir: place(over.state_dir, raw.state_dir, "/var/lib/linnet"),
            pin_dir: place(over.pin_dir, raw.pin_dir, "/sys/fs/bpf/linnet"),
            sizes: MapSizes { flows, capture_ring_bytes: ring_mib * 1024 * 1024 },
            records_max: raw.flows.records.unwrap_or(RECORDS_DEFAULT).max(1),
            sweep_interval: Duration::from_millis(sweep_ms),
            timeouts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, over: Overrides) -> Result<Config, String> {
        let raw: RawConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        Config::try_from_raw(raw, over).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_win_over_the_file() {
        let over = Overrides { interfaces: vec!["eth1".into()], ..Overrides::default() };
        let config =
            parse("schema = 1\ninterfaces = ['eth0']\n[flows]\ncapacity = 7\n", over).unwrap();
        assert_eq!(config.interfaces[0].interface, "eth1");
        assert_eq!(config.sizes.flows, 7);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parse("schema = 1\n[flows]\ncapacty = 7\n", Overrides::default()).unwrap_err();
        assert!(error.contains("line 3") && error.contains("capacty"), "{error}");
    }

    #[test]
    fn values_out_of_bounds_say_what_is_allowed() {
        for (text, key) in [
            ("schema = 2", "schema"),
            ("schema = 1\nlisten = '0.0.0.0:80'", "listen"),
            ("schema = 1\n[flows]\ncapacity = 0", "flows.capacity"),
            ("schema = 1\n[capture]\nring_mib = 3", "capture.ring_mib"),
            ("schema = 1\ninterfaces = ['a b']", "interfaces"),
        ] {
            let error = parse(text, Overrides::default()).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }
}
