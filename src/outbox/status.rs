//! The status map: how a table says that a row is to be published, and that it was.

use super::columns::{BindError, Kind, Layout, LayoutColumn, MapProblem, place_of};
use crate::pgoutput::Relation;

/// Where statuses are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Into the row's own columns.
    Update,
    /// Into `outboxd.ledger`, for a fraction of the cost.
    Ledger,
    /// The row is removed.
    Delete,
    /// Nowhere.
    None,
}

impl Mode {
    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Update => "update",
            Mode::Ledger => "ledger",
            Mode::Delete => "delete",
            Mode::None => "none",
        }
    }

    /// Whether anything tells afterwards which rows are unsent.
    pub const fn knows_unsent(self) -> bool {
        !matches!(self, Mode::None)
    }
}

/// A status column as configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StatusColumn {
    /// Its name; nothing if it is not mapped.
    pub name: Option<String>,
    /// Whether somebody chose it. A column that is only our default may be missing.
    pub chosen: bool,
}

/// The status map as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusConfig {
    /// Where statuses are written.
    pub mode: Mode,
    /// Text or enum: the status.
    pub status: StatusColumn,
    /// Timestamp: when it was sent.
    pub sent_at: StatusColumn,
    /// Boolean: whether it was sent.
    pub sent_flag: StatusColumn,
    /// Number: how often it was tried and failed.
    pub attempts: StatusColumn,
    /// Timestamp: when it is tried again.
    pub next_attempt_at: StatusColumn,
    /// Text: why it failed.
    pub last_error: StatusColumn,
    /// The status of a row that is to be published.
    pub label_pending: String,
    /// The status of a row that Kafka acknowledged.
    pub label_sent: String,
    /// The status of a row that was given up.
    pub label_failed: String,
    /// The status of a row that failed and is tried again.
    pub label_retrying: String,
}

/// The status map, checked against the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusMap {
    /// Where statuses are written.
    pub mode: Mode,
    /// The column of the status and its label for SENT.
    pub status: Option<(LayoutColumn, String)>,
    /// The column of the time of sending.
    pub sent_at: Option<LayoutColumn>,
    /// The column of the flag.
    pub sent_flag: Option<LayoutColumn>,
    /// The column of the number of failed attempts.
    pub attempts: Option<LayoutColumn>,
    /// The column of the next attempt's time.
    pub next_attempt_at: Option<LayoutColumn>,
    /// The column of the last error.
    pub last_error: Option<LayoutColumn>,
    /// As in [`StatusConfig`].
    pub label_failed: String,
    /// As in [`StatusConfig`].
    pub label_retrying: String,
    /// How a row says that it is to be published.
    pub pending: Pending<LayoutColumn>,
}

/// How a row says that it is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pending<C> {
    /// The table has no way to say otherwise.
    Always,
    /// This column has this value.
    Label(C, String),
    /// This boolean is not true.
    NotFlagged(C),
    /// This column is null.
    IsNull(C),
}

impl StatusConfig {
    /// Checks the map against a table.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(&self, layout: &Layout) -> Result<StatusMap, Vec<MapProblem>> {
        let mut problems = Vec::new();
        let mut column = |key, config: &StatusColumn, expected, accepted: &[Kind]| {
            let name = config.name.as_deref()?;
            let problem = match layout.column(name) {
                Some(column) if column.is_generated => MapProblem::GeneratedStatus {
                    key,
                    column: name.to_owned(),
                    found: column.type_name.clone(),
                },
                Some(column) if accepted.contains(&column.kind) => return Some(column.clone()),
                Some(column) => MapProblem::WrongStatusType {
                    key,
                    column: name.to_owned(),
                    found: column.type_name.clone(),
                    expected,
                },
                None if !config.chosen => return None,
                None => MapProblem::NoStatusColumn { key, column: name.to_owned() },
            };
            problems.push(problem);
            None
        };
        let status = column("status", &self.status, "text or an enum", &[Kind::Text, Kind::Enum]);
        let sent_at = column(
            "sent_at",
            &self.sent_at,
            "timestamptz or timestamp",
            &[Kind::TimestampTz, Kind::Timestamp],
        );
        let sent_flag = column("sent_flag", &self.sent_flag, "boolean", &[Kind::Boolean]);
        let attempts = column("attempts", &self.attempts, "a whole number", &[Kind::Integer]);
        let next_attempt_at = column(
            "next_attempt_at",
            &self.next_attempt_at,
            "timestamptz or timestamp",
            &[Kind::TimestampTz, Kind::Timestamp],
        );
        let last_error = column("last_error", &self.last_error, "text", &[Kind::Text]);
        problems.extend(status.iter().flat_map(|column| self.bad_labels(column)));
        let nothing = status.is_none() && sent_at.is_none() && sent_flag.is_none();
        if self.mode == Mode::Update && nothing && problems.is_empty() {
            problems.push(MapProblem::NothingToUpdate);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let pending = match (&status, &sent_flag, &sent_at) {
            (Some(column), _, _) => {
                let label = match column.is_padded {
                    true => self.label_pending.trim_end_matches(' '),
                    false => &self.label_pending,
                };
                Pending::Label(column.clone(), label.to_owned())
            }
            (None, Some(column), _) => Pending::NotFlagged(column.clone()),
            (None, None, Some(column)) => Pending::IsNull(column.clone()),
            (None, None, None) => Pending::Always,
        };
        let status = status.map(|column| (column, self.label_sent.clone()));
        Ok(StatusMap {
            mode: self.mode,
            status,
            sent_at,
            sent_flag,
            attempts,
            next_attempt_at,
            last_error,
            label_failed: self.label_failed.clone(),
            label_retrying: self.label_retrying.clone(),
            pending,
        })
    }

