//! One history: sessions come and go over one world, as in `relay::run`, until everything is
//! through or rightly waits.

use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::mishap::{LONG_GRACE, Mishap, meters, open, trouble};
use super::tally::Tally;
use super::witness::Witness;
use super::world::{World, millis};
use crate::relay::{Board, End, Fate, STANDBY_WAIT, State, Status};
use crate::shutdown::Stop;

/// After this long without anything going wrong, a history is over or has hung. An event that was
/// refused may wait for a minute twice.
const PATIENCE: Duration = Duration::from_mins(4);
/// A stop that cannot drain has so long.
const SHORT_GRACE: Duration = Duration::from_secs(3);
/// After this long, what still waits waits for ever.
const STALLED_AFTER: Duration = Duration::from_mins(3);

/// Runs the history of a seed. Gives what happened in it.
pub(super) fn run(seed: u64) -> (Tally, Duration) {
    // What the relay draws, it draws from the same seed.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let world = World::new(seed);
        let mut history = History { world, rng: Rng::with_seed(seed), left: Vec::new() };
        let limit = history.world.calm_at + PATIENCE;
        let is_over = timeout_at(limit, history.live()).await;
        assert!(is_over.is_ok(), "it hangs: {:?}", history.world.state.borrow().position);
        history.end().await
    })
}

struct History {
    world: Rc<World>,
    rng: Rng,
    /// Relays that were killed, or replaced and do not know it.
    left: Vec<JoinHandle<End>>,
}

/// A session that runs.
struct Running {
    mishap: Mishap,
    at: Instant,
    witness: Rc<Witness>,
    asks: Option<watch::Sender<Stop>>,
    shown: watch::Receiver<Status>,
    task: JoinHandle<End>,
}

impl Running {
    /// Tells it to stop, unless that was said before. Who asked may be gone before the end.
    fn ask(&mut self, grace: Option<Duration>) {
        if self.witness.deadline.get().is_some() {
            return;
        }
        let deadline = Instant::now() + grace.unwrap_or_default();
        self.witness.deadline.set(Some(deadline));
        let asks = self.asks.take_if(|_| fastrand::bool());
        if let Some(asks) = asks.as_ref().or(self.asks.as_ref()) {
            asks.send_replace(grace.map_or(Stop::Now, |_| Stop::By(deadline)));
        }
    }
}

/// What comes after a session.
enum Next {
    Over,
    Again(Duration),
}

impl History {
    async fn live(&mut self) {
        while let Next::Again(wait) = self.session().await {
            sleep(wait).await;
        }
    }

    /// One session, from taking the place to its end.
    async fn session(&mut self) -> Next {
        let mut session = self.start();
        let world = Rc::clone(&self.world);
        let over = async {
            match world.ends_stalled() {
                true => sleep_until(world.calm_at + STALLED_AFTER).await,
                false => world.done().await,
            }
        };
        let mut over = std::pin::pin!(over);
        let (mut is_due, mut is_over) = (true, false);
        let end = loop {
            tokio::select! {
                biased;
                end = &mut session.task => break end.unwrap_or_else(broken),
                () = sleep_until(session.at), if is_due => {
                    is_due = false;
                    if let Some(next) = self.happen(&mut session).await {
                        self.left.push(session.task);
                        return next;
                    }
                }
                () = &mut over, if !is_over => {
                    (is_over, is_due) = (true, false);
                    if world.ends_stalled() {
                        self.check_stall(&session.witness, &session.shown.borrow());
                        session.ask(Some(SHORT_GRACE));
                    } else {
                        session.ask(Some(LONG_GRACE));
                    }
                }
            }
        };
        tracing::info!(?end, "its end");
        if session.mishap == Mishap::ServerCrashes && Instant::now() >= session.at {
            world.restore_slot();
            world.tally(|tally| tally.server_crashes += 1);
        }
        match end {
            End::Stopped { .. } if is_over && (world.is_done() || world.ends_stalled()) => {
                Next::Over
            }
            End::Failed(Fate::StandBy(_)) => Next::Again(STANDBY_WAIT),
            End::Stopped { .. } | End::Failed(_) => Next::Again(millis(&mut self.rng, 0..3_000)),
        }
    }

