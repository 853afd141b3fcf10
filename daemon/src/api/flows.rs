//! `/flows`: pages of the flow table.

use std::{collections::HashMap, fmt::Display, str::FromStr};

use axum::{
    Json,
    extract::{Path, Query, State},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use datapath::ConntrackState;
use serde_json::{Value, json};

use super::{ApiError, ApiState};
use crate::flow::{
    FlowId, FlowQuery, FlowView, SortField,
    query::{Cursor, PAGE_MAX},
    view::protocol_number,
};

pub(super) async fn list(
    State(state): State<ApiState>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<Json<Value>, ApiError> {
    let query = parse(&state, &parameters)?;
    let page = state.flows.page(&query);
    let naming = state.board.naming.latest();
    let flows: Vec<_> = page.flows.iter().map(|flow| FlowView::new(flow, &naming, true)).collect();
    let next = page.next.map(|cursor| encode(&query, cursor));
    let loss = state.board.loss.latest();
    Ok(Json(json!({ "flows": flows, "next": next, "total": page.total, "loss": &*loss })))
}

pub(super) async fn one(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let id: FlowId = value("id", &id)?;
    let flow = state.flows.get(id).ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no flow {id}; it may have ended longer ago than flows are kept"
        ))
    })?;
    let view = FlowView::new(&flow, &state.board.naming.latest(), true);
    Ok(Json(json!({ "flow": view, "loss": &*state.board.loss.latest() })))
}

fn value<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|error: T::Err| ApiError::parameter(name, format!("`{text}`: {error}")))
}

fn parse(state: &ApiState, parameters: &HashMap<String, String>) -> Result<FlowQuery, ApiError> {
    let mut query = FlowQuery::default();
    for (name, text) in parameters {
        let bad = |detail: String| Err(ApiError::parameter(name, detail));
        match name.as_str() {
            "protocol" => match protocol_number(text) {
                Some(number) => query.filter.protocol = Some(number),
                None => return bad(format!("`{text}` is no protocol; use a name like tcp or a number")),
            },
            "address" => query.filter.address = Some(value(name, text)?),
            "port" => query.filter.port = Some(value(name, text)?),
            "live" => query.filter.live = Some(value(name, text)?),
            "state" => {
                let wanted = text.to_ascii_uppercase();
                let state = (0..=u8::MAX)
                    .filter_map(ConntrackState::from_u8)
                    .find(|state| state.name() == wanted);
                match state {
                    Some(state) => query.filter.state = Some(state),
                    None => return bad(format!("`{text}` is no state; nf_conntrack's names are known, like ESTABLISHED")),
                }
            }
            "interface" => {
                let naming = state.board.naming.latest();
                match naming.points.iter().find(|(_, point)| point.interface == *text) {
                    Some((point, _)) => query.filter.point = Some(*point),
                    None => return bad(format!("linnet watches no interface `{text}`")),
                }
            }
            "sort" => {
                query.descending = text.starts_with('-');
                query.sort = value(name, text.trim_start_matches('-'))?;
            }
            "limit" => match text.parse() {
                Ok(limit) if (1..=PAGE_MAX).contains(&limit) => query.limit = limit,
                _ => return bad(format!("`{text}` is not between 1 and {PAGE_MAX}")),
            },
            "cursor" => {}
            _ => return bad("there is no such parameter; known are protocol, address, port, state, interface, live, sort, limit, cursor".into()),
        }
    }
    if let Some(text) = parameters.get("cursor") {
        let Some((order, cursor)) = decode(text) else {
            return Err(ApiError::parameter(
                "cursor",
                "this is no cursor; use the `next` of a page",
            ));
        };
        if order != order_of(&query) {
            let detail =
                format!("this cursor is of a page sorted by `{order}`; keep `sort` as it was");
            return Err(ApiError::parameter("cursor", detail));
        }
        query.after = Some(cursor);
    }
    Ok(query)
}

fn order_of(query: &FlowQuery) -> String {
    let sort: SortField = query.sort;
    format!("{}{}", if query.descending { "-" } else { "" }, sort.name())
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
