//! Requests: what an operator asks the relay to do with held events.

use serde_json::{Value, json};
use tokio_postgres::types::ToSql;

use super::filter::{MOST, names};
use super::held::not_held;
use super::{BlockedKey, Desk, Filter, HeldEvent, Patience, Progress, failure};
use crate::failure::{Code, Failure};
use crate::status::{Reason, Request};

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Try it again now, with all its attempts.
    Retry,
    /// Never publish it; its key goes on.
    Skip,
    /// Give up the event that blocks a key; the key goes on.
    Unblock,
    /// Publish a dead letter after all.
    Redrive,
    /// Forget a dead letter.
    Discard,
}

impl Action {
    /// As people say it, and as it stands in the audit.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Retry => "retry",
            Action::Skip => "skip",
            Action::Unblock => "unblock",
            Action::Redrive => "redrive",
            Action::Discard => "discard",
        }
    }

    /// As the relay reads it.
    const fn request(self) -> Request {
        match self {
            Action::Retry | Action::Redrive => Request::Retry,
            Action::Skip => Request::Skip,
            Action::Unblock => Request::Unblock,
            Action::Discard => Request::Discard,
        }
    }

    /// The events that are meant where nobody says which reason. What is not due yet is left alone
    /// unless it is named.
    const fn usual(self) -> &'static [Reason] {
        match self {
            Action::Retry | Action::Unblock => &[Reason::Retry, Reason::Topic],
            Action::Skip => &[Reason::Retry, Reason::Topic, Reason::Parked],
            Action::Redrive | Action::Discard => &[Reason::Dead],
        }
    }

    /// The events that it can be done with.
    const fn possible(self) -> &'static [Reason] {
        match self {
            Action::Retry => &[Reason::Retry, Reason::Topic, Reason::Scheduled, Reason::Dead],
            Action::Skip => &[Reason::Retry, Reason::Topic, Reason::Parked, Reason::Scheduled],
            Action::Unblock | Action::Redrive | Action::Discard => self.usual(),
        }
    }

    /// Why it cannot be done with an event that is held for that reason.
    fn refusal(self, event_id: &str, reason: &str) -> Failure {
        let advice = match self {
            Action::Retry => "retry the one that its key waits for, see `outboxd keys list`",
            Action::Skip => "`outboxd dlq discard` is for dead letters",
            Action::Unblock => "it blocks no key",
            Action::Redrive => "`outboxd events retry` is for what is no dead letter",
            Action::Discard => "`outboxd events skip` is for what is no dead letter",
        };
        let text = format!("event {event_id} is {reason}: {advice}");
        Failure::new(Code::RequestRefused, text)
    }
}

/// What an action would be done with.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The action.
    pub action: Action,
    /// The held events, in the order of reading.
    pub events: Vec<HeldEvent>,
    /// Pending rows that no relay knows.
    pub unknown: Vec<String>,
    /// The keys that they block, where it is about keys.
    pub keys: Vec<BlockedKey>,
}

impl Plan {
    /// How many events it is about.
    pub fn count(&self) -> usize {
        self.events.len() + self.unknown.len()
    }

    /// The answer, as `-o json` and `/api` give it: what was found, and what became of it.
    pub fn document(&self, filed: Option<(&Filed, Progress)>) -> Value {
        let mut document = json!({
            "action": self.action.name(),
            "dry_run": filed.is_none(),
            "count": filed.map_or(self.count(), |(filed, _)| filed.events.len()),
            "events": self.events,
            "unknown": self.unknown,
            "done": filed.map(|(_, progress)| progress == Progress::Done),
            "message": filed.map(|(_, progress)| progress.words()),
        });
        if let Value::Object(members) = &mut document
            && self.action == Action::Unblock
        {
            members.insert("keys".to_owned(), json!(self.keys));
        }
        document
    }

    fn event_ids(&self) -> Vec<String> {
        self.events.iter().map(|event| event.event_id.clone()).collect()
    }
}

/// A request that was filed.
#[derive(Debug, Clone)]
pub struct Filed {
    /// The events, in the order of reading.
    pub events: Vec<String>,
}

/// What was asked for before and not done yet gives way; only a row that is to be published stays so.
const FILE: &str = "\
    WITH filed AS ( \
        UPDATE outboxd.held_event \
        SET request = CASE WHEN request = 'publish' AND $3 = 'retry' THEN request ELSE $3 END \
        WHERE relay_id = $1 AND event_id = ANY ($2) AND reason = ANY ($4::text[]) \
        RETURNING event_id, ordinal, topic, reason, attempts, error_code), \
    noted AS ( \
        INSERT INTO outboxd.audit (relay_id, actor, action, target, detail) \
        SELECT $1, $5, $6, event_id, jsonb_build_object('request', $3, 'topic', topic, \
            'reason', reason, 'attempts', attempts, 'error_code', error_code) \
        FROM filed ORDER BY ordinal) \
    SELECT event_id, pg_notify('outboxd', $1) FROM filed ORDER BY ordinal";

