//! Paced TCP ping-pong: one request and one response per round, so that every round is one
//! round-trip time. Never has more than one message in flight.

use std::time::Duration;

use serde::Serialize;

use super::connection::{Connection, converse};
use super::{Budget, Samples, Stop, TcpFacts, TrafficError};
use crate::clock::{monotonic_ns, nanos};
use crate::lab::{Family, Lab};

/// Most rounds of one run.
pub const ROUNDS_MAX: u32 = 1_000_000;
/// Largest request or response.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What to do.
#[derive(Debug, Clone)]
pub struct RequestResponse {
    /// IPv4 or IPv6.
    pub family: Family,
    /// How many rounds, up to [`ROUNDS_MAX`].
    pub rounds: u32,
    /// From the start of one round to the start of the next; a round that takes longer delays the
    /// next.
    pub interval: Duration,
    /// Size of a request, 1 to [`MESSAGE_BYTES_MAX`].
    pub request_bytes: usize,
    /// Size of a response, 1 to [`MESSAGE_BYTES_MAX`].
    pub response_bytes: usize,
    /// The server's port; 0 takes any.
    pub port: u16,
    /// Time for everything.
    pub limit: Duration,
}

impl Default for RequestResponse {
    fn default() -> Self {
        Self {
            family: Family::V4,
            rounds: 100,
            interval: Duration::from_millis(10),
            request_bytes: 100,
            response_bytes: 200,
            port: 7000,
            limit: Duration::from_secs(60),
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Rounds that were completed: all.
    pub rounds: u32,
    /// Time from request to whole response, as the client's process saw it.
    pub round_trip: Samples,
    /// The client's end, before it was closed.
    pub client: TcpFacts,
    /// The server's end, before it was closed.
    pub server: TcpFacts,
}

/// Runs all rounds.
pub fn run(lab: &Lab, plan: &RequestResponse) -> Result<Measured, TrafficError> {
    run_until(lab, plan, &Stop::new())
}

/// Runs all rounds or up to the stop.
pub fn run_until(lab: &Lab, plan: &RequestResponse, stop: &Stop) -> Result<Measured, TrafficError> {
    check(plan)?;
    let budget = Budget::new(plan.limit, stop);
    let server = |connection| serve(connection, plan);
    let client = |connection| ask(connection, plan);
    let (server, (client, round_trips)) =
        converse(lab, plan.family, plan.port, &budget, server, client)?;
    Ok(Measured { rounds: plan.rounds, round_trip: Samples::of(round_trips), client, server })
}

fn check(plan: &RequestResponse) -> Result<(), TrafficError> {
    let refuse = |field, value, allowed| {
        Err(TrafficError::Limit { generator: "request-response", field, value, allowed })
    };
    if !(1..=ROUNDS_MAX).contains(&plan.rounds) {
        return refuse("rounds", plan.rounds.into(), "1 to 1000000");
    }
    for (field, bytes) in
        [("request_bytes", plan.request_bytes), ("response_bytes", plan.response_bytes)]
    {
        if !(1..=MESSAGE_BYTES_MAX).contains(&bytes) {
            let value = u64::try_from(bytes).unwrap_or(u64::MAX);
            return refuse(field, value, "1 to 1048576");
        }
    }
    Ok(())
}

/// Answers until the client has finished, and then reads the kernel's facts while the connection is
/// still there.
fn serve(mut connection: Connection, plan: &RequestResponse) -> Result<TcpFacts, TrafficError> {
    let mut request = vec![0; plan.request_bytes];
    let response = vec![b'r'; plan.response_bytes];
    for _ in 0..plan.rounds {
        connection.read_exact(&mut request)?;
        connection.write_all(&response)?;
    }
    connection.read_to_end()?;
    connection.facts()
}

fn ask(
    mut connection: Connection,
    plan: &RequestResponse,
) -> Result<(TcpFacts, Vec<u64>), TrafficError> {
    let request = vec![b'q'; plan.request_bytes];
    let mut response = vec![0; plan.response_bytes];
    let mut round_trips = Vec::new();
    let mut next_ns = monotonic_ns();
    for _ in 0..plan.rounds {
        connection.budget().sleep_until(next_ns, "pace rounds")?;
        let start_ns = monotonic_ns();
        connection.write_all(&request)?;
        connection.read_exact(&mut response)?;
        let end_ns = monotonic_ns();
        round_trips.push(end_ns - start_ns);
        next_ns = (next_ns + nanos(plan.interval)).max(end_ns);
    }
    let facts = connection.facts()?;
    connection.finish_writing()?;
    connection.read_to_end()?;
    Ok((facts, round_trips))
}
