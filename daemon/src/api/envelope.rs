//! What stands around every answer: a request id, the security headers, problems in one form, and a count.
//! Never changes what a handler answered.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use metrics::counter;

use super::ApiError;
use crate::metrics::HTTP_REQUESTS;

/// Nothing but our own files may run, and nothing may write markup.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; \
     form-action 'self'; require-trusted-types-for 'script'";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers that differ in nothing else have these.
const HEADERS: [(HeaderName, &str); 6] = [
    // Another linnet that wants the same port knows its like by this.
    (header::SERVER, super::listen::SERVER),
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Wraps an answer; the outermost layer.
pub(super) async fn wrap(request: Request, next: Next) -> Response {
    let id = request_id();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str).to_owned();
    let mut response = in_one_form(next.run(request).await, &path, &id);
    let status = response.status();
    dress(response.headers_mut(), &id);
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(%id, %method, route, "a request failed");
    } else {
        tracing::debug!(%id, %method, route, %status, "answered");
    }
    let labels = [
        ("method", method_label(&method).to_owned()),
        ("route", route),
        ("code", status.as_str().to_owned()),
    ];
    counter!(HTTP_REQUESTS, &labels).increment(1);
    response
}

/// Problems get what only the request knows; bare refusals of a library become problems. What headers say of the
/// refusal, like `Allow`, stays.
fn in_one_form(mut response: Response, path: &str, id: &str) -> Response {
    let status = response.status();
    let error = match response.extensions_mut().remove::<Arc<ApiError>>() {
        Some(error) => error,
        None if status.is_client_error() || status.is_server_error() => {
            Arc::new(ApiError::of_status(status))
        }
        None => return response,
    };
    let mut problem = error.render(path, id);
    let headers = response.headers_mut();
    for of_the_body in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        headers.remove(of_the_body);
    }
    problem.headers_mut().extend(std::mem::take(headers));
    problem
}

fn dress(headers: &mut HeaderMap, id: &str) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
}

/// Unique on this host for as long as logs are compared: a random start, then counting.
fn request_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::LazyLock<u64> = std::sync::LazyLock::new(rand::random);
    format!("{:016x}", START.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Methods are the client's to choose; labels are not.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_headers_and_a_bare_one_becomes_a_problem() {
        let bare = Response::builder()
            .status(StatusCode::RANGE_NOT_SATISFIABLE)
            .header(header::CONTENT_RANGE, "bytes */7")
            .header(header::CONTENT_TYPE, "text/plain");
        let problem = in_one_form(bare.body("no".into()).unwrap(), "/x", "1");
        assert_eq!(problem.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(problem.headers()[header::CONTENT_RANGE], "bytes */7");
        assert_eq!(problem.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn request_ids_differ() {
        let ids: std::collections::HashSet<_> = (0..100).map(|_| request_id()).collect();
        assert_eq!(ids.len(), 100);
    }

    #[test]
    fn labels_do_not_grow_with_what_clients_send() {
        assert_eq!(method_label(&Method::GET), "GET");
        assert_eq!(method_label(&Method::from_bytes(b"EVIL1").unwrap()), "other");
    }
}
