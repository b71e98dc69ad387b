//! Shells complete our commands: each one really does, with the script that it is given.

use std::path::Path;
use std::process::Command;

use crate::support::deploy::printed;
use crate::support::relay::RelayOptions;

fn script(shell: &str) -> String {
    let (code, script, said) = RelayOptions::bare().command_output(&["completions", shell]);
    assert_eq!((code, said.as_str()), (0, ""), "{shell}");
    assert!(!script.to_lowercase().contains("canary"));
    script
}

/// What bash offers for the last of these words.
fn offered(script: &Path, words: &[&str]) -> Vec<String> {
    let program = format!(
        "source {}; COMP_WORDS=({}); COMP_CWORD={}; \
         function_of() {{ complete -p outboxd | sed 's/.*-F \\([^ ]*\\).*/\\1/'; }}; \
         \"$(function_of)\" outboxd \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script.display(),
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1,
    );
    let mut bash = Command::new("bash");
    let text = printed(bash.args(["--norc", "--noprofile", "-c", &program])).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("outboxd.bash");
    std::fs::write(&path, script("bash")).unwrap();
    assert_eq!(offered(&path, &["outboxd", "recon"]), ["reconcile"]);
    let all = offered(&path, &["outboxd", "slot", ""]);
    for word in ["show", "create", "drop", "recover", "--config", "--set"] {
        assert!(all.iter().any(|offered| offered == word), "{word} is not in {all:?}");
    }
    assert_eq!(offered(&path, &["outboxd", "slot", "rec"]), ["recover"]);
    assert_eq!(offered(&path, &["outboxd", "reconcile", "--he"]), ["--heal", "--help"]);
    assert_eq!(offered(&path, &["outboxd", "status", "-o", "j"]), ["json"]);
    assert_eq!(offered(&path, &["outboxd", "completions", "fi"]), ["fish"]);
    assert!(offered(&path, &["outboxd", "nonsense"]).is_empty());
}

#[test]
fn fish_completes_commands() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("outboxd.fish");
    std::fs::write(&path, script("fish")).unwrap();
    let program = format!("source {}; complete -C 'outboxd slot re'", path.display());
    let mut fish = Command::new("fish");
    fish.args(["--no-config", "-c", &program]).env("HOME", directory.path());
    let offered = printed(&mut fish).unwrap();
    let words: Vec<_> = offered.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(words, ["recover"], "{offered}");
}

#[test]
fn zsh_and_the_others_take_their_scripts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("_outboxd");
    std::fs::write(&path, script("zsh")).unwrap();
    printed(Command::new("zsh").arg("-n").arg(&path)).unwrap();
    for shell in ["zsh", "elvish", "powershell"] {
        assert!(script(shell).contains("recover"), "{shell} does not know slot recover");
    }
    let (code, _, said) = RelayOptions::bare().command_output(&["completions", "csh"]);
    assert!(code == 64 && said.contains("bash"), "{said}");
}