    fn start(&mut self) -> Running {
        let mishap = Mishap::new(&mut self.rng, &self.world);
        let soon = if self.rng.bool() { 300 } else { 6_000 };
        let wait = millis(&mut self.rng, 0..soon);
        let at = Instant::now() + wait;
        let witness = Witness::new(&self.world);
        tracing::info!(?mishap, ?wait, first = witness.first, "a session");
        let (asks, stop) = watch::channel(Stop::No);
        let mut board = Board::new("relay", "slot", meters());
        let shown = board.watch();
        let seen = Rc::clone(&witness);
        let task = spawn_local(async move {
            let trouble = trouble(&seen, mishap, at);
            let end = open(&seen, mishap, at).run(&mut board, stop, trouble, None).await;
            seen.ends(&end);
            end
        });
        Running { mishap, at, witness, asks: Some(asks), shown, task }
    }

    /// The session's mishap, where it is not its connections that have it. Gives what comes next,
    /// if the session is left to itself.
    async fn happen(&mut self, session: &mut Running) -> Option<Next> {
        let world = &self.world;
        match session.mishap {
            Mishap::RelayDies => {
                session.task.abort();
                while !session.task.is_finished() {
                    yield_now().await;
                }
                session.witness.is_over();
                world.tally(|tally| tally.kills += 1);
                Some(Next::Again(millis(&mut self.rng, 0..3_000)))
            }
            Mishap::RelayIsReplaced => {
                session.witness.replaced_at.set(Some(Instant::now()));
                world.tally(|tally| tally.replacements += 1);
                Some(Next::Again(Duration::ZERO))
            }
            Mishap::PlaceIsLost => {
                world.take_place();
                None
            }
            Mishap::Stop(grace) => {
                session.ask(Some(grace));
                None
            }
            Mishap::StopNow => {
                session.ask(None);
                None
            }
            _ => None,
        }
    }

    /// What waits waits for a reason, and nothing else does.
    fn check_stall(&self, witness: &Witness, shown: &Status) {
        let world = &self.world;
        let first = world.blocked.iter().position(|is_blocked| *is_blocked).unwrap();
        let state = world.state.borrow();
        assert_eq!(state.settled, first, "events before the first that waits are not settled");
        assert_eq!(shown.state, State::Stalled, "it waits, and does not say so");
        assert!(shown.last_error.is_some(), "it does not say for what");
        let open = witness.open();
        for number in open.clone() {
            let waits = !witness.is_delivered(number);
            assert_eq!(waits, world.blocked[number], "event {number} {waits}");
        }
        let before = world.script.events[first].position.commit;
        let ends = world.script.transactions.iter().filter(|t| t.begin < before);
        let last_end = ends.map(|t| t.end).max();
        assert!(last_end.is_none_or(|end| end <= state.confirmed), "settled, and not confirmed");
        if let Some(next) = world.script.events.get(open.end) {
            let unacked = open.clone().filter(|number| world.blocked[*number]);
            // A little more than a payload goes with each.
            let bytes = |number: usize| world.script.events[number].payload.len() + 256 + 100;
            let used = unacked.map(bytes).sum::<usize>() + next.payload.len() + 256 + 200;
            let is_full = open.len() == world.limits.events || used as u64 > world.limits.bytes;
            assert!(is_full, "it reads no more, and has room: {} open", open.len());
        }
    }

    /// Everybody who is still there comes to an end; then the promises about the whole.
    async fn end(mut self) -> (Tally, Duration) {
        for relay in self.left.drain(..) {
            match timeout(PATIENCE, relay).await.expect("a relay without a place goes on") {
                Err(error) if error.is_panic() => broken(error),
                _ => {}
            }
        }
        let world = self.world;
        let elapsed = world.began.elapsed();
        let quiet_at = world.brokers.borrow().quiet_at();
        if let Some(at) = quiet_at {
            sleep_until(at).await;
        }
        world.look_at_kafka();
        let state = &mut *world.state.borrow_mut();
        let events = world.script.events.len();
        let copies: u64 = state.copies.iter().map(|copies| u64::from(*copies)).sum();
        if !world.ends_stalled() {
            let lost = state.copies.iter().position(|copies| *copies == 0);
            assert_eq!((lost, state.settled), (None, events), "an event is lost");
        }
        let distinct = state.copies.iter().filter(|copies| **copies > 0).count() as u64;
        let duplicates = copies - distinct;
        assert!(duplicates <= state.excused, "{duplicates} duplicates, {} excused", state.excused);
        assert!(!world.is_calm || duplicates == 0, "{duplicates} duplicates without a fault");
        assert!(!world.is_calm || state.tally.undrained == 0, "a stop had time, and did not drain");
        state.tally.events += events as u64;
        state.tally.duplicates += duplicates;
        state.tally.ended_stalled += u64::from(world.ends_stalled());
        (state.tally, elapsed)
    }
}

/// A promise was broken in a task: it is broken here.
fn broken<T>(error: tokio::task::JoinError) -> T {
    std::panic::resume_unwind(error.into_panic())
}
