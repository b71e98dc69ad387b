//! What an earlier session has held comes back, before anything else is read.

use tokio::time::Instant;

use super::disposition::{Fate, of_store};
use super::flow::Flow;
use crate::sink::Sink;
use crate::status::{StatusStore, StoreError};

/// Brings back what is held, and what operators want.
pub(super) async fn load<S: Sink, T: StatusStore + 'static>(
    flow: &mut Flow<S, T>,
) -> Result<(), Fate> {
    let loaded = read(flow).await;
    let held = flow.held.count();
    if held.retry + held.parked + held.topic + held.scheduled + held.dead > 0 {
        tracing::info!(
            retry = held.retry,
            parked = held.parked,
            topic = held.topic,
            scheduled = held.scheduled,
            dead = held.dead,
            "events are held"
        );
    }
    loaded.map_err(|error| of_store(&error))
}

async fn read<S: Sink, T: StatusStore + 'static>(flow: &mut Flow<S, T>) -> Result<(), StoreError> {
    let store = std::rc::Rc::clone(&flow.held.store);
    let now = Instant::now();
    let mut orders = store.orders().await?;
    flow.held.requests = orders.requests.drain(..).collect();
    flow.obey(orders.paused, &orders.paused_topics, &orders.partitions, now);
    let mut after = 0;
    loop {
        let page = store.held(after).await?;
        let Some(last) = page.last() else { break };
        after = last.ordinal;
        for entry in page {
            flow.held.restore(entry, &mut flow.publisher, now);
        }
    }
    (flow.held.dead, flow.held.scheduled) = store.at_rest().await?;
    flow.held.schedule.start();
    Ok(())
}
