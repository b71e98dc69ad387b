//! The topics that events go to: what the configuration names, what the relay has published to, what
//! is held, and what the latest rows of the outbox are routed to.
//!
//! An outbox can route by its rows, so nobody can list its topics but from rows. Only the end of the
//! table is looked at, by pages: there need not be an index of anything, and a table can be large.

use std::collections::BTreeMap;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::super::RelayConfig;
use super::super::finding::Finding;
use super::super::preflight::Outbox;
use crate::outbox::EventMap;
use crate::outbox::columns::{Field, Source};
use crate::postgres::{Error, Heap, quote_ident};

/// The last pages of a table or partition that are looked at.
const PAGES: i64 = 64;
/// The rows of them.
const ROWS: usize = 1000;
/// The newest partitions that are looked at.
const PARTITIONS: usize = 4;
/// Held events that are looked at, the oldest.
const HELD: i64 = 10_000;

/// How a topic is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Known {
    /// The relay has published to it.
    Former,
    /// Dead letters go there.
    DeadLetters,
    /// Events go there.
    Routed,
}

/// A topic that is to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) known: Known,
    /// How many partitions the relay knows it with.
    pub(super) partitions: Option<usize>,
}

impl Use {
    /// What a finding is about: a topic of that name, in the sink's own word for topics.
    pub(super) fn title(&self, word: &str, name: &str) -> String {
        match self.known {
            Known::DeadLetters => format!("dead-letter {word} {name}"),
            Known::Routed | Known::Former => format!("{word} {name}"),
        }
    }

    /// An error where events need the topic now. Dead letters may never come, and what was published
    /// to before may have had its time.
    pub(super) fn weigh(&self, finding: Finding) -> Finding {
        match self.known {
            Known::Routed => finding,
            Known::DeadLetters | Known::Former => finding.warning(),
        }
    }
}

/// Every topic that is to be looked at, and how large payloads can be.
#[derive(Debug, Default)]
pub struct Topics {
    named: BTreeMap<String, Use>,
    pub(super) payload_limit: Option<usize>,
}

impl Topics {
    /// The topics that the configuration names.
    pub fn configured(config: &RelayConfig) -> Self {
        let mut topics = Self::default();
        let route = &config.events.route;
        let is_whole = |name: &&String| !name.contains(['{', '}']) && route.names.takes(name);
        let mut fixed = vec![&route.topic];
        // Otherwise a pattern chooses, and not this one.
        if route.regex.is_empty() && !route.only_mapped {
            fixed.push(&route.default);
        }
        for name in route.map.values().chain(fixed).filter(is_whole) {
            topics.add(name, Known::Routed);
        }
        if let Some(name) = config.flow.dead_letter.destination(None) {
            topics.add(&name, Known::DeadLetters);
        }
        topics
    }

    fn add(&mut self, name: &str, known: Known) {
        let new = Use { known, partitions: None };
        let found = self.named.entry(name.to_owned()).or_insert(new);
        found.known = found.known.max(known);
    }

    /// Learns what the database tells of topics.
    pub(super) async fn learn(
        &mut self,
        client: &Client,
        config: &RelayConfig,
        outbox: Option<&Outbox>,
    ) -> Result<(), Error> {
        let sql = "SELECT coalesce(has_table_privilege(to_regclass('outboxd.relay'), 'SELECT') \
                               AND has_table_privilege(to_regclass('outboxd.held_event'), 'SELECT'), \
                               false)";
        if client.query_one(sql, &[]).await?.get(0) {
            self.learn_from_ours(client, config).await?;
        }
        if let Some(outbox) = outbox.filter(|outbox| outbox.table.exists()) {
            self.learn_from_rows(client, config, outbox).await?;
        }
        Ok(())
    }

    async fn learn_from_ours(
        &mut self,
        client: &Client,
        config: &RelayConfig,
    ) -> Result<(), Error> {
        let sql = "SELECT p.key, p.value::int8 FROM outboxd.relay r, jsonb_each_text(r.partitions) p \
                   WHERE r.relay_id = $1";
        for row in client.query(sql, &[&config.id]).await? {
            let (name, count): (String, i64) = (row.get(0), row.get(1));
            self.add(&name, Known::Former);
            if let Some(known) = self.named.get_mut(&name) {
                known.partitions = usize::try_from(count).ok();
            }
        }
        let sql = "SELECT DISTINCT h.topic FROM (SELECT topic FROM outboxd.held_event \
                       WHERE relay_id = $1 AND reason <> 'dead' ORDER BY ordinal LIMIT $2) h \
                   WHERE h.topic IS NOT NULL";
        for row in client.query(sql, &[&config.id, &HELD]).await? {
            self.add(row.get(0), Known::Routed);
        }
        Ok(())
    }

    async fn learn_from_rows(
        &mut self,
        client: &Client,
        config: &RelayConfig,
        outbox: &Outbox,
    ) -> Result<(), Error> {
        let Ok(reader) = outbox.events.bind(&outbox.table.relation()) else { return Ok(()) };
        let columns = selected(config, &outbox.events, outbox);
        let mut heaps = Heap::load(client, outbox.table.oid, None, "").await?;
        heaps.retain(|heap| heap.pages > 0);
        for heap in heaps.iter().rev().take(PARTITIONS) {
            let sql = format!(
                "SELECT {columns} FROM {} o WHERE {} AND o.ctid >= '({},0)'::tid LIMIT {ROWS}",
                outbox.table.name,
                heap.holds(),
                (heap.pages - PAGES).max(0)
            );
            for message in client.simple_query(&sql).await? {
                let SimpleQueryMessage::Row(row) = message else { continue };
                let values: Vec<_> =
                    (0..row.len()).map(|place| row.get(place).map(str::as_bytes)).collect();
                if let Some(topic) = reader.topic(&values) {
                    self.add(&topic, Known::Routed);
                }
            }
        }
        Ok(())
    }

    /// All of them, with the topics of the dead letters of each.
    pub(super) fn all(&self, config: &RelayConfig) -> BTreeMap<String, Use> {
        let mut all = Self { named: self.named.clone(), payload_limit: None };
        for (name, used) in &self.named {
            let letters = config.flow.dead_letter.destination(Some(name));
            if let (Known::Routed, Some(letters)) = (used.known, letters) {
                all.add(&letters, Known::DeadLetters);
            }
        }
        all.named
    }
}

/// The columns of a row as the stream brings them. A payload can be large, and mostly nothing of it
/// says where it goes.
fn selected(config: &RelayConfig, events: &EventMap, outbox: &Outbox) -> String {
    let is_pointer =
        |field: Field| matches!(config.events.columns.get(field).source, Some(Source::Payload(_)));
    let payload = events.mapping().column(Field::Payload);
    let leaves_out = |name: &str| {
        !Field::ALL.into_iter().any(is_pointer)
            && payload.is_some_and(|payload| payload.name == name)
    };
    let columns = outbox.table.layout.columns.iter().map(|column| match leaves_out(&column.name) {
        true => "NULL".to_owned(),
        false => format!("o.{}", quote_ident(&column.name)),
    });
    columns.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_what_it_is_needed_for_most() {
        let mut topics = Topics::default();
        for known in [Known::Former, Known::Routed, Known::DeadLetters] {
            topics.add("a", known);
        }
        assert_eq!(topics.named["a"].known, Known::Routed);
    }
}
