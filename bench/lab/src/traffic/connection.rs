//! A TCP connection between the lab's two ends, whose every wait is bounded. Never blocks longer
//! than its budget.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::limits::SLICE;
use super::{Budget, TcpFacts, TrafficError};
use crate::lab::{Family, Lab};
use crate::namespace::Namespace;

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    budget: Budget,
}

impl Connection {
    /// Connects from inside `namespace`.
    pub(super) fn connect(
        namespace: &Namespace,
        peer: SocketAddr,
        budget: &Budget,
    ) -> Result<Self, TrafficError> {
        budget.check("connect")?;
        let stream = namespace
            .run(|| TcpStream::connect_timeout(&peer, budget.left()))?
            .map_err(|source| socket_error("connect", peer, source))?;
        Self::over(stream, peer, budget)
    }

    /// Takes over a stream: no coalescing of small writes, and waits in slices.
    fn over(stream: TcpStream, peer: SocketAddr, budget: &Budget) -> Result<Self, TrafficError> {
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(SLICE)))
            .and_then(|()| stream.set_write_timeout(Some(SLICE)))
            .map_err(|source| socket_error("set up a connection", peer, source))?;
        Ok(Self { stream, peer, budget: budget.clone() })
    }

    /// Uses the named congestion control from here on.
    pub(super) fn use_congestion(&self, name: &str) -> Result<(), TrafficError> {
        setsockopt(&self.stream, sockopt::TcpCongestion, &OsString::from(name))
            .map_err(|errno| socket_error("choose congestion control", self.peer, errno.into()))
    }

    /// Reads something; 0 is the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TrafficError> {
        loop {
            self.budget.check("read")?;
            match self.stream.read(buffer) {
                Ok(count) => return Ok(count),
                Err(error) if is_wait(&error) => {}
                Err(source) => return Err(socket_error("read", self.peer, source)),
            }
        }
    }

    /// Reads all of `buffer`.
    pub(super) fn read_exact(&mut self, mut buffer: &mut [u8]) -> Result<(), TrafficError> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => return Err(TrafficError::Closed { peer: self.peer }),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), TrafficError> {
        while !bytes.is_empty() {
            self.budget.check("write")?;
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_wait(&error) => {}
                Err(source) => return Err(socket_error("write", self.peer, source)),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be written.
    pub(super) fn finish_writing(&self) -> Result<(), TrafficError> {
        let done = self.stream.shutdown(Shutdown::Write);
        done.map_err(|source| socket_error("shut down", self.peer, source))
    }

    /// Waits for the other end's end.
    pub(super) fn read_to_end(&mut self) -> Result<(), TrafficError> {
        let mut rest = [0; 4096];
        while self.read(&mut rest)? > 0 {}
        Ok(())
    }

    /// What the kernel knows about it.
    pub(super) fn facts(&self) -> Result<TcpFacts, TrafficError> {
        TcpFacts::of(&self.stream)
            .map_err(|source| socket_error("read TCP_INFO", self.peer, source))
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }
}

/// Listens inside `namespace`; accepting never blocks.
pub(super) fn listen(namespace: &Namespace, at: SocketAddr) -> Result<TcpListener, TrafficError> {
    namespace
        .run(|| {
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?
        .map_err(|source| socket_error("listen", at, source))
}

/// The next connection, waited for within the budget.
pub(super) fn accept(listener: &TcpListener, budget: &Budget) -> Result<Connection, TrafficError> {
    let any = || listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    loop {
        budget.check("accept")?;
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false).map_err(|e| socket_error("accept", peer, e))?;
                return Connection::over(stream, peer, budget);
            }
            Err(error) if is_wait(&error) => wait_readable(listener),
            Err(source) => return Err(socket_error("accept", any(), source)),
        }
    }
}

/// One connection through the lab: `server` gets the accepted end, `client` the connecting one.
/// Returns what both made of it; the first error of either ends both.
pub(super) fn converse<S: Send, C>(
    lab: &Lab,
    family: Family,
    port: u16,
    budget: &Budget,
    server: impl FnOnce(Connection) -> Result<S, TrafficError> + Send,
    client: impl FnOnce(Connection) -> Result<C, TrafficError>,
) -> Result<(S, C), TrafficError> {
    let listener = listen(lab.server(), lab.server_socket(family, port))?;
    let at = listener
        .local_addr()
        .map_err(|source| socket_error("listen", lab.server_socket(family, port), source))?;
    let (failed, has_failed) = mpsc::channel();
    thread::scope(|scope| {
        let serving = scope.spawn(move || {
            let answer = accept(&listener, budget).and_then(server);
            failed.send(answer.is_err()).ok();
            answer
        });
        let answer = Connection::connect(lab.client(), at, budget).and_then(client);
        // The server's end closes with its thread, so a client that waits for it sees the end; a
        // server whose client failed before connecting would wait for its budget: connect to it
        // once.
        if answer.is_err() && has_failed.try_recv().is_err() {
            lab.client().run(|| TcpStream::connect_timeout(&at, SLICE).ok()).ok();
        }
        let served = match serving.join() {
            Ok(served) => served,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match (served, answer) {
            (Ok(served), Ok(answer)) => Ok((served, answer)),
            // The client's side of the story, unless it only saw the server go.
            (Err(cause), Err(TrafficError::Closed { .. })) | (Err(cause), Ok(_)) => Err(cause),
            (_, Err(cause)) => Err(cause),
        }
    })
}

pub(super) fn socket_error(
    action: &'static str,
    peer: SocketAddr,
    source: io::Error,
) -> TrafficError {
    TrafficError::Socket { action, peer, source }
}

/// True where the call only ran out of its slice.
pub(super) fn is_wait(error: &io::Error) -> bool {
    [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted].contains(&error.kind())
}

/// Waits up to one slice for something to read or accept.
fn wait_readable(socket: &impl AsFd) {
    let timeout = PollTimeout::try_from(SLICE).unwrap_or(PollTimeout::ZERO);
    poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout).ok();
}
