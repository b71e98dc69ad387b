//! What a request asks for: conditions in its query, or in a JSON object that is its body.

use std::net::{IpAddr, SocketAddr};

use axum::body::Bytes;
use axum::extract::{ConnectInfo, FromRequest, Query, Request};
use axum::http::HeaderMap;
use serde_json::Value;

use super::api::Refusal;
use crate::failure::{Code, Failure};
use crate::operate::Filter;

/// A request, read.
pub(super) struct Asked {
    /// The events that are meant.
    pub(super) filter: Filter,
    /// Those without a condition.
    pub(super) all: bool,
    /// Only say what would be done.
    pub(super) dry_run: bool,
    /// Also the value.
    pub(super) value: bool,
    /// Only how many, not which.
    pub(super) brief: bool,
    /// What is held by what is wrong with it.
    pub(super) grouped: bool,
    /// Who asks, and with which words.
    pub(super) peer: Option<IpAddr>,
    pub(super) headers: HeaderMap,
}

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let mut asked = Self {
            filter: Filter::default(),
            all: false,
            dry_run: false,
            value: false,
            brief: false,
            grouped: false,
            peer: peer.map(|ConnectInfo(address)| address.ip()),
            headers: request.headers().clone(),
        };
        let query = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
        let Query(pairs) = query.map_err(|_| refused("the query cannot be read"))?;
        for (name, value) in pairs {
            asked.set(&name, &value)?;
        }
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|_| refused("the body cannot be read"))?;
        for (name, value) in members(&body)? {
            asked.set(&name, &value)?;
        }
        Ok(asked)
    }
}

impl Asked {
    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        let flag = match name {
            "all" => &mut self.all,
            "dry_run" => &mut self.dry_run,
            "value" => &mut self.value,
            "brief" => &mut self.brief,
            "grouped" => &mut self.grouped,
            _ => {
                return match self.filter.set(name, value)? {
                    true => Ok(()),
                    false => Err(refused(&format!("there is no condition \"{name}\""))),
                };
            }
        };
        *flag = match value {
            "true" | "1" | "" => true,
            "false" | "0" => false,
            _ => return Err(refused(&format!("{name}: expected true or false"))),
        };
        Ok(())
    }
}

/// The members of a JSON object as pairs of text; a list has one for each of its items.
fn members(body: &[u8]) -> Result<Vec<(String, String)>, Refusal> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let Ok(Value::Object(members)) = serde_json::from_slice(body) else {
        return Err(refused("the body is not a JSON object"));
    };
    let mut pairs = Vec::new();
    for (name, value) in members {
        let values = match value {
            Value::Array(values) => values,
            other => vec![other],
        };
        for value in values {
            match value {
                Value::Null => {}
                Value::String(text) => pairs.push((name.clone(), text)),
                Value::Bool(_) | Value::Number(_) => pairs.push((name.clone(), value.to_string())),
                Value::Array(_) | Value::Object(_) => {
                    return Err(refused(&format!("{name}: expected text, a number or a list")));
                }
            }
        }
    }
    Ok(pairs)
}

pub(super) fn refused(text: &str) -> Refusal {
    Failure::new(Code::RequestRefused, text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_a_query_is() {
        let body = br#"{"ids": ["a", "b"], "limit": 5, "dry_run": true, "topic": null}"#;
        let pairs = members(body).unwrap_or_default();
        let pairs: Vec<_> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(pairs, [("dry_run", "true"), ("ids", "a"), ("ids", "b"), ("limit", "5")]);
        for wrong in [&b"[]"[..], b"x", br#"{"topic": {}}"#] {
            assert!(members(wrong).is_err());
        }
        assert!(members(b"").is_ok_and(|pairs| pairs.is_empty()));
    }
}
