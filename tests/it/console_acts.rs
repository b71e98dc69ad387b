//! What somebody does with the console: finds a dead letter and sends it after all, and everything else
//! that can be asked for; what rows say is text, whatever they say.

use serde_json::json;

use crate::console::{
    assert_fit_for_everybody, assert_fits_a_phone, assert_kept_to_itself, picture, token_file,
};
use crate::kafka_outage::limit;
use crate::support::browser::{Browser, ESCAPE};
use crate::support::relay::Relay;
use crate::support::small::Small;
use crate::support::unique;
use crate::support::wait::{LATER, SOON, eventually};

/// What would run, or ask for something, if it were HTML.
const HOSTILE: &str =
    "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>";

struct Scene {
    small: Small,
    relay: Relay,
    address: String,
    browser: Browser,
    _token: tempfile::NamedTempFile,
}

impl Scene {
    /// A relay that tries an event once, a topic that takes small records, and somebody who looks.
    async fn new() -> Self {
        let mut small = Small::new("orders").await;
        small.topic = unique("orders");
        small.kafka.create_topic(&small.topic, 1, &[("max.message.bytes", "2000")]).await;
        small.kafka.create_topic(&format!("{}.dlq", small.topic), 1, &[]).await;
        let token = token_file();
        let options = small
            .options()
            .set("relay.id", "orders")
            .set("retry.max_attempts", "1")
            .set("retry.max_backoff", "1h");
        let options = options.set("retry.initial_backoff", "1h").set("retry.jitter", "0");
        let options = options.set("admin.token_file", token.path().to_str().unwrap());
        let relay = options.start_ready().await;
        let address = relay.admin().await;
        Self { small, relay, address, browser: Browser::start().await, _token: token }
    }

    /// Writes an event that the topic does not take; it may be tried so often.
    async fn large(&self, key: &str, kind: &str, attempts: i32) -> String {
        let sql = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type, payload, topic, max_attempts) \
                   VALUES ('orders', $1, $2, jsonb_build_object('note', $3::text, 'pad', repeat('x', 4000)), \
                           $4, $5) RETURNING id::text";
        self.small
            .database
            .row(sql, &[&key, &kind, &HOSTILE, &self.small.topic, &attempts])
            .await
            .get(0)
    }

    async fn open(&self) {
        self.browser.open(&format!("http://{}/console/", self.address)).await;
        self.browser.wait_for("#state-name", "streaming").await;
    }

    async fn unlock(&self) {
        self.browser.click("#unlock").await;
        self.browser.write("#token-text", "canary-of-a-token").await;
        self.browser.click("#token-form .primary").await;
        self.browser.wait_for("#access-says", "Unlocked").await;
    }

    async fn tab(&self, name: &str, count: u32) {
        self.browser.click(&format!("#tab-{name}")).await;
        self.browser.wait_for(&format!("#tab-{name} .number"), &count.to_string()).await;
        self.rows(u64::from(count)).await;
    }

    async fn rows(&self, count: u64) {
        eventually(format!("{count} rows"), SOON, || async {
            self.browser.count("#rows tbody tr").await == count
        })
        .await;
    }

    /// Searches for that, in place of what was searched for before.
    async fn search(&self, text: &str) {
        let empty = "const text = document.querySelector('#search-text'); text.value = ''; \
                     text.dispatchEvent(new Event('input', { bubbles: true }));";
        self.browser.script(empty).await;
        if !text.is_empty() {
            self.browser.write("#search-text", text).await;
        }
    }

    /// Answers the question that is asked, once it says what it is about.
    async fn confirm(&self, about: &str, done: &str) {
        self.browser.wait_for("#confirm", about).await;
        self.browser.click("#confirm .primary").await;
        self.browser.wait_for("#confirm", done).await;
        self.browser.click_text("#confirm button", "Close").await;
    }

    async fn verdict(&self, id: &str, verdict: &str) {
        eventually(format!("{verdict} of {id}"), SOON, || async {
            let sql = "SELECT verdict FROM outboxd.ledger WHERE event_id = $1";
            let row = self.small.database.sql.query_opt(sql, &[&id]).await.unwrap();
            row.is_some_and(|row| row.get::<_, String>(0) == verdict)
        })
        .await;
    }

    /// Waits until the topic has exactly these, in this order.
    async fn arrived(&self, topic: &str, ids: &[&str]) {
        eventually(format!("{ids:?} in {topic}"), SOON, || async {
            let records = self.small.kafka.read(&[topic]);
            // Not those of the pictures.
            let is_ours = |value: &Vec<u8>| !String::from_utf8_lossy(value).contains("carts");
            let ours = records.iter().filter(|record| record.value.as_ref().is_some_and(is_ours));
            ours.map(|record| record.event_id()).eq(ids.iter().copied())
        })
        .await;
    }

    async fn clear(self) {
        let title = self.browser.script("return document.title").await;
        assert!(!title.as_str().unwrap().contains("owned"), "{title}");
        assert_kept_to_itself(&self.browser, &[&self.address], &["401 (Unauthorized)"]).await;
        assert!(!self.relay.has_logged("canary-of-a-token"));
        drop(self.browser);
        assert_eq!(self.relay.stop().await, 0);
        self.small.clear().await;
    }
}

