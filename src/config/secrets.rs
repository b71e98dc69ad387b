//! Files that hold secrets: read, remembered for what was in them, and looked at for who else can
//! read them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::settings::Settings;

/// Whose secrets a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    Postgres,
    Sink,
    Admin,
}

/// What files held when they were read: nothing of it, only whether it is still the same.
pub(super) type Seen = BTreeMap<(Whose, PathBuf), Option<u64>>;

/// Everybody else.
const OTHERS: u32 = 0o007;

impl Settings {
    /// The text of a file that holds a secret; what is wrong with it is noted under `key`.
    pub(super) fn secret_file(&mut self, whose: Whose, key: &str, path: &str) -> Option<String> {
        let path = Path::new(path);
        match std::fs::read_to_string(path) {
            Ok(text) => {
                self.seen.insert((whose, path.to_owned()), Some(digest(text.as_bytes())));
                self.warn_of_readers(key, path);
                Some(text)
            }
            Err(error) => {
                self.problem(format!("{key}: {}: {error}", path.display()));
                None
            }
        }
    }

    /// Remembers what is in a file that somebody else reads: a client's certificate, for instance.
    pub(super) fn note_file(&mut self, whose: Whose, path: &Path) {
        let content = std::fs::read(path).ok();
        self.seen.insert((whose, path.to_owned()), content.map(|bytes| digest(&bytes)));
    }

    /// Whoever can run anything on this machine could read it.
    fn warn_of_readers(&mut self, key: &str, path: &Path) {
        let mode = std::fs::metadata(path).map(|found| found.permissions().mode());
        if mode.is_ok_and(|mode| mode & OTHERS != 0) {
            let path = path.display();
            self.warn(format!("{key}: everybody on this machine can read {path}: chmod o= {path}"));
        }
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
