//! The accept loops: each connection gets its peer, its limits, and a place among a bounded number. Never looks into
//! a request.

use std::{future::ready, io, pin::Pin, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{
    access::Peer,
    listen::{Bound, unix_peer},
};

/// Connections over loopback at a time. The next ones wait in the kernel until one ends; the unix socket has places of
/// its own, so that nobody on loopback can lock root out.
const TCP_CONNECTIONS_MAX: usize = 256;
/// Connections over the unix socket at a time.
const UNIX_CONNECTIONS_MAX: usize = 256;
/// A request's line and headers, bytes. Browsers send cookies of every port of this host.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// How long the next request's headers may take to arrive, counted from when the connection became idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a reader over loopback may take nothing of what is sent to it: anyone can be one there. Over the unix
/// socket a paused reader keeps its place.
const STUCK_TIMEOUT: Duration = Duration::from_secs(30);
/// What requests at hand have to end when the daemon stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// From a failed accept to the next; out of descriptors, it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
struct Server {
    router: Router,
    stop: CancellationToken,
    connections: TaskTracker,
}

/// Serves until told to stop, then lets requests at hand end, within bounds.
pub async fn serve(bound: Bound, router: Router, stop: CancellationToken) -> io::Result<()> {
    let tcp_listener = TcpListener::from_std(bound.tcp.try_clone()?)?;
    let unix_listener = UnixListener::from_std(bound.unix.try_clone()?)?;
    let server = Server { router, stop, connections: TaskTracker::new() };
    let tcp = || async {
        let (stream, _) = tcp_listener.accept().await?;
        // Where this fails the connection is over, and its first read says so.
        let _delayed = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(STUCK_TIMEOUT));
        Ok(Box::pin(stream))
    };
    let tcp_peer = |stream: &Pin<Box<TimeoutStream<TcpStream>>>| {
        ready(stream.get_ref().local_addr().ok().map(|local| Peer::Tcp { local }))
    };
    let unix = || async { Ok(unix_listener.accept().await?.0) };
    tokio::join!(
        server.accept(TCP_CONNECTIONS_MAX, tcp, tcp_peer),
        server.accept(UNIX_CONNECTIONS_MAX, unix, unix_peer),
    );
    drop(bound);
    server.connections.close();
    server.connections.wait().await;
    Ok(())
}

impl Server {
    /// Takes connections while there are places, until told to stop.
    async fn accept<S, A, P>(&self, places_max: usize, next: impl Fn() -> A, peer: impl Fn(&S) -> P)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        A: Future<Output = io::Result<S>>,
        P: Future<Output = Option<Peer>> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(places_max));
        let next_in_place = async || {
            let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
            (next().await, place)
        };
        loop {
            let (accepted, place) = tokio::select! {
                accepted = next_in_place() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok(stream) => self.start(peer(&stream), stream, place),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Serves one connection in a task of its own, which keeps the place.
    fn start<S, P>(&self, peer: P, stream: S, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        P: Future<Output = Option<Peer>> + Send + 'static,
    {
        let (router, stop) = (self.router.clone(), self.stop.clone());
        self.connections.spawn(async move {
            match peer.await {
                Some(peer) => converse(stream, peer, router, stop).await,
                None => tracing::debug!("a connection ended before its peer was known"),
            }
            drop(place);
        });
    }
}

/// Answers the requests of one connection.
async fn converse<S>(stream: S, peer: Peer, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            // A reader that is stuck does not hold up the stop.
            tokio::time::timeout(STOP_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, ?peer, "a connection ended early");
    }
}
