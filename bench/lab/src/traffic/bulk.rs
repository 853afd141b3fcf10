//! One TCP stream of N bytes, up or down. Never keeps the data: it is counted and forgotten.

use std::time::Duration;

use serde::Serialize;

use super::connection::{Connection, converse};
use super::{Budget, Stop, TcpFacts, TrafficError};
use crate::clock::{NANOS_PER_SEC, monotonic_ns};
use crate::lab::{Family, Lab};

/// Most bytes of one run.
pub const BYTES_MAX: u64 = 64 << 30;
const CHUNK_BYTES: usize = 64 << 10;

/// Who sends the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sends {
    /// An upload.
    Client,
    /// A download.
    Server,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Bulk {
    /// IPv4 or IPv6.
    pub family: Family,
    /// How much, 1 to [`BYTES_MAX`].
    pub bytes: u64,
    /// Which way.
    pub sends: Sends,
    /// The sender's congestion control, by the kernel's name; the system's default where `None`.
    pub congestion: Option<String>,
    /// The server's port; 0 takes any.
    pub port: u16,
    /// Time for everything.
    pub limit: Duration,
}

impl Default for Bulk {
    fn default() -> Self {
        Self {
            family: Family::V4,
            bytes: 1 << 20,
            sends: Sends::Server,
            congestion: None,
            port: 5001,
            limit: Duration::from_secs(60),
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Bytes of data that arrived: all.
    pub bytes: u64,
    /// From the connection's start until the receiver confirmed the last byte.
    pub elapsed_ns: u64,
    /// Data per time.
    pub bits_per_s: u64,
    /// The client's end, before it was closed.
    pub client: TcpFacts,
    /// The server's end, before it was closed.
    pub server: TcpFacts,
}

/// Moves all bytes.
pub fn run(lab: &Lab, plan: &Bulk) -> Result<Measured, TrafficError> {
    run_until(lab, plan, &Stop::new())
}

/// Moves all bytes or gives up at the stop.
pub fn run_until(lab: &Lab, plan: &Bulk, stop: &Stop) -> Result<Measured, TrafficError> {
    if !(1..=BYTES_MAX).contains(&plan.bytes) {
        let (field, value, allowed) = ("bytes", plan.bytes, "1 to 64 GiB");
        return Err(TrafficError::Limit { generator: "bulk", field, value, allowed });
    }
    let budget = Budget::new(plan.limit, stop);
    let start_ns = monotonic_ns();
    // The client speaks first, also where it is about to receive: middleboxes expect that of a
    // download.
    let (server, client) = match plan.sends {
        Sends::Client => converse(
            lab,
            plan.family,
            plan.port,
            &budget,
            |server| receive(server, plan),
            |client| send(client, plan),
        )?,
        Sends::Server => converse(
            lab,
            plan.family,
            plan.port,
            &budget,
            |mut server| {
                server.read_exact(&mut [0; GREETING.len()])?;
                send(server, plan)
            },
            |mut client| {
                client.write_all(GREETING)?;
                receive(client, plan)
            },
        )?,
    };
    let elapsed_ns = monotonic_ns() - start_ns;
    let bits = u128::from(plan.bytes) * 8 * u128::from(NANOS_PER_SEC);
    let bits_per_s = u64::try_from(bits / u128::from(elapsed_ns.max(1))).unwrap_or(u64::MAX);
    Ok(Measured { bytes: plan.bytes, elapsed_ns, bits_per_s, client, server })
}

const GREETING: &[u8] = b"send";
const RECEIPT: &[u8] = b"received";

/// Sends everything, and reads the facts once the other end has confirmed it: then no
/// retransmission can follow.
fn send(mut connection: Connection, plan: &Bulk) -> Result<TcpFacts, TrafficError> {
    if let Some(name) = &plan.congestion {
        connection.use_congestion(name)?;
    }
    let chunk = vec![b'b'; CHUNK_BYTES];
    let mut left = plan.bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        connection.write_all(&chunk[..length])?;
        left -= u64::try_from(length).unwrap_or(left);
    }
    connection.read_exact(&mut [0; RECEIPT.len()])?;
    let facts = connection.facts()?;
    connection.finish_writing()?;
    connection.read_to_end()?;
    Ok(facts)
}

fn receive(mut connection: Connection, plan: &Bulk) -> Result<TcpFacts, TrafficError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = plan.bytes;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        match connection.read(&mut chunk[..length])? {
            0 => return Err(TrafficError::Closed { peer: connection.peer() }),
            count => left -= u64::try_from(count).unwrap_or(left),
        }
    }
    connection.write_all(RECEIPT)?;
    connection.read_to_end()?;
    connection.facts()
}
