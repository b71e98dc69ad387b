//! The admin listener: health, metrics, status.
//!
//! | Route | Answers |
//! |---|---|
//! | `GET /livez`, `/healthz` | 200 while the relay's loop turns |
//! | `GET /readyz[?verbose]` | 200 while the relay can do its job; a standby can |
//! | `GET /metrics` | OpenMetrics for who asks for it, else Prometheus' text form |
//! | `GET /version` | what was built |
//! | `GET /console/` | the console, a web page over `/api`; `/` leads there |
//! | `/api/v1/…` | what `outboxd status`, `slot show`, `events`, `keys`, `dlq`, `pause`, `resume` do |
//!
//! Probes and metrics answer to any Host. `/api` and the console answer only to names of this address, so that a
//! page that makes a browser believe otherwise gets nothing. Who changes something has to know a
//! token; off loopback everybody has to, and without a token there is no `/api` at all.

mod api;
mod asked;
mod console;
mod exposition;
mod guard;
mod listen;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::built;
use crate::config::AdminConfig;
use crate::failure::{Code, Failure};
use crate::relay::{Credentials, Pulse, RelayConfig, State, Status};

/// What the pages are made from.
#[derive(Clone)]
pub struct Pages {
    /// What the relay shows of itself.
    pub status: watch::Receiver<Status>,
    /// Whether its loop turns.
    pub pulse: Pulse,
    /// Whose it is, for those who ask the database.
    pub relay: Arc<RelayConfig>,
    /// How it is let in.
    pub credentials: watch::Receiver<Credentials>,
    /// The metrics, if they are served.
    pub metrics: Option<PrometheusHandle>,
}

/// A loop that has not turned for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Binds the address.
///
/// # Errors
/// It is taken, or not ours.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::new(Code::AdminListen, format!("listen on {address}: {error}")))
}

/// Serves the pages until the process ends.
pub async fn serve(listener: TcpListener, config: &AdminConfig, pages: Pages) {
    let address = listener.local_addr().ok();
    let mut routes = Router::new()
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .route("/version", get(version));
    if config.metrics {
        routes = routes.route("/metrics", get(metrics));
    }
    let mut routes = routes.with_state(pages.clone());
    let guard =
        address.map(|address| guard::Guard::new(address, &config.hosts, config.token.clone()));
    if let Some(guard) = guard.filter(guard::Guard::has_api) {
        if config.console {
            routes = routes.merge(console::routes(guard.clone()));
        }
        routes = routes.merge(api::routes(pages, guard));
    }
    if let Some(address) = address {
        tracing::info!(%address, "admin listener");
    }
    listen::serve(listener, routes).await;
}

async fn livez(Shared(pages): Shared<Pages>) -> Response {
    let age = pages.pulse.age();
    if age < STUCK {
        return "ok\n".into_response();
    }
    let text = format!("the relay's loop has not turned for {} s\n", age.as_secs());
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn readyz(Shared(pages): Shared<Pages>, RawQuery(query): RawQuery) -> Response {
    let status = pages.status.borrow().clone();
    let is_ready = status.is_ready();
    let mut text = String::new();
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    if verbose {
        let checks = status.checks;
        for (name, passed) in [
            ("stream", checks.stream),
            ("producer", checks.producer),
            ("status writer", checks.status_writer),
            ("publication", checks.publication),
            ("slot", checks.slot),
        ] {
            let (mark, word) = match (passed, status.state) {
                (true, _) => ("[+]", "ok"),
                // Its job is to wait.
                (false, State::Standby) => ("[ ]", "not in use"),
                (false, _) => ("[-]", "failed"),
            };
            // Writing to memory cannot fail.
            let _ = writeln!(text, "{mark} {name} {word}");
        }
        let _ = writeln!(text, "state {}", status.state.name());
        if let Some(error) = &status.last_error {
            let _ = writeln!(text, "{} {}", error.code, error.message);
        }
    }
    text.push_str(if is_ready { "ready\n" } else { "not ready\n" });
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, text).into_response()
}

async fn metrics(Shared(pages): Shared<Pages>, headers: HeaderMap) -> Response {
    match &pages.metrics {
        Some(handle) => exposition::answer(&headers, handle.render()),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn version() -> Response {
    let name = ("name", env!("CARGO_PKG_NAME").to_owned());
    let facts: BTreeMap<_, _> = built::facts().into_iter().chain([name]).collect();
    Json(facts).into_response()
}
