//! What a session hands over to Kafka, and what it hears of it.

use tokio::time::Instant;

use super::witness::{HeldProgress, PROMPT, Progress, Seen, Witness};
use super::world::World;
use crate::ack::{Ordinal, Seq};
use crate::outbox::Placement;
use crate::relay::board::wall_clock;
use crate::relay::publish::HELD;
use crate::sink::memory::MISREPORTED;
use crate::sink::{Record, Report, SinkError};
use crate::status::{Reason, Request};

impl Witness {
    /// It handed a record over.
    pub(super) fn hands_over(&self, seq: Seq, record: &Record<'_>) {
        self.acts();
        let number = self.world.script.number(record.headers.get("event_id").unwrap());
        let seen = &mut *self.seen.borrow_mut();
        let name = record.topic;
        assert!(!seen.paused_topics.contains(name), "{name} is paused, and gets event {number}");
        let partitions = seen.partitions[name];
        let known = seen.known_partitions.get(name);
        let is_known = !self.has_place() || known.is_none_or(|known| *known == partitions);
        assert!(is_known, "{name} had {known:?} partitions");
        if let Some(key) = record.key {
            let expected = Placement::of_key(key).partition(partitions);
            assert_eq!(record.partition, expected, "event {number} goes to another partition");
        }
        match seq & HELD {
            0 => self.hands_over_fast(seen, seq, number, record),
            _ => self.hands_over_held(seen, (seq & !HELD).cast_signed(), number, record),
        }
    }

    fn hands_over_fast(&self, seen: &mut Seen, seq: Seq, number: usize, record: &Record<'_>) {
        let progress = seen.progress.get(&number).copied();
        if !self.has_place() && (progress.is_none() || seen.due.contains_key(&number)) {
            // What it knows of scheduled events is not what is stored.
            seen.seqs.insert(seq, number);
            seen.progress.insert(number, Progress::UnderWay(seq));
            return;
        }
        match progress {
            Some(Progress::Read) => {}
            Some(Progress::Failed(before)) => {
                assert_eq!(before, seq, "event {number} has a new number")
            }
            _ => panic!("event {number} is handed over, and is {progress:?}"),
        }
        let inserted = &self.world.script.events[number].row;
        let is_due = seen.due.contains_key(&number);
        let row = seen.due.get(&number).unwrap_or(inserted);
        assert!(row.due.is_none_or(|due| due <= wall_clock()), "event {number} goes too early");
        assert!(row.is_pending, "event {number} is not to be published");
        let redelivery = self.is_asked_for(number, is_due);
        is_record_of(&row.content().parcel, redelivery, record, number);
        self.keeps_order(seen, Some(seq), number);
        let may_share = record.alone || !seen.suspects.contains(&seq);
        assert!(may_share, "event {number} shares a batch, and was refused in one");
        if record.alone {
            seen.alone.insert(seq);
        } else {
            seen.alone.remove(&seq);
        }
        seen.seqs.insert(seq, number);
        seen.progress.insert(number, Progress::UnderWay(seq));
    }

    /// Whether an event that came due was to be published again on an operator's word.
    fn is_asked_for(&self, number: usize, is_due: bool) -> bool {
        let state = self.world.state.borrow();
        let row = state.table.find(number).and_then(|ordinal| state.table.rows.get(&ordinal));
        is_due && row.is_some_and(|row| row.content.redelivery)
    }

    /// Nothing before it in its key is left behind. `seq` is its number on the fast way.
    fn keeps_order(&self, seen: &Seen, seq: Option<Seq>, number: usize) {
        let world = &self.world;
        let lane = world.lane(number);
        if lane.is_none() {
            return;
        }
        let mut room = world.flow.limits.per_key;
        for (other, progress) in &seen.progress {
            if world.lane(*other) != lane || *other == number {
                continue;
            }
            match progress {
                Progress::UnderWay(_) if seq.is_some() => {
                    room -= 1;
                    assert!(room > 0, "too many events of a key are under way");
                }
                Progress::Failed(before) => {
                    let is_later = seq.is_some_and(|seq| *before < seq);
                    assert!(!is_later, "event {number} leaves {other} behind");
                }
                Progress::Read => {
                    let inserted = &world.script.events[*other].row;
                    let came = seen.due.contains_key(other) || seen.due.contains_key(&number);
                    let is_before = seq.is_some() && *other < number && inserted.due.is_none();
                    assert!(came || !is_before, "event {number} leaves {other} behind");
                }
                Progress::UnderWay(_) | Progress::Delivered => {}
            }
        }
    }

