//! `/api/v1`: status, slot, what is held, and operators' requests, as the command line has them.
//!
//! Each request has a SQL session of its own: the relay's loop is not asked and not held up.

use std::sync::Arc;

use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Pages;
use super::asked::{Asked, refused};
use super::guard::{Guard, check};
use crate::failure::{Code, Failure};
use crate::operate::{Action, Desk, Filter, Held, Pause, Progress};
use crate::relay::State;

/// Sessions at once: `/api` must not take the connections that others need.
const SESSIONS: usize = 4;

/// What the routes need.
#[derive(Clone)]
struct Api {
    pages: Pages,
    guard: Guard,
    sessions: Arc<Semaphore>,
}

/// A failure as an answer.
pub(super) struct Refusal(Failure);

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(failure) = self;
        let status = match failure.code {
            Code::NotHeld | Code::SlotMissing => StatusCode::NOT_FOUND,
            Code::RequestRefused => StatusCode::BAD_REQUEST,
            Code::PostgresUnavailable | Code::InRecovery => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let error = json!({
            "code": failure.code.to_string(),
            "message": failure.message,
            "remedy": failure.remedy,
        });
        (status, Json(json!({ "error": error }))).into_response()
    }
}

type Answer = Result<Response, Refusal>;

/// Every request with what it can be made for.
const REQUESTS: [(&str, Action); 5] = [
    ("events", Action::Retry),
    ("events", Action::Skip),
    ("keys", Action::Unblock),
    ("dlq", Action::Redrive),
    ("dlq", Action::Discard),
];

/// The routes, behind the guard.
pub(super) fn routes(pages: Pages, guard: Guard) -> Router {
    let mut routes = Router::new()
        .route("/api/v1/access", get(access))
        .route("/api/v1/status", get(status))
        .route("/api/v1/slot", get(slot))
        .route("/api/v1/events", get(events))
        .route("/api/v1/events/{id}", get(event))
        .route("/api/v1/keys", get(keys))
        .route("/api/v1/dlq", get(dlq))
        .route("/api/v1/pause", post(|api, asked| pause(api, asked, Pause::Pause)))
        .route("/api/v1/resume", post(|api, asked| pause(api, asked, Pause::Resume)));
    for (what, action) in REQUESTS {
        let name = action.name();
        let one = move |api: Shared<Api>, Path(of): Path<String>, asked: Asked| {
            act(api, asked, action, Some(of))
        };
        let many = move |api: Shared<Api>, asked: Asked| act(api, asked, action, None);
        routes = routes
            .route(&format!("/api/v1/{what}/{{of}}/{name}"), post(one))
            .route(&format!("/api/v1/{what}/{name}"), post(many));
    }
    let sessions = Arc::new(Semaphore::new(SESSIONS));
    let api = Api { pages, guard: guard.clone(), sessions };
    let routes = routes.with_state(api).layer(middleware::from_fn_with_state(guard, check));
    routes.layer(middleware::map_response(kept_nowhere))
}

/// Answers hold keys, errors and, if asked for, payloads: no browser keeps them, or takes them for
/// something else.
async fn kept_nowhere(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl Api {
    /// A desk, as soon as one is free.
    async fn desk(&self, asked: &Asked) -> Result<(Desk<'_>, SemaphorePermit<'_>), Failure> {
        let place = self.sessions.acquire().await;
        let place = place.map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
        let peer = asked.peer.map(|peer| peer.to_string()).unwrap_or_default();
        let server = self.pages.credentials.borrow().server.clone();
        let actor = format!("http:{peer}");
        let desk = Desk::open_at(&self.pages.relay, &server, "api", actor).await?;
        Ok((desk, place))
    }
}

fn found(document: impl Serialize) -> Answer {
    Ok(Json(document).into_response())
}

/// Whether there is a token, and whether whoever asks knows it: a way to try one that does nothing.
async fn access(Shared(api): Shared<Api>, headers: HeaderMap) -> Response {
    let document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "token_configured": api.guard.has_token(),
        "may_change": api.guard.is_trusted(&headers),
    });
    Json(document).into_response()
}

