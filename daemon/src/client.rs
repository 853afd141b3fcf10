//! The API's other end: blocking HTTP/1.1 over the unix socket, for the subcommands. Must never be used inside an
//! async runtime; it brings its own.

use std::{
    fmt::Write as _,
    future::poll_fn,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::{net::UnixStream, runtime::Runtime};

use crate::cli::{ExitWith, exit};

/// Where the daemon listens when nothing is said.
pub const SOCKET_DEFAULT: &str = "/run/linnet/api.sock";
/// Largest answer that is not a stream.
const ANSWER_MAX: usize = 64 << 20;
/// How long an answer may take to begin, and to end where it is no stream. Starting a capture may look names up.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// Requests to one daemon, each on a connection of its own, so that one may be made while another streams.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    runtime: Runtime,
}

/// A request that was not answered as it should have been.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no linnet answers on `{path}`; start one with `linnet run`, or name its socket with --socket"
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket is not for this user.
    #[error(
        "cannot open `{path}`: {source}; run as root, as the daemon's user, or as a member of the group `linnet`"
    )]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon said why not (RFC 9457).
    #[error("{detail}")]
    Problem {
        /// HTTP status.
        status: u16,
        /// The documented code.
        code: String,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// The other end does not speak as a linnet does.
    #[error("what answers on `{path}` is no linnet of this version: {detail}")]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// What it said.
        detail: String,
    },
    /// The connection ended before the answer did.
    #[error("the connection to linnet on `{path}` broke: {source}; see whether it still runs")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: hyper::Error,
    },
    /// The answer did not come in time.
    #[error("linnet on `{path}` did not answer within {seconds} s; see its log", seconds = ANSWER_WAIT.as_secs())]
    Late {
        /// The socket.
        path: PathBuf,
    },
    /// The client's own runtime.
    #[error("cannot start the client: {0}")]
    Runtime(io::Error),
    /// Who received a stream could not take it.
    #[error(transparent)]
    Receiver(io::Error),
}

impl ClientError {
    /// The exit code that the error asks for.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => exit::UNREACHABLE,
            Self::Forbidden { .. } | Self::Problem { status: 401 | 403, .. } => exit::PRIVILEGE,
            Self::Problem { status: 409, .. } => exit::BUSY,
            Self::Problem { status: 400 | 422, .. } => exit::USAGE,
            Self::Problem { .. }
            | Self::Foreign { .. }
            | Self::Broken { .. }
            | Self::Late { .. }
            | Self::Runtime(_)
            | Self::Receiver(_) => exit::FAILED,
        }
    }
}

impl From<ClientError> for ExitWith {
    fn from(error: ClientError) -> Self {
        Self { code: error.exit_code(), message: error.to_string() }
    }
}

/// The members of a problem that are read (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    detail: String,
}

