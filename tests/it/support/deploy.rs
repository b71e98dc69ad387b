//! What reads and checks the files of deployments: tools that `dev/test` installs.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::setting;

/// A tool that lies beside the Python of the tests.
pub fn tool(name: &str) -> Command {
    let python = PathBuf::from(setting("CONSUMER_PYTHON"));
    Command::new(python.with_file_name(name))
}

/// What a program prints; else what it complains about.
pub fn printed(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| {
        panic!("{program}: {error}: run the tests with dev/test, which installs it")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

/// The documents of manifests, all valid; else what is wrong with them.
pub fn manifests(paths: &[&str]) -> Result<Vec<Value>, String> {
    let mut command = tool("python");
    let text = printed(command.arg("testdata/deploy/manifests.py").args(paths))?;
    Ok(serde_json::from_str(&text).unwrap())
}

/// A file of the project.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The instructions of a Dockerfile, each with all its lines as one.
pub fn instructions(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty());
    let split = |line: &str| {
        let (keyword, rest) = line.split_once(' ').expect("an instruction");
        (keyword.to_owned(), rest.trim().to_owned())
    };
    lines.map(split).collect()
}
