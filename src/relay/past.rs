//! The past: whether the stream can go on, on this server and with this outbox, from where it was
//! left.

use super::RelayConfig;
use crate::failure::{Code, Failure};
use crate::lsn::{Lsn, Position};
use crate::postgres::{Identity, Publication, Slot};
use crate::status::{RelayRow, Sweep};

/// What became of the stream that the stored position belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Past {
    /// It goes on, or there was none.
    Whole,
    /// The server was promoted, and the slot survived. The slot may be past events whose settling
    /// this server never heard of.
    Forked,
    /// It cannot go on.
    Lost(Failure),
}

/// What is there now.
pub(super) struct Present<'a> {
    /// The slot's name.
    pub(super) name: &'a str,
    /// The slot, if it is there.
    pub(super) slot: Option<&'a Slot>,
    /// The server.
    pub(super) identity: &'a Identity,
    /// Up to here the server has flushed its WAL, asked after the slot.
    pub(super) flushed: Lsn,
    /// Whether the table tells which rows are unsent.
    pub(super) knows_unsent: bool,
}

impl Past {
    /// Holds what is remembered against what is there. What does not fit is never skipped.
    pub(super) fn of(row: &RelayRow, now: &Present<'_>) -> Self {
        let lost = |code, text: String| Past::Lost(Failure::new(code, text));
        let name = now.name;
        if let Some(slot) = now.slot.filter(|slot| slot.is_lost()) {
            let reason = slot.invalidation_reason.as_deref().unwrap_or("wal_removed");
            return lost(Code::SlotLost, format!("slot \"{name}\" was invalidated ({reason})"));
        }
        let Some(known) = &row.identity else {
            return Past::Whole;
        };
        let identity = now.identity;
        let elsewhere = || {
            let text = format!(
                "the position belongs to system {} on time line {}, the server is system {} on \
                 time line {}",
                known.system_id, known.timeline, identity.system_id, identity.timeline
            );
            lost(Code::IdentityChanged, text)
        };
        if known.system_id != identity.system_id || known.timeline > identity.timeline {
            return elsewhere();
        }
        let confirmed = now.slot.map_or(Lsn::INVALID, Slot::confirmed);
        let furthest = confirmed.max(row.position.commit);
        if furthest > now.flushed {
            let flushed = now.flushed;
            let text = format!("the stream was read until {furthest}, the server is at {flushed}");
            return lost(Code::IdentityChanged, text);
        }
        let is_new_timeline = known.timeline != identity.timeline;
        // A sweep that is due finds what was left out.
        let is_moved = row.confirmable.is_valid()
            && confirmed > row.confirmable
            && row.sweep != Sweep::Incomplete;
        match now.slot {
            None => {
                let position = row.position;
                let text = format!("slot \"{name}\" is gone, and was read until {position}");
                lost(Code::SlotMissing, text)
            }
            Some(_) if is_new_timeline && now.knows_unsent => Past::Forked,
            Some(_) if is_new_timeline => elsewhere(),
            Some(_) if is_moved => {
                let known = row.confirmable;
                let text = format!(
                    "slot \"{name}\" was moved to {confirmed}; the relay confirmed {known} at most"
                );
                lost(Code::SlotMoved, text)
            }
            Some(_) => Past::Whole,
        }
    }
}

