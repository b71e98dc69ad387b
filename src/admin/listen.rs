//! Connections to the admin listener, of which there are only so many, and none for nothing.
//!
//! Whoever connects and says nothing, or says it slowly, is let go; so nobody can use up what probes
//! and scrapes need.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, DefaultBodyLimit, Request};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Router, middleware};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections at once. More of them wait.
const CONNECTIONS: usize = 128;
/// The head of a request comes within this, or the connection ends; also the head of the next one.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// A request is answered within this, its body included.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// The largest body: ten thousand ids take half of it.
const LARGEST_BODY: usize = 1 << 20;
/// Without descriptors nothing can be accepted; perhaps there are some again soon.
const AFTER_AN_ERROR: Duration = Duration::from_millis(500);

/// Serves `routes` until the process ends.
pub(super) async fn serve(listener: TcpListener, routes: Router) {
    let largest = DefaultBodyLimit::max(LARGEST_BODY);
    let routes = routes.layer(largest).layer(middleware::from_fn(within_bounds));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let routes = routes.clone();
                tokio::spawn(async move {
                    converse(stream, peer, routes).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin listener was not accepted");
                sleep(AFTER_AN_ERROR).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, routes: Router) {
    let routes = routes.layer(Extension(ConnectInfo(peer)));
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // Whoever hangs up is nobody's trouble.
    if let Err(error) = conversation.await {
        tracing::trace!(%error, %peer, "a connection to the admin listener ended");
    }
}

async fn within_bounds(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok());
    if length.and_then(|text| text.parse().ok()).is_some_and(|length: usize| length > LARGEST_BODY)
    {
        return (StatusCode::PAYLOAD_TOO_LARGE, "that is too much\n").into_response();
    }
    let answered = timeout(ANSWERED_WITHIN, next.run(request)).await;
    answered
        .unwrap_or_else(|_| (StatusCode::REQUEST_TIMEOUT, "that took too long\n").into_response())
}