    /// No held event of the key is before it, of those that are not through. Those are known by what
    /// is stored.
    fn is_first_of_held(&self, seen: &Seen, before: Ordinal, number: usize) {
        if !self.has_place() {
            return;
        }
        let lane = self.world.lane(number);
        let state = self.world.state.borrow();
        for (ordinal, row) in state.table.to_go().filter(|(ordinal, _)| *ordinal < before) {
            let is_through =
                seen.held.get(&ordinal).is_some_and(|h| h.progress == Progress::Delivered);
            let is_same = lane.is_some() && self.world.lane(row.number) == lane;
            // One that was dead and is to go again comes when it comes.
            let was_dead = state.passed[row.number];
            assert!(
                was_dead || !is_same || is_through,
                "event {number} goes before {}, which is held",
                row.number
            );
        }
    }

    fn hands_over_held(
        &self,
        seen: &mut Seen,
        ordinal: Ordinal,
        number: usize,
        record: &Record<'_>,
    ) {
        let before = seen.held.get(&ordinal).copied();
        let is_under_way = before.is_some_and(|before| before.progress.may_be_there());
        assert!(!is_under_way, "held event {number} is handed over twice");
        self.is_first_of_held(seen, ordinal, number);
        let own = self.world.script.events[number].row.topic.as_deref();
        let is_letter = own != Some(record.topic);
        if self.has_place() {
            self.is_as_stored(ordinal, number, is_letter, record);
        }
        let was_refused_whole = before.is_some_and(|before| before.was_refused_whole);
        let is_bare = record.value.is_none();
        assert!(!is_bare || is_letter && was_refused_whole, "event {number} goes without a value");
        let held = HeldProgress {
            number,
            progress: Progress::UnderWay(HELD),
            is_letter,
            alone: record.alone,
            was_refused_whole,
        };
        seen.held.insert(ordinal, held);
        self.world.tally(|tally| {
            tally.bare_letters += u64::from(is_bare);
            tally.tried_again += u64::from(!is_letter);
        });
    }

    /// What a held event's row says is what goes, where it belongs, and when it is due.
    fn is_as_stored(&self, ordinal: Ordinal, number: usize, is_letter: bool, record: &Record<'_>) {
        let state = self.world.state.borrow();
        let row = state.table.rows.get(&ordinal);
        let row = row.unwrap_or_else(|| panic!("event {number} goes, and is not held"));
        assert_eq!(row.number, number, "a held event has the number of another one");
        assert_ne!(row.hold.reason, Reason::Scheduled, "event {number} is scheduled");
        let is_asked = row.request == Some(Request::Retry);
        assert!(
            row.hold.attempts == 0 || record.alone || is_asked,
            "event {number} takes others with it"
        );
        let due =
            row.hold.due.unwrap_or(if row.hold.reason == Reason::Retry { i64::MAX } else { 0 });
        assert!(due <= wall_clock() || is_asked, "event {number} goes too early");
        let parcel = &row.content.parcel;
        if !is_letter {
            let may_go = !row.hold.exhausted && row.is_to_go();
            assert!(may_go || is_asked, "event {number} was given up, and goes");
            let says_so = record.headers.get("outboxd-redelivery").is_some();
            let redelivery = row.content.redelivery || is_asked && says_so;
            is_record_of(parcel, redelivery, record, number);
            return;
        }
        assert_eq!(self.world.letters(number).as_deref(), Some(record.topic), "of {number}");
        assert!(row.hold.exhausted && row.is_to_go(), "event {number} is no dead letter");
        let header = |name| record.headers.get(name);
        let error = row.hold.error.as_ref();
        assert_eq!(header("dlq-error"), error.map(|error| error.message.as_str()));
        assert_eq!(header("dlq-error-class"), error.map(|e| e.code.to_string()).as_deref());
        assert_eq!(header("dlq-attempts"), Some(row.hold.attempts.to_string().as_str()));
        assert_eq!(header("dlq-topic"), Some(parcel.topic.as_deref().unwrap_or_default()));
        assert_eq!(header("dlq-truncated").is_some(), record.value.is_none());
        assert_eq!(record.key, parcel.key.as_deref(), "event {number}'s key");
        assert!(record.value.is_none_or(|value| Some(value) == parcel.value.as_deref()));
    }

