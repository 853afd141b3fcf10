//! A UDP socket inside a namespace, whose waits come in slices. Never blocks longer than it is
//! told.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::TrafficError;
use super::connection::{is_wait, socket_error};
use crate::namespace::Namespace;

/// Largest datagram that is read.
pub(super) const DATAGRAM_BYTES_MAX: usize = 2048;

/// Binds inside `namespace`; port 0 takes any.
pub(super) fn bind(namespace: &Namespace, at: SocketAddr) -> Result<UdpSocket, TrafficError> {
    let bound = namespace.run(|| UdpSocket::bind(at))?;
    bound.map_err(|source| socket_error("bind", at, source))
}

/// A client's socket, connected to `server`.
pub(super) fn connect(
    namespace: &Namespace,
    own: IpAddr,
    server: SocketAddr,
) -> Result<UdpSocket, TrafficError> {
    let socket = bind(namespace, SocketAddr::new(own, 0))?;
    socket.connect(server).map_err(|source| socket_error("connect", server, source))?;
    Ok(socket)
}

/// The next datagram within `wait`; `None` where there was none.
pub(super) fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    wait: Duration,
) -> io::Result<Option<(usize, SocketAddr)>> {
    socket.set_read_timeout(Some(wait.max(Duration::from_micros(1))))?;
    match socket.recv_from(buffer) {
        Ok(received) => Ok(Some(received)),
        // Refused: an ICMP error of an earlier datagram, which is no news about the next.
        Err(error) if is_wait(&error) || error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
