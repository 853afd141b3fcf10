//! Listening: the unix socket, and loopback for browsers. Connections carry who is at their other end.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use axum::{Router, extract::connect_info::Connected, serve::IncomingStream};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::access::Peer;

/// The sockets, bound but not yet served.
#[derive(Debug)]
pub struct Bound {
    tcp: TcpListener,
    unix: UnixListener,
    /// Where the unix socket is.
    pub path: PathBuf,
    /// Where browsers go.
    pub address: SocketAddr,
}

/// A socket that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The TCP address.
    #[error(
        "cannot listen on {address}: {source}; choose another one with --listen 127.0.0.1:PORT"
    )]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The unix socket.
    #[error("cannot listen on `{path}`: {source}")]
    Unix {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another daemon answers there.
    #[error("another linnet answers on `{0}`; stop it, or give this one a --run-dir of its own")]
    InUse(PathBuf),
}

/// Binds both. A socket file that nobody answers on is an earlier run's and is replaced.
pub async fn bind(run_dir: &Path, address: SocketAddr) -> Result<Bound, BindError> {
    let path = run_dir.join("api.sock");
    if UnixStream::connect(&path).await.is_ok() {
        return Err(BindError::InUse(path));
    }
    let failed = |source| BindError::Unix { path: path.clone(), source };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let unix = UnixListener::bind(&path).map_err(failed)?;
    let tcp =
        TcpListener::bind(address).await.map_err(|source| BindError::Tcp { address, source })?;
    let address = tcp.local_addr().map_err(|source| BindError::Tcp { address, source })?;
    Ok(Bound { tcp, unix, path, address })
}

/// Serves until told to stop, then lets requests at hand end.
pub async fn serve(bound: Bound, router: Router, stop: CancellationToken) -> io::Result<()> {
    let service = router.into_make_service_with_connect_info::<Peer>();
    let stopped = |stop: CancellationToken| async move { stop.cancelled().await };
    let tcp = axum::serve(bound.tcp, service.clone()).with_graceful_shutdown(stopped(stop.clone()));
    let unix = axum::serve(bound.unix, service).with_graceful_shutdown(stopped(stop));
    let (tcp, unix) = tokio::join!(tcp.into_future(), unix.into_future());
    // What is gone already needs no removing.
    let _gone = std::fs::remove_file(&bound.path);
    tcp.and(unix)
}

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let local = stream.io().local_addr();
        Self::Tcp(local.unwrap_or_else(|_| *stream.remote_addr()))
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        // A peer that cannot be named is nobody.
        Self::Unix(stream.io().peer_cred().map_or(u32::MAX, |peer| peer.uid()))
    }
}
