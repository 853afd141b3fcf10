//! What a request must pass before a handler sees it: it is for this host, of this site, of someone who may ask,
//! and its body is small and arrives in time. Never looks at what is asked for.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};
use futures_util::StreamExt as _;
use metrics::counter;

use super::{
    ApiError, ApiState,
    access::{GROUP, Peer},
};
use crate::metrics::AUTH_FAILURES;

/// Largest request body, bytes: no filter or login comes near it.
const BODY_MAX: usize = 64 * 1024;
/// Largest list of rules, bytes: the most rules, with every key written out, are 300 KiB.
const RULES_BODY_MAX: usize = 512 * 1024;
/// The route that takes it.
const RULES: &str = "/api/v1/rules";
/// Bytes of a body that is too large that are read all the same.
const PASSED_OVER_MAX: usize = 1024 * 1024;
/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Lets a request through that has the right to ask.
pub(super) async fn require(
    State(state): State<ApiState>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if state.access.admits(peer, request.headers()) {
        return Ok(next.run(request).await);
    }
    Err(match peer {
        Peer::Unix { .. } => {
            counter!(AUTH_FAILURES, "reason" => "unix_peer").increment(1);
            let detail = format!(
                "the unix socket is for root, the daemon's own user and the group `{GROUP}`; join it, or use 127.0.0.1 with a token"
            );
            ApiError::new(StatusCode::FORBIDDEN, "forbidden", detail)
        }
        Peer::Tcp { .. } => {
            counter!(AUTH_FAILURES, "reason" => "token").increment(1);
            let detail = "send `Authorization: Bearer TOKEN` (the file `token` of the run folder has it), or log in";
            ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
        }
    })
}

/// Refuses names that merely resolve to loopback (DNS rebinding), and what another site's page makes a browser send.
pub(super) async fn same_site(
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if let Peer::Tcp { local } = peer {
        let checked = check_host(local, request.headers()).and_then(|host| {
            // A link from elsewhere may open the page, which then asks for data as itself.
            let path = request.uri().path();
            let data = path == "/metrics" || path.starts_with("/api/");
            if data { check_site(host, request.headers()) } else { Ok(()) }
        });
        if let Err(detail) = checked {
            counter!(AUTH_FAILURES, "reason" => "site").increment(1);
            return Err(ApiError::new(StatusCode::FORBIDDEN, "cross_site", detail));
        }
    }
    Ok(next.run(request).await)
}

/// The one `Host`, if it is a name of ours with our port.
fn check_host(local: SocketAddr, headers: &HeaderMap) -> Result<&str, String> {
    let port = local.port();
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return Err("send one Host header".into()),
    };
    let ours = ["localhost", "127.0.0.1", "[::1]"];
    let known = ours.iter().any(|name| host.eq_ignore_ascii_case(&format!("{name}:{port}")))
        || host == local.to_string()
        || (port == 80 && ours.contains(&host));
    if known {
        return Ok(host);
    }
    Err(format!(
        "the Host header is not 127.0.0.1:{port} or localhost:{port}; open one of them (a port forwarded with ssh must keep its number)"
    ))
}

/// Browsers say where a request comes from. Another port of this host is the same site to them and gets our cookie,
/// so only our own origin will do. Tools other than browsers say nothing.
fn check_site(host: &str, headers: &HeaderMap) -> Result<(), String> {
    let refused = || Err("requests of another site's pages are refused".to_owned());
    for origin in headers.get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        if !origin.strip_prefix("http://").is_some_and(|name| name.eq_ignore_ascii_case(host)) {
            return refused();
        }
    }
    for site in headers.get_all("sec-fetch-site") {
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return refused();
        }
    }
    Ok(())
}

/// Takes the whole body first, so that no handler waits for a slow one. All bodies are JSON: one that says otherwise
/// may be a form of another site's page, which browsers send without asking us.
pub(super) async fn whole_body(request: Request, next: Next) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let most = if parts.uri.path() == RULES { RULES_BODY_MAX } else { BODY_MAX };
    let waits = parts.headers.contains_key(header::EXPECT);
    let body = tokio::time::timeout(BODY_TIMEOUT, collect(body, most, waits)).await.map_err(
        |_late| {
            let detail = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
        },
    )??;
    if !body.is_empty() && !is_json(&parts.headers) {
        let detail = "send the body as JSON, with `Content-Type: application/json`";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(ApiError::new(status, "unsupported_media_type", detail));
    }
    Ok(next.run(Request::from_parts(parts, body.into())).await)
}

/// Reads on for a while: a client that cannot send does not look for an answer.
async fn pass_over(mut chunks: axum::body::BodyDataStream) {
    let mut left = PASSED_OVER_MAX;
    while let Some(Ok(chunk)) = chunks.next().await {
        let Some(less) = left.checked_sub(chunk.len()) else { return };
        left = less;
    }
}

/// `waits` where the client sends its body only when asked to.
async fn collect(body: Body, most: usize, waits: bool) -> Result<Vec<u8>, ApiError> {
    use axum::body::HttpBody as _;
    let too_large = || {
        let detail = format!("a body has at most {most} bytes here");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    // What says its length is refused before it is sent (RFC 9110, 10.1.1).
    if body.size_hint().lower() > most as u64 {
        if !waits {
            pass_over(body.into_data_stream()).await;
        }
        return Err(too_large());
    }
    let (mut chunks, mut whole) = (body.into_data_stream(), Vec::new());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            let detail = format!("the body cannot be read: {error}");
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", detail)
        })?;
        if whole.len() + chunk.len() > most {
            pass_over(chunks).await;
            return Err(too_large());
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|text| text.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_names_of_this_host_with_the_right_port_will_do() {
        let local = "127.0.0.1:8470".parse().unwrap();
        for (host, known) in [
            ("127.0.0.1:8470", true),
            ("localhost:8470", true),
            ("LOCALHOST:8470", true),
            ("[::1]:8470", true),
            ("localhost", false),
            ("localhost:80", false),
            ("localhost:84700", false),
            ("localhost.evil.example:8470", false),
            ("evil.example:8470", false),
            ("", false),
        ] {
            assert_eq!(check_host(local, &headers(&[("host", host)])).is_ok(), known, "{host}");
        }
        assert!(check_host(local, &HeaderMap::new()).is_err());
        let mut two = headers(&[("host", "localhost:8470")]);
        two.append("host", "localhost:8470".parse().unwrap());
        assert!(check_host(local, &two).is_err());
    }

    #[test]
    fn only_our_own_origin_may_ask() {
        let check = |pairs: &[_]| check_site("localhost:8470", &headers(pairs)).is_ok();
        assert!(check(&[]), "curl");
        assert!(check(&[("sec-fetch-site", "same-origin"), ("origin", "http://localhost:8470")]));
        assert!(check(&[("sec-fetch-site", "none")]), "typed by a person");
        assert!(!check(&[("sec-fetch-site", "cross-site")]));
        assert!(!check(&[("sec-fetch-site", "same-site")]), "another port of this host");
        assert!(!check(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]));
        for origin in
            ["null", "http://localhost:3000", "http://127.0.0.1:8470", "https://localhost:8470"]
        {
            assert!(!check(&[("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn only_json_is_json() {
        for (media_type, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json-patch+json", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(is_json(&headers(&[("content-type", media_type)])), json, "{media_type}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
