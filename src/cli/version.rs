//! `outboxd version`: the facts of the build, alone or as a document.

use std::collections::BTreeMap;

use super::{CommandResult, Output, print_bytes, print_json};
use crate::built;

pub(super) fn version(output: &Output) -> CommandResult {
    if output.is_json() {
        print_json(&built::facts().into_iter().collect::<BTreeMap<_, _>>());
        return Ok(std::process::ExitCode::SUCCESS);
    }
    print_bytes(format!("outboxd {}\n", built::text()).as_bytes())
}
