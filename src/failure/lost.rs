//! What to do about a lost stream where nothing tells which events are unsent: in status mode `none`, and
//! of messages. The usual remedies would promise a recovery from rows that are not there.

use super::{Code, Failure};

impl Failure {
    /// The same, with a remedy that promises no unsent row.
    #[must_use]
    pub fn without_unsent_rows(self) -> Self {
        let remedy = match self.code {
            Code::PublicationLost => {
                "put the publication right (`outboxd doctor`), run `outboxd reconcile --heal`, and start \
                 again: what was written while it was wrong nothing tells, and has to be written again. \
                 If it was made anew, run `outboxd slot recover` instead: that goes for everything, then, \
                 that the slot had not brought"
            }
            Code::SlotMissing => {
                "if the slot was dropped, run `outboxd slot recover`, then start again: what it had not \
                 brought nothing tells, and has to be written again; if it never existed, set \
                 postgres.create = true or run `outboxd slot create`"
            }
            Code::SlotLost => {
                "run `outboxd slot recover`, then start again: what the slot had not brought nothing \
                 tells, and has to be written again; raise max_slot_wal_keep_size"
            }
            Code::SlotMoved => {
                "run `outboxd slot recover`, then start again: what was left out nothing tells, and has \
                 to be written again; let nothing else read or advance the slot"
            }
            Code::IdentityChanged => {
                "let postgres.url lead to the server of before; if this one replaces it for good, run \
                 `outboxd slot recover` and start again: what was not published before nothing tells, \
                 and has to be written again"
            }
            _ => return self,
        };
        Self { remedy, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_remedy_promises_unsent_rows_where_there_are_none() {
        for code in Code::ALL {
            let told = Failure::new(code, "x").without_unsent_rows().to_string();
            assert!(!told.contains("unsent"), "{told}");
        }
        let told = Failure::new(Code::SlotLost, "it is gone").without_unsent_rows().to_string();
        assert!(told.starts_with("OBX-2031 it is gone. Run `outboxd slot recover`"), "{told}");
        assert!(told.contains("has to be written again"), "{told}");
    }
}
