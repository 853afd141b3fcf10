//! What watching costs a bulk transfer: iperf3 between two namespaces, with nothing attached, with linnet, and with
//! tcpdump, in turn. Never attaches to an interface that its lab did not make.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Stdio},
};

use anyhow::{Context as _, bail};
use daemon::live::{AttachRequest, Attacher, MapSizes};
use lab::{Family, Lab, Plan};
use serde_json::Value;

use crate::report::spread;

/// Rounds; in each, every companion is measured once.
pub const ROUNDS: usize = 7;
/// How long one transfer lasts, s.
pub const SECONDS: u32 = 2;
const PORT: &str = "5201";

/// Who watches while the transfer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companion {
    /// Nobody.
    None,
    /// linnet by TC, in both directions at both ends.
    LinnetTc,
    /// linnet by XDP for what the server's end receives, by TC elsewhere.
    LinnetXdp,
    /// tcpdump at both ends: headers, to nowhere.
    Tcpdump,
}

impl Companion {
    /// All of them, in the order of a round.
    pub const ALL: [Self; 4] = [Self::None, Self::LinnetTc, Self::LinnetXdp, Self::Tcpdump];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "nothing attached",
            Self::LinnetTc => "linnet, TC in both directions at both ends",
            Self::LinnetXdp => "linnet, XDP on the receiving end's ingress, TC elsewhere",
            Self::Tcpdump => "`tcpdump -s 96 -w /dev/null` at both ends",
        }
    }
}

/// What a companion's transfers reached, Gbit/s, in order of the rounds.
#[derive(Clone, Debug)]
pub struct Transfers {
    /// Who watched.
    pub companion: Companion,
    /// One figure for each round.
    pub gbits: Vec<f64>,
}

/// Measures every companion, in turn.
pub fn all() -> anyhow::Result<Vec<Transfers>> {
    let mut all: Vec<_> = Companion::ALL
        .iter()
        .map(|companion| Transfers { companion: *companion, gbits: Vec::new() })
        .collect();
    // One more round goes first, to warm caches and connection metrics.
    for round in 0..=ROUNDS {
        for transfers in &mut all {
            let gbits = one(transfers.companion)
                .with_context(|| format!("round {round} with {}", transfers.companion.name()))?;
            if round > 0 {
                transfers.gbits.push(gbits);
            }
        }
    }
    Ok(all)
}

/// One transfer, in a lab of its own: an XDP program changes the offloads of the peer, and some stay changed.
fn one(companion: Companion) -> anyhow::Result<f64> {
    let lab = Lab::build(Plan::direct("load"))?;
    let watching = match companion {
        Companion::None => Watching::Nobody,
        Companion::LinnetTc => Watching::linnet(&lab, "")?,
        Companion::LinnetXdp => Watching::linnet(&lab, ",ingress=xdp")?,
        Companion::Tcpdump => Watching::tcpdump(&lab)?,
    };
    let gbits = iperf3(&lab)?;
    drop(watching);
    Ok(gbits)
}

/// What is attached, for as long as it lives.
#[expect(dead_code, reason = "held for its drop")]
enum Watching {
    Nobody,
    Linnet(Box<Attacher>),
    Tcpdump(Vec<Running>),
}

impl Watching {
    fn linnet(lab: &Lab, at_the_server: &str) -> anyhow::Result<Self> {
        let pins = PathBuf::from(format!("/sys/fs/bpf/linnet-bench-{}", std::process::id()));
        let sizes = MapSizes { capture_ring_bytes: 1 << 20, ..MapSizes::default() };
        let mut attacher = Attacher::new(&pins, sizes)?;
        for end in lab.interfaces() {
            let options = if end.role == "server" { at_the_server } else { "" };
            let request: AttachRequest = format!("{}{options}", end.spec).parse()?;
            attacher.attach(request)?;
        }
        Ok(Self::Linnet(Box::new(attacher)))
    }