async fn status(Shared(api): Shared<Api>) -> Response {
    Json(api.pages.status.borrow().clone()).into_response()
}

async fn slot(Shared(api): Shared<Api>, asked: Asked) -> Answer {
    let (desk, _place) = api.desk(&asked).await?;
    found(desk.slot().await?.document(&api.pages.relay.slot))
}

async fn events(Shared(api): Shared<Api>, asked: Asked) -> Answer {
    held(&api, Held::Events, &asked).await
}

async fn dlq(Shared(api): Shared<Api>, asked: Asked) -> Answer {
    held(&api, Held::DeadLetters, &asked).await
}

async fn held(api: &Api, held: Held, asked: &Asked) -> Answer {
    let (desk, _place) = api.desk(asked).await?;
    if asked.grouped {
        return found(desk.groups(held, &asked.filter).await?);
    }
    found(desk.held(held, &asked.filter).await?)
}

async fn keys(Shared(api): Shared<Api>, asked: Asked) -> Answer {
    let (desk, _place) = api.desk(&asked).await?;
    found(desk.keys(&asked.filter).await?)
}

async fn event(Shared(api): Shared<Api>, Path(id): Path<String>, asked: Asked) -> Answer {
    if asked.value && !api.guard.is_trusted(&asked.headers) {
        let text = "a value is shown to those who know the token of admin.token_file\n";
        return Ok((StatusCode::UNAUTHORIZED, text).into_response());
    }
    let (desk, _place) = api.desk(&asked).await?;
    found(desk.show(&id, asked.value).await?)
}

/// Does what is asked with one event or key, or with all that are meant.
async fn act(
    Shared(api): Shared<Api>,
    mut asked: Asked,
    action: Action,
    of: Option<String>,
) -> Answer {
    match (of, action) {
        (Some(key), Action::Unblock) => asked.filter.key = Some(key),
        (Some(id), _) => asked.filter.ids.push(id),
        (None, _) => {}
    }
    asked.filter.check(asked.all)?;
    let (desk, _place) = api.desk(&asked).await?;
    let plan = desk.plan(action, &asked.filter).await?;
    let document = |filed| {
        let mut document = plan.document(filed);
        if let Value::Object(members) = &mut document
            && asked.brief
        {
            members.retain(|name, _| name != "events" && name != "keys");
        }
        document
    };
    if asked.dry_run {
        return found(document(None));
    }
    let filed = desk.file(&plan).await?;
    let progress = desk.progress(&filed).await?;
    tracing::info!(action = action.name(), events = filed.events.len(), "an operator's request");
    Ok((code(progress), Json(document(Some((&filed, progress))))).into_response())
}

async fn pause(Shared(api): Shared<Api>, asked: Asked, pause: Pause) -> Answer {
    let topic = asked.filter.topic.clone();
    // Whoever says more than a topic must not pause everything.
    if asked.filter != (Filter { topic: topic.clone(), ..Filter::default() }) || asked.dry_run {
        return Err(refused("only a topic can be said"));
    }
    let (desk, _place) = api.desk(&asked).await?;
    let paused = desk.pause(pause, topic.as_deref()).await?;
    let is_paused = async || Some(api.pages.status.borrow().state == State::Paused);
    let progress = desk.heeds(pause, topic.as_deref(), is_paused).await?;
    tracing::info!(action = pause.name(), topic, "an operator's request");
    let document = paused.document(pause, topic.as_deref(), progress);
    Ok((code(progress), Json(document)).into_response())
}

fn code(progress: Progress) -> StatusCode {
    match progress {
        Progress::Done => StatusCode::OK,
        Progress::Asked | Progress::Waiting => StatusCode::ACCEPTED,
    }
}
