//! A tiny HTTP/1.1 server and client: `GET /bytes/N` answers N bytes, over connections that are
//! kept or closed. Never serves anything but filler.

use std::net::{SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use super::connection::{Connection, accept, listen};
use super::{Background, Budget, LIMIT_MAX, Samples, Stop, TrafficError};
use crate::clock::{monotonic_ns, nanos};
use crate::lab::{Family, Lab};
use crate::namespace::Namespace;

/// Most requests of one run.
pub const REQUESTS_MAX: u32 = 1_000_000;
/// Largest response body.
pub const BODY_BYTES_MAX: u64 = 1 << 30;
/// Connections served at once; more wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 64;
/// Longest head of a request or response.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// What becomes of a connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// All requests over one connection.
    KeepAlive,
    /// A connection per request.
    Close,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Http {
    /// IPv4 or IPv6.
    pub family: Family,
    /// How many requests, 1 to [`REQUESTS_MAX`].
    pub requests: u32,
    /// Size of each body, up to [`BODY_BYTES_MAX`].
    pub response_bytes: u64,
    /// One connection or many.
    pub reuse: Reuse,
    /// From the start of one request to the start of the next.
    pub interval: Duration,
    /// The server's port.
    pub port: u16,
    /// Time for everything.
    pub limit: Duration,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            family: Family::V4,
            requests: 10,
            response_bytes: 10_000,
            reuse: Reuse::KeepAlive,
            interval: Duration::from_millis(20),
            port: 80,
            limit: Duration::from_secs(60),
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Requests answered: all.
    pub requests: u32,
    /// Connections made.
    pub connections: u32,
    /// Bytes of bodies received.
    pub body_bytes: u64,
    /// From the request's first byte to the response's last; without the connection's handshake.
    pub response_time: Samples,
}

/// A server that answers until dropped.
#[derive(Debug)]
pub struct Server {
    _threads: Background,
    at: SocketAddr,
}

impl Server {
    /// Listens inside the lab's server namespace; port 0 takes any.
    pub fn start(lab: &Lab, family: Family, port: u16) -> Result<Self, TrafficError> {
        Self::start_in(lab.server(), lab.server_socket(family, port))
    }

    fn start_in(namespace: &Namespace, at: SocketAddr) -> Result<Self, TrafficError> {
        let listener = listen(namespace, at)?;
        let at = listener.local_addr().unwrap_or(at);
        let mut threads = Background::new();
        threads.spawn(namespace, "lab-http", move |stop| serve_all(&listener, &stop))?;
        Ok(Self { _threads: threads, at })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.at
    }
}

/// Starts a server, makes all requests, and stops the server.
pub fn run(lab: &Lab, plan: &Http) -> Result<Measured, TrafficError> {
    let server = Server::start(lab, plan.family, plan.port)?;
    fetch_until(lab, plan, server.address(), &Stop::new())
}

/// Makes all requests to a running server, or gives up at the stop.
pub fn fetch_until(
    lab: &Lab,
    plan: &Http,
    server: SocketAddr,
    stop: &Stop,
) -> Result<Measured, TrafficError> {
    check(plan)?;
    let budget = Budget::new(plan.limit, stop);
    let (mut times, mut connections, mut body_bytes) = (Vec::new(), 0, 0);
    let mut kept = None;
    let mut next_ns = monotonic_ns();
    for _ in 0..plan.requests {
        budget.sleep_until(next_ns, "pace requests")?;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => {
                connections += 1;
                Connection::connect(lab.client(), server, &budget)?
            }
        };
        let start_ns = monotonic_ns();
        body_bytes += fetch(&mut connection, plan)?;
        let end_ns = monotonic_ns();
        times.push(end_ns - start_ns);
        match plan.reuse {
            Reuse::KeepAlive => kept = Some(connection),
            Reuse::Close => connection.read_to_end()?,
        }
        next_ns = (next_ns + nanos(plan.interval)).max(end_ns);
    }
    let response_time = Samples::of(times);
    Ok(Measured { requests: plan.requests, connections, body_bytes, response_time })
}

fn check(plan: &Http) -> Result<(), TrafficError> {
    let refuse = |field, value, allowed| {
        Err(TrafficError::Limit { generator: "http", field, value, allowed })
    };
    if !(1..=REQUESTS_MAX).contains(&plan.requests) {
        return refuse("requests", plan.requests.into(), "1 to 1000000");
    }
    if plan.response_bytes > BODY_BYTES_MAX {
        return refuse("response_bytes", plan.response_bytes, "up to 1 GiB");
    }
    Ok(())
}

