//! Taking the relay's place, and everything between that and the first message.
//!
//! The order matters. The lock comes first, so that one relay alone looks at the slot and sweeps;
//! then the checks; the publication before the slot; the record that a sweep is due before the slot
//! that makes it due; and the stream last.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::sleep;

use super::board::Board;
use super::capture::Capture;
use super::cleanup::Cleanup;
use super::confirm::{Settlement, Settlements};
use super::create::{create_publication, create_slot};
use super::disposition::{Fate, of_bind, of_postgres, of_store};
use super::finding::Severity;
use super::flow::Flow;
use super::load::load;
use super::monitor::{Sight, Watched, find_settlements, watch_over};
use super::past::{Past, Present, intake_changed};
use super::patrol::Patrol;
use super::preflight::{Outbox, Preflight, preflight, synchronous_standby};
use super::recover::give_up_stream;
use super::session::{Before, End, Session};
use super::state::State;
use super::sweep::{Sweep, SweepPlan, Swept};
use super::takeover::take_over;
use super::{RelayConfig, STANDBY_WAIT, Start, fenced};
use crate::failpoint;
use crate::failure::{Code, Failure};
use crate::lsn::{Lsn, Position};
use crate::metrics::Meters;
use crate::outbox::columns::Field;
use crate::outbox::status::Mode;
use crate::postgres::{
    Error, Identity, Publication, ReplicationConnection, ServerFacts, SqlSession,
};
use crate::shutdown::Stop;
use crate::sink::Sink;
use crate::status::{PgStatusStore, RelayRow, StoreOptions, Sweep as SweepState};

/// One session, from connecting to its end.
pub(super) async fn session<S: Sink + 'static>(
    config: &RelayConfig,
    open: &mut impl FnMut() -> Result<S, String>,
    board: &mut Board,
    stop: watch::Receiver<Stop>,
    meters: &Meters,
    takes_over: &mut bool,
) -> End {
    let mut asked = stop.clone();
    let place = tokio::select! {
        biased;
        _ = asked.wait_for(|stop| *stop != Stop::No) => {
            return End::Stopped { drained: true };
        }
        place = Place::take(config, board, takes_over) => place,
    };
    let place = match place {
        Ok(place) => place,
        Err(fate) => return End::Failed(fate),
    };
    let end = Box::pin(place.stream(config, open, board, stop, meters)).await;
    match end.unwrap_or_else(End::Failed) {
        // The next session recovers it.
        End::Failed(Fate::Halt(failure)) if config.recovers(failure.code) => {
            End::Failed(Fate::Reconnect(failure))
        }
        end => end,
    }
}

/// The place of one relay: the lock, and the epoch that came with it.
struct Place {
    /// Holds the lock as long as it lives, and writes the statuses.
    writer: Rc<SqlSession>,
    row: RelayRow,
    facts: ServerFacts,
}

impl Place {
    /// Waits for the lock, or takes it over.
    async fn take(
        config: &RelayConfig,
        board: &mut Board,
        takes_over: &mut bool,
    ) -> Result<Self, Fate> {
        let writer = SqlSession::open(&config.server, "status writer").await;
        let writer = Rc::new(writer.map_err(|error| of_postgres(&error, "connect"))?);
        let connect = |error: Error| of_postgres(&error, "take the relay's place");
        let facts = ServerFacts::load(&writer.client).await.map_err(connect)?;
        if facts.in_recovery {
            let text = "the server is a standby";
            return Err(Fate::Reconnect(Failure::new(Code::InRecovery, text)));
        }
        // Before anything is committed: a commit would wait for a standby that is not there.
        if facts.would_be_synchronous(config.server.application_name()) {
            return Err(Fate::Halt(synchronous_standby(&facts.synchronous_standbys).failure()));
        }
        if !facts.has_schema {
            let text = "there is no table outboxd.relay";
            return Err(Fate::Halt(Failure::new(Code::SchemaMissing, text)));
        }
        // Before anything that operators want is read.
        writer.listen().await.map_err(connect)?;
        let holder = holder();
        if *takes_over {
            take_over(&writer, config).await?;
            // One decision, taken once.
            *takes_over = false;
        }
        loop {
            let row = RelayRow::take_place(&writer.client, &config.id, &holder).await;
            if let Some(row) = row.map_err(connect)? {
                tracing::info!(relay = config.id, epoch = row.epoch, position = %row.position, "took the place");
                return Ok(Self { writer, row, facts });
            }
            if !config.standby {
                return Err(Fate::StandBy(fenced(config)));
            }
            board.stand_by();
            sleep(STANDBY_WAIT).await;
        }
    }