#[tokio::test]
async fn a_dead_letter_is_found_looked_at_and_sent_after_all() {
    let scene = Scene::new().await;
    let browser = &scene.browser;
    scene.open().await;
    browser.wait_for("#empty", "Nothing. That is how it should be.").await;
    let first = scene.large("order-1", "OrderPlaced", 1).await;
    let hostile = scene.large(HOSTILE, HOSTILE, 1).await;

    // Without the token it is for looking: no action is offered, and no value.
    browser.wait_for("#access-says", "Read-only").await;
    scene.tab("dead", 2).await;
    browser.wait_for("#bulk", "Read-only: unlock to act on events.").await;
    assert_eq!(browser.count("#bulk button, #pause, #pause-topic").await, 0);
    let said = browser.text("#rows").await;
    assert!(said.contains("OBX-4004") && said.contains(&first), "{said}");
    assert!(said.contains(HOSTILE), "{said}");
    assert_eq!(browser.count("#rows img, #rows script").await, 0);
    let utc = "return document.querySelector('#rows time').title";
    assert!(browser.script(utc).await.as_str().unwrap().ends_with(" UTC"));

    // One is found, by what is said of it.
    scene.search("ORDERPL").await;
    scene.rows(1).await;
    browser.wait_for("#found", "1 event found").await;
    assert!(browser.text("#rows").await.contains(&first));
    browser.click(".opener").await;
    browser.wait_for("#detail", "Unlock to see it.").await;
    assert_eq!(browser.count("#detail .sheet-actions").await, 0);
    browser.press(ESCAPE).await;
    eventually("the sheet to close", SOON, || async { browser.count("#detail").await == 0 }).await;
    let focused = "return document.activeElement.className";
    assert_eq!(browser.script(focused).await, "opener", "the focus goes back to where it was");

    // A wrong token is told, and is not kept.
    browser.click("#unlock").await;
    browser.write("#token-text", "not-the-token").await;
    browser.click("#token-form .primary").await;
    browser.wait_for("#token-error", "This is not the token of this relay.").await;
    browser.press(ESCAPE).await;
    assert_eq!(browser.text("#access-says").await, "Read-only");
    scene.unlock().await;
    let kept =
        "return [document.cookie, localStorage.length, sessionStorage.length, location.search]";
    assert_eq!(browser.script(kept).await, json!(["", 0, 0, ""]));

    // The value on demand, as it is and as text.
    scene.search("<IMG").await;
    scene.rows(1).await;
    browser.click(".opener").await;
    browser.wait_for("#detail", "OBX-4004").await;
    assert!(!browser.text("#detail").await.contains("xxxxx"), "the value only on demand");
    browser.click_text("#detail button", "Show the value").await;
    let value = browser.wait_for("#detail .payload", "xxxxx").await;
    assert!(value.contains("<script>document.title='owned'</script>"), "{value}");
    assert_eq!(browser.count("#detail img, #detail script").await, 0);
    assert_fit_for_everybody(browser, "an event").await;
    assert_fits_a_phone(browser, "an event").await;
    browser.click("#detail .close").await;
    assert_eq!(browser.script("return document.images.length").await, 1, "its own icon alone");

    // All at a desk and on a phone, with a group.
    scene.search("").await;
    scene.rows(2).await;
    assert_fit_for_everybody(browser, "dead letters").await;
    assert_fits_a_phone(browser, "dead letters").await;

    // The topic takes more now: one goes from its sheet, then the rest with all that are listed.
    limit(&scene.small.kafka, &scene.small.topic, "1048576").await;
    browser.click_text(".opener", "OrderPlaced").await;
    browser.click("#detail [data-action=redrive]").await;
    scene.confirm("This is about 1 event.", "Redrive: 1 event: done.").await;
    scene.arrived(&scene.small.topic, &[&first]).await;
    scene.tab("dead", 1).await;
    browser.click("#bulk [data-action=redrive]").await;
    scene.confirm("This is about 1 event.", "Redrive: 1 event: done.").await;
    scene.arrived(&scene.small.topic, &[&first, &hostile]).await;
    scene.tab("dead", 0).await;
    scene.clear().await;
}