    /// The labels that the column cannot hold, of those that are compared or written.
    fn bad_labels(&self, column: &LayoutColumn) -> Vec<MapProblem> {
        let labels = [
            ("pending", &self.label_pending, true),
            ("sent", &self.label_sent, self.mode != Mode::Delete),
            ("failed", &self.label_failed, true),
            ("retrying", &self.label_retrying, true),
        ];
        let expected = |label: &String| match column.most_characters() {
            _ if column.kind == Kind::Enum => {
                let is_there = column.labels.contains(label);
                (!is_there).then(|| format!("one of {}", column.labels.join(", ")))
            }
            Some(most) if label.chars().count() > most => {
                Some(format!("at most {most} characters"))
            }
            _ => None,
        };
        let problem = |(key, label, is_needed): (&'static str, &String, bool)| {
            let expected = expected(label).filter(|_| is_needed)?;
            let (column, found) = (column.name.clone(), column.type_name.clone());
            Some(MapProblem::BadLabel { key, label: label.clone(), column, found, expected })
        };
        labels.into_iter().filter_map(problem).collect()
    }
}

impl StatusMap {
    /// Whether a row can show that its event failed.
    pub fn shows_failures(&self) -> bool {
        let Self { status, attempts, next_attempt_at, last_error, .. } = self;
        status.is_some() || [attempts, next_attempt_at, last_error].into_iter().any(Option::is_some)
    }

    /// Whether rows ever say that their events were sent: in the modes that leave rows alone, those
    /// that said that they failed.
    pub fn writes_sent(&self) -> bool {
        match self.mode {
            Mode::Update => true,
            Mode::Ledger | Mode::None => self.shows_failures(),
            Mode::Delete => false,
        }
    }

    /// The columns that the relay writes in one row or another.
    pub fn written(&self) -> Vec<&LayoutColumn> {
        let Self { attempts, next_attempt_at, last_error, sent_at, sent_flag, .. } = self;
        let status = self.status.as_ref().map(|(column, _)| column);
        let failure = [status, attempts.as_ref(), next_attempt_at.as_ref(), last_error.as_ref()];
        let sent = [sent_at.as_ref(), sent_flag.as_ref()];
        let sent = sent.into_iter().filter(|_| self.writes_sent());
        failure.into_iter().chain(sent).flatten().collect()
    }
}

impl Pending<LayoutColumn> {
    pub(super) fn bind(&self, relation: &Relation) -> Result<Pending<usize>, BindError> {
        Ok(match self {
            Pending::Always => Pending::Always,
            Pending::Label(column, label) => {
                Pending::Label(place_of(column, relation)?, label.clone())
            }
            Pending::NotFlagged(column) => Pending::NotFlagged(place_of(column, relation)?),
            Pending::IsNull(column) => Pending::IsNull(place_of(column, relation)?),
        })
    }
}