    /// A record was refused at once: nobody will report it.
    pub(super) fn is_refused(&self, seq: Seq, record: &Record<'_>, error: &SinkError) {
        // What becomes of a held event that is refused at once is decided at once.
        if seq & HELD == 0 {
            self.refused_at.set(self.refused_at.get().or(Some(Instant::now())));
        }
        let number = self.world.script.number(record.headers.get("event_id").unwrap());
        let seen = &mut *self.seen.borrow_mut();
        let ordinal = (seq & !HELD).cast_signed();
        let own = self.world.script.events[number].row.topic.as_deref();
        let is_letter = own != Some(record.topic);
        if is_letter {
            let progress = seen.held.entry(ordinal).or_insert(HeldProgress {
                number,
                progress: Progress::Failed(HELD),
                is_letter,
                alone: true,
                was_refused_whole: false,
            });
            progress.was_refused_whole = true;
        } else if is_the_events_own(error) {
            *seen.blamed.entry(number).or_default() += 1;
        }
    }

    /// It is told what became of records.
    pub(super) fn hears(&self, delivered: &[Seq], reports: &[Report]) {
        let now = Instant::now();
        let refused_at = self.refused_at.take().unwrap_or(now);
        assert!(now - refused_at <= PROMPT, "it sleeps over a record that was refused");
        let seen = &mut *self.seen.borrow_mut();
        for seq in delivered {
            seen.turns(*seq, Progress::Delivered);
            let ordinal = (seq & !HELD).cast_signed();
            let is_letter = seq & HELD != 0 && seen.held[&ordinal].is_letter;
            self.world.tally(|tally| tally.dead_letters += u64::from(is_letter));
        }
        for report in reports {
            match report {
                Report::Failed { seq, error, .. } => {
                    self.is_told(seen, *seq, error);
                }
                Report::Topic { name, result: Ok(info) } => {
                    seen.partitions.insert(name.clone(), info.partitions);
                    let known = seen.known_partitions.get(name);
                    let has_grown = known.is_some_and(|known| *known != info.partitions);
                    self.world.tally(|tally| tally.grown += u64::from(has_grown));
                }
                Report::Topic { result: Err(_), .. } => {
                    self.world.tally(|tally| tally.topics_away += 1);
                }
                Report::Fatal(_) => self.fails(),
                Report::Reachable(_) | Report::Suppressed(_) => {}
            }
        }
    }

    fn is_told(&self, seen: &mut Seen, seq: Seq, error: &SinkError) {
        let (alone, number) = seen.turns(seq, Progress::Failed(seq));
        let world: &World = &self.world;
        let ordinal = (seq & !HELD).cast_signed();
        let held = if seq & HELD == 0 { None } else { seen.held.get_mut(&ordinal) };
        let state = &mut *world.state.borrow_mut();
        match error {
            SinkError::Unknown(_) => {
                state.excused += 1;
                self.is_puzzled.set(true);
            }
            SinkError::Unavailable(text) => {
                state.tally.unavailable += 1;
                state.excused += u64::from(text == MISREPORTED);
            }
            SinkError::Refused(_) => {
                state.tally.refusals += 1;
                match held {
                    Some(held) if held.is_letter => held.was_refused_whole |= alone,
                    _ if alone => *seen.blamed.entry(number).or_default() += 1,
                    _ => {
                        seen.suspects.insert(seq);
                        state.tally.refused_with_others += 1;
                    }
                }
            }
            _ => state.tally.topics_away += 1,
        }
    }
}

impl Seen {
    /// A record turns out to be delivered, or not. Whether it went alone, and its event.
    fn turns(&mut self, seq: Seq, progress: Progress) -> (bool, usize) {
        if seq & HELD == 0 {
            let number = self.seqs[&seq];
            self.progress.insert(number, progress);
            return (self.alone.contains(&seq), number);
        }
        let ordinal = (seq & !HELD).cast_signed();
        let held = self.held.get_mut(&ordinal).unwrap();
        held.progress = progress;
        (held.alone, held.number)
    }
}

/// Whether an error is the event's own doing.
fn is_the_events_own(error: &SinkError) -> bool {
    matches!(
        error,
        SinkError::TooLarge { .. } | SinkError::NoPartition { .. } | SinkError::Refused(_)
    )
}

/// A record is what it is to be.
fn is_record_of(
    parcel: &crate::sink::Parcel,
    redelivery: bool,
    record: &Record<'_>,
    number: usize,
) {
    assert_eq!(Some(record.topic), parcel.topic.as_deref(), "event {number} goes to another topic");
    assert_eq!(record.key, parcel.key.as_deref(), "event {number}'s key");
    assert_eq!(record.value, parcel.value.as_deref(), "event {number}'s value");
    let mut headers = parcel.headers.clone();
    if redelivery && headers.view().get("outboxd-redelivery").is_none() {
        headers.add("outboxd-redelivery", Some("true"));
    }
    let (found, expected) = (record.headers.iter(), headers.view());
    assert!(found.eq(expected.iter()), "event {number}'s headers");
}