#[tokio::test]
async fn everything_that_can_be_asked_for_is_done() {
    let scene = Scene::new().await;
    let browser = &scene.browser;
    scene.open().await;
    scene.unlock().await;
    let mut held = Vec::new();
    for (key, kind) in [
        ("order-1", "OrderPlaced"),
        ("order-2", "OrderPaid"),
        ("order-3", "OrderPaid"),
        ("order-4", "OrderClosed"),
    ] {
        held.push(scene.large(key, kind, 9).await);
    }
    for number in 5..8 {
        scene.large(&format!("order-{number}"), "OrderPlaced", 1).await;
    }
    scene.tab("dead", 3).await;
    scene.tab("retry", 4).await;
    browser.wait_for("#facts", "Blocked keys\n4").await;
    let tab = "return document.querySelector('#tab-retry').getAttribute('aria-label')";
    assert_eq!(browser.script(tab).await, "Retrying: 4");
    pictures(&scene).await;

    // A question can be answered with no.
    browser.click("#bulk [data-action=skip]").await;
    browser.wait_for("#confirm", "This is about 4 events.").await;
    assert_fit_for_everybody(browser, "a question").await;
    assert_fits_a_phone(browser, "a question").await;
    browser.click_text("#confirm button", "Cancel").await;
    scene.tab("retry", 4).await;

    // What is picked, and only that.
    browser.click(&format!("tr[data-id='{}'] input", held[1])).await;
    browser.click(&format!("tr[data-id='{}'] input", held[2])).await;
    browser.wait_for("#bulk", "Skip 2 events…").await;
    browser.click("#bulk [data-action=skip]").await;
    scene.confirm("This is about 2 events.", "Skip: 2 events: done.").await;
    scene.verdict(&held[1], "skipped").await;
    scene.verdict(&held[2], "skipped").await;
    scene.tab("retry", 2).await;

    // A key goes on without what blocked it, which is a dead letter then, and says who wanted it.
    scene.tab("keys", 2).await;
    scene.search("OrderClosed").await;
    scene.rows(1).await;
    browser.click("#bulk [data-action=unblock]").await;
    scene.confirm("This is about 1 key.", "Unblock: 1 key: done.").await;
    scene.search("").await;
    scene.tab("dead", 4).await;
    browser.click_text(".opener", "OrderClosed").await;
    browser.wait_for("#detail .history", "unblock by http:127.0.0.1").await;
    browser.press(ESCAPE).await;

    // All that are listed: the rest stays.
    scene.search("order-7").await;
    scene.rows(1).await;
    browser.click("#bulk [data-action=discard]").await;
    scene.confirm("This is about 1 event.", "Discard: 1 event: done.").await;
    let discarded = "SELECT count(*) FROM outboxd.ledger WHERE verdict = 'discarded'";
    assert_eq!(scene.small.database.count(discarded).await, 1);

    scene.search("").await;
    limit(&scene.small.kafka, &scene.small.topic, "1048576").await;
    scene.tab("retry", 1).await;
    browser.click("#bulk [data-action=retry]").await;
    scene.confirm("This is about 1 event.", "Retry: 1 event: done.").await;
    scene.arrived(&scene.small.topic, &[&held[0]]).await;

    // Everything waits, and goes on.
    browser.click("#pause").await;
    scene.confirm("Nothing is read or published", "Pause the relay: done.").await;
    browser.wait_for("#state-name", "paused").await;
    browser.wait_for("#pause", "Resume").await;
    browser.click("#pause").await;
    scene.confirm("It goes on", "Resume the relay: done.").await;
    browser.wait_for("#state-name", "streaming").await;

    // A topic waits; what is written for it is held, and goes when it may.
    browser.write("#topic-name", &scene.small.topic).await;
    browser.click("#pause-topic button").await;
    scene.confirm("Its events are held", "Pause topic").await;
    browser.wait_for("#paused-topics", &scene.small.topic).await;
    let waits = scene.small.emit("order-9", 9).await;
    scene.tab("topic", 1).await;
    browser.click("#paused-topics button").await;
    scene.confirm("It goes on", "Resume topic").await;
    browser.wait_for("#paused-topics", "No topic is paused.").await;
    scene.arrived(&scene.small.topic, &[&held[0], &waits]).await;
    scene.tab("topic", 0).await;

    // A session that is over takes its token with it.
    scene.open().await;
    browser.wait_for("#access-says", "Read-only").await;
    scene.clear().await;
}

