//! HTTP over the daemon's unix socket, for the command line. Blocking: a command does one thing.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, runtime::Runtime};

use crate::cli::{ExitWith, exit};

/// A daemon's unix socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client of the daemon at `path`; nothing is asked yet.
    pub fn new(path: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { path: path.to_owned(), runtime })
    }

    /// Asks for JSON.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::GET, path, None)
    }

    /// Sends JSON and gets some.
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.json(Method::POST, path, Some(body))
    }

    /// Removes something.
    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.json(Method::DELETE, path, None)
    }

    fn json(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let mut bytes = Vec::new();
        self.exchange(method, path, body, |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Hands out a body as it comes.
    pub fn stream(
        &self,
        path: &str,
        visit: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        self.exchange(Method::GET, path, None, visit)
    }

    fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        mut visit: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let mut sender = self.connect().await?;
            let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "linnet")
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(bytes)))?;
            let mut response = sender.send_request(request).await?;
            let status = response.status();
            let mut problem = Vec::new();
            while let Some(frame) = response.frame().await {
                let Ok(chunk) = frame?.into_data() else { continue };
                if status.is_success() {
                    visit(&chunk)?;
                } else {
                    problem.extend_from_slice(&chunk);
                }
            }
            if status.is_success() { Ok(()) } else { Err(refused(status, &problem)) }
        })
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = UnixStream::connect(&self.path).await.map_err(|source| ExitWith {
            code: exit::UNREACHABLE,
            message: format!(
                "no linnet answers on `{}`: {source}; start one with `linnet run`, or name its socket with --socket",
                self.path.display()
            ),
        })?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // The other side closing is how a connection ends.
            let _closed = connection.await;
        });
        Ok(sender)
    }
}

/// The detail of a problem, with the exit code of its kind.
fn refused(status: StatusCode, problem: &[u8]) -> anyhow::Error {
    let detail = serde_json::from_slice::<Value>(problem)
        .ok()
        .and_then(|problem| problem["detail"].as_str().map(ToOwned::to_owned))
        .unwrap_or_else(|| format!("the daemon answered {status}"));
    let code = match status.as_u16() {
        400 | 422 => exit::USAGE,
        401 | 403 => exit::PRIVILEGE,
        409 => exit::BUSY,
        _ => exit::FAILED,
    };
    ExitWith { code, message: detail }.into()
}
