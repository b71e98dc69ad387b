//! A throw-away PostgreSQL: found, initialised, started, and gone with the value that holds it.

use std::ffi::OsStr;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// As `pg_ctl stop -m fast`: sessions are ended, everything is written.
    Fast,
    /// As `pg_ctl stop -m immediate`: recovery at the next start.
    Immediate,
    /// As a crash.
    Kill,
}

/// A PostgreSQL server of our own, with logical decoding, on a free loopback port.
pub struct TempPostgres {
    directory: TempDir,
    binaries: PathBuf,
    port: u16,
    owner: Option<User>,
    server: Option<Child>,
}

/// A server that is not there after this does not come.
const START_TIMEOUT: Duration = Duration::from_secs(60);

impl TempPostgres {
    /// Where `initdb` and `postgres` are: at `given`, else on the usual paths.
    pub fn find_binaries(given: Option<&Path>) -> Option<PathBuf> {
        if let Some(given) = given {
            return given.join("initdb").exists().then(|| given.to_owned());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<_> = std::env::split_paths(&path).collect();
        for base in ["/usr/lib/postgresql", "/usr/local", "/opt/homebrew/opt"] {
            let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
            let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
            // Debian's are named by their version: the newest first.
            found.sort_by_key(|path| {
                path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok())
            });
            places.extend(found.into_iter().rev().map(|path| path.join("bin")));
        }
        let asked = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output();
        let said = asked.ok().and_then(|output| String::from_utf8(output.stdout).ok());
        places.extend(said.map(|said| PathBuf::from(said.trim())));
        places
            .into_iter()
            .find(|place| place.join("initdb").exists() && place.join("postgres").exists())
    }

    /// Initialises and starts a server. `settings` are added to its configuration.
    ///
    /// # Errors
    /// It does not start; the text has the end of its log.
    pub fn start(binaries: &Path, settings: &[(&str, &str)]) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("outboxd-postgres-").tempdir()?;
        let owner = unprivileged_user()?;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        if let Some(owner) = &owner {
            chown(directory.path(), Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
        }
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut server =
            Self { directory, binaries: binaries.to_owned(), port, owner, server: None };
        server.initialise(settings)?;
        server.start_again()?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.env("HOME", self.directory.path()).env("TZ", "UTC").stdin(Stdio::null());
        if let Some(owner) = &self.owner {
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
        }
        command.current_dir(self.directory.path());
        command
    }

    fn initialise(&self, settings: &[(&str, &str)]) -> io::Result<()> {
        let data = self.data();
        let arguments: [&OsStr; 9] = [
            "-D".as_ref(),
            data.as_ref(),
            "-U".as_ref(),
            "postgres".as_ref(),
            "-A".as_ref(),
            "trust".as_ref(),
            "-E".as_ref(),
            "UTF8".as_ref(),
            "--no-sync".as_ref(),
        ];
        let output = self.command("initdb").args(arguments).arg("--locale=C").output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(format!("initdb failed: {said}")));
        }
        let mut configuration = String::from(
            "listen_addresses = '127.0.0.1'\nwal_level = logical\nmax_wal_senders = 20\n\
             max_replication_slots = 20\nmax_prepared_transactions = 10\n",
        );
        let directory = self.directory.path().display();
        configuration.push_str(&format!("unix_socket_directories = '{directory}'\n"));
        for (name, value) in settings {
            configuration.push_str(&format!("{name} = '{value}'\n"));
        }
        let path = data.join("postgresql.auto.conf");
        std::fs::write(path, configuration)
    }

    /// Starts the server again after a stop.
    ///
    /// # Errors
    /// It does not start; the text has the end of its log.
    pub fn start_again(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let server = self.spawn()?;
            let id = server.id();
            self.server = Some(server);
            if self.wait_until_ready(id, deadline)? {
                return Ok(());
            }
            // The processes of a server that crashed can outlive it for a moment.
            let log = self.logged();
            let is_passing = log.lines().rev().take(5).any(|line| line.contains("still in use"));
            if !is_passing || Instant::now() > deadline {
                let end: Vec<_> = log.lines().rev().take(10).collect();
                let end: Vec<_> = end.into_iter().rev().collect();
                return Err(io::Error::other(format!(
                    "PostgreSQL did not start: {}",
                    end.join("; ")
                )));
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        command.stdout(log.try_clone()?).stderr(log);
        // Ctrl-C on the terminal is for us; we tell the server.
        command.process_group(0);
        command.spawn()
    }

    /// Whether the server `id` is ready; false if it ended instead.
    fn wait_until_ready(&mut self, id: u32, deadline: Instant) -> io::Result<bool> {
        let pid_file = self.data().join("postmaster.pid");
        while Instant::now() < deadline {
            let said = std::fs::read_to_string(&pid_file).unwrap_or_default();
            let mut lines = said.lines();
            let is_ours = lines.next().is_some_and(|line| line == id.to_string());
            let is_up = |line: &str| matches!(line.trim(), "ready" | "standby");
            if is_ours && lines.nth(6).is_some_and(is_up) {
                return Ok(true);
            }
            if self.server.as_mut().map(Child::try_wait).transpose()?.flatten().is_some() {
                return Ok(false);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(false)
    }

    /// How to reach it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket.
    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// What it has logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Tells the server to stop, and does not wait.
    pub fn signal_stop(&self, mode: StopMode) {
        let Some(pid) = self.server.as_ref().and_then(|server| i32::try_from(server.id()).ok())
        else {
            return;
        };
        let signal = match mode {
            StopMode::Fast => Signal::SIGINT,
            StopMode::Immediate => Signal::SIGQUIT,
            StopMode::Kill => Signal::SIGKILL,
        };
        // If it is gone already, that is what was wanted.
        let _ = kill(Pid::from_raw(pid), signal);
    }

    /// Whether it has ended.
    pub fn has_stopped(&mut self) -> bool {
        match &mut self.server {
            Some(server) => matches!(server.try_wait(), Ok(Some(_)) | Err(_)),
            None => true,
        }
    }

    /// Stops the server and waits for its end.
    pub fn stop(&mut self, mode: StopMode) {
        self.signal_stop(mode);
        if let Some(mut server) = self.server.take() {
            // Its end is all that is waited for, not how it ended.
            let _ = server.wait();
        }
    }
}

impl Drop for TempPostgres {
    fn drop(&mut self) {
        self.stop(StopMode::Immediate);
    }
}

/// Whom to run the server as: PostgreSQL refuses to run as root.
fn unprivileged_user() -> io::Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    Err(io::Error::other("PostgreSQL does not run as root, and there is no user to run it as"))
}
