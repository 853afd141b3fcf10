//! HTTP: parse, call, render; nothing else. Every route stands here.

mod access;
mod captures;
mod diagnoses;
mod envelope;
mod error;
mod events;
mod filters;
mod flows;
mod guard;
mod listen;
mod pages;
mod parameters;
mod rules;
mod secrets;
mod serve;
mod sessions;
mod state;
mod status;

pub use access::Access;
pub use captures::Commenting;
pub use error::ApiError;
pub use listen::{BindError, Bound, bind, bind_tcp};
pub use serve::serve;
pub use state::ApiState;

use axum::{
    Router, middleware,
    routing::{delete, get, post},
};
use tower_http::catch_panic::CatchPanicLayer;

/// Every route.
pub fn router(state: ApiState) -> Router {
    let plain = Router::new()
        .route("/version", get(status::version))
        .route("/status", get(status::status))
        .route("/interfaces", get(status::interfaces))
        .route("/services", get(status::services))
        .route("/flows/{id}", get(flows::one))
        .route("/flows/{id}/diagnoses", get(diagnoses::of_flow))
        .route("/diagnoses", get(diagnoses::list))
        .route("/tcp/summary", get(events::summary))
        .route("/captures", get(captures::list).post(captures::start))
        .route("/captures/{id}", get(captures::one).delete(captures::remove))
        .route("/captures/{id}/stop", post(captures::stop))
        .route("/filters/validate", post(filters::validate))
        .route("/rules", get(rules::list).put(rules::set))
        .route_layer(middleware::from_fn(parameters::none));
    let with_parameters = Router::new()
        .route("/captures/{id}/file", get(captures::file))
        .route("/captures/{id}/live", get(captures::live))
        .route("/flows", get(flows::list))
        .route("/flows/{id}/events", get(events::of_flow));
    let guarded = Router::new()
        .nest("/api/v1", plain.merge(with_parameters))
        .route("/metrics", get(status::metrics))
        .route_layer(middleware::from_fn_with_state(state.clone(), guard::require));
    let sessions = Router::new()
        .route("/api/v1/sessions", post(sessions::create))
        .route("/api/v1/sessions/current", delete(sessions::end))
        .route_layer(middleware::from_fn(parameters::none));
    let open = Router::new()
        .route("/healthz", get(status::health))
        .route("/livez", get(status::health))
        .route("/readyz", get(status::ready))
        .route("/", get(pages::index))
        .route("/assets/{name}", get(pages::asset));
    guarded
        .merge(sessions)
        .merge(open)
        .fallback(error::no_route)
        .method_not_allowed_fallback(error::no_method)
        .layer(CatchPanicLayer::new())
        .layer(middleware::from_fn(guard::whole_body))
        .layer(middleware::from_fn(guard::same_site))
        .layer(middleware::from_fn(envelope::wrap))
        .with_state(state)
}
