//! Reading the project's own files.

use std::path::{Path, PathBuf};

/// A text file of the project.
pub struct File {
    /// Its path from the project's root.
    pub path: String,
    pub text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether the project has that file or folder.
pub fn exists(path: &str) -> bool {
    root().join(path).exists()
}

/// One file; nothing if it is not there.
pub fn file(path: &str) -> Option<File> {
    let text = std::fs::read_to_string(root().join(path)).ok()?;
    Some(File { path: path.to_owned(), text })
}

/// Every file below these folders, or these files, whose name ends with `extension`.
pub fn files(places: &[&str], extension: &str) -> Vec<File> {
    let mut paths = Vec::new();
    for place in places {
        collect(&root().join(place), &mut paths);
    }
    paths.sort();
    let names = paths.iter().map(|path| path.strip_prefix(root()).unwrap().to_str().unwrap());
    names.filter(|name| name.ends_with(extension)).filter_map(file).collect()
}

fn collect(place: &Path, paths: &mut Vec<PathBuf>) {
    if place.is_file() {
        paths.push(place.to_owned());
    }
    for entry in std::fs::read_dir(place).into_iter().flatten() {
        collect(&entry.unwrap().path(), paths);
    }
}

impl File {
    /// Its lines, counted from 1.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Its lines of code that are part of the product: no comments, nothing that is compiled for
    /// tests alone.
    pub fn product_lines(&self) -> Vec<(usize, &str)> {
        let mut lines = self.lines();
        let mut kept = Vec::new();
        while let Some((number, line)) = lines.next() {
            if line.trim() == "#[cfg(test)]" {
                let (_, item) = lines.next().unwrap_or_default();
                if item.ends_with('{') {
                    // The code is formatted: an item ends where its own indentation comes back.
                    let indent = item.len() - item.trim_start().len();
                    let end = format!("{}}}", " ".repeat(indent));
                    lines.by_ref().find(|(_, line)| *line == end);
                }
            } else if !is_comment(line) {
                kept.push((number, line));
            }
        }
        kept
    }

    /// The files that this module declares for tests alone.
    fn test_modules(&self) -> Vec<String> {
        let (folder, _) = self.path.rsplit_once('/').unwrap_or_default();
        let mut found = Vec::new();
        let lines: Vec<_> = self.text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            let name = pair[1].strip_suffix(';').and_then(|item| item.rsplit_once("mod "));
            found.extend(name.map(|(_, name)| format!("{folder}/{name}.rs")));
        }
        found
    }
}

/// The source files of the product: all below `src` but those for tests alone.
pub fn product() -> Vec<File> {
    let mut files = files(&["src"], ".rs");
    let for_tests: Vec<_> = files.iter().flat_map(File::test_modules).collect();
    let is_for_tests = |path: &str| {
        // A module is a file, or a folder.
        let is_in = |module: &String| {
            path == module || path.starts_with(&format!("{}/", module.trim_end_matches(".rs")))
        };
        for_tests.iter().any(is_in)
    };
    files.retain(|file| !is_for_tests(&file.path));
    files
}

pub fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Whether `name` stands in the line, not as a part of a longer one.
pub fn mentions(line: &str, name: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + name.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// What breaks a rule.
#[derive(Default)]
pub struct Problems(Vec<String>);

impl Problems {
    pub fn add(&mut self, what: String) {
        self.0.push(what);
    }

    pub fn at(&mut self, file: &File, line: usize, what: impl std::fmt::Display) {
        self.add(format!("{}:{line}: {what}", file.path));
    }

    #[track_caller]
    pub fn assert_none(self) {
        assert!(self.0.is_empty(), "{} to mend:\n{}", self.0.len(), self.0.join("\n"));
    }
}

#[test]
fn what_is_for_tests_alone_is_no_product() {
    let text = "use a;\n#[cfg(test)]\nmod model;\n// tokio\nfn f() {\n}\n    #[cfg(test)]\n    fn g() {\n        {\n        }\n    }\nfn h() {}\n#[cfg(test)]\nmod tests {\n    use b;\n}\n";
    let file = File { path: "src/x/mod.rs".to_owned(), text: text.to_owned() };
    let numbers: Vec<_> = file.product_lines().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 5, 6, 12]);
    assert_eq!(file.test_modules(), ["src/x/model.rs"]);
}

#[test]
fn a_name_is_more_than_its_letters() {
    assert!(mentions("use tokio::net;", "tokio"));
    assert!(!mentions("use tokio_postgres::Client;", "tokio"));
    assert!(!mentions("SELECT pg_wait(1)", "wait"));
}
