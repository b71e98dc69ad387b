//! What happened over all histories: a fault that never comes proves nothing.

macro_rules! tally {
    ($($(#[doc = $doc:literal])* $field:ident,)*) => {
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(super) struct Tally {
            $($(#[doc = $doc])* pub(super) $field: u64,)*
        }

        impl Tally {
            pub(super) fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }

            /// The names of what never happened.
            pub(super) fn missing(&self) -> Vec<&'static str> {
                let all = [$((stringify!($field), self.$field),)*];
                all.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
            }
        }
    };
}

tally! {
    events,
    sessions,
    /// Stops that repeat nothing, and others.
    drained,
    undrained,
    reconnects,
    stood_by,
    halts,
    kills,
    replacements,
    /// What a relay wrote that had lost its place, in vain.
    fenced,
    server_crashes,
    /// Sessions that read on from within what is settled.
    skipped,
    swept,
    /// Streams that broke within a transaction.
    torn,
    unsettled,
    /// Settled, and nobody was told.
    unheard,
    landed_late,
    refusals,
    too_large,
    topics_away,
    unavailable,
    full,
    full_windows,
    duplicates,
    /// Events that left the fast way, for any reason, and for these.
    held,
    parked,
    scheduled,
    misfits,
    /// Refused in a batch with others.
    refused_with_others,
    /// Records of the held way, and attempts that failed there.
    tried_again,
    refused_again,
    /// Dead letters in Kafka, those without their values, and events that were given up.
    dead_letters,
    bare_letters,
    dead,
    /// Held rows that somebody had locked.
    locked,
    /// Scheduled events that were published, and what else became of them.
    came_due,
    not_yet,
    moved,
    cancelled,
    /// What operators asked for and got, or not.
    tried_anew,
    redriven,
    skipped_by_hand,
    discarded,
    unblocked,
    published_by_hand,
    declined,
    paused,
    paused_topics,
    /// Topics that got other numbers of partitions.
    grown,
    /// Histories that end with as many held events as may be, and with some that wait.
    ended_full,
    ended_waiting,
}
