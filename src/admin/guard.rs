//! Who may ask `/api`: loopback alone is no access control, because a browser on this machine can
//! be made to ask for anybody.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::Token;

/// The names that `/api` answers to, and the token that it asks for.
#[derive(Clone)]
pub(super) struct Guard {
    hosts: Arc<Vec<String>>,
    token: Option<Token>,
    on_loopback: bool,
}

const OTHER_SITE: &str = "requests from other sites are refused\n";

/// Why a request is refused.
type Refusal = (StatusCode, &'static str);

impl Guard {
    pub(super) fn new(address: SocketAddr, more: &[String], token: Option<Token>) -> Self {
        let port = address.port();
        let mut hosts = vec![address.to_string()];
        for name in ["localhost", "127.0.0.1", "[::1]"] {
            hosts.push(format!("{name}:{port}"));
        }
        for name in more {
            hosts.push(name.clone());
            hosts.push(format!("{name}:{port}"));
        }
        Self { hosts: Arc::new(hosts), token, on_loopback: address.ip().is_loopback() }
    }

    /// Whether there is an `/api` to guard.
    pub(super) fn has_api(&self) -> bool {
        self.on_loopback || self.token.is_some()
    }

    /// Whether whoever asks knows the token.
    pub(super) fn is_trusted(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|text| text.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match (&self.token, given) {
            (Some(token), Some((_, given))) => token.is(given.trim()),
            _ => false,
        }
    }

    /// Whether there is a token that somebody can know.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    fn knows(&self, host: &str) -> bool {
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }

    /// Why a request is refused, if it is.
    fn refusal(&self, method: &Method, headers: &HeaderMap) -> Option<Refusal> {
        if let Some(reason) = self.strangeness(headers) {
            return Some((StatusCode::FORBIDDEN, reason));
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if (reads && self.on_loopback) || self.is_trusted(headers) {
            return None;
        }
        Some(match self.token {
            None => (StatusCode::FORBIDDEN, "nothing can be changed without admin.token_file\n"),
            Some(_) => (StatusCode::UNAUTHORIZED, "say the token: Authorization: Bearer ...\n"),
        })
    }

    /// What is strange about where a request comes from, or where it believes to go.
    fn strangeness(&self, headers: &HeaderMap) -> Option<&'static str> {
        let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
        if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
            return Some(OTHER_SITE);
        }
        self.strange_name(headers)
    }

    /// The same of a page that holds no data: a link from elsewhere may lead to it.
    fn strangeness_to_a_page(&self, headers: &HeaderMap) -> Option<&'static str> {
        let is = |name, value: &[u8]| headers.get(name).is_some_and(|it| it.as_bytes() == value);
        let is_link = is("sec-fetch-mode", b"navigate") && is("sec-fetch-dest", b"document");
        if is_link { self.strange_name(headers) } else { self.strangeness(headers) }
    }

    fn strange_name(&self, headers: &HeaderMap) -> Option<&'static str> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        match text(header::HOST) {
            Some(host) if self.knows(host) => {}
            _ => return Some("this Host is not known here; see admin.hosts\n"),
        }
        if let Some(origin) = text(header::ORIGIN) {
            let host = origin.split_once("://").map_or("", |(_, host)| host);
            if !self.knows(host) {
                return Some(OTHER_SITE);
            }
        }
        None
    }
}

/// Lets a request for a page through, or refuses it. Who asks for its data has to say more.
pub(super) async fn check_page(
    State(guard): State<Guard>,
    request: Request,
    next: Next,
) -> Response {
    match guard.strangeness_to_a_page(request.headers()) {
        Some(reason) => (StatusCode::FORBIDDEN, reason).into_response(),
        None => next.run(request).await,
    }
}

/// Lets a request through, or refuses it.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.refusal(request.method(), request.headers()) {
        Some((StatusCode::UNAUTHORIZED, reason)) => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, challenge, reason).into_response()
        }
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(guard: &Guard, method: &Method, headers: &[(&'static str, &'static str)]) -> u16 {
        let headers = headers.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
        });
        guard.refusal(method, &headers.collect()).map_or(200, |(status, _)| status.as_u16())
    }

    fn guard(address: &str, token: Option<&str>) -> Guard {
        let hosts = ["relay.internal".to_owned()];
        Guard::new(address.parse().unwrap(), &hosts, token.and_then(Token::read))
    }

    fn refused(headers: &[(&'static str, &'static str)]) -> bool {
        answer(&guard("127.0.0.1:9464", None), &Method::GET, headers) != 200
    }

    #[test]
    fn who_changes_something_has_to_know_the_token() {
        let host = ("host", "relay.internal");
        let known = [host, ("authorization", "Bearer secret")];
        let wrong = [host, ("authorization", "Bearer secre")];
        let basic = [host, ("authorization", "Basic secret")];
        let near = guard("127.0.0.1:9464", Some("secret"));
        let far = guard("0.0.0.0:9464", Some("secret"));
        let bare = guard("127.0.0.1:9464", None);
        assert!(near.has_api() && far.has_api() && bare.has_api());
        assert!(!guard("0.0.0.0:9464", None).has_api());
        for (guard, headers, read, written) in [
            (&bare, &[host][..], 200, 403),
            (&bare, &known, 200, 403),
            (&near, &[host], 200, 401),
            (&near, &wrong, 200, 401),
            (&near, &basic, 200, 401),
            (&near, &known, 200, 200),
            (&far, &[host], 401, 401),
            (&far, &wrong, 401, 401),
            (&far, &known, 200, 200),
            (&far, &[("authorization", "Bearer secret")], 403, 403),
        ] {
            assert_eq!(answer(guard, &Method::GET, headers), read, "{headers:?}");
            assert_eq!(answer(guard, &Method::POST, headers), written, "{headers:?}");
        }
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
    fn a_link_may_lead_to_a_page_and_nothing_else_of_other_sites() {
        let guard = guard("127.0.0.1:9464", None);
        let is_refused = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), header::HeaderValue::from_static(value))
            });
            guard.strangeness_to_a_page(&headers.collect()).is_some()
        };
        let host = ("host", "localhost:9464");
        let cross = ("sec-fetch-site", "cross-site");
        let navigate = ("sec-fetch-mode", "navigate");
        let document = ("sec-fetch-dest", "document");
        assert!(!is_refused(&[host]));
        assert!(!is_refused(&[host, cross, navigate, document]));
        assert!(is_refused(&[host, cross, navigate, ("sec-fetch-dest", "iframe")]));
        assert!(is_refused(&[host, cross, ("sec-fetch-mode", "no-cors"), document]));
        assert!(is_refused(&[("host", "evil.example"), cross, navigate, document]));
        assert!(is_refused(&[host, navigate, document, ("origin", "http://evil.example")]));
        assert!(refused(&[host, cross, navigate, document]), "/api is no page");
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
