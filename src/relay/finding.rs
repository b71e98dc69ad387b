//! Findings: what is not as it should be, and what mends it.

use serde::Serialize;

use crate::failure::{Code, Failure};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The relay works; something could be better.
    Warning,
    /// The relay cannot work.
    Error,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `OBX-nnnn`
    #[serde(serialize_with = "as_text")]
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub title: String,
    /// How it is.
    pub observed: String,
    /// How it should be.
    pub required: String,
    /// The SQL or command that mends it.
    pub fix: String,
}

fn as_text<S: serde::Serializer>(code: &Code, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(code)
}

impl Finding {
    pub(super) fn error(
        code: Code,
        title: &str,
        observed: impl Into<String>,
        required: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            code,
            severity: Severity::Error,
            title: title.to_owned(),
            observed: observed.into(),
            required: required.into(),
            fix: fix.into(),
        }
    }

    pub(super) fn warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }

    /// Something that does not answer, or not as it should.
    pub fn unreachable(code: Code, what: &str, observed: &str) -> Self {
        Self::error(code, what, observed, "an answer", code.remedy())
    }

    /// A setting that leaves something open.
    pub fn unprotected(observed: &str) -> Self {
        let code = Code::Unprotected;
        Self::error(code, "protection", observed, "what others cannot read", code.remedy())
            .warning()
    }

    /// The same as a failure.
    pub fn failure(&self) -> Failure {
        let Self { title, observed, required, fix, .. } = self;
        Failure::new(self.code, format!("{title}: {observed}; required: {required}; fix: {fix}"))
    }
}