/// For the documents: the page at a desk and on a phone, and a dead letter, while events flow.
async fn pictures(scene: &Scene) {
    if std::env::var_os("OUTBOXD_SCREENSHOTS").is_none() {
        return;
    }
    let (browser, small) = (&scene.browser, &scene.small);
    let sql = "SELECT outboxd.emit('carts', n::text, 'CartChanged', '{}', topic => $1) \
               FROM generate_series(1, $2::int8) n";
    let mut batch = 0_i64;
    let points = "return document.querySelector('#latency-chart .series').getAttribute('d').length";
    eventually("something to see in the charts", LATER, || {
        batch += 1;
        let many = 8 + batch / 4 % 12 + batch % 3;
        async move {
            small.database.sql.query(sql, &[&small.topic, &many]).await.unwrap();
            browser.script(points).await.as_u64().unwrap() > 550
        }
    })
    .await;
    browser.size(1200, 860, false).await;
    picture(browser, "console-desktop.png").await;
    browser.size(360, 700, true).await;
    picture(browser, "console-phone.png").await;
    browser.size(1200, 860, false).await;
    browser.prefer("dark").await;
    scene.tab("dead", 3).await;
    browser.script("document.querySelector('#held').scrollIntoView()").await;
    browser.click_text(".opener", "OrderPlaced").await;
    browser.wait_for("#detail", "OBX-4004").await;
    picture(browser, "console-dead-letter.png").await;
    browser.click("#detail .close").await;
    browser.prefer("light").await;
    browser.size(1280, 1000, false).await;
    scene.tab("retry", 4).await;
    eventually("what flows to have passed", LATER, || async {
        scene.relay.status().await["in_flight"]["events"] == 0
    })
    .await;
}
