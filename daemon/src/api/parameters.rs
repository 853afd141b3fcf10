//! The parameters of a query: each known to its route, each at most once. Never ignores one.

use std::{fmt::Display, str::FromStr};

use axum::{
    extract::{Query, Request},
    http::Uri,
    middleware::Next,
    response::Response,
};

use super::ApiError;

/// What stands behind the `?`, decoded.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads those that the route knows; any other is refused by its name.
    pub(super) fn read(uri: &Uri, known: &[&str]) -> Result<Self, ApiError> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::new(error.status(), "invalid_request", error.body_text()))?;
        let pairs = pairs.0;
        for (index, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let known = match known {
                    [] => "this route has none".to_owned(),
                    known => format!("known are {}", known.join(", ")),
                };
                let detail = format!("there is no parameter `{name}`; {known}");
                return Err(ApiError::parameter(name, detail));
            }
            if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                let detail = format!("`{name}` is there twice; say it once");
                return Err(ApiError::parameter(name, detail));
            }
        }
        Ok(Self(pairs))
    }

    /// A parameter as written.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }
}

/// A text as a value, or why it is none.
pub(super) fn value<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|error: T::Err| ApiError::parameter(name, format!("`{text}`: {error}")))
}

/// For routes that have no parameters.
pub(super) async fn none(request: Request, next: Next) -> Result<Response, ApiError> {
    Parameters::read(request.uri(), &[])?;
    Ok(next.run(request).await)
}
