//! DNS over UDP: real queries with real answers, some of which never come. Never resolves anything
//! beyond the lab.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use serde::Serialize;

use super::connection::socket_error;
use super::limits::SLICE;
use super::{Background, Budget, Samples, Stop, TrafficError, datagram};
use crate::clock::{monotonic_ns, nanos};
use crate::lab::{Family, Lab};
use crate::rng::Rng;

/// Most queries of one run.
pub const QUERIES_MAX: u32 = 1_000_000;
/// Where name servers listen.
pub const PORT: u16 = 53;
/// Bytes of a DNS header (RFC 1035, 4.1.1).
pub(crate) const HEADER_BYTES: usize = 12;
const NAME_BYTES_MAX: usize = 255;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// What to do.
#[derive(Debug, Clone)]
pub struct Dns {
    /// IPv4 or IPv6 underneath; asks for addresses of the same family.
    pub family: Family,
    /// How many queries, 1 to [`QUERIES_MAX`].
    pub queries: u32,
    /// From the start of one query to the start of the next.
    pub interval: Duration,
    /// Every n-th query is never answered; 0 for none.
    pub silent_every: u32,
    /// Every n-th query asks for a name that does not exist; 0 for none.
    pub missing_every: u32,
    /// How long to wait for an answer.
    pub patience: Duration,
    /// Time for everything.
    pub limit: Duration,
    /// Seed of the query ids.
    pub seed: u64,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            family: Family::V4,
            queries: 20,
            interval: Duration::from_millis(20),
            silent_every: 10,
            missing_every: 7,
            patience: Duration::from_millis(500),
            limit: Duration::from_secs(60),
            seed: 1,
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Measured {
    /// Queries sent.
    pub queries: u32,
    /// Queries answered, name errors included.
    pub answered: u32,
    /// Answers that said that the name does not exist.
    pub name_errors: u32,
    /// Queries without an answer in time.
    pub unanswered: u32,
    /// From query to answer.
    pub response_time: Samples,
}

/// A name server that answers until dropped: names under `silent.` never, names under `missing.`
/// with a name error, others with the lab's server address.
#[derive(Debug)]
pub struct Server {
    _threads: Background,
}

impl Server {
    /// Listens on port 53 inside the lab's server namespace.
    pub fn start(lab: &Lab, family: Family) -> Result<Self, TrafficError> {
        let socket = datagram::bind(lab.server(), lab.server_socket(family, PORT))?;
        let address = lab.server_address(family);
        let mut threads = Background::new();
        threads.spawn(lab.server(), "lab-dns", move |stop| serve(&socket, address, &stop))?;
        Ok(Self { _threads: threads })
    }
}

/// Starts a server, asks all queries, and stops the server.
pub fn run(lab: &Lab, plan: &Dns) -> Result<Measured, TrafficError> {
    let _server = Server::start(lab, plan.family)?;
    ask_until(lab, plan, &Stop::new())
}

/// Asks a running server, or gives up at the stop. Each query has a socket of its own, as resolvers
/// do.
pub fn ask_until(lab: &Lab, plan: &Dns, stop: &Stop) -> Result<Measured, TrafficError> {
    if !(1..=QUERIES_MAX).contains(&plan.queries) {
        let (field, value, allowed) = ("queries", plan.queries.into(), "1 to 1000000");
        return Err(TrafficError::Limit { generator: "dns", field, value, allowed });
    }
    let budget = Budget::new(plan.limit, stop);
    let mut rng = Rng::new(plan.seed);
    let mut measured = Measured::default();
    let mut times = Vec::new();
    let mut next_ns = monotonic_ns();
    for number in 1..=plan.queries {
        budget.sleep_until(next_ns, "pace queries")?;
        let kind = match () {
            () if is_nth(number, plan.silent_every) => "silent",
            () if is_nth(number, plan.missing_every) => "missing",
            () => "www",
        };
        let question = query(rng.next_u16(), &format!("host{number}.{kind}.lab"), plan.family);
        let start_ns = monotonic_ns();
        let answer = exchange(lab, plan, &question, &budget)?;
        measured.queries += 1;
        match answer {
            Some(code) => {
                measured.answered += 1;
                measured.name_errors += u32::from(code == NAME_ERROR);
                times.push(monotonic_ns() - start_ns);
            }
            None => measured.unanswered += 1,
        }
        next_ns = (next_ns + nanos(plan.interval)).max(monotonic_ns());
    }
    measured.response_time = Samples::of(times);
    Ok(measured)
}

const NAME_ERROR: u8 = 3;

/// Sends one query and waits for its answer; returns the response code.
fn exchange(
    lab: &Lab,
    plan: &Dns,
    question: &[u8],
    budget: &Budget,
) -> Result<Option<u8>, TrafficError> {
    let server = lab.server_socket(plan.family, PORT);
    let failed = |source| socket_error("ask", server, source);
    let socket = datagram::connect(lab.client(), lab.client_address(plan.family), server)?;
    socket.send(question).map_err(failed)?;
    let deadline_ns = monotonic_ns() + nanos(plan.patience);
    let mut buffer = [0; datagram::DATAGRAM_BYTES_MAX];
    loop {
        budget.check("wait for an answer")?;
        let left = Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns()));
        if left.is_zero() {
            return Ok(None);
        }
        let received = datagram::receive(&socket, &mut buffer, left.min(SLICE)).map_err(failed)?;
        if let Some((length, _)) = received
            && length >= HEADER_BYTES
            && buffer[..2] == question[..2]
        {
            return Ok(Some(buffer[3] & 0x0f));
        }
    }
}

