//! One session over the world's edges, and what goes wrong with it.

use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep_until};

use super::outbox::{TABLE, event_map, mapper};
use super::sink::WatchedSink;
use super::store::MemoryStore;
use super::wal::{Connection, ScriptedWal};
use super::witness::Witness;
use super::world::{World, millis};
use crate::failure::{Code, Failure};
use crate::metrics::Meters;
use crate::postgres::Intake;
use crate::relay::Fate;
use crate::relay::capture::Capture;
use crate::relay::flow::Flow;
use crate::relay::load::load;
use crate::relay::session::{Before, Session};
use crate::sink::Sink;
use crate::sink::memory::MemorySink;

/// Long enough for any drain that can come to its end.
pub(super) const LONG_GRACE: Duration = Duration::from_secs(90);

/// What goes wrong in one session, besides what goes wrong by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mishap {
    Nothing,
    StreamBreaks,
    StreamBreaksAfter(usize),
    WriterBreaks,
    ServerCrashes,
    ProducerDies,
    RelayDies,
    /// Another relay takes over, and this one goes on without knowing.
    RelayIsReplaced,
    /// Somebody raises the epoch, and goes away again.
    PlaceIsLost,
    Stop(Duration),
    StopNow,
}

impl Mishap {
    pub(super) fn new(rng: &mut Rng, world: &World) -> Self {
        if Instant::now() >= world.calm_at {
            return Mishap::Nothing;
        }
        if world.is_calm {
            return if rng.bool() { Mishap::Stop(LONG_GRACE) } else { Mishap::Nothing };
        }
        match rng.u8(..12) {
            0 => Mishap::StreamBreaks,
            1 | 2 => Mishap::StreamBreaksAfter(rng.usize(1..60)),
            3 => Mishap::WriterBreaks,
            4 => Mishap::ServerCrashes,
            5 => Mishap::ProducerDies,
            6 => Mishap::RelayDies,
            7 | 8 => Mishap::RelayIsReplaced,
            9 => Mishap::PlaceIsLost,
            10 if rng.bool() => Mishap::Stop(LONG_GRACE),
            10 => Mishap::Stop(millis(rng, 0..20_000)),
            _ => Mishap::StopNow,
        }
    }
}

/// A session as `place` opens one, with what is held. What goes wrong with its connections does so
/// `at` a moment.
///
/// # Errors
/// What is held could not be read.
pub(super) async fn open(
    witness: &Rc<Witness>,
    mishap: Mishap,
    at: Instant,
) -> Result<Session<ScriptedWal, WatchedSink, MemoryStore>, Fate> {
    let world = &witness.world;
    let connection =
        |breaks: bool| Connection { cut_at: breaks.then_some(at), witness: Rc::clone(witness) };
    let crashes = mishap == Mishap::ServerCrashes;
    let store = MemoryStore::open(connection(crashes || mishap == Mishap::WriterBreaks));
    let mut inner = MemorySink::open(&world.brokers);
    inner.probe();
    if mishap == Mishap::ProducerDies {
        inner.dies_at(at);
    }
    let sink = WatchedSink { inner, witness: Rc::clone(witness) };
    let position = witness.position;
    let mut flow = Flow::new(sink, Rc::new(store), &world.flow, position, meters());
    flow.mapper = Some(mapper());
    flow.notices = Some(world.notices.subscribe());
    load(&mut flow).await?;
    witness.has_loaded();
    let breaks_after = match mishap {
        Mishap::StreamBreaksAfter(messages) => Some(messages),
        _ => None,
    };
    let breaks = connection(crashes || mishap == Mishap::StreamBreaks);
    let stream = ScriptedWal::start(breaks, breaks_after);
    let capture = Capture::new(event_map(), Intake::Table(TABLE), position);
    let before = Before { swept_until: world.swept_until, flushed: world.swept_until };
    Ok(Session::new(stream, capture, flow, before, meters()))
}

/// The writer's connection ends, and a moment later somebody notices.
pub(super) async fn trouble(witness: &Witness, mishap: Mishap, at: Instant) -> Fate {
    if !matches!(mishap, Mishap::WriterBreaks | Mishap::ServerCrashes) {
        return std::future::pending().await;
    }
    sleep_until(at + Duration::from_millis(fastrand::u64(..100))).await;
    witness.fails();
    Fate::Reconnect(Failure::new(Code::PostgresUnavailable, "the writer's connection ended"))
}

/// Nobody reads them; they are registered once.
pub(super) fn meters() -> Meters {
    thread_local! {
        static METERS: Meters = Meters::new();
    }
    METERS.with(Clone::clone)
}
