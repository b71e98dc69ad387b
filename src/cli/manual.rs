//! `outboxd man`: the manual's pages, made of what `--help` says.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, CommandResult, print_bytes};
use crate::built::VERSION;
use crate::failure::{Code, Failure};

/// What a command's end means.
const EXIT_CODES: [(&str, &str); 10] = [
    ("0", "Done. Of run: stopped, and everything that was read is settled and confirmed."),
    ("1", "Of healthcheck: not ready."),
    ("64", "Wrong usage, or a request that cannot be carried out as it was made."),
    ("69", "Unavailable. Of run: the stop did not drain in time, or statuses cannot be written."),
    ("70", "Something that should not happen: report it."),
    ("73", "Slot, publication or identity lost: rows may have to be swept."),
    ("75", "Fenced: another relay has the place, and relay.standby is false."),
    ("77", "Not allowed."),
    ("78", "Configuration."),
    ("130", "Ctrl-C while something was waited for."),
];

/// What is read beside the command line.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("OUTBOXD_CONFIG", "The configuration file, where --config does not name one."),
    (
        "OUTBOXD__SECTION__KEY",
        "Overrides a key of the file, as in OUTBOXD__KAFKA__BOOTSTRAP_SERVERS. Lists and tables are \
         TOML or JSON. OUTBOXD__POSTGRES__URL_FILE and its like name files with secrets.",
    ),
    ("DATABASE_URL", "The database, where postgres.url is not set."),
];

/// Where things are.
const FILES: [(&str, &str); 1] = [(
    "./outboxd.toml",
    "The configuration, if no other is named. outboxd init writes one with every key.",
)];

pub(super) fn manual(directory: Option<&Path>) -> CommandResult {
    let mut root = Cli::command();
    root.build();
    let Some(directory) = directory else {
        let page = page(&root).map_err(|error| bug(&error))?;
        return print_bytes(&page.text);
    };
    std::fs::create_dir_all(directory).map_err(|error| {
        Failure::new(Code::Config, format!("make {}: {error}", directory.display()))
    })?;
    for page in pages(&root).map_err(|error| bug(&error))? {
        let path = directory.join(page.name);
        std::fs::write(&path, page.text).map_err(|error| {
            Failure::new(Code::Config, format!("write {}: {error}", path.display()))
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn bug(error: &std::io::Error) -> Failure {
    Failure::new(Code::Bug, format!("make the manual: {error}"))
}

struct Page {
    /// Its file's name, as in "outboxd-slot-recover.1".
    name: String,
    text: Vec<u8>,
}

/// The page of a command, and those of all below it.
fn pages(command: &Command) -> std::io::Result<Vec<Page>> {
    let mut found = vec![page(command)?];
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        found.extend(pages(below)?);
    }
    Ok(found)
}

fn page(command: &Command) -> std::io::Result<Page> {
    let man = Man::new(command.clone()).source(format!("outboxd {VERSION}")).manual("outboxd");
    let name = man.get_filename();
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    if command.get_name() == "outboxd" {
        for (title, entries) in
            [("EXIT STATUS", &EXIT_CODES[..]), ("ENVIRONMENT", &ENVIRONMENT), ("FILES", &FILES)]
        {
            list(title, entries, &mut text)?;
        }
    } else {
        see_also(&mut text)?;
    }
    text.flush()?;
    Ok(Page { name, text })
}

fn list(title: &str, entries: &[(&str, &str)], text: &mut Vec<u8>) -> std::io::Result<()> {
    let mut roff = Roff::default();
    roff.control("SH", [title]);
    for (name, meaning) in entries {
        roff.control("TP", []).text([bold(*name)]).text([roman(*meaning)]);
    }
    roff.to_writer(text)
}

fn see_also(text: &mut Vec<u8>) -> std::io::Result<()> {
    let mut roff = Roff::default();
    roff.control("SH", ["SEE ALSO"]).text([bold("outboxd"), roman("(1)")]);
    roff.to_writer(text)
}