fn serve(socket: &UdpSocket, address: IpAddr, stop: &Stop) {
    let mut buffer = [0; datagram::DATAGRAM_BYTES_MAX];
    while !stop.is_set() {
        let Ok(received) = datagram::receive(socket, &mut buffer, SLICE) else {
            stop.wait(SLICE);
            continue;
        };
        let Some((length, from)) = received else { continue };
        let Some(name) = question_name(&buffer[..length]) else { continue };
        if name.contains(".silent.") {
            continue;
        }
        let answer = (!name.contains(".missing.")).then_some(address);
        // A client that has gone is its own problem.
        socket.send_to(&response(&buffer[..length], answer), from).ok();
    }
}

/// A query with one question for an address of `name` (RFC 1035, 4.1), with recursion desired.
pub(crate) fn query(id: u16, name: &str, family: Family) -> Vec<u8> {
    let kind = match family {
        Family::V4 => TYPE_A,
        Family::V6 => TYPE_AAAA,
    };
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let bytes = label.as_bytes();
        let bytes = &bytes[..bytes.len().min(63)];
        message.push(u8::try_from(bytes.len()).unwrap_or(0));
        message.extend(bytes);
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(1_u16.to_be_bytes());
    message
}

/// The answer to `query`, which must be one: an address, or a name error.
pub(crate) fn response(query: &[u8], address: Option<IpAddr>) -> Vec<u8> {
    let mut message = query.to_vec();
    // A response, recursion desired and available; then the answer's count.
    message[2] = 0x81;
    message[3] = 0x80 | if address.is_some() { 0 } else { NAME_ERROR };
    message[6..8].copy_from_slice(&u16::from(address.is_some()).to_be_bytes());
    let (kind, bytes) = match address {
        None => return message,
        Some(IpAddr::V4(v4)) => (TYPE_A, v4.octets().to_vec()),
        Some(IpAddr::V6(v6)) => (TYPE_AAAA, v6.octets().to_vec()),
    };
    // The name as a pointer to the question's.
    message.extend([0xc0, 0x0c]);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1, 0, 0, 0, 60]);
    message.extend(u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
    message.extend(bytes);
    message
}

/// The name asked for, with a dot behind each label; `None` where it is not a query.
fn question_name(message: &[u8]) -> Option<String> {
    let mut at = HEADER_BYTES;
    let mut name = String::new();
    while name.len() <= NAME_BYTES_MAX {
        let length = usize::from(*message.get(at)?);
        if length == 0 {
            return Some(name);
        }
        name.push_str(std::str::from_utf8(message.get(at + 1..at + 1 + length)?).ok()?);
        name.push('.');
        at += 1 + length;
    }
    None
}

fn is_nth(number: u32, every: u32) -> bool {
    every != 0 && number.is_multiple_of(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_round_trip() {
        let message = query(7, "host1.www.lab", Family::V4);
        assert_eq!(question_name(&message).as_deref(), Some("host1.www.lab."));
        assert_eq!(question_name(&message[..14]), None);
    }

    #[test]
    fn a_missing_name_is_a_name_error_without_an_answer() {
        let message = response(&query(7, "x.missing.lab", Family::V6), None);
        assert_eq!((message[3] & 0x0f, message[7]), (NAME_ERROR, 0));
    }
}