    async fn stream<S: Sink + 'static>(
        mut self,
        config: &RelayConfig,
        open: &mut impl FnMut() -> Result<S, String>,
        board: &mut Board,
        mut stop: watch::Receiver<Stop>,
        meters: &Meters,
    ) -> Result<End, Fate> {
        board.show_state(State::Starting, None);
        let control = SqlSession::open_at(&config.server, &self.writer.address, "control").await;
        let control = control.map_err(|error| of_postgres(&error, "connect"))?;
        let found = preflight(&control.client, config).await;
        let mut found = found.map_err(|error| of_postgres(&error, "check the set-up"))?;
        if let Some(finding) = found.first_error() {
            return Err(Fate::Halt(finding.failure()));
        }
        for finding in found.findings.iter().filter(|f| f.severity == Severity::Warning) {
            tracing::warn!(code = %finding.code, observed = finding.observed, fix = finding.fix, "preflight");
        }
        let Some(outbox) = found.outbox.take() else {
            return Err(Fate::Halt(Failure::new(Code::TableMissing, "the outbox table is gone")));
        };
        let connection =
            ReplicationConnection::open(&config.server, &self.writer.address, config.max_row_bytes);
        let mut connection = connection.await.map_err(|error| of_postgres(&error, "connect"))?;
        if let Some(pid) = found.slot.as_ref().and_then(|slot| slot.active_pid) {
            // Before anything is swept: whoever reads it may be publishing.
            let text = format!("slot \"{}\" is in use by process {pid} of the server", config.slot);
            return Err(Fate::StandBy(Failure::new(Code::SlotInUse, text)));
        }
        let identity = connection.identify().await;
        let (identity, flushed) =
            identity.map_err(|error| of_postgres(&error, "identify the server"))?;
        self.face_the_past(config, &mut found, &outbox, (&identity, flushed)).await?;
        let has_slot = found.slot.is_some();
        let is_failover = match &found.slot {
            Some(slot) => slot.failover,
            None => config.new_slot(self.facts.version).failover,
        };
        let mut set_up =
            SetUp { place: &self, config, control: &control, connection, outbox: &outbox };
        let fingerprint = set_up.check_publication(found.publication, has_slot).await?;

        if config.paused && !board.has_streamed {
            RelayRow::pause(&self.writer.client, &config.id)
                .await
                .map_err(|error| of_postgres(&error, "start paused"))?;
        }
        let mut flow = self.open_flow(config, open, &outbox, board.has_streamed, meters).await?;
        load(&mut flow).await?;
        board.has_streamed = true;
        let swept = set_up.slot_and_sweep(has_slot, &mut flow, board, &mut stop).await;
        board.in_doubt |= !flow.is_empty();
        let swept_until = match swept? {
            Swept::Done(until) => until,
            Swept::Stopped => {
                let drained = flow.is_empty();
                flow.publisher.sink.close().await;
                return Ok(End::Stopped { drained });
            }
        };
        failpoint::pass("after_sweep");
        set_up.remember(&identity, &fingerprint).await?;
        let connection = set_up.connection;
        let with_messages = config.intake.table().is_none();
        let stream = connection.start(&config.slot, &config.publication, with_messages).await;
        let stream = stream.map_err(|error| of_postgres(&error, "start to stream"))?;
        tracing::info!(slot = config.slot, "streaming");

        let table = outbox.table.oid;
        let watched = Watched {
            relay_id: config.id.clone(),
            keeps_verdicts: outbox.status.mode == Mode::Ledger,
            slot: config.slot.clone(),
            publication: config.publication.clone(),
            fingerprint,
            table,
            table_name: config.intake.table().cloned(),
            application_name: config.server.application_name().to_owned(),
        };
        let (sender, sights) = watch::channel(Sight::default());
        let control = Arc::new(control);
        tokio::spawn(watch_over(Arc::clone(&control), watched, sender, meters.clone()));
        board.show_state(State::CatchingUp, None);
        board.update(|status| {
            status.checks.stream = true;
            status.checks.publication = true;
            status.checks.slot = true;
        });
        let (address, epoch) = (&self.writer.address, self.row.epoch);
        let patrol = Patrol::new(config, address, &outbox, meters);
        let cleanup = Cleanup::new(config, address, &outbox, epoch, meters);
        let intake = config.intake.map(|_| table);
        let capture = Capture::new(outbox.events, intake, self.row.position);
        let before = Before { swept_until, flushed };
        let mut session = Session::new(stream, capture, flow, before, meters.clone());
        if is_failover {
            let (question, questions) = watch::channel(Lsn::INVALID);
            let (answer, answers) = watch::channel(Settlement::default());
            session.wait_for(Settlements::new(question, answers));
            tokio::spawn(find_settlements(control, questions, answer));
        }
        let trouble = trouble(&self.writer, sights.clone());
        let patrol = patrol.map(|patrol| tokio::spawn(patrol.go(sights.clone())));
        let cleanup = cleanup.map(|cleanup| tokio::spawn(cleanup.go()));
        let end = session.run(board, stop, trouble, Some(sights)).await;
        for task in [patrol, cleanup].into_iter().flatten() {
            task.abort();
        }
        Ok(end)
    }

    /// Sees to it that the stream can go on from where it was left, or that a sweep takes its place.
    async fn face_the_past(
        &mut self,
        config: &RelayConfig,
        found: &mut Preflight,
        outbox: &Outbox,
        (identity, flushed): (&Identity, Lsn),
    ) -> Result<(), Fate> {
        let knows_unsent = outbox.status.mode.knows_unsent();
        let (name, slot) = (config.slot.as_str(), found.slot.as_ref());
        let failure =
            match Past::of(&self.row, &Present { name, slot, identity, flushed, knows_unsent }) {
                Past::Whole => return Ok(()),
                Past::Forked => {
                    tracing::warn!(
                        timeline = identity.timeline,
                        "the server was promoted: unsent rows are swept before the stream goes on"
                    );
                    // If it is cut off, the time line that is remembered still is the old one.
                    self.row.sweep = SweepState::Incomplete;
                    return Ok(());
                }
                Past::Lost(failure) => failure,
            };
        if !config.recovers(failure.code) {
            return Err(Fate::Halt(failure));
        }
        tracing::warn!(
            code = %failure.code,
            error = failure.message,
            "the stream is given up: a new slot is made, and unsent rows are swept"
        );
        let (client, epoch) = (&self.writer.client, self.row.epoch);
        let sweep = SweepState::Incomplete;
        let given_up = give_up_stream(client, &config.id, epoch, name, sweep).await;
        if !given_up.map_err(|error| of_postgres(&error, "recover the slot"))? {
            return Err(Fate::StandBy(fenced(config)));
        }
        let detail = serde_json::json!({"code": failure.code.to_string(), "policy": "recover"});
        let audited = RelayRow::audit(client, &config.id, "slot recover", &detail).await;
        audited.map_err(|error| of_postgres(&error, "recover the slot"))?;
        found.slot = None;
        self.row = RelayRow {
            epoch,
            position: Position::ORIGIN,
            confirmable: Lsn::INVALID,
            identity: None,
            publication: None,
            sweep,
            sweep_until: Lsn::INVALID,
        };
        Ok(())
    }

    async fn open_flow<S: Sink>(
        &self,
        config: &RelayConfig,
        open: &mut impl FnMut() -> Result<S, String>,
        outbox: &Outbox,
        has_streamed: bool,
        meters: &Meters,
    ) -> Result<Flow<S, PgStatusStore>, Fate> {
        let id = outbox.events.mapping().column(Field::Id);
        let id = id.ok_or_else(|| Fate::Halt(Failure::new(Code::Map, "the id is no column")))?;
        let options = StoreOptions {
            relay_id: &config.id,
            epoch: self.row.epoch,
            table: &outbox.table,
            id,
            max_attempts: outbox.events.mapping().column(Field::MaxAttempts),
            status: &outbox.status,
            deadlock_timeout: self.facts.deadlock_timeout,
        };
        let store = PgStatusStore::open(Rc::clone(&self.writer), &options).await;
        let store = Rc::new(store.map_err(|error| of_store(&error))?);
        let sink = open().map_err(|text| Failure::new(Code::SinkConfig, text));
        // What was right before can be a file that is being replaced.
        let fate = if has_streamed { Fate::Reconnect } else { Fate::Halt };
        let mut sink = sink.map_err(fate)?;
        sink.probe();
        let position = self.row.position;
        let mut flow = Flow::new(sink, store, &config.flow, position, meters.clone());
        let relation = outbox.table.relation();
        flow.mapper = Some(outbox.events.bind(&relation).map_err(|error| of_bind(&error))?);
        flow.notices = Some(self.writer.notices());
        Ok(flow)
    }
}

