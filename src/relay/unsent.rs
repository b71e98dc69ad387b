//! Rows that are unsent and that nothing knows of: what a sweep publishes, and what reconciling
//! looks for.

use crate::outbox::EventMap;
use crate::outbox::columns::{Field, LayoutColumn};
use crate::outbox::status::Pending;
use crate::postgres::{OutboxTable, quote_ident, quote_literal};

/// Where to look, and how to tell.
#[derive(Clone, Copy)]
pub struct Unsent<'a> {
    /// Whose held events and ledger count.
    pub relay_id: &'a str,
    /// The outbox.
    pub table: &'a OutboxTable,
    /// How its rows become events.
    pub map: &'a EventMap,
    /// How a row says that it is to be published.
    pub pending: &'a Pending<LayoutColumn>,
    /// `outbox.sweep_order`; empty for the default.
    pub order: &'a [String],
}

impl Unsent<'_> {
    /// The id's column, as SQL takes it.
    pub(super) fn id(&self) -> String {
        let id = self.map.mapping().column(Field::Id).map(|column| quote_ident(&column.name));
        id.unwrap_or_default()
    }

    /// The id's type, as SQL takes it in a cast.
    pub(super) fn id_type(&self) -> &str {
        let id = self.map.mapping().column(Field::Id);
        id.and_then(|column| self.table.type_sql(&column.name)).unwrap_or("text")
    }

    /// A row `o` says that it is to be published.
    pub(super) fn pending(&self) -> String {
        match self.pending {
            Pending::Always => "true".to_owned(),
            Pending::Label(column, label) => {
                format!("o.{} = {}", quote_ident(&column.name), quote_literal(label))
            }
            Pending::NotFlagged(column) => format!("o.{} IS NOT TRUE", quote_ident(&column.name)),
            Pending::IsNull(column) => format!("o.{} IS NULL", quote_ident(&column.name)),
        }
    }

    /// The condition on a row `o`.
    pub(super) fn condition(&self) -> String {
        let pending = self.pending();
        let (id, relay) = (self.id(), quote_literal(self.relay_id));
        let unknown = |table: &str| {
            format!(
                "NOT EXISTS (SELECT FROM outboxd.{table} k WHERE k.relay_id = {relay} \
                 AND k.event_id = o.{id}::text)"
            )
        };
        format!("{pending} AND {} AND {}", unknown("ledger"), unknown("held_event"))
    }

    /// Whether the order follows commit order, as far as a column can.
    pub(super) fn follows_commits(&self) -> bool {
        !self.order.is_empty() || self.table.layout.column("seq").is_some()
    }

    /// The columns of a row `o` to order by.
    pub(super) fn order(&self) -> String {
        if !self.order.is_empty() {
            let columns: Vec<_> =
                self.order.iter().map(|name| format!("o.{}", quote_ident(name))).collect();
            return columns.join(", ");
        }
        if self.follows_commits() {
            return "o.\"seq\"".to_owned();
        }
        let id = self.id();
        match self.map.mapping().column(Field::OccurredAt) {
            Some(column) => format!("o.{}, o.{id}", quote_ident(&column.name)),
            None => format!("o.{id}"),
        }
    }
}