impl Client {
    /// A client of the daemon behind a socket; fails if nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ClientError::Runtime)?;
        let client = Self { path: path.to_owned(), runtime };
        client.runtime.block_on(client.dial())?;
        Ok(client)
    }

    /// What `GET path` answers.
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.runtime.block_on(self.json(Method::GET, path, None))
    }

    /// What `POST path` answers to a body of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.runtime.block_on(self.json(Method::POST, path, Some(body)))
    }

    /// What `PUT path` answers to a body of JSON.
    pub fn put(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.runtime.block_on(self.json(Method::PUT, path, Some(body)))
    }

    /// `DELETE path`.
    pub fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.runtime.block_on(self.json(Method::DELETE, path, None)).map(drop)
    }

    /// Hands the body of `GET path` over as it comes, until it ends or the receiver fails.
    pub fn stream(
        &self,
        path: &str,
        mut receiver: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let response = self.runtime.block_on(self.answer(Method::GET, path, None))?;
        let mut body = response.into_body();
        // The receiver runs outside of the runtime: it may block, and make requests of its own.
        while let Some(chunk) = self.runtime.block_on(self.chunk(&mut body))? {
            receiver(&chunk).map_err(ClientError::Receiver)?;
        }
        Ok(())
    }

    async fn dial(&self) -> Result<UnixStream, ClientError> {
        UnixStream::connect(&self.path).await.map_err(|source| {
            let path = self.path.clone();
            if source.kind() == io::ErrorKind::PermissionDenied {
                ClientError::Forbidden { path, source }
            } else {
                ClientError::Unreachable { path, source }
            }
        })
    }

    async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let response = self.answer(method, path, body).await?;
        let bytes = self.whole(response).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| self.foreign(error.to_string()))
    }

    /// Sends a request and waits for the head of its answer; a problem is an error.
    async fn answer(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = TokioIo::new(self.dial().await?);
        let (mut sender, connection) =
            http1::handshake(stream).await.map_err(|error| self.broken(error))?;
        // Its errors are those of the request and of the body.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(String::new, Value::to_string))
            .map_err(|error| self.foreign(error.to_string()))?;
        let late = |_| ClientError::Late { path: self.path.clone() };
        let sent = tokio::time::timeout(ANSWER_WAIT, sender.send_request(request)).await;
        let response = sent.map_err(late)?.map_err(|error| self.broken(error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = self.whole(response).await?;
        Err(self.problem(status, &bytes))
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let mut body = response.into_body();
        let read = async {
            let mut whole = Vec::new();
            while let Some(chunk) = self.chunk(&mut body).await? {
                if whole.len() + chunk.len() > ANSWER_MAX {
                    return Err(self.foreign(format!("its answer exceeds {ANSWER_MAX} bytes")));
                }
                whole.extend_from_slice(&chunk);
            }
            Ok(Bytes::from(whole))
        };
        let late = |_| ClientError::Late { path: self.path.clone() };
        tokio::time::timeout(ANSWER_WAIT, read).await.map_err(late)?
    }

    /// The next bytes of a body.
    async fn chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
        loop {
            let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
            match frame.transpose().map_err(|error| self.broken(error))?.map(|it| it.into_data()) {
                Some(Ok(data)) => return Ok(Some(data)),
                // Trailers say nothing here.
                Some(Err(_)) => {}
                None => return Ok(None),
            }
        }
    }

    fn problem(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(Problem { code, detail }) => {
                ClientError::Problem { status: status.as_u16(), code, detail }
            }
            Err(_) => self.foreign(format!("it answered {status}")),
        }
    }

    fn broken(&self, source: hyper::Error) -> ClientError {
        ClientError::Broken { path: self.path.clone(), source }
    }

    fn foreign(&self, detail: String) -> ClientError {
        ClientError::Foreign { path: self.path.clone(), detail }
    }
}

/// A path with its query, percent-encoded (RFC 3986); absent values are left out.
#[must_use]
pub fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut uri = path.to_owned();
    let mut separator = '?';
    for (name, value) in parameters {
        let Some(value) = value else { continue };
        uri.push(separator);
        separator = '&';
        uri.push_str(name);
        uri.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                write!(uri, "%{byte:02X}").expect("a string takes all");
            }
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixListener,
        thread,
    };

    use super::*;

    /// A server that answers one request after the connection that tests whether it is there.
    fn answering(answer: &'static str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let _head = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        (folder, path)
    }

    #[test]
    fn nobody_there_is_exit_code_69_and_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let error = Client::connect(&folder.path().join("api.sock")).unwrap_err();
        let exit = ExitWith::from(error);
        assert_eq!(exit.code, 69);
        assert!(exit.message.contains("start one with `linnet run`"), "{exit}");
    }

    #[test]
    fn a_problem_is_an_error_with_its_detail() {
        let (_folder, path) = answering(
            "HTTP/1.1 422 Unprocessable Entity\r\ncontent-length: 44\r\n\r\n\
             {\"code\":\"invalid_filter\",\"detail\":\"no such\"}",
        );
        let error = Client::connect(&path).unwrap().get("/x").unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().as_str()), (64, "no such"));
    }

    #[test]
    fn a_stream_that_ends_early_is_broken() {
        let (_folder, path) = answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345");
        let mut received = Vec::new();
        let client = Client::connect(&path).unwrap();
        let error = client.stream("/x", |chunk| received.write_all(chunk)).unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
        assert_eq!(received, b"12345");
    }

    #[test]
    fn what_is_no_http_is_an_error() {
        let (_folder, path) = answering("SSH-2.0-OpenSSH_9.2\r\n");
        let error = Client::connect(&path).unwrap().get("/x").unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
    }

    #[test]
    fn queries_are_percent_encoded_and_skip_what_is_absent() {
        let parameters = [("a", None), ("b", Some("x y&z=1".to_owned())), ("c", Some("é".into()))];
        assert_eq!(with_query("/f", &parameters), "/f?b=x%20y%26z%3D1&c=%C3%A9");
    }
}