/// What the steps between the place and the stream share.
struct SetUp<'a> {
    place: &'a Place,
    config: &'a RelayConfig,
    control: &'a SqlSession,
    connection: ReplicationConnection,
    outbox: &'a Outbox,
}

impl SetUp<'_> {
    /// The publication is there before the slot, and is the one that the slot was first read with.
    /// Gives its fingerprint.
    async fn check_publication(
        &self,
        publication: Option<Publication>,
        has_slot: bool,
    ) -> Result<String, Fate> {
        let name = &self.config.publication;
        let known = self.place.row.publication.as_ref();
        if let Some(failure) = intake_changed(&self.place.row, self.config).filter(|_| has_slot) {
            return Err(Fate::Halt(failure));
        }
        match publication {
            None => {
                create_publication(&self.control.client, name, &self.config.intake).await?;
                self.fingerprint().await
            }
            Some(found) if has_slot && known.is_some_and(|known| *known != found.fingerprint) => {
                let text =
                    format!("publication \"{name}\" was dropped or changed since the last run");
                Err(Fate::Halt(Failure::new(Code::PublicationLost, text)))
            }
            Some(found) => Ok(found.fingerprint),
        }
    }

    /// The publication's fingerprint now; nothing where it is gone.
    async fn fingerprint(&self) -> Result<String, Fate> {
        let (name, table) = (&self.config.publication, self.outbox.table.oid);
        let found = Publication::load(&self.control.client, name, table).await;
        let found = found.map_err(|error| of_postgres(&error, "read the publication"))?;
        Ok(found.map(|found| found.fingerprint).unwrap_or_default())
    }

    /// Creates the slot if need be, and publishes what is older than it.
    async fn slot_and_sweep<S: Sink>(
        &mut self,
        has_slot: bool,
        flow: &mut Flow<S, PgStatusStore>,
        board: &mut Board,
        stop: &mut watch::Receiver<Stop>,
    ) -> Result<Swept, Fate> {
        let row = &self.place.row;
        let is_due = match row.sweep {
            SweepState::Never => self.config.start == Start::Pending,
            SweepState::Incomplete => true,
            SweepState::Complete => false,
        };
        let sweeps = is_due && self.outbox.status.mode.knows_unsent();
        if sweeps {
            self.remember_sweep(SweepState::Incomplete, Lsn::INVALID).await?;
        }
        let snapshot = if has_slot {
            None
        } else {
            let client = &self.control.client;
            let new = self.config.new_slot(self.place.facts.version);
            let stopped = async { drop(stop.wait_for(|stop| *stop != Stop::No).await) };
            match create_slot(client, &mut self.connection, new, stopped).await? {
                Some(created) => {
                    failpoint::pass("after_slot");
                    Some(created.snapshot)
                }
                None => return Ok(Swept::Stopped),
            }
        };
        if !sweeps {
            if row.sweep != SweepState::Complete {
                self.remember_sweep(SweepState::Complete, Lsn::INVALID).await?;
            }
            return Ok(Swept::Done(row.sweep_until));
        }
        let session =
            SqlSession::open_at(&self.config.server, &self.place.writer.address, "sweep").await;
        let session = session.map_err(|error| of_postgres(&error, "connect"))?;
        let plan = SweepPlan {
            unsent: self.outbox.unsent(self.config),
            snapshot: snapshot.as_deref(),
            position: row.position,
            max_row_bytes: self.config.max_row_bytes,
        };
        let sweep = Sweep::open(session, &plan).await?;
        let swept = sweep.run(flow, board, stop).await?;
        if let Swept::Done(until) = swept {
            self.remember_sweep(SweepState::Complete, until).await?;
        }
        Ok(swept)
    }

    async fn remember_sweep(&self, sweep: SweepState, until: Lsn) -> Result<(), Fate> {
        let (client, epoch) = (&self.place.writer.client, self.place.row.epoch);
        let kept = RelayRow::remember_sweep(client, &self.config.id, epoch, sweep, until).await;
        self.still_ours(kept)
    }

    /// What the stream belongs to is recorded before the stream is read.
    async fn remember(&self, identity: &Identity, fingerprint: &str) -> Result<(), Fate> {
        // A sweep can take hours, and the stream misses what was written without the publication.
        if self.fingerprint().await? != fingerprint {
            let name = &self.config.publication;
            let text =
                format!("publication \"{name}\" was dropped or changed while rows were swept");
            return Err(Fate::Halt(Failure::new(Code::PublicationLost, text)));
        }
        let (client, epoch) = (&self.place.writer.client, self.place.row.epoch);
        let kept = RelayRow::remember_stream(
            client,
            &self.config.id,
            epoch,
            identity,
            &self.config.slot,
            fingerprint,
        );
        self.still_ours(kept.await)?;
        let kept = RelayRow::remember_state(client, &self.config.id, "running", None).await;
        kept.map_err(|error| of_postgres(&error, "record the state"))
    }

    fn still_ours(&self, kept: Result<bool, Error>) -> Result<(), Fate> {
        match kept.map_err(|error| of_postgres(&error, "record the state"))? {
            true => Ok(()),
            false => Err(Fate::StandBy(fenced(self.config))),
        }
    }
}

/// The first thing that ends a session from outside: the writer's connection, or what the monitor
/// saw.
async fn trouble(writer: &SqlSession, mut sights: watch::Receiver<Sight>) -> Fate {
    let seen = async {
        match sights.wait_for(|sight| sight.trouble.is_some()).await {
            Ok(sight) => sight.trouble.clone(),
            Err(_) => None,
        }
    };
    let lost = |text: String| Fate::Reconnect(Failure::new(Code::PostgresUnavailable, text));
    tokio::select! {
        reason = writer.ended() => lost(format!("the status writer's connection ended: {reason}")),
        trouble = seen => {
            trouble.unwrap_or_else(|| lost("the monitor's connection ended".to_owned()))
        }
    }
}

/// Who has the place, for people.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} pid {}", host.trim(), std::process::id())
}