/// One request and its whole response; returns the body's bytes.
fn fetch(connection: &mut Connection, plan: &Http) -> Result<u64, TrafficError> {
    let end = match plan.reuse {
        Reuse::KeepAlive => "keep-alive",
        Reuse::Close => "close",
    };
    let request = format!(
        "GET /bytes/{} HTTP/1.1\r\nHost: server.lab\r\nUser-Agent: lab\r\nConnection: {end}\r\n\r\n",
        plan.response_bytes
    );
    connection.write_all(request.as_bytes())?;
    let Some((head, early)) = read_head(connection)? else {
        return Err(TrafficError::Closed { peer: connection.peer() });
    };
    let length = content_length(&head).filter(|_| head.starts_with("HTTP/1.1 200 "));
    let Some(length) = length else {
        let what = head.lines().next().unwrap_or("nothing").to_owned();
        return Err(TrafficError::Answer { peer: connection.peer(), what });
    };
    let mut left = length.saturating_sub(early);
    let mut buffer = [0; 16 << 10];
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
        match connection.read(&mut buffer[..room])? {
            0 => return Err(TrafficError::Closed { peer: connection.peer() }),
            count => left -= u64::try_from(count).unwrap_or(left),
        }
    }
    Ok(length)
}

/// A head up to its empty line, and how many bytes of body came with it; `None` where the
/// connection ended between messages.
fn read_head(connection: &mut Connection) -> Result<Option<(String, u64)>, TrafficError> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = u64::try_from(bytes.len() - end - 4).unwrap_or(0);
            return Ok(Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), body)));
        }
        if bytes.len() > HEAD_BYTES_MAX {
            let what = format!("a head of more than {HEAD_BYTES_MAX} bytes");
            return Err(TrafficError::Answer { peer: connection.peer(), what });
        }
        match connection.read(&mut buffer)? {
            0 if bytes.is_empty() => return Ok(None),
            0 => return Err(TrafficError::Closed { peer: connection.peer() }),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn content_length(head: &str) -> Option<u64> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    value.trim().parse().ok()
}

fn serve_all(listener: &TcpListener, stop: &Stop) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    while !stop.is_set() {
        // The server outlives every limit of its clients, so each connection starts with a budget
        // of its own.
        let budget = Budget::new(LIMIT_MAX, stop);
        connections.retain(|thread| !thread.is_finished());
        if connections.len() >= CONNECTIONS_MAX {
            if stop.wait(Duration::from_millis(5)) {
                break;
            }
            continue;
        }
        match accept(listener, &budget) {
            Ok(connection) => {
                // A client that misbehaves or goes away is its own problem.
                let serve = move || drop(serve(connection));
                let thread = thread::Builder::new().name("lab-http-conn".to_owned()).spawn(serve);
                connections.extend(thread.ok());
            }
            Err(error) if error.is_stop() => break,
            // Out of descriptors or a client that reset at once: try again a little later.
            Err(_) => {
                stop.wait(Duration::from_millis(5));
            }
        }
    }
    for thread in connections {
        thread.join().ok();
    }
}

/// Answers requests on one connection until either side closes it.
fn serve(mut connection: Connection) -> Result<(), TrafficError> {
    while let Some((head, _)) = read_head(&mut connection)? {
        let path = head.split_whitespace().nth(1).unwrap_or("");
        let bytes = path.strip_prefix("/bytes/").and_then(|number| number.parse::<u64>().ok());
        let closes = head.to_ascii_lowercase().contains("connection: close");
        let Some(bytes) = bytes.filter(|bytes| *bytes <= BODY_BYTES_MAX) else {
            connection.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        respond(&mut connection, bytes, if closes { "close" } else { "keep-alive" })?;
        if closes {
            connection.finish_writing()?;
            return connection.read_to_end();
        }
    }
    Ok(())
}

fn respond(connection: &mut Connection, bytes: u64, end: &str) -> Result<(), TrafficError> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {bytes}\r\nConnection: {end}\r\n\r\n"
    );
    let filler = [b'x'; 16 << 10];
    // Head and the first of the body in one write, as servers do.
    let first = usize::try_from(bytes).unwrap_or(filler.len()).min(filler.len());
    connection.write_all(&[head.as_bytes(), &filler[..first]].concat())?;
    let mut left = bytes - u64::try_from(first).unwrap_or(bytes);
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(filler.len()).min(filler.len());
        connection.write_all(&filler[..length])?;
        left -= u64::try_from(length).unwrap_or(left);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_length_is_found_in_any_case() {
        assert_eq!(content_length("HTTP/1.1 200 OK\r\nCONTENT-length: 42"), Some(42));
        assert_eq!(content_length("HTTP/1.1 200 OK\r\nHost: x"), None);
    }
}
