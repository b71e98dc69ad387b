//! The image, without an engine: its file is linted, its parts are made as it says, and the binary runs in
//! a root that holds nothing else, as a user who may write nowhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::deploy::{instructions, printed, read, tool};
use crate::support::small::Small;

const BINARY: &str = env!("CARGO_BIN_EXE_outboxd");

/// What the binary may need of the system: libc and its like, whichever of them the linker names.
const LIBRARIES: [&str; 8] = [
    "ld-linux-aarch64.so.1",
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "linux-vdso.so.1",
];

fn lint(text: &str) -> Result<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Dockerfile");
    std::fs::write(&path, text).unwrap();
    printed(tool("hadolint").arg(path))
}

/// The commands of the RUN that has this in it.
fn run_with(part: &str) -> String {
    let all = instructions(&read("Dockerfile"));
    let mut runs =
        all.into_iter().filter(|(keyword, rest)| keyword == "RUN" && rest.contains(part));
    let (_, commands) = runs.next().expect("such a RUN");
    assert!(runs.next().is_none(), "{part} is in several");
    commands
}

fn bash(commands: &str, directory: &Path) -> String {
    let mut bash = Command::new("bash");
    bash.args(["-eo", "pipefail", "-c", commands]).current_dir(directory);
    printed(&mut bash).unwrap_or_else(|said| panic!("{commands}: {said}"))
}

#[test]
fn the_image_is_linted_and_a_planted_mistake_is_caught() {
    let text = read("Dockerfile");
    assert_eq!(lint(&text), Ok(String::new()));
    for (from, to, rule) in [
        ("FROM rust:1.95.0-bookworm AS", "FROM rust AS", "DL3006"),
        ("WORKDIR /build", "WORKDIR build", "DL3000"),
        ("ENTRYPOINT [\"/usr/local/bin/outboxd\"]", "ENTRYPOINT outboxd", "DL3025"),
    ] {
        assert!(text.contains(from), "{from}");
        let said = lint(&text.replace(from, to)).unwrap_err();
        assert!(said.contains(rule), "{from}: {said}");
    }
}

#[test]
fn the_last_stage_is_closed_and_everything_that_is_copied_exists() {
    let all = instructions(&read("Dockerfile"));
    let froms: Vec<_> = all.iter().filter(|(keyword, _)| keyword == "FROM").collect();
    for (_, image) in &froms {
        let name = image.split(' ').next().unwrap();
        let is_pinned = name.split_once(':').is_some_and(|(_, tag)| tag.contains('.'));
        assert!(name == "scratch" || is_pinned, "{name} is not pinned by its version");
    }
    let last = all.iter().rposition(|(keyword, _)| keyword == "FROM").unwrap();
    let told = |keyword: &str| {
        let found = all[last..].iter().find(|(other, _)| other == keyword);
        found.unwrap_or_else(|| panic!("no {keyword}")).1.clone()
    };
    assert_eq!(told("FROM"), "scratch", "there is no shell, and nothing to update");
    assert_eq!(told("USER"), "65532:65532");
    assert_eq!(told("ENTRYPOINT"), "[\"/usr/local/bin/outboxd\"]");
    assert!(told("HEALTHCHECK").ends_with("CMD [\"/usr/local/bin/outboxd\", \"healthcheck\"]"));
    let labels = told("LABEL");
    for (name, value) in [
        ("title", env!("CARGO_PKG_NAME")),
        ("version", env!("CARGO_PKG_VERSION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("revision", "$COMMIT"),
    ] {
        let label = format!("org.opencontainers.image.{name}=\"{value}\"");
        assert!(labels.contains(&label), "{label} is not in {labels}");
    }

    let ignored = read(".dockerignore");
    let sent: Vec<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut copied = Vec::new();
    for (_, rest) in all.iter().filter(|(keyword, _)| keyword == "COPY") {
        let words: Vec<_> = rest.split_whitespace().collect();
        if words[0].starts_with("--from=") {
            continue;
        }
        copied.extend(words[..words.len() - 1].iter().map(|word| (*word).to_owned()));
    }
    assert!(copied.len() > 4, "{copied:?}");
    for path in &copied {
        assert!(Path::new(path).exists(), "there is no {path}");
        assert!(sent.contains(&path.as_str()), "{path} is left out by .dockerignore");
    }
    assert_eq!(sent.len(), copied.len(), "{sent:?} is sent, {copied:?} is copied");
    let mut included = 0;
    for path in included_files(Path::new("src")) {
        let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
        // Only the tests of the documentation include documents.
        let is_copied = copied.iter().any(|copied| path.starts_with(copied));
        assert!(is_copied || path.starts_with("docs"), "{} is not in the image", path.display());
        included += usize::from(is_copied);
    }
    assert!(included > 5, "what is included cannot be read");
}

/// What the sources below a folder have the compiler include.
fn included_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(included_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = read(path.to_str().unwrap());
            let parts = text.split("include_str!(\"").chain(text.split("include_bytes!(\""));
            let names = parts.filter_map(|rest| rest.split_once("\")")).map(|(name, _)| name);
            let names = names.filter(|name| !name.contains(['\n', '"']));
            found.extend(names.filter_map(|name| folder.join(name).canonicalize().ok()));
        }
    }
    found
}

