//! `/flows`: pages of the flow table.

use std::{collections::BTreeSet, net::IpAddr};

use axum::{
    Json,
    extract::{Path, State},
    http::Uri,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use datapath::ConntrackState;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    ApiError, ApiState,
    parameters::{Parameters, value},
};
use crate::flow::{
    FlowId, FlowQuery, FlowRecord, FlowView, LossView,
    query::{Cursor, FlowFilter, PAGE_MAX, Place, UnknownSort},
    view::protocol_number,
};

/// What a list of flows can be asked for.
const PARAMETERS: [&str; 9] =
    ["protocol", "address", "port", "state", "interface", "live", "sort", "limit", "cursor"];

/// A page as it is sent; written straight into the answer, since a page of 1,000 flows is 2 MB of text.
#[derive(Debug, Serialize)]
pub(super) struct PageView {
    flows: Vec<FlowView>,
    next: Option<String>,
    total: usize,
    loss: LossView,
}

pub(super) async fn list(
    State(state): State<ApiState>,
    uri: Uri,
) -> Result<Json<PageView>, ApiError> {
    let query = parse(&state, &uri)?;
    let page = state.flows.page(&query);
    let naming = state.board.naming.latest();
    Ok(Json(PageView {
        flows: page.flows.iter().map(|flow| FlowView::new(flow, &naming, true)).collect(),
        next: page.next.map(|cursor| encode(&query, cursor)),
        total: page.total,
        loss: state.loss(),
    }))
}

pub(super) async fn one(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let flow = named(&state, &id)?;
    let view = FlowView::new(&flow, &state.board.naming.latest(), true);
    Ok(Json(json!({ "flow": view, "loss": state.loss() })))
}

/// The flow whose id is in a path.
pub(super) fn named(state: &ApiState, id: &str) -> Result<FlowRecord, ApiError> {
    let id: FlowId = value("id", id)?;
    state.flows.get(id).ok_or_else(|| no_flow(id))
}

pub(super) fn no_flow(id: FlowId) -> ApiError {
    ApiError::not_found(format!(
        "there is no flow {id}; it may have ended longer ago than flows are kept"
    ))
}

fn parse(state: &ApiState, uri: &Uri) -> Result<FlowQuery, ApiError> {
    let parameters = Parameters::read(uri, &PARAMETERS)?;
    let filter = FlowFilter {
        protocol: parameters.text("protocol").map(protocol).transpose()?,
        address: parameters.text("address").map(address).transpose()?,
        port: parameters.text("port").map(port).transpose()?,
        state: parameters.text("state").map(conntrack_state).transpose()?,
        place: parameters.text("interface").map(|name| place(state, name)).transpose()?,
        live: parameters.text("live").map(live).transpose()?,
    };
    let mut query = FlowQuery { filter, ..FlowQuery::default() };
    if let Some(text) = parameters.text("sort") {
        let field = text.strip_prefix('-');
        query.descending = field.is_some();
        query.sort = field
            .unwrap_or(text)
            .parse()
            .map_err(|error: UnknownSort| ApiError::parameter("sort", error.to_string()))?;
    }
    if let Some(text) = parameters.text("limit") {
        query.limit = limit(text)?;
    }
    if let Some(text) = parameters.text("cursor") {
        query.after = Some(cursor(&query, text)?);
    }
    Ok(query)
}

fn protocol(text: &str) -> Result<u8, ApiError> {
    protocol_number(text).ok_or_else(|| {
        let detail = format!("`{text}` is no protocol; use a name like tcp or a number up to 255");
        ApiError::parameter("protocol", detail)
    })
}

fn address(text: &str) -> Result<IpAddr, ApiError> {
    text.parse().map_err(|_| {
        let detail = format!("`{text}` is no address; use one like 192.0.2.1 or 2001:db8::1");
        ApiError::parameter("address", detail)
    })
}

fn port(text: &str) -> Result<u16, ApiError> {
    text.parse().map_err(|_| {
        let detail = format!("`{text}` is no port; use a number from 0 to {}", u16::MAX);
        ApiError::parameter("port", detail)
    })
}

fn live(text: &str) -> Result<bool, ApiError> {
    text.parse().map_err(|_| {
        let detail =
            format!("`{text}` is neither true nor false; use one of them, or leave it out");
        ApiError::parameter("live", detail)
    })
}

fn conntrack_state(text: &str) -> Result<ConntrackState, ApiError> {
    let mut states = ConntrackState::ALL.iter().copied();
    states.clone().find(|state| state.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
        // TCP and SCTP share some names.
        let known: BTreeSet<_> = states.by_ref().map(ConntrackState::name).collect();
        let known: Vec<_> = known.into_iter().collect();
        let detail = format!("`{text}` is no state; known are {}", known.join(", "));
        ApiError::parameter("state", detail)
    })
}

/// An interface that is watched, or that has gone and is still listed.
fn place(state: &ApiState, interface: &str) -> Result<Place, ApiError> {
    let naming = state.board.naming.latest();
    let named = naming.points.iter().filter(|(_, point)| point.interface == interface);
    let points: Vec<_> = named.map(|(point, _)| *point).collect();
    let listed = state.board.interfaces.latest();
    if points.is_empty() && !listed.iter().any(|known| known.name == interface) {
        let detail =
            format!("linnet watches no interface `{interface}`; /api/v1/interfaces lists them");
        return Err(ApiError::parameter("interface", detail));
    }
    Ok(Place { interface: interface.to_owned(), points })
}

fn limit(text: &str) -> Result<usize, ApiError> {
    text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit)).ok_or_else(|| {
        let detail = format!("`{text}` is no number between 1 and {PAGE_MAX}");
        ApiError::parameter("limit", detail)
    })
}

/// Where the page before ended; it has to be in the same order.
fn cursor(query: &FlowQuery, text: &str) -> Result<Cursor, ApiError> {
    let bad = |detail: String| ApiError::parameter("cursor", detail);
    let Some((order, cursor)) = decode(text) else {
        return Err(bad("this is no cursor; use the `next` of a page".into()));
    };
    if order != order_of(query) {
        let detail = format!("this cursor is of a page sorted by `{order}`; keep `sort` as it was");
        return Err(bad(detail));
    }
    Ok(cursor)
}

fn order_of(query: &FlowQuery) -> String {
    format!("{}{}", if query.descending { "-" } else { "" }, query.sort.name())
}

fn encode(query: &FlowQuery, cursor: Cursor) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}:{}:{}", order_of(query), cursor.value, cursor.id))
}

fn decode(text: &str) -> Option<(String, Cursor)> {
    let plain = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let mut parts = plain.split(':');
    let order = parts.next()?.to_owned();
    let cursor = Cursor { value: parts.next()?.parse().ok()?, id: parts.next()?.parse().ok()? };
    Some((order, cursor))
}