impl Desk<'_> {
    /// Finds what an action would be done with, and changes nothing.
    ///
    /// # Errors
    /// An event that is named is not held, or not in a way that the action is for.
    pub async fn plan(&self, action: Action, filter: &Filter) -> Result<Plan, Failure> {
        let possible = action.possible();
        let reasons = match filter.reason {
            Some(reason) if possible.contains(&reason) => vec![reason],
            Some(reason) => {
                let text = format!("{}: not for events that are {reason}", action.name());
                return Err(Failure::new(Code::RequestRefused, text));
            }
            None if filter.ids.is_empty() => action.usual().to_vec(),
            None => possible.to_vec(),
        };
        let mut plan = Plan { action, events: Vec::new(), unknown: Vec::new(), keys: Vec::new() };
        if action == Action::Unblock {
            plan.keys = self.blocked(filter, MOST).await?;
            plan.events = plan.keys.iter().map(|key| key.event.clone()).collect();
            if let Some(key) = filter.key.as_ref().filter(|_| plan.keys.is_empty()) {
                return Err(Failure::new(Code::NotHeld, format!("key {key} is not blocked")));
            }
        } else {
            plan.events = self.select(filter, &reasons, MOST).await?;
        }
        let is_found = |id: &&String| plan.events.iter().any(|event| event.event_id == **id);
        let missing: Vec<_> = filter.ids.iter().filter(|id| !is_found(id)).cloned().collect();
        if !missing.is_empty() {
            plan.unknown = self.explain(action, missing).await?;
        }
        Ok(plan)
    }

    /// Why events that were named were not found; what is left are rows that no relay knows.
    async fn explain(&self, action: Action, ids: Vec<String>) -> Result<Vec<String>, Failure> {
        let named = Filter { ids, ..Filter::default() };
        if let Some(other) = self.select(&named, &Reason::ALL, MOST).await?.first() {
            return Err(action.refusal(&other.event_id, &other.reason));
        }
        for id in &named.ids {
            if action != Action::Retry {
                return Err(not_held(id));
            }
            // Whether it can be published, the function knows best.
            self.begin().await?;
            let tried = self.retry_row(id).await;
            self.end("ROLLBACK").await?;
            tried?;
        }
        Ok(named.ids)
    }

    /// Files the request, its audit and the notification, in one transaction.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn file(&self, plan: &Plan) -> Result<Filed, Failure> {
        let (events, reasons) = (plan.event_ids(), names(plan.action.possible()));
        let (request, name) = (plan.action.request().name(), plan.action.name());
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&self.config.id, &events, &request, &reasons, &self.actor, &name];
        self.begin().await?;
        let rows = self.session.client.query(FILE, &parameters).await;
        let rows = rows.map_err(|error| failure(&error.into(), "file the request"))?;
        let mut events: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        for id in &plan.unknown {
            self.retry_row(id).await?;
            events.push(id.clone());
        }
        self.end("COMMIT").await?;
        Ok(Filed { events })
    }

    /// Asks for a row that no relay knows.
    async fn retry_row(&self, event_id: &str) -> Result<(), Failure> {
        let Some(table) = self.config.intake.table() else {
            return Err(not_held(event_id));
        };
        let (id, table) = (&self.config.id, table.to_string());
        let sql = "SELECT outboxd.retry($1::text, $2::text, $3::text::regclass)";
        let row = self.session.client.query_one(sql, &[&event_id, id, &table]).await;
        row.map(|_| ()).map_err(|error| failure(&error.into(), "retry the event"))
    }

    async fn begin(&self) -> Result<(), Failure> {
        self.end("BEGIN").await
    }

    async fn end(&self, sql: &str) -> Result<(), Failure> {
        let done = self.session.client.batch_execute(sql).await;
        done.map_err(|error| failure(&error.into(), "file the request"))
    }

    /// Waits a while until the relay has carried out what was filed.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn progress(&self, filed: &Filed) -> Result<Progress, Failure> {
        if filed.events.is_empty() {
            return Ok(Progress::Done);
        }
        if !self.relay_runs().await? {
            return Ok(Progress::Waiting);
        }
        let sql = "SELECT EXISTS (SELECT FROM outboxd.held_event \
                   WHERE relay_id = $1 AND request IS NOT NULL AND event_id = ANY ($2))";
        let mut patience = Patience::new();
        while patience.again().await {
            let row = self.session.client.query_one(sql, &[&self.config.id, &filed.events]).await;
            let row = row.map_err(|error| failure(&error.into(), "look for the relay's answer"))?;
            if !row.get::<_, bool>(0) {
                return Ok(Progress::Done);
            }
        }
        Ok(Progress::Asked)
    }
}