/// The layer of the dependencies is a package that Cargo takes, with our lock file.
#[test]
fn the_layer_of_the_dependencies_is_a_package() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["Cargo.toml", "Cargo.lock"] {
        std::fs::copy(name, directory.path().join(name)).unwrap();
    }
    let commands = run_with("echo 'fn main() {}'");
    let (made, built) = commands.rsplit_once("&&").unwrap();
    assert_eq!(built.trim(), "cargo build --profile dist --locked --bin outboxd");
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let asked = format!(
        "cargo metadata --locked --offline --format-version=1 --filter-platform={platform}"
    );
    let text = bash(&format!("{made} && {asked}"), directory.path());
    let metadata: serde_json::Value = serde_json::from_str(&text).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{} packages", packages.len());
    let ours = packages.iter().find(|package| package["name"] == env!("CARGO_PKG_NAME")).unwrap();
    let targets = ours["targets"].as_array().unwrap();
    let kinds: Vec<_> = targets.iter().filter_map(|target| target["kind"][0].as_str()).collect();
    for kind in ["lib", "bin", "custom-build"] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
    let read: toml::Table = read("Cargo.toml").parse().unwrap();
    assert_eq!(read["profile"]["dist"]["strip"].as_str(), Some("symbols"));
}

#[test]
fn the_binary_links_to_libc_and_its_like_alone() {
    let text = printed(Command::new("ldd").arg(BINARY)).unwrap();
    let names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"libc.so.6"), "{text}");
    for name in names {
        let name = name.rsplit('/').next().unwrap();
        assert!(LIBRARIES.contains(&name), "the image would need {name}:\n{text}");
    }
}

/// The words that run the binary in that root; as the image's user, where only root may choose one.
fn in_root(root: &Path) -> Vec<String> {
    let words: &[&str] = if nix::unistd::geteuid().is_root() {
        &["/usr/sbin/chroot", "--userspec=65532:65532"]
    } else {
        &["/usr/bin/unshare", "--map-root-user", "/usr/sbin/chroot"]
    };
    let words = words.iter().map(|word| (*word).to_owned());
    words.chain([root.display().to_string(), BINARY.to_owned()]).collect()
}

/// What the image holds is enough for all of it: threads, names, TLS, time.
#[tokio::test]
async fn the_relay_runs_in_a_root_that_holds_what_the_image_holds() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("image");
    let commands = run_with("ldd ").replace("/image", root.to_str().unwrap());
    let commands = commands.replace("/usr/local/bin/outboxd", BINARY);
    bash(&commands, directory.path());
    bash("chmod -R a+rX .", directory.path());

    let small = Small::new("image").await;
    // A name, so that it is looked up.
    let options = small.options().program(in_root(&root));
    let url = small.database.url.replace("127.0.0.1", "localhost");
    let options = options.set("postgres.url", &url).directory(Path::new("/"));
    bash("echo '127.0.0.1 localhost' > etc/hosts", &root);
    let (code, said, complaint) = options.command_output(&["--version"]);
    assert!(code == 0 && said.starts_with("outboxd "), "{complaint}");
    let mut relay = options.start_ready().await;
    small.emit("a", 1).await;
    small.wait_for_sent(1).await;
    let address = relay.admin().await;
    let asked = options.clone().set("admin.listen", &address);
    let (code, _, complaint) = asked.command_output(&["healthcheck"]);
    assert_eq!(code, 0, "{complaint}");
    relay.wait_until_ready().await;
    assert_eq!(relay.stop().await, 0);
    let (code, _, _) = asked.command_output(&["healthcheck"]);
    assert_eq!(code, 1);
    // Nowhere is anything that it could write to.
    let (code, _, complaint) = options.command_output(&["init"]);
    let could_choose = nix::unistd::geteuid().is_root();
    assert!(!could_choose || (code == 78 && complaint.contains("denied")), "{complaint}");
    small.clear().await;
}