/// Why the slot cannot be read on, if it was read for rows and is to be read for messages, or the
/// other way round: a place within a transaction counts the ones, and means nothing to the others.
pub(super) fn intake_changed(row: &RelayRow, config: &RelayConfig) -> Option<Failure> {
    let reads_messages = config.intake.table().is_none();
    let read_messages = match &row.publication {
        Some(fingerprint) => Publication::is_of_messages(fingerprint),
        // A relay of rows forgets it, in order to sweep; one of messages never does.
        None if row.position > Position::ORIGIN => false,
        None => reads_messages,
    };
    let (id, slot, position, now) = (&config.id, &config.slot, row.position, &config.intake);
    let before = if read_messages { "messages" } else { "rows" };
    let text = format!(
        "relay \"{id}\" has read slot \"{slot}\" for {before}, until {position}; now it is to read \
         the {now}"
    );
    (read_messages != reads_messages).then(|| Failure::new(Code::IntakeChanged, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn row(timeline: i32, position: u64) -> RelayRow {
        let identity = Identity { system_id: "7".to_owned(), timeline };
        RelayRow {
            epoch: 1,
            position: Position { commit: Lsn::from_wire(position), index: 0 },
            identity: Some(identity),
            publication: None,
            confirmable: Lsn::INVALID,
            sweep: Sweep::Complete,
            sweep_until: Lsn::INVALID,
        }
    }

    fn slot(wal_status: &str, confirmed: &str) -> Slot {
        let text = format!(
            r#"{{"plugin": "pgoutput", "slot_type": "logical", "active": false,
                 "wal_status": "{wal_status}", "confirmed_flush_lsn": "{confirmed}"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    /// On time line 2 of system 7, flushed until 0/100.
    fn judge(row: &RelayRow, slot: Option<&Slot>, system_id: &str, knows_unsent: bool) -> Past {
        let identity = Identity { system_id: system_id.to_owned(), timeline: 2 };
        let flushed = Lsn::from_wire(0x100);
        let present = Present { name: "s", slot, identity: &identity, flushed, knows_unsent };
        Past::of(row, &present)
    }

    fn code(past: &Past) -> Option<Code> {
        match past {
            Past::Lost(failure) => Some(failure.code),
            Past::Whole | Past::Forked => None,
        }
    }

    #[test]
    fn the_stream_goes_on_where_everything_is_as_it_was() {
        let slot = slot("reserved", "0/100");
        assert_eq!(judge(&row(2, 0x80), Some(&slot), "7", true), Past::Whole);
        let first = RelayRow { identity: None, ..row(2, 0) };
        assert_eq!(judge(&first, None, "8", true), Past::Whole);
        assert_eq!(judge(&first, Some(&slot), "8", false), Past::Whole);
    }

    #[test]
    fn a_place_among_rows_is_none_among_messages() {
        let config = |key: &str| {
            let text = format!(
                "outbox.{key} = \"orders\"\npostgres.url = \"postgres://u@localhost/d\"\n\
                 kafka.bootstrap_servers = \"localhost:9092\""
            );
            Config::from_toml(&text).unwrap().relay
        };
        let (rows, messages) = (config("table"), config("message_prefix"));
        for (publication, position, of_rows, of_messages) in [
            (None, 0, true, true),
            (None, 0x80, true, false),
            (Some("16384:740 16385:740"), 0x80, true, false),
            (Some("16384:740 "), 0x80, true, false),
            (Some("16384 messages"), 0x80, false, true),
        ] {
            let publication = publication.map(str::to_owned);
            let row = RelayRow { publication, ..row(2, position) };
            let may = |config: &RelayConfig| intake_changed(&row, config).is_none();
            assert_eq!((may(&rows), may(&messages)), (of_rows, of_messages), "{row:?}");
        }
    }

    #[test]
    fn a_slot_that_survived_a_promotion_is_not_trusted_alone() {
        let slot = slot("reserved", "0/100");
        assert_eq!(judge(&row(1, 0x80), Some(&slot), "7", true), Past::Forked);
        let unknown = judge(&row(1, 0x80), Some(&slot), "7", false);
        assert_eq!(code(&unknown), Some(Code::IdentityChanged), "nothing tells what is unsent");
    }

    #[test]
    fn what_does_not_fit_is_never_skipped() {
        let here = slot("reserved", "0/80");
        for (row, slot, system_id, expected) in [
            (row(2, 0x80), Some(&slot("lost", "0/80")), "7", Code::SlotLost),
            (row(2, 0x80), None, "7", Code::SlotMissing),
            (row(1, 0x80), None, "7", Code::SlotMissing),
            (row(2, 0x80), Some(&here), "8", Code::IdentityChanged),
            (row(3, 0x80), Some(&here), "7", Code::IdentityChanged),
            (row(2, 0x101), Some(&here), "7", Code::IdentityChanged),
            (row(1, 0x101), Some(&here), "7", Code::IdentityChanged),
            (row(2, 0x80), Some(&slot("reserved", "0/101")), "7", Code::IdentityChanged),
        ] {
            let past = judge(&row, slot, system_id, true);
            assert_eq!(code(&past), Some(expected), "{row:?} {slot:?}");
        }
        let confirmable = Lsn::from_wire(0x90);
        let told = RelayRow { confirmable, ..row(2, 0x80) };
        assert_eq!(judge(&told, Some(&slot("reserved", "0/90")), "7", true), Past::Whole);
        let past = judge(&told, Some(&slot("reserved", "0/91")), "7", true);
        assert_eq!(code(&past), Some(Code::SlotMoved), "somebody else confirmed");
        let swept = RelayRow { sweep: Sweep::Incomplete, ..told };
        assert_eq!(judge(&swept, Some(&slot("reserved", "0/91")), "7", true), Past::Whole);
        let never_read = RelayRow { identity: None, ..row(2, 0) };
        let past = judge(&never_read, Some(&slot("lost", "0/80")), "7", true);
        assert_eq!(code(&past), Some(Code::SlotLost));
    }
}
