//! `outboxd completions`: the script that a shell reads to complete our commands.

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::{Cli, CommandResult, print_bytes};

pub(super) fn completions(shell: Shell) -> CommandResult {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "outboxd", &mut script);
    print_bytes(&script)
}
