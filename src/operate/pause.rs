//! Pausing and resuming: the whole relay, or one topic.

use serde_json::{Value, json};
use tokio_postgres::types::ToSql;

use super::{Desk, Patience, Progress, failure};
use crate::failure::Failure;

/// Pause or resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// Publish nothing.
    Pause,
    /// Go on.
    Resume,
}

impl Pause {
    /// As people say it, and as it stands in the audit.
    pub const fn name(self) -> &'static str {
        match self {
            Pause::Pause => "pause",
            Pause::Resume => "resume",
        }
    }
}

/// What is paused now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Everything.
    pub all: bool,
    /// These topics.
    pub topics: Vec<String>,
}

impl Paused {
    /// The answer, as `-o json` and `/api` give it.
    pub fn document(&self, pause: Pause, topic: Option<&str>, progress: Progress) -> Value {
        json!({
            "action": pause.name(),
            "topic": topic,
            "paused": self.all,
            "paused_topics": self.topics,
            "done": progress == Progress::Done,
            "message": progress.words(),
        })
    }
}

/// The relay's row, which a relay that has never run does not have yet.
const ROW: &str = "INSERT INTO outboxd.relay AS r (relay_id, paused, paused_topics) \
                   VALUES ($1, $2 = 'pause' AND $3::text IS NULL, \
                           CASE WHEN $2 = 'pause' AND $3 IS NOT NULL THEN ARRAY[$3] ELSE '{}' END) \
                   ON CONFLICT (relay_id) DO UPDATE SET";

/// A partition count that changed pauses its topic; to resume it is to accept the new one.
const CHANGES: &str = "\
    paused = CASE WHEN $3 IS NULL THEN $2 = 'pause' ELSE r.paused END, \
    paused_topics = CASE WHEN $3 IS NULL THEN r.paused_topics \
                         WHEN $2 = 'pause' THEN array_append(array_remove(r.paused_topics, $3), $3) \
                         ELSE array_remove(r.paused_topics, $3) END, \
    partitions = CASE WHEN $2 = 'resume' AND $3 IS NOT NULL THEN r.partitions - $3 \
                      ELSE r.partitions END";

impl Desk<'_> {
    /// Pauses or resumes, durably: it holds until it is taken back, also through restarts.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn pause(&self, pause: Pause, topic: Option<&str>) -> Result<Paused, Failure> {
        let sql = format!(
            "WITH written AS ({ROW} {CHANGES} RETURNING paused, paused_topics), \
             noted AS (INSERT INTO outboxd.audit (relay_id, actor, action, target) \
                       VALUES ($1, $4, $2, $3)) \
             SELECT paused, paused_topics, pg_notify('outboxd', $1) FROM written"
        );
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&self.config.id, &pause.name(), &topic, &self.actor];
        let row = self.session.client.query_one(&sql, &parameters).await;
        let row = row.map_err(|error| failure(&error.into(), pause.name()))?;
        Ok(Paused { all: row.get(0), topics: row.get(1) })
    }

    /// Waits a while until the relay shows that it heeds the pause, or its end. `is_paused` asks it;
    /// none if it does not answer. For a single topic nobody waits.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn heeds<F: Future<Output = Option<bool>>>(
        &self,
        pause: Pause,
        topic: Option<&str>,
        mut is_paused: impl FnMut() -> F,
    ) -> Result<Progress, Failure> {
        if !self.relay_runs().await? {
            return Ok(Progress::Waiting);
        }
        let wanted = Some(pause == Pause::Pause);
        let mut patience = Patience::new();
        while topic.is_none() && patience.again().await {
            let answer = is_paused().await;
            if answer == wanted {
                return Ok(Progress::Done);
            }
            if answer.is_none() {
                break;
            }
        }
        Ok(Progress::Asked)
    }
}
