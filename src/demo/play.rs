//! The running demo: what is awaited, what is shown meanwhile, and what ends it.

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::DemoArgs;
use super::consumer::Consumer;
use super::proof::SharedLedger;
use super::stage::Stage;
use super::view::{Figures, Pace, REDRAW, SECOND, View};
use super::writer::Writers;
use crate::failure::{Code, Failure};
use crate::relay::{State, Status};
use crate::terminal::Interrupt;

/// What does not get ready within this does not get ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// What has not arrived this long after the last commit is lost.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How the demo came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Everything was waited for.
    Complete,
    /// Somebody did not want to wait.
    CutShort,
}

/// The running demo.
pub(super) struct Play<'a> {
    status: watch::Receiver<Status>,
    consumer: &'a mut Consumer,
    ledger: &'a SharedLedger,
    view: &'a mut View,
    interrupt: &'a mut Interrupt,
    /// When the figures are shown.
    ticks: Interval,
    began: Instant,
    /// As they were a second ago.
    last: Figures,
}

/// What ends a wait.
enum Event {
    Tick,
    /// The time is over.
    Over,
    /// Ctrl-C.
    Asked,
    /// The relay has ended by itself; it says why when it is stopped.
    RelayEnded,
    Failed(Failure),
}

impl<'a> Play<'a> {
    /// Everybody but the writers is there.
    pub(super) fn new(
        status: watch::Receiver<Status>,
        consumer: &'a mut Consumer,
        ledger: &'a SharedLedger,
        view: &'a mut View,
        interrupt: &'a mut Interrupt,
    ) -> Self {
        let mut ticks = interval(REDRAW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (began, last) = (Instant::now(), Figures::default());
        Self { status, consumer, ledger, view, interrupt, ticks, began, last }
    }

    /// Writes for some time, and waits until everything has arrived and is settled.
    pub(super) async fn play(&mut self, args: &DemoArgs, stage: &Stage) -> Result<Ending, Failure> {
        let end = Instant::now() + READY_TIMEOUT;
        while !self.status.borrow().is_ready() {
            match self.next(None, end).await {
                Event::Tick => {}
                Event::Over => return Err(self.not_ready()),
                Event::Asked | Event::RelayEnded => return Ok(Ending::CutShort),
                Event::Failed(failure) => return Err(failure),
            }
        }
        let mut writers = Writers::start(&stage.url(), args.rate, args.keys, self.ledger).await?;
        self.began = Instant::now();
        let end = self.began + Duration::from_secs(args.seconds);
        loop {
            match self.next(Some(&mut writers), end).await {
                Event::Tick if self.show() => {}
                Event::Tick | Event::Over | Event::Asked => break,
                Event::RelayEnded => return Ok(Ending::CutShort),
                Event::Failed(failure) => return Err(failure),
            }
        }
        writers.stop().await?;
        let end = Instant::now() + DRAIN_TIMEOUT;
        while !self.is_drained(stage).await? {
            match self.next(None, end).await {
                // Also if nobody looks any more.
                Event::Tick => _ = self.show(),
                Event::Over => break,
                Event::Asked | Event::RelayEnded => return Ok(Ending::CutShort),
                Event::Failed(failure) => return Err(failure),
            }
        }
        self.show();
        Ok(Ending::Complete)
    }

    /// Waits for what comes next, until `end`.
    async fn next(&mut self, writers: Option<&mut Writers>, end: Instant) -> Event {
        let writer_failed = async {
            match writers {
                Some(writers) => writers.failed().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.interrupt.asked() => Event::Asked,
            () = relay_ended(&mut self.status) => Event::RelayEnded,
            failure = writer_failed => Event::Failed(failure),
            failure = self.consumer.failed() => Event::Failed(failure),
            () = sleep_until(end) => Event::Over,
            _ = self.ticks.tick() => Event::Tick,
        }
    }

    fn not_ready(&self) -> Failure {
        let error = self.status.borrow().last_error.clone();
        let reason = error.map_or_else(String::new, |error| format!(": {}", error.message));
        let text = format!("the relay was not ready within {READY_TIMEOUT:?}{reason}");
        Failure::new(Code::Bug, text)
    }

    /// Whether everything that was written has arrived and is SENT in the table, where the relay
    /// writes some statuses a little after it has settled them.
    async fn is_drained(&self, stage: &Stage) -> Result<bool, Failure> {
        let tally = self.ledger.lock().tally();
        let settled = self.status.borrow().totals.settled;
        if tally.under_way() > 0 || settled < tally.written {
            return Ok(false);
        }
        Ok(stage.sent(settled).await? >= tally.written)
    }

    /// Shows the figures; false if nobody looks any more.
    fn show(&mut self) -> bool {
        let now = Instant::now();
        let mut figures = Figures {
            elapsed: now - self.began,
            tally: self.ledger.lock().tally(),
            sent: self.status.borrow().totals.settled,
            pace: self.last.pace,
        };
        let is_next_second = figures.elapsed + REDRAW / 2 >= self.last.elapsed + SECOND;
        if is_next_second {
            let latencies = self.ledger.lock().take_recent();
            figures.pace = Pace::between(&self.last, &figures, &latencies);
            self.last = figures.clone();
        }
        self.view.show(&figures, is_next_second).is_ok()
    }
}

/// Waits until the relay has ended by itself.
async fn relay_ended(status: &mut watch::Receiver<Status>) {
    // An error is that the thread is gone: ended, too.
    let _ = status.wait_for(|status| status.state == State::Halted).await;
}