    fn tcpdump(lab: &Lab) -> anyhow::Result<Self> {
        let ends = [(lab.client(), lab::CLIENT_INTERFACE), (lab.server(), lab::SERVER_INTERFACE)];
        let start = |(namespace, interface): (&lab::Namespace, &str)| {
            let mut command = namespace.command("tcpdump");
            command.args(["-n", "-s", "96", "-w", "/dev/null", "-i", interface]);
            let mut child = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .context("cannot run `tcpdump`; install it")?;
            let said = child.stderr.take().context("tcpdump has no output")?;
            let running = Running(child);
            let mut lines = BufReader::new(said).lines().map_while(Result::ok);
            if !lines.any(|line| line.contains("listening on")) {
                bail!("tcpdump does not listen on `{interface}`");
            }
            // The rest is read as it comes, so that tcpdump never waits for this side.
            std::thread::spawn(move || lines.for_each(drop));
            Ok(running)
        };
        Ok(Self::Tcpdump(ends.into_iter().map(start).collect::<anyhow::Result<_>>()?))
    }
}

/// A program that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Gbit/s that reached the receiver.
fn iperf3(lab: &Lab) -> anyhow::Result<f64> {
    let mut server = lab.server().command("iperf3");
    // `--forceflush`: else the line that says that it listens stays in a buffer.
    server.args(["--server", "--one-off", "--forceflush", "--port", PORT]);
    let mut server = server
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run `iperf3`; install it")?;
    let said = server.stdout.take().context("iperf3 has no output")?;
    let _server = Running(server);
    let mut lines = BufReader::new(said).lines().map_while(Result::ok);
    if !lines.any(|line| line.contains("Server listening")) {
        bail!("the iperf3 server does not listen");
    }
    std::thread::spawn(move || lines.for_each(drop));
    let address = lab.server_address(Family::V4).to_string();
    let mut client = lab.client().command("iperf3");
    client.args(["--client", &address, "--port", PORT, "--json"]);
    client.args(["--time", &SECONDS.to_string(), "--omit", "0"]);
    let output = client.stdin(Stdio::null()).output().context("cannot run `iperf3`")?;
    let result: Value = serde_json::from_slice(&output.stdout).context("iperf3 printed no JSON")?;
    let bits = result["end"]["sum_received"]["bits_per_second"].as_f64();
    let Some(bits) = bits else { bail!("iperf3 failed: {}", result["error"]) };
    Ok(bits / 1e9)
}

/// The figures as a table, each companion beside the transfers without one of the same round.
#[must_use]
pub fn table(all: &[Transfers]) -> String {
    let mut text = String::from(
        "| beside the transfer | Gbit/s, median | least | most | of nothing attached, median of the rounds | least | most |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
    );
    let alone = all.iter().find(|transfers| transfers.companion == Companion::None);
    for transfers in all {
        let shares: Vec<f64> = alone
            .into_iter()
            .flat_map(|alone| transfers.gbits.iter().zip(&alone.gbits))
            .map(|(with, without)| with / without)
            .collect();
        let ([least, middle, most], share) = (spread(&transfers.gbits), spread(&shares));
        writeln!(
            text,
            "| {} | {middle:.1} | {least:.1} | {most:.1} | {:.2} | {:.2} | {:.2} |",
            transfers.companion.name(),
            share[1],
            share[0],
            share[2],
        )
        .expect("writing into a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_is_compared_with_itself() {
        let transfers = |companion, gbits: &[f64]| Transfers { companion, gbits: gbits.to_vec() };
        let all = [
            transfers(Companion::None, &[10.0, 20.0, 40.0]),
            transfers(Companion::LinnetTc, &[9.0, 10.0, 40.0]),
        ];
        let table = table(&all);
        assert!(table.contains("| 10.0 | 9.0 | 40.0 | 0.90 | 0.50 | 1.00 |"), "{table}");
    }
}
