//! The unit of systemd: taken by systemd itself, closed by its own measure, with settings that fit the
//! relay's.

use std::process::Command;

use crate::support::deploy::read;
use crate::support::relay::RelayOptions;

const UNIT: &str = "deploy/systemd/outboxd.service";

/// How exposed a service may be, in tenths, from 0 to 100.
const EXPOSURE: &str = "15";

/// What systemd says of a unit with the binary where it is.
fn analyzed(text: &str, arguments: &[&str]) -> Result<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("outboxd.service");
    let text = text.replace("/usr/local/bin/outboxd", env!("CARGO_BIN_EXE_outboxd"));
    std::fs::write(&path, text).unwrap();
    let mut command = Command::new("systemd-analyze");
    // It complains about what it does not know, and ends well.
    command.args(arguments).arg(&path);
    let output = command.output().expect("systemd: run the tests with dev/test, which installs it");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let about_ours = said.lines().any(|line| line.contains("outboxd.service"));
    if output.status.success() && !about_ours { Ok(printed) } else { Err(said + &printed) }
}

/// The values of a setting.
fn values(text: &str, name: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let values = lines.filter(|(other, _)| *other == name);
    values.flat_map(|(_, value)| value.split(' ').map(str::to_owned)).collect()
}

#[test]
fn systemd_takes_the_unit_and_a_planted_mistake_is_caught() {
    let text = read(UNIT);
    analyzed(&text, &["verify"]).unwrap();
    for (from, to) in [
        ("ProtectSystem=strict", "ProtectSystems=strict"),
        ("TimeoutStopSec=40", "TimeoutStopSec=soon"),
        ("/usr/local/bin/outboxd --config /etc/outboxd/outboxd.toml run", "/nowhere/outboxd run"),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(analyzed(&text.replacen(from, to, 1), &["verify"]).is_err(), "{to}");
    }
}

#[test]
fn the_unit_is_closed_by_the_measure_of_systemd() {
    let text = read(UNIT);
    let threshold = format!("--threshold={EXPOSURE}");
    let arguments = ["security", "--offline=true", "--no-pager", &threshold];
    analyzed(&text, &arguments).unwrap();
    let open = text.replace("ProtectSystem=strict", "").replace("DynamicUser=yes", "");
    assert!(analyzed(&open, &arguments).is_err(), "the measure measures nothing");
}

/// A restart is tried where it can help, and a stop has the time that the relay takes.
#[test]
fn the_unit_knows_the_relay() {
    let text = read(UNIT);
    let stop: u32 = values(&text, "TimeoutStopSec")[0].parse().unwrap();
    assert!(stop > 25, "relay.shutdown_grace is 25s");
    let prevented = values(&text, "RestartPreventExitStatus");
    assert_eq!(prevented, ["64", "73", "75", "78"]);
    assert_eq!(values(&text, "ExecReload")[1], "-HUP");
    let operating = read("docs/OPERATING.md");
    for code in prevented {
        assert!(operating.contains(&format!("\n| {code} |")), "{code} is not in OPERATING");
    }

    // With its file, its environment and its credentials the configuration is one.
    let directory = tempfile::tempdir().unwrap();
    let mut options = RelayOptions::bare()
        .file(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/systemd/outboxd.toml"));
    for credential in values(&text, "LoadCredential") {
        let (name, _) = credential.split_once(':').unwrap();
        let secret = if name == "postgres-url" { "postgres://outboxd:x@db/app" } else { "token" };
        std::fs::write(directory.path().join(name), secret).unwrap();
    }
    let lines = text.lines().filter_map(|line| line.strip_prefix("Environment="));
    for (name, value) in lines.filter_map(|line| line.split_once('=')) {
        options = options.variable(name, &value.replace("%d", directory.path().to_str().unwrap()));
    }
    let (code, shown, said) = options.command_output(&["check"]);
    assert_eq!(code, 0, "{said}");
    assert!(shown.contains("environment OUTBOXD__POSTGRES__URL_FILE"), "{shown}");
}
