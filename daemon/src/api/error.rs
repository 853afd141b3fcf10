//! Errors as RFC 9457 problem details. What a client sees and what is logged are two things.

use std::sync::Arc;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use captures::FilterError;
use serde::Serialize;

use crate::{capture::CaptureError, live::LiveError};

/// One problem. A response carries it as an extension, as `Arc<ApiError>`, until `envelope.rs` renders it: only
/// there are path and request id known.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
    /// The parameter or field at fault.
    parameter: Option<String>,
    /// Where in it, in bytes.
    position: Option<usize>,
    /// When to try again.
    retry_after_s: Option<u64>,
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
    instance: &'a str,
    request_id: &'a str,
}

impl ApiError {
    /// A problem with its documented code.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { status, code, detail, parameter: None, position: None, retry_after_s: None }
    }

    /// A parameter that cannot be used.
    pub fn parameter(name: &str, detail: impl Into<String>) -> Self {
        Self {
            parameter: Some(name.to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail)
        }
    }

    /// A field of a body that cannot be used.
    pub(super) fn field(name: String, detail: impl Into<String>) -> Self {
        Self {
            parameter: Some(name),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", detail)
        }
    }

    /// Something that needs the attacher, which has died.
    pub(super) fn attacher_gone(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "attacher_gone", detail)
    }

    /// Something that is not there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// Something that may be tried again later.
    pub(super) const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// What stands for a refusal that came without a problem: a library's, or a handler's panic.
    pub(super) fn of_status(status: StatusCode) -> Self {
        if status.is_server_error() {
            let detail = "this is a fault of linnet; its log has more, see this request's id";
            return Self::new(status, "internal", detail);
        }
        let detail = "the request cannot be read; see docs/api.md for what this route takes";
        Self::new(status, "invalid_request", detail)
    }

    /// The problem as the answer to one request.
    pub(super) fn render(&self, path: &str, request_id: &str) -> Response {
        let problem = Problem {
            r#type: format!("urn:linnet:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            parameter: self.parameter.as_deref(),
            position: self.position,
            retry_after_s: self.retry_after_s,
            instance: path,
            request_id,
        };
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<FilterError> for ApiError {
    fn from(error: FilterError) -> Self {
        let detail = error.to_string();
        match error {
            FilterError::LibpcapMissing { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "libpcap_missing", detail)
            }
            FilterError::Expression { .. }
            | FilterError::TooLong { .. }
            | FilterError::NulByte
            | FilterError::NotOfTheFrame { .. }
            | FilterError::Program { .. } => Self {
                parameter: Some("filter".to_owned()),
                position: error.position(),
                ..Self::new(StatusCode::BAD_REQUEST, "invalid_filter", detail)
            },
        }
    }
}

impl From<CaptureError> for ApiError {
    fn from(error: CaptureError) -> Self {
        let detail = error.to_string();
        match error {
            CaptureError::TooMany => Self::new(StatusCode::CONFLICT, "too_many_captures", detail),
            CaptureError::Filter(error) => error.into(),
            CaptureError::Field { field, .. } => Self::field(field.to_owned(), detail),
            CaptureError::Unknown(_) => Self::not_found(detail),
            CaptureError::DiskFull { .. } => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", detail)
            }
            CaptureError::Unavailable(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "capture_unavailable", detail)
            }
            CaptureError::Failed(error)
                if error.downcast_ref().is_some_and(LiveError::is_of_the_attacher) =>
            {
                Self::attacher_gone(detail)
            }
            CaptureError::Failed(_) => {
                tracing::error!(%detail, "a capture failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "capture_failed", detail)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// No such route.
pub(super) async fn no_route(uri: axum::http::Uri) -> ApiError {
    ApiError::not_found(format!(
        "there is nothing at `{}`; docs/api.md lists the routes",
        uri.path()
    ))
}

/// A route, but not with this method.
pub(super) async fn no_method(method: axum::http::Method) -> ApiError {
    let detail = format!("`{method}` is not for this route; docs/api.md says what is");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
