//! A paced stream of numbered UDP datagrams from client to server. Never retransmits: what is lost
//! is the measurement.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::connection::socket_error;
use super::limits::SLICE;
use super::{Budget, Stop, TrafficError, datagram};
use crate::clock::{monotonic_ns, nanos};
use crate::lab::{Family, Lab};

/// Most datagrams of one run.
pub const DATAGRAMS_MAX: u32 = 10_000_000;
/// Largest payload, which with IPv6 still fits one frame.
pub const PAYLOAD_BYTES_MAX: usize = 1452;
/// Smallest payload: the number.
pub const PAYLOAD_BYTES_MIN: usize = 4;
/// How long the receiver waits after the last datagram was sent.
const GRACE: Duration = Duration::from_millis(500);

/// What to do.
#[derive(Debug, Clone)]
pub struct UdpStream {
    /// IPv4 or IPv6.
    pub family: Family,
    /// How many, 1 to [`DATAGRAMS_MAX`].
    pub datagrams: u32,
    /// Bytes in each, [`PAYLOAD_BYTES_MIN`] to [`PAYLOAD_BYTES_MAX`].
    pub payload_bytes: usize,
    /// From one to the next.
    pub interval: Duration,
    /// The server's port; 0 takes any.
    pub port: u16,
    /// Time for everything.
    pub limit: Duration,
}

impl Default for UdpStream {
    fn default() -> Self {
        Self {
            family: Family::V4,
            datagrams: 200,
            payload_bytes: 172,
            interval: Duration::from_millis(5),
            port: 5004,
            limit: Duration::from_secs(60),
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Datagrams sent.
    pub sent: u32,
    /// Different datagrams received.
    pub received: u32,
    /// Datagrams received once more.
    pub duplicates: u32,
    /// Datagrams received after a later one.
    pub out_of_order: u32,
    /// The client's port.
    pub client_port: u16,
}

/// Sends all.
pub fn run(lab: &Lab, plan: &UdpStream) -> Result<Measured, TrafficError> {
    run_until(lab, plan, &Stop::new())
}

/// Sends all, or gives up at the stop.
pub fn run_until(lab: &Lab, plan: &UdpStream, stop: &Stop) -> Result<Measured, TrafficError> {
    check(plan)?;
    let budget = Budget::new(plan.limit, stop);
    let receiver = datagram::bind(lab.server(), lab.server_socket(plan.family, plan.port))?;
    let server = lab.server_socket(plan.family, plan.port);
    let at = receiver.local_addr().map_err(|source| socket_error("bind", server, source))?;
    let sender = datagram::connect(lab.client(), lab.client_address(plan.family), at)?;
    let client_port = sender.local_addr().map_or(0, |own| own.port());
    let all_sent = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, plan, &all_sent, &budget));
        let sent = send(&sender, plan, &budget);
        all_sent.store(true, Ordering::Release);
        let received = match receiving.join() {
            Ok(received) => received,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        sent?;
        Ok(Measured { sent: plan.datagrams, client_port, ..received? })
    })
}

fn check(plan: &UdpStream) -> Result<(), TrafficError> {
    let refuse = |field, value, allowed| {
        Err(TrafficError::Limit { generator: "udp", field, value, allowed })
    };
    if !(1..=DATAGRAMS_MAX).contains(&plan.datagrams) {
        return refuse("datagrams", plan.datagrams.into(), "1 to 10000000");
    }
    if !(PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&plan.payload_bytes) {
        let value = u64::try_from(plan.payload_bytes).unwrap_or(u64::MAX);
        return refuse("payload_bytes", value, "4 to 1452");
    }
    Ok(())
}

fn send(socket: &UdpSocket, plan: &UdpStream, budget: &Budget) -> Result<(), TrafficError> {
    let mut payload = vec![b'u'; plan.payload_bytes];
    let start_ns = monotonic_ns();
    for number in 0..plan.datagrams {
        budget.check("send datagrams")?;
        let at_ns = start_ns + nanos(plan.interval).saturating_mul(number.into());
        budget.sleep_until(at_ns, "pace datagrams")?;
        payload[..PAYLOAD_BYTES_MIN].copy_from_slice(&number.to_be_bytes());
        // A refusal is the answer to an earlier datagram; the stream goes on, as a real one would.
        socket.send(&payload).ok();
    }
    Ok(())
}

/// Receives until every datagram was here, or all were sent and none came for a while.
fn receive(
    socket: &UdpSocket,
    plan: &UdpStream,
    all_sent: &AtomicBool,
    budget: &Budget,
) -> Result<Measured, TrafficError> {
    let mut seen = vec![false; usize::try_from(plan.datagrams).unwrap_or(0)];
    let mut measured = Measured::default();
    let mut highest = None;
    let mut buffer = [0; datagram::DATAGRAM_BYTES_MAX];
    let mut quiet_since_ns = monotonic_ns();
    while measured.received < plan.datagrams {
        budget.check("receive datagrams")?;
        let received = datagram::receive(socket, &mut buffer, SLICE / 4);
        let at = socket.local_addr();
        let received = received.map_err(|source| match at {
            Ok(at) => socket_error("receive", at, source),
            Err(_) => socket_error("receive", ([0, 0, 0, 0], plan.port).into(), source),
        })?;
        if received.is_none() {
            let quiet_ns = monotonic_ns() - quiet_since_ns;
            if all_sent.load(Ordering::Acquire) && quiet_ns >= nanos(GRACE) {
                break;
            }
            continue;
        }
        quiet_since_ns = monotonic_ns();
        let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        let Some(was_seen) = usize::try_from(number).ok().and_then(|at| seen.get_mut(at)) else {
            continue;
        };
        if std::mem::replace(was_seen, true) {
            measured.duplicates += 1;
        } else {
            measured.received += 1;
            measured.out_of_order += u32::from(highest.is_some_and(|highest| number < highest));
        }
        highest = highest.max(Some(number));
    }
    Ok(measured)
}
