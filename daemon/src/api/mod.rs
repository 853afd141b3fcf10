//! HTTP: parse, call, render; nothing else. Every route stands here.

pub mod access;
mod captures;
mod error;
mod flows;
mod pages;
pub mod serve;
mod sessions;
mod state;
mod status;

pub use error::ApiError;
pub use state::ApiState;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, header},
    middleware,
    routing::{get, post},
};
use tower_http::set_header::SetResponseHeaderLayer;

/// Largest request body.
const BODY_MAX: usize = 64 * 1024;

/// Nothing but our own files may run, and nothing may write markup.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; \
     form-action 'self'; require-trusted-types-for 'script'";

/// Every route.
pub fn router(state: ApiState) -> Router {
    let api = Router::new()
        .route("/version", get(status::version))
        .route("/status", get(status::status))
        .route("/interfaces", get(status::interfaces))
        .route("/flows", get(flows::list))
        .route("/flows/{id}", get(flows::one))
        .route("/captures", get(captures::list).post(captures::start))
        .route("/captures/{id}", get(captures::one).delete(captures::remove))
        .route("/captures/{id}/stop", post(captures::stop))
        .route("/captures/{id}/file", get(captures::file))
        .route("/captures/{id}/live", get(captures::live));
    let guarded = Router::new()
        .nest("/api/v1", api)
        .route("/metrics", get(status::metrics))
        .route_layer(middleware::from_fn_with_state(state.clone(), access::require));
    let open = Router::new()
        .route("/api/v1/sessions", post(sessions::create))
        .route("/api/v1/sessions/current", axum::routing::delete(sessions::end))
        .route("/healthz", get(status::health))
        .route("/livez", get(status::health))
        .route("/readyz", get(status::ready))
        .route("/", get(pages::index))
        .route("/assets/{name}", get(pages::asset));
    guarded
        .merge(open)
        .fallback(error::no_route)
        .method_not_allowed_fallback(error::no_method)
        .layer(middleware::from_fn(access::same_site))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(constant(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY))
        .layer(constant(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(constant(header::REFERRER_POLICY, "no-referrer"))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::CACHE_CONTROL,
            HeaderValue::from_static("no-store"),
        ))
        .with_state(state)
}

fn constant(name: header::HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
}
