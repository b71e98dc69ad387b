//! Databases for tests: one each, with the migrations applied, on the shared server or on one of
//! the test's own.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Row};

use super::{setting, unique};

/// What a slot may keep once nothing is left to do.
pub const WAL_KEPT_AT_MOST: i64 = 32 << 20;

/// A database of one test.
pub struct Database {
    pub name: String,
    /// How to reach it, as a superuser.
    pub url: String,
    server_url: String,
    pub sql: Client,
}

/// Connects, and keeps the connection going in the background.
pub async fn connect(url: &str) -> Client {
    try_connect(url).await.expect("connect to the test's database")
}

/// Connects, if that is possible now.
pub async fn try_connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // Tests end servers; whoever uses the client sees it.
        let _ = connection.await;
    });
    Ok(client)
}

impl Database {
    /// A database on the shared server, with everything that a relay needs.
    pub async fn new(name: &str) -> Self {
        let database = Self::empty_at(&setting("DATABASE_URL"), name).await;
        database.migrate().await;
        database
    }

    /// The same on a server of the test's own.
    pub async fn new_at(server_url: &str, name: &str) -> Self {
        let database = Self::empty_at(server_url, name).await;
        database.migrate().await;
        database
    }

    /// A database with nothing in it.
    pub async fn empty_at(server_url: &str, name: &str) -> Self {
        let name = unique(name);
        let server = connect(server_url).await;
        server.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let (base, _) = server_url.rsplit_once('/').unwrap();
        let url = format!("{base}/{name}");
        let sql = connect(&url).await;
        Self { name, url, server_url: server_url.to_owned(), sql }
    }

    /// Applies the migrations, as psql would.
    pub async fn migrate(&self) {
        for file in ["0001_outbox", "0002_outboxd", "0003_publication", "0004_roles"] {
            let path = format!("{}/migrations/{file}.sql", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).unwrap();
            self.sql.batch_execute(&text).await.unwrap();
        }
    }

    /// Another connection.
    pub async fn connect(&self) -> Client {
        connect(&self.url).await
    }

    /// Connects again after the server was away.
    pub async fn reconnect(&mut self) {
        self.sql = super::wait::until("the server to be back", super::wait::SOON, || async {
            try_connect(&self.url).await.ok()
        })
        .await;
    }

    pub async fn execute(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub async fn row(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Row {
        self.sql.query_one(sql, parameters).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    pub async fn count(&self, sql: &str) -> i64 {
        self.row(sql, &[]).await.get(0)
    }

    /// Writes one event and gives its id.
    pub async fn emit(&self, aggregate: &str, id: &str, topic: &str, payload: &str) -> String {
        let row = self
            .row(
                "SELECT outboxd.emit($1, $2, 'Tested', $3::text::jsonb, topic => $4)::text",
                &[&aggregate, &id, &payload, &topic],
            )
            .await;
        row.get(0)
    }

    /// How many rows have each status.
    pub async fn statuses(&self) -> HashMap<String, i64> {
        let rows = self.sql.query("SELECT status, count(*) FROM outbox GROUP BY 1", &[]).await;
        rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// The slot's confirmed position, as a number.
    pub async fn confirmed(&self, slot: &str) -> Option<u64> {
        let row = self
            .sql
            .query_opt(
                "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots \
                 WHERE slot_name = $1",
                &[&slot],
            )
            .await
            .unwrap()?;
        row.get::<_, Option<i64>>(0).map(|lsn| u64::try_from(lsn).unwrap())
    }

    /// Waits until the slot's confirmed position has reached where the server writes now.
    pub async fn wait_until_confirmed(&self, slot: &str) {
        let target: i64 = self.row("SELECT (pg_current_wal_lsn() - '0/0')::int8", &[]).await.get(0);
        let target = u64::try_from(target).unwrap();
        super::wait::eventually("the slot to catch up", super::wait::LATER, || async {
            self.confirmed(slot).await.is_some_and(|lsn| lsn >= target)
        })
        .await;
    }

    /// How much WAL the slot has the server keep.
    pub async fn kept_wal(&self, slot: &str) -> i64 {
        let sql = "SELECT (pg_current_wal_lsn() - restart_lsn)::int8 FROM pg_replication_slots \
                   WHERE slot_name = $1";
        self.row(sql, &[&slot]).await.get(0)
    }

    /// Waits until the slot keeps hardly any WAL.
    pub async fn wait_until_wal_is_let_go(&self, slot: &str) {
        super::wait::eventually("the WAL to be let go", super::wait::LATER, || async {
            let is_let_go = self.kept_wal(slot).await < WAL_KEPT_AT_MOST;
            if !is_let_go {
                // A slot lets go up to where the server has noted what runs, which it does by itself
                // only now and then.
                self.execute("CHECKPOINT").await;
            }
            is_let_go
        })
        .await;
    }

    /// Drops the database, and the slot that has its name as soon as nobody reads it any more.
    pub async fn clear(self) {
        let server = connect(&self.server_url).await;
        super::wait::eventually("the slot to be free", super::wait::SOON, || async {
            server
                .query("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", &[&self.name])
                .await
                .is_ok()
        })
        .await;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        server.batch_execute(&drop).await.unwrap();
    }
}