impl Pending<usize> {
    /// Whether a row with these values is to be published.
    pub(super) fn holds<'v>(&self, value: impl Fn(usize) -> Option<&'v [u8]>) -> bool {
        match self {
            Pending::Always => true,
            Pending::Label(place, label) => value(*place) == Some(label.as_bytes()),
            Pending::NotFlagged(place) => value(*place) != Some(b"t"),
            Pending::IsNull(place) => value(*place).is_none(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::columns::tests::layout;
    use super::*;

    fn column(name: &str, chosen: bool) -> StatusColumn {
        StatusColumn { name: Some(name.to_owned()), chosen }
    }

    /// One with a column for the status and one for the time of sending.
    pub(crate) fn config(mode: Mode) -> StatusConfig {
        StatusConfig {
            mode,
            status: column("status", false),
            sent_at: column("sent_at", false),
            sent_flag: StatusColumn::default(),
            attempts: StatusColumn::default(),
            next_attempt_at: StatusColumn::default(),
            last_error: StatusColumn::default(),
            label_pending: "PENDING".to_owned(),
            label_sent: "SENT".to_owned(),
            label_failed: "FAILED".to_owned(),
            label_retrying: "FAILED".to_owned(),
        }
    }

    #[test]
    fn the_most_telling_column_says_what_is_pending() {
        let full = layout(&[
            ("status", "text", Kind::Text),
            ("published", "boolean", Kind::Boolean),
            ("sent_at", "timestamptz", Kind::TimestampTz),
        ]);
        let map = config(Mode::Update).compile(&full).unwrap();
        assert!(matches!(map.pending, Pending::Label(_, label) if label == "PENDING"));

        let flag = StatusConfig { sent_flag: column("published", true), ..config(Mode::Update) };
        let map = flag.compile(&layout(&[("published", "boolean", Kind::Boolean)])).unwrap();
        assert!(matches!(map.pending, Pending::NotFlagged(_)));

        let map = config(Mode::Update)
            .compile(&layout(&[("sent_at", "timestamp", Kind::Timestamp)]))
            .unwrap();
        assert!(matches!(map.pending, Pending::IsNull(_)));
        let map = config(Mode::None).compile(&layout(&[])).unwrap();
        assert_eq!(map.pending, Pending::Always);
    }

    #[test]
    fn every_mode_writes_failures_and_only_some_write_what_was_sent() {
        let own = layout(&[
            ("status", "text", Kind::Text),
            ("sent_at", "timestamptz", Kind::TimestampTz),
        ]);
        let bare = layout(&[("sent_at", "timestamptz", Kind::TimestampTz)]);
        let both: &[&str] = &["status", "sent_at"];
        for (mode, of_own, of_bare) in [
            (Mode::Update, both, &both[1..]),
            (Mode::Ledger, both, &[]),
            (Mode::None, both, &[]),
            (Mode::Delete, &both[..1], &[]),
        ] {
            for (layout, expected) in [(&own, of_own), (&bare, of_bare)] {
                let map = config(mode).compile(layout).unwrap();
                let written: Vec<_> = map.written().iter().map(|c| c.name.clone()).collect();
                assert_eq!(written, expected, "{mode:?}");
            }
        }
    }

    #[test]
    fn a_wrong_status_map_is_told_at_start() {
        let wrong = StatusConfig {
            status: column("state", true),
            sent_at: column("sent", true),
            ..config(Mode::Update)
        };
        let problems = wrong.compile(&layout(&[("sent", "boolean", Kind::Boolean)])).unwrap_err();
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "outbox.status.status: the table has no column \"state\"",
                "outbox.status.sent_at: column \"sent\" is of type boolean; expected timestamptz or timestamp",
            ]
        );
        let nothing = config(Mode::Update).compile(&layout(&[])).unwrap_err();
        assert_eq!(nothing, [MapProblem::NothingToUpdate]);
    }

    #[test]
    fn a_label_that_the_column_cannot_hold_is_told_at_start() {
        let of = |type_name, kind, labels: &[&str], mode| {
            let mut layout = layout(&[("status", type_name, kind)]);
            layout.columns[0].labels = labels.iter().map(|&label| label.to_owned()).collect();
            let problems = config(mode).compile(&layout).err().unwrap_or_default();
            problems.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let state = |labels, mode| of("state", Kind::Enum, labels, mode);
        assert_eq!(state(&["SENT", "PENDING", "X", "FAILED"], Mode::Update), [""; 0]);
        assert_eq!(state(&["PENDING", "FAILED"], Mode::Delete), [""; 0], "SENT is not written");
        assert_eq!(
            state(&["PENDING", "FAILED"], Mode::Ledger),
            [
                r#"outbox.status.labels.sent: column "status" is of type state, which cannot be "SENT"; expected one of PENDING, FAILED"#
            ],
            "a row that failed says it in the end"
        );
        assert_eq!(
            state(&["NEW", "SENT"], Mode::Update),
            [
                r#"outbox.status.labels.pending: column "status" is of type state, which cannot be "PENDING"; expected one of NEW, SENT"#,
                r#"outbox.status.labels.failed: column "status" is of type state, which cannot be "FAILED"; expected one of NEW, SENT"#,
                r#"outbox.status.labels.retrying: column "status" is of type state, which cannot be "FAILED"; expected one of NEW, SENT"#,
            ]
        );
        assert_eq!(
            of("character varying(6)", Kind::Text, &[], Mode::Update),
            [
                r#"outbox.status.labels.pending: column "status" is of type character varying(6), which cannot be "PENDING"; expected at most 6 characters"#
            ]
        );
        assert_eq!(of("character(7)", Kind::Text, &[], Mode::Update), [""; 0]);
    }

    #[test]
    fn rows_say_whether_they_are_to_be_published() {
        let holds = |pending: &Pending<usize>, values: &[Option<&'static [u8]>]| {
            pending.holds(|place| values[place])
        };
        let pending = Pending::Label(1, "NEW".to_owned());
        assert!(holds(&pending, &[None, Some(b"NEW")]));
        assert!(!holds(&pending, &[None, Some(b"SENT")]));
        assert!(!holds(&pending, &[None, None]));
        assert!(holds(&Pending::NotFlagged(0), &[Some(b"f")]));
        assert!(holds(&Pending::NotFlagged(0), &[None]));
        assert!(!holds(&Pending::NotFlagged(0), &[Some(b"t")]));
        assert!(holds(&Pending::IsNull(0), &[None]));
        assert!(!holds(&Pending::IsNull(0), &[Some(b"2026-11-21 06:00:00")]));
    }
}
