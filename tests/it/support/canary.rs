//! Everything that a relay and the commands say, to be searched for what is not to be said.

use super::database::Database;
use super::relay::{Relay, RelayOptions, http};

/// Every secret and every payload of a test begins so, as far as it can.
pub const CANARY: &str = "canary-";
/// The token of `/api`.
pub const TOKEN: &str = "canary-of-the-admin-token";

/// What was said, by whom.
#[derive(Default)]
pub struct Ears {
    said: Vec<(String, String)>,
}

impl Ears {
    pub fn hear(&mut self, who: impl Into<String>, what: String) {
        self.said.push((who.into(), what));
    }

    /// What every page of the listener says.
    pub async fn ask_all(&mut self, relay: &Relay, when: &str) {
        let address = relay.admin().await;
        let bearer = format!("Bearer {TOKEN}");
        let headers = [("host", address.as_str()), ("authorization", bearer.as_str())];
        for page in [
            "/livez",
            "/readyz?verbose",
            "/metrics",
            "/version",
            "/",
            "/api/v1/status",
            "/api/v1/slot",
            "/api/v1/events",
            "/api/v1/keys",
            "/api/v1/dlq",
            "/api/v1/events/none?value=true",
        ] {
            let answer = http(&address, "GET", page, &headers, "").await;
            self.hear(format!("{page} {when}"), format!("{answer:?}"));
        }
        for body in ["{\"canary\": 1", "[]", "{\"ids\": {}}"] {
            let answer = http(&address, "POST", "/api/v1/events/retry", &headers, body).await;
            let answer = format!("{answer:?}").replace("canary\\\"", "");
            self.hear(format!("POST {body} {when}"), answer);
        }
    }

    /// What every command says.
    pub fn run_all(&mut self, options: &RelayOptions, when: &str) {
        for arguments in [
            &["config", "show"][..],
            &["check"],
            &["doctor"],
            &["doctor", "-o", "json"],
            &["status"],
            &["status", "-o", "json"],
            &["events", "list", "-o", "json"],
            &["keys", "list"],
            &["dlq", "list", "-o", "json"],
            &["slot", "show"],
        ] {
            let (code, out, complaint) = options.command_output(arguments);
            self.hear(format!("{arguments:?} {when}"), format!("{code} {out} {complaint}"));
        }
    }

    /// What is said of a mistake in the configuration; `last` finds it.
    pub fn run_with_mistake(&mut self, options: &RelayOptions, last: &str, mistake: &str) {
        for arguments in [&["check"][..], &["config", "show"], &[last]] {
            let (code, out, complaint) = options.command_output(arguments);
            // The name of a file is none.
            let said = format!("{out} {complaint}").replace("/canary-is-no-file", "");
            assert!(code != 0 || arguments[0] != last, "{mistake}: {said}");
            self.hear(format!("{arguments:?} with {mistake}"), said);
        }
    }

    pub fn hear_log(&mut self, relay: &Relay, when: &str) {
        self.hear(format!("the log {when}"), relay.logged().join("\n"));
    }

    /// What the tables keep of errors, which are some.
    pub async fn read_tables(&mut self, database: &Database) {
        let kept = database.row(
            "SELECT coalesce((SELECT string_agg(r::text, ' ') FROM outboxd.relay r), '') || \
                coalesce((SELECT string_agg(a::text, ' ') FROM outboxd.audit a), '') || \
                coalesce((SELECT string_agg(concat(last_error, error_code), ' ') FROM outboxd.held_event), '') || \
                coalesce((SELECT string_agg(last_error, ' ') FROM outbox), '')",
            &[],
        );
        let kept: String = kept.await.get(0);
        assert!(kept.contains("OBX-"), "errors are kept: {kept}");
        self.hear("the tables", kept);
    }

    /// Nobody of at least so many has said one of these.
    #[track_caller]
    pub fn have_heard_none(&self, secrets: &[&str], at_least: usize) {
        for (who, said) in &self.said {
            let leaks = said.lines().filter(|line| secrets.iter().any(|word| line.contains(word)));
            let leaks: Vec<_> = leaks.take(3).collect();
            assert!(leaks.is_empty(), "{who}: {leaks:#?}");
        }
        assert!(self.said.len() >= at_least, "only {} were heard", self.said.len());
    }
}
