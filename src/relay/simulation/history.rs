//! One history: sessions come and go over one world, as in `relay::run`, until everything is
//! through or rightly waits.

use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::mishap::{LONG_GRACE, Mishap, meters, open, trouble};
use super::people::act;
use super::state::Standing;
use super::tally::Tally;
use super::witness::Witness;
use super::world::{World, millis};
use crate::relay::{Board, End, Fate, STANDBY_WAIT, State, Status};
use crate::shutdown::Stop;

/// After this long without anything going wrong, a history is over or has hung.
const PATIENCE: Duration = Duration::from_mins(6);
/// A stop that cannot drain has so long.
const SHORT_GRACE: Duration = Duration::from_secs(3);

/// Runs the history of a seed. Gives what happened in it.
pub(super) fn run(seed: u64) -> (Tally, Duration) {
    // What the relay draws, it draws from the same seed.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let world = World::new(seed);
        let mut history =
            History { world, witness: None, rng: Rng::with_seed(seed), left: Vec::new() };
        let limit = history.world.calm_at + PATIENCE;
        let is_over = timeout_at(limit, history.live()).await;
        if is_over.is_err() {
            let progress = history.witness.map(|w| w.seen.borrow().progress.clone());
            let (world, held) = (&history.world, history.world.state.borrow().held());
            let unrest = world.unrest();
            panic!("it hangs: {unrest:?}; {held:?} of {:?}; open: {progress:?}", world.flow.held);
        }
        history.end().await
    })
}

struct History {
    world: Rc<World>,
    /// The last session's.
    witness: Option<Rc<Witness>>,
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
        let people = spawn_local(act(Rc::clone(&self.world)));
        while let Next::Again(wait) = self.session().await {
            sleep(wait).await;
        }
        people.await.unwrap_or_else(broken);
    }

    /// One session, from taking the place to its end.
    async fn session(&mut self) -> Next {
        let mut session = self.start();
        let world = Rc::clone(&self.world);
        let over = world.at_rest();
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
                    let is_full = world.is_full();
                    self.check_board(is_full, &session.shown.borrow());
                    world.tally(|tally| tally.ended_full += u64::from(is_full));
                    session.ask(Some(if is_full { SHORT_GRACE } else { LONG_GRACE }));
                }
            }
        };
        tracing::info!(?end, "its end");
        if session.mishap == Mishap::ServerCrashes && Instant::now() >= session.at {
            world.restore_slot();
            world.tally(|tally| tally.server_crashes += 1);
        }
        match end {
            End::Stopped { .. } if is_over => Next::Over,
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
        self.witness = Some(Rc::clone(&witness));
        tracing::info!(?mishap, ?wait, first = witness.first, "a session");
        let (asks, stop) = watch::channel(Stop::No);
        let mut board = Board::new("relay", "slot", meters());
        let shown = board.watch();
        let seen = Rc::clone(&witness);
        let task = spawn_local(async move {
            let end = match open(&seen, mishap, at).await {
                Ok(session) => {
                    session.run(&mut board, stop, trouble(&seen, mishap, at), None).await
                }
                Err(fate) => End::Failed(fate),
            };
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

    /// Who cannot go on says so.
    fn check_board(&self, is_full: bool, shown: &Status) {
        let is_stalled = shown.state == State::Stalled;
        assert!(is_full || !is_stalled, "it says that it stalls");
        let waits = self.world.state.borrow().settled < self.world.script.events.len();
        let (state, of) = (self.world.state.borrow().held(), self.world.flow.held);
        assert!(is_stalled || !waits, "it stalls, and says {:?}: {state:?} of {of:?}", shown.state);
        assert!(!waits || shown.last_error.is_some(), "it does not say for what it waits");
        let held = shown.held;
        let shown = (held.retry + held.parked + held.topic, held.scheduled, held.dead);
        assert!(is_full || shown == self.world.held_counts(), "it shows {held:?} as held");
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
        let waits = world.has_some_waiting();
        let state = &mut *world.state.borrow_mut();
        for (number, standing) in state.standing.iter().enumerate() {
            let is_sent = *standing == Standing::Sent;
            assert!(!is_sent || state.copies[number] > 0, "event {number} is lost");
        }
        let repeats = |counts: &[u32]| -> u64 {
            counts.iter().map(|count| u64::from(count.saturating_sub(1))).sum()
        };
        let duplicates = repeats(&state.copies);
        let repeated = duplicates + repeats(&state.letters);
        // A dead letter that was sent again can be given up again.
        let again = state.asked_for + state.tally.redriven + state.tally.tried_anew;
        let most = state.excused + again;
        assert!(repeated <= most, "{repeated} duplicates, {most} excused");
        // A stop that finds no room does not drain.
        let is_excused = !world.is_calm || state.tally.undrained > 0;
        assert!(is_excused || repeated <= again, "{repeated} duplicates without a fault");
        state.tally.events += world.script.events.len() as u64;
        state.tally.duplicates += duplicates;
        state.tally.ended_waiting += u64::from(waits);
        (state.tally, elapsed)
    }
}

/// A promise was broken in a task: it is broken here.
fn broken<T>(error: tokio::task::JoinError) -> T {
    std::panic::resume_unwind(error.into_panic())
}
