//! What is kept of a row that can never become an event.

use tokio::time::Instant;

use super::publish::Publisher;
use super::topics::TopicId;
use crate::failure::{Code, Failure};
use crate::outbox::{MapError, Misfit, Placement};
use crate::sink::{Parcel, Sink};
use crate::status::HeldContent;

/// Why it cannot.
pub(super) fn failure(misfit: &Misfit<'_>) -> Failure {
    let code = match misfit.error {
        MapError::TooLarge { .. } => Code::RowTooLarge,
        _ => Code::Unpublishable,
    };
    Failure::new(code, misfit.error.to_string())
}

/// What is published of it as a dead letter, and the topic that it belongs to, if it has one.
pub(super) fn content<S: Sink>(
    misfit: &Misfit<'_>,
    publisher: &mut Publisher<S>,
    now: Instant,
) -> (Option<TopicId>, HeldContent) {
    let topic = misfit.topic.as_deref().and_then(|name| publisher.topic(name, now));
    let key = misfit.key.as_deref().map(str::as_bytes);
    let parcel = Parcel {
        event_id: None,
        topic: misfit.topic.as_deref().map(Into::into),
        partition: -1,
        key: key.map(Into::into),
        headers: misfit.headers.clone(),
        value: misfit.value.as_deref().map(Into::into),
        timestamp: None,
    };
    let content = HeldContent {
        event_type: misfit.event_type.as_deref().map(Into::into),
        max_attempts: misfit.max_attempts.and_then(|most| u32::try_from(most).ok()),
        placement: key.map(Placement::of_key),
        parcel,
        redelivery: false,
    };
    (topic, content)
}
