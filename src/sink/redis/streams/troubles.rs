//! What keeps records from getting on, told when it changes.

use std::collections::BTreeMap;

use crate::sink::NoContact;

/// What is in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// The cluster as a whole.
    Cluster,
    /// A server.
    Node(usize),
    /// A stream.
    Stream(usize),
}

/// All troubles. The first is the one that is told.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    now: BTreeMap<Subject, NoContact>,
    /// What was told last; nothing before the first answer.
    told: Option<Option<NoContact>>,
}

impl Troubles {
    pub(super) fn begin(&mut self, subject: Subject, reason: NoContact) {
        self.now.insert(subject, reason);
    }

    pub(super) fn end(&mut self, subject: Subject) {
        if !self.now.is_empty() {
            self.now.remove(&subject);
        }
    }

    /// What there is to tell, if it is not what was told.
    pub(super) fn news(&mut self) -> Option<Result<(), NoContact>> {
        let first = self.now.values().next();
        // That all is well is news only after trouble.
        if self.told.as_ref().and_then(Option::as_ref) == first {
            return None;
        }
        self.told = Some(first.cloned());
        Some(first.map_or(Ok(()), |reason| Err(reason.clone())))
    }

    /// The answer to whoever asks.
    pub(super) fn answer(&mut self) -> Result<(), NoContact> {
        let first = self.now.values().next().cloned();
        self.told = Some(first.clone());
        first.map_or(Ok(()), Err)
    }

    pub(super) fn is_any(&self) -> bool {
        !self.now.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_told_once_and_its_end_is() {
        let mut troubles = Troubles::default();
        assert_eq!(troubles.news(), None);
        let reason = |text: &str| NoContact::Unreachable(text.to_owned());
        troubles.begin(Subject::Stream(1), reason("OOM"));
        assert_eq!(troubles.news(), Some(Err(reason("OOM"))));
        troubles.begin(Subject::Stream(1), reason("OOM"));
        troubles.begin(Subject::Stream(2), reason("OOM, too"));
        assert_eq!(troubles.news(), None);
        troubles.end(Subject::Stream(1));
        assert_eq!(troubles.news(), Some(Err(reason("OOM, too"))));
        troubles.end(Subject::Stream(2));
        assert_eq!(troubles.news(), Some(Ok(())));
        assert_eq!((troubles.news(), troubles.answer()), (None, Ok(())));
    }
}
