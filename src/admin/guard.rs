//! Who may ask `/api`: loopback alone is no access control, because a browser on this machine can
//! be made to ask for anybody.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// The names that `/api` answers to.
#[derive(Clone)]
pub(super) struct Guard {
    hosts: Arc<Vec<String>>,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, more: &[String]) -> Self {
        let port = address.port();
        let mut hosts = vec![address.to_string()];
        for name in ["localhost", "127.0.0.1", "[::1]"] {
            hosts.push(format!("{name}:{port}"));
        }
        for name in more {
            hosts.push(name.clone());
            hosts.push(format!("{name}:{port}"));
        }
        Self { hosts: Arc::new(hosts) }
    }

    fn knows(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }

    /// Why a request with these headers is refused, if it is.
    fn refusal(&self, headers: &HeaderMap) -> Option<&'static str> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        match text(header::HOST) {
            Some(host) if self.knows(host) => {}
            _ => return Some("this Host is not known here; see admin.hosts\n"),
        }
        if let Some(origin) = text(header::ORIGIN) {
            let host = origin.split_once("://").map_or("", |(_, host)| host);
            if !self.knows(host) {
                return Some("requests from other sites are refused\n");
            }
        }
        let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
        if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
            return Some("requests from other sites are refused\n");
        }
        None
    }
}

/// Lets a request through, or refuses it.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.refusal(request.headers()) {
        Some(reason) => (StatusCode::FORBIDDEN, reason).into_response(),
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(headers: &[(&'static str, &'static str)]) -> bool {
        let guard = Guard::new("127.0.0.1:9464".parse().unwrap(), &["relay.internal".to_owned()]);
        let headers = headers.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
        });
        guard.refusal(&headers.collect()).is_some()
    }

    #[test]
    fn only_names_of_this_address_are_answered_to() {
        for host in ["127.0.0.1:9464", "localhost:9464", "LOCALHOST:9464", "relay.internal"] {
            assert!(!refused(&[("host", host)]), "{host}");
        }
        for host in ["evil.example", "evil.example:9464", "127.0.0.1:80", ""] {
            assert!(refused(&[("host", host)]), "{host}");
        }
        assert!(refused(&[]));
    }

    #[test]
    fn other_sites_are_refused() {
        let host = ("host", "localhost:9464");
        assert!(!refused(&[host, ("origin", "http://localhost:9464")]));
        assert!(refused(&[host, ("origin", "http://evil.example")]));
        assert!(refused(&[host, ("origin", "null")]));
        assert!(refused(&[host, ("sec-fetch-site", "cross-site")]));
        assert!(!refused(&[host, ("sec-fetch-site", "same-origin")]));
    }
}
