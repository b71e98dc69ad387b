//! Facts of the build, for `--version`: which commit, which target, which compiler, which OpenSSL.
//!
//! Nothing is asked of the network, and what cannot be told is "unknown": a tarball has no commit.

use std::env;
use std::path::Path;
use std::process::Command;

/// What the binary is made of, and so what a commit has to hold as it is.
const INPUTS: [&str; 5] = ["Cargo.lock", "Cargo.toml", "build.rs", "migrations", "src"];

fn main() {
    println!("cargo::rerun-if-env-changed=OUTBOXD_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    for (name, value) in [
        ("COMMIT", variable("OUTBOXD_COMMIT").or_else(commit)),
        ("TARGET", variable("TARGET")),
        ("PROFILE", variable("PROFILE")),
        ("FEATURES", variable("CARGO_CFG_FEATURE")),
        ("RUST", rust()),
        ("OPENSSL", openssl()),
    ] {
        let value = value.unwrap_or_else(|| "unknown".to_owned());
        println!("cargo::rustc-env=OUTBOXD_BUILT_{name}={value}");
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The commit that was checked out, with "-dirty" if it is not what was built. Of a release only: a
/// debug build would be made anew after every commit.
fn commit() -> Option<String> {
    // A repository that this one only lies in says nothing of it.
    if variable("PROFILE")? != "release" || !Path::new(".git").exists() {
        return None;
    }
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    let reference = output("git", &["rev-parse", "--symbolic-full-name", "HEAD"])?;
    for name in ["HEAD", "index", "packed-refs", &reference] {
        // What is not there yet would count as changed every time.
        let path = output("git", &["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for path in INPUTS {
        println!("cargo::rerun-if-changed={path}");
    }
    let mut asked = vec!["status", "--porcelain", "--"];
    asked.extend(INPUTS);
    let changed = output("git", &asked)?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// As in "1.95.0".
fn rust() -> Option<String> {
    let text = output(&variable("RUSTC")?, &["--version"])?;
    text.split(' ').nth(1).map(str::to_owned)
}

/// The version of the OpenSSL that is linked in, from the number that its crate passes on.
fn openssl() -> Option<String> {
    let number = u64::from_str_radix(&variable("DEP_OPENSSL_VERSION_NUMBER")?, 16).ok()?;
    let (major, minor, patch) = (number >> 28, (number >> 20) & 0xff, (number >> 4) & 0xff);
    Some(format!("{major}.{minor}.{patch}"))
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
