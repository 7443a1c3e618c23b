//! Client of the daemon's control API: HTTP with JSON over a unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

/// How long a patient client waits between two attempts.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

/// Where the daemon listens.
#[derive(clap::Args)]
pub(crate) struct SocketArg {
    /// The daemon's control socket
    #[arg(long, default_value = "/run/cowback/control.sock", value_name = "PATH")]
    socket: PathBuf,
}

/// Why the daemon could not be asked.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// Nobody listens.
    #[error("the daemon does not answer on {}: {cause}; is cowbackd running?", socket.display())]
    Connect { socket: PathBuf, cause: io::Error },
    /// The conversation broke off.
    #[error("the daemon broke off the conversation on {}: {cause}", socket.display())]
    Broken { socket: PathBuf, cause: String },
    /// The daemon said no, and why.
    #[error("{0}")]
    Refused(String),
    /// The daemon does not have what it was asked for.
    #[error("{0}")]
    NotFound(String),
    /// The answer is not what this version understands.
    #[error("the daemon's answer is not understood: {0}")]
    Answer(serde_json::Error),
}

impl ClientError {
    /// Whether it looks like a daemon that is starting.
    fn is_of_no_daemon(&self) -> bool {
        match self {
            Self::Connect { cause, .. } => matches!(
                cause.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ),
            Self::Broken { .. } => true,
            Self::Refused(_) | Self::NotFound(_) | Self::Answer(_) => false,
        }
    }
}

/// The body of an answer that is a refusal.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// A client of one daemon.
pub(crate) struct Client<'a> {
    socket: &'a Path,
    /// How long it tries again while no daemon answers.
    patience: Duration,
}

impl<'a> Client<'a> {
    pub(crate) fn new(socket: &'a SocketArg) -> Self {
        Self::at(&socket.socket)
    }

    /// A client of the daemon that listens there.
    pub(crate) fn at(socket: &'a Path) -> Self {
        Self {
            socket,
            patience: Duration::ZERO,
        }
    }

    /// Tries again for so long while no daemon answers. For what may be asked twice.
    #[must_use]
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new())
    }

    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, Bytes::from(body.to_string()))
    }

    pub(crate) fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, ClientError> {
        self.call(Method::PUT, path, Bytes::from(body.to_string()))
    }

    pub(crate) fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, ClientError> {
        self.call(Method::PATCH, path, Bytes::from(body.to_string()))
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|cause| self.broken(cause))?;
        let (status, body) = runtime.block_on(self.exchange_patiently(method, path, body))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(ClientError::Answer);
        }
        let refusal: Refusal = serde_json::from_slice(&body).map_err(|_| {
            let text = String::from_utf8_lossy(&body);
            ClientError::Refused(format!("the daemon answered {status}: {text}"))
        })?;
        Err(match status {
            StatusCode::NOT_FOUND => ClientError::NotFound(refusal.error),
            _ => ClientError::Refused(refusal.error),
        })
    }

    async fn exchange_patiently(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let begun = Instant::now();
        loop {
            let result = self.exchange(method.clone(), path, body.clone()).await;
            let next_daemon_may_do = match &result {
                // It is stopping.
                Ok((status, _)) => *status == StatusCode::SERVICE_UNAVAILABLE,
                Err(error) => error.is_of_no_daemon(),
            };
            if !next_daemon_may_do || begun.elapsed() >= self.patience {
                return result;
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream =
            UnixStream::connect(self.socket)
                .await
                .map_err(|cause| ClientError::Connect {
                    socket: self.socket.to_owned(),
                    cause,
                })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|cause| self.broken(cause))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cowbackd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|cause| self.broken(cause))?;
        // Owns the sender, and with it ends the connection.
        let answer = async move {
            let mut sender = sender;
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        let (answer, _) = tokio::join!(answer, connection);
        answer.map_err(|cause| self.broken(cause))
    }

    fn broken(&self, cause: impl std::fmt::Display) -> ClientError {
        ClientError::Broken {
            socket: self.socket.to_owned(),
            cause: cause.to_string(),
        }
    }
}
