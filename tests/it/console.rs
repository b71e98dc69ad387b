//! The console in a real browser: what it shows, what it asks for, how it looks on a phone, in the dark,
//! and to those who do not see it; and how it is served.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::browser::{Browser, RIGHT, TAB};
use crate::support::database::Database;
use crate::support::free_port;
use crate::support::records::Kafka;
use crate::support::relay::{Relay, RelayOptions, http, http_whole};
use crate::support::small::Small;
use crate::support::wait::{SOON, eventually, stays};

const TOKEN: &str = "canary-of-a-token";

pub fn token_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{TOKEN}\n")).unwrap();
    file
}

/// Where pictures for the documents go, if somebody wants them.
pub async fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("OUTBOXD_SCREENSHOTS") {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        browser.picture(&folder.join(name)).await;
    }
}

/// Asserts that nothing but the relay was asked, that no address told the token, and that the browser
/// had nothing to complain about but what is expected.
pub async fn assert_kept_to_itself(browser: &Browser, origins: &[&str], expected: &[&str]) {
    let requests = browser.requests().await;
    assert!(requests.len() > 10, "{requests:?}");
    for url in &requests {
        let is_ours = origins.iter().any(|origin| url.starts_with(&format!("http://{origin}/")));
        assert!(is_ours, "{url}");
        assert!(!url.contains(TOKEN), "{url}");
    }
    let mut complaints = browser.complaints().await;
    complaints.retain(|complaint| !expected.iter().any(|known| complaint.contains(known)));
    assert_eq!(complaints, Vec::<String>::new());
}

/// Every text with too little contrast to what is behind it (WCAG 2.2, AA).
const PALE: &str = r#"
    const light = (text) => {
      const [red, green, blue] = text.match(/[\d.]+/g).map((each) => {
        const part = Number(each) / 255;
        return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const colour = getComputedStyle(at).backgroundColor;
        if (!colour.startsWith("rgba(0, 0, 0, 0")) return colour;
      }
      return "rgb(255, 255, 255)";
    };
    const pale = [];
    for (const element of document.querySelectorAll("body *")) {
      const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      if (!says || !element.checkVisibility() || element.closest(":disabled, option, svg, noscript, .unseen")) continue;
      const [text, ground] = [light(getComputedStyle(element).color), light(behind(element))];
      const contrast = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
      if (contrast < 4.5) pale.push(`${contrast.toFixed(2)} ${element.className} ${element.textContent.slice(0, 40)}`);
    }
    return pale;"#;

/// Everything that can be pressed and is too small for a thumb.
const SMALL: &str = r#"
    const small = [];
    for (const element of document.querySelectorAll("button, select, input, label.box")) {
      if (!element.checkVisibility() || (element.type === "checkbox" && element.closest("label.box"))) continue;
      const { width, height } = element.getBoundingClientRect();
      if (width < 40 || height < 43) small.push(`${width} x ${height} ${element.id} ${element.className} ${element.textContent}`);
    }
    return small;"#;

/// What reaches out of the page to the right.
const WIDE: &str = r#"
    const page = document.documentElement;
    if (page.scrollWidth <= page.clientWidth && document.body.scrollWidth <= page.clientWidth) return [];
    return [...document.querySelectorAll("body *")]
      .filter((each) => each.getBoundingClientRect().right > page.clientWidth + 0.5)
      .map((each) => `${each.tagName} ${each.id} ${each.className}`);"#;

/// Asserts that everybody can read and use the page as it is now, in the light and in the dark.
pub async fn assert_fit_for_everybody(browser: &Browser, where_: &str) {
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        assert_eq!(browser.script(PALE).await, json!([]), "{where_}, {scheme}");
    }
    browser.prefer("light").await;
    let controls = browser.controls().await;
    assert!(controls.len() > 1, "{where_}: {controls:?}");
    let nameless: Vec<_> = controls.iter().filter(|(_, name)| name.is_empty()).collect();
    assert!(nameless.is_empty(), "{where_}: {nameless:?} of {controls:?}");
}

/// Asserts that the page as it is now fits a phone, and goes back to a desk.
pub async fn assert_fits_a_phone(browser: &Browser, where_: &str) {
    browser.size(360, 780, true).await;
    assert_eq!(browser.script(WIDE).await, json!([]), "{where_}");
    assert_eq!(browser.script(SMALL).await, json!([]), "{where_}");
    browser.size(1280, 1000, false).await;
    assert_eq!(browser.script(WIDE).await, json!([]), "{where_}, at a desk");
}

#[tokio::test]
async fn the_console_is_sealed_and_there_only_where_the_api_is() {
    let database = Database::new("console_http").await;
    let token = token_file();
    let options = RelayOptions::new(&database, &Kafka::shared());
    let files = ["/console/", "/console/app.js", "/console/page.css", "/console/icon.svg"];
    let get = async |address: &str, path: &str, headers: &[(&str, &str)]| {
        http_whole(address, "GET", path, headers, "").await.unwrap()
    };

    let relay = options.start_ready().await;
    let address = relay.admin().await;
    let host = ("host", address.as_str());
    let policy = "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; \
                  connect-src 'self'; img-src 'self' data:; form-action 'none'; base-uri 'none'; \
                  frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'\r\n";
    for (path, form) in files.iter().zip(["text/html", "text/javascript", "text/css", "image/svg"])
    {
        let (code, head, body) = get(&address, path, &[host]).await;
        let head = format!("{head}\r\n");
        assert_eq!(code, 200, "{path}");
        assert!(head.contains(policy), "{path}: {head}");
        for line in [
            &format!("content-type: {form}"),
            "x-content-type-options: nosniff\r\n",
            "referrer-policy: no-referrer\r\n",
            "cache-control: no-cache\r\n",
            "cross-origin-opener-policy: same-origin\r\n",
            "cross-origin-resource-policy: same-origin\r\n",
        ] {
            assert!(head.contains(line), "{path}: {line} in {head}");
        }
        assert!(body.len() > 100, "{path}");
        // Neither a name that is made to lead here nor another page gets anything.
        for strange in [
            [("host", "evil.example"), ("accept", "*/*")],
            [host, ("origin", "http://evil.example")],
            [host, ("sec-fetch-site", "cross-site")],
        ] {
            let (code, head, _) = get(&address, path, &strange).await;
            assert_eq!(code, 403, "{path}: {strange:?}");
            assert!(format!("{head}\r\n").contains(policy), "{path}");
        }
    }
    for path in ["/", "/console"] {
        let (code, head, _) = get(&address, path, &[host]).await;
        assert_eq!((code, head.contains("location: console/")), (307, true), "{path}: {head}");
        assert_eq!(get(&address, path, &[("host", "evil.example")]).await.0, 403);
    }
    for path in ["/console/nothing.js", "/console/../Cargo.toml", "/console/a/b"] {
        assert_eq!(get(&address, path, &[host]).await.0, 404, "{path}");
    }
    // Probes answer to anybody, as before.
    assert_eq!(get(&address, "/livez", &[("host", "evil.example")]).await.0, 200);
    // What the interface answers stays in no cache.
    let (_, head, body) = get(&address, "/api/v1/access", &[host]).await;
    assert!(
        head.contains("cache-control: no-store") && body.contains("\"token_configured\":false")
    );
    assert_eq!(relay.stop().await, 0);

    let without = |path: &'static str, options: RelayOptions| async move {
        let relay = options.start_ready().await;
        let address = relay.admin().await.replace("0.0.0.0", "127.0.0.1");
        let found = http(&address, "GET", path, &[("host", &address)], "").await.unwrap().0;
        assert_eq!(relay.stop().await, 0);
        found
    };
    let off = options.clone().set("admin.console", "false");
    assert_eq!(without("/console/", off.clone()).await, 404);
    assert_eq!(without("/", off.clone()).await, 404);
    assert_eq!(without("/api/v1/status", off).await, 200);
    // Off loopback there is no console without a token; with one, its files hold nothing to hide.
    let wide = options.clone().set("admin.listen", "0.0.0.0:0");
    assert_eq!(without("/console/", wide.clone()).await, 404);
    let wide = wide.set("admin.token_file", token.path().to_str().unwrap());
    let relay = wide.start_ready().await;
    let address = relay.admin().await.replace("0.0.0.0", "127.0.0.1");
    let host = ("host", address.as_str());
    for path in files {
        assert_eq!(get(&address, path, &[host]).await.0, 200, "{path}");
        assert_eq!(get(&address, path, &[("host", "evil.example")]).await.0, 403, "{path}");
    }
    assert_eq!(get(&address, "/api/v1/access", &[host]).await.0, 401);
    let known = [host, ("authorization", "Bearer canary-of-a-token")];
    let (_, _, body) = get(&address, "/api/v1/access", &known).await;
    assert!(body.contains("\"may_change\":true"), "{body}");

    // There the page shows nothing before it knows the token.
    let browser = Browser::start().await;
    browser.open(&format!("http://{address}/")).await;
    browser.wait_for("#access-says", "Locked").await;
    assert_eq!(browser.text("#state-name").await, "locked");
    assert_eq!(browser.text("#stages").await, "");
    browser.click("#unlock").await;
    browser.write("#token-text", TOKEN).await;
    browser.click("#token-form button[type=submit]").await;
    browser.wait_for("#state-name", "streaming").await;
    browser.wait_for("#access-says", "Unlocked").await;
    browser.wait_for("#stages", "Confirmed").await;
    browser.click("#lock").await;
    browser.wait_for("#access-says", "Locked").await;
    assert_eq!(browser.text("#stages").await, "");
    assert_kept_to_itself(&browser, &[&address], &["401 (Unauthorized)"]).await;
    assert!(!relay.has_logged(TOKEN));
    assert_eq!(relay.stop().await, 0);
    database.clear().await;
}

/// What numbers and states look like that no test can bring about in seconds; the relay is away.
async fn assert_written_as_people_read_it(browser: &Browser, mut status: Value) {
    for (written, expected) in [
        ("format.bytes(0)", "0\u{a0}B"),
        ("format.bytes(1536)", "1.50\u{a0}KiB"),
        ("format.bytes(123456789012)", "115\u{a0}GiB"),
        ("format.bytes(null)", "–"),
        ("format.span(0.0000123)", "12.3\u{a0}µs"),
        ("format.span(0.25)", "250\u{a0}ms"),
        ("format.span(5400)", "1.50\u{a0}h"),
        ("format.span(259200)", "3\u{a0}days"),
        ("format.span(undefined)", "–"),
        ("format.count(1234567)", "1,234,567"),
        ("format.counted(1, 'event')", "1 event"),
        ("format.perSecond(12.34)", "12.3"),
        ("format.time('2026-03-01T12:00:00Z').title", "2026-03-01 12:00:00.000 UTC"),
        ("format.time('<b>').outerText", "<b>"),
        ("chart.ticks(0).join()", "0,1"),
        ("chart.ticks(9).join()", "0,2.5,5,7.5,10"),
        ("chart.ticks(1800).join()", "0,500,1000,1500,2000"),
        // Nothing is drawn where nothing was known, or asked.
        (
            "chart.path([{at: 0, v: 1}, {at: 1000, v: 2}, {at: 2000, v: null}, {at: 3000, v: 4}, {at: 9000, v: 5}], \
           'v', (x) => x, (y) => y).replaceAll(/[^ML]/g, '')",
            "MLMM",
        ),
    ] {
        let body = format!(
            "return Promise.all(['format', 'chart'].map((name) => import(`/console/${{name}}.js`))) \
             .then(([format, chart]) => String({written}))"
        );
        assert_eq!(browser.script(&body).await, expected, "{written}");
    }
    // A slot that its server is about to give up.
    let show = "const [status] = arguments; return import('/console/stages.js') \
                .then(({ showStages }) => showStages(status))";
    status["slot"]["wal_status"] = "unreserved".into();
    status["slot"]["safe_wal_bytes"] = (3_i64 << 30).into();
    status["slot"]["seconds_until_limit"] = 1800.0.into();
    status["latency"] = json!({ "p50_seconds": 0.0042, "p99_seconds": 0.021 });
    browser.script_with(show, json!([status])).await;
    let facts = browser.text("#facts").await;
    for said in
        ["about to lose its WAL", "30 min", "3\u{a0}GiB left", "4.20 ms", "99 % within 21\u{a0}ms"]
    {
        assert!(facts.contains(said), "{said} in {facts}");
    }
    assert_eq!(browser.count(".fact[data-tone=bad]").await, 2);
    // What is not known yet, or not told by this version, is a dash and no error.
    for missing in ["latency", "last_error"] {
        status.as_object_mut().unwrap().remove(missing);
    }
    for member in
        ["wal_status", "safe_wal_bytes", "seconds_until_limit", "lag_bytes", "confirmed_lsn"]
    {
        status["slot"][member] = Value::Null;
    }
    status["rates"] = json!({ "read": 0, "published": 0, "settled": 0 });
    browser.script_with(show, json!([status])).await;
    let said = browser.text("#content").await;
    for wrong in ["undefined", "null", "NaN"] {
        assert!(!said.contains(wrong), "{wrong} in {said}");
    }
}

/// What the place of a stage says.
async fn stage(browser: &Browser, name: &str) -> String {
    let text = "return [...document.querySelectorAll('.stage')] \
                .find((each) => each.innerText.startsWith(arguments[0]))?.innerText ?? '';";
    browser.script_with(text, json!([name])).await.as_str().unwrap().to_owned()
}

async fn stage_says(browser: &Browser, name: &str, text: &str) {
    eventually(format!("{name} to say {text:?}"), SOON, || async {
        stage(browser, name).await.contains(text)
    })
    .await;
}

/// How many points the lines of a chart have, and how often they begin.
async fn drawn(browser: &Browser, chart: &str) -> (u64, u64) {
    let count = "const path = [...document.querySelectorAll(arguments[0] + ' .series')] \
                 .map((each) => each.getAttribute('d') ?? '').join(''); \
                 return [path.match(/[ML]/g)?.length ?? 0, path.match(/M/g)?.length ?? 0];";
    let found = browser.script_with(count, json!([chart])).await;
    (found[0].as_u64().unwrap(), found[1].as_u64().unwrap())
}

async fn write_events(small: &Small, count: i64) {
    let sql = "SELECT outboxd.emit('tested', 'k' || n, 'Tested', '{}', topic => $1) \
               FROM generate_series(1, $2::int8) n";
    small.database.sql.query(sql, &[&small.topic, &count]).await.unwrap();
}

#[tokio::test]
async fn figures_move_as_events_flow_and_the_page_outlives_the_relay() {
    let small = Small::new("console_live").await;
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let options = small.options().set("admin.listen", &address);
    let relay: Relay = options.start_ready().await;
    let browser = Browser::start().await;
    browser.open(&format!("http://localhost:{port}/")).await;
    browser.wait_for("#state-name", "streaming").await;
    let url = browser.script("return location.pathname").await;
    assert_eq!(url, "/console/");
    assert_eq!(browser.text("#relay").await, "outboxd");
    browser.wait_for("#access-says", "Read-only: no admin.token_file").await;
    stage_says(&browser, "Decode", "0 since it started").await;

    // Every stage is passed, and seen to be.
    write_events(&small, 1234).await;
    stage_says(&browser, "Decode", "1,234 since it started").await;
    stage_says(&browser, "Status", "1,234 since it started").await;
    let rate = "return Math.max(...[...document.querySelectorAll('#rate-chart .grid text')] \
                .map((each) => Number(each.textContent.replaceAll(',', ''))).filter(Number.isFinite));";
    eventually("a rate in the chart", SOON, || async {
        browser.script(rate).await.as_f64().unwrap() > 100.0
    })
    .await;
    let (before, _) = drawn(&browser, "#rate-chart").await;
    eventually("more points", SOON, || async {
        drawn(&browser, "#rate-chart").await.0 > before + 2
    })
    .await;
    let described = "return document.querySelector('#rate-chart svg').getAttribute('aria-label')";
    let described = browser.script(described).await;
    assert!(described.as_str().unwrap().contains("Acknowledged by Kafka: "), "{described}");
    let confirmed = stage(&browser, "Confirmed").await;
    eventually("the confirmed position to move", SOON, || async {
        write_events(&small, 1).await;
        stage(&browser, "Confirmed").await != confirmed
    })
    .await;
    let facts = browser.text("#facts").await;
    assert!(facts.contains("reserved") && facts.contains("read by a relay"), "{facts}");

    assert_fit_for_everybody(&browser, "the stages").await;
    assert_fits_a_phone(&browser, "the stages").await;

    // The keyboard leads through it, and shows where it is.
    browser.script("document.activeElement?.blur()").await;
    browser.press(TAB).await;
    let focus = "const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement); \
                 return [document.activeElement.textContent, outlineStyle, outlineWidth];";
    assert_eq!(browser.script(focus).await, json!(["Skip to held events", "solid", "2px"]));
    browser.script("document.querySelector('[role=tab][aria-selected=true]').focus()").await;
    browser.press(RIGHT).await;
    let tab = "return document.activeElement.id + document.activeElement.ariaSelected";
    assert_eq!(browser.script(tab).await, "tab-topictrue");

    // Nobody looks: nothing is asked.
    browser.hide().await;
    let asked = browser.requests().await.len();
    stays("a page that nobody sees asks for nothing", Duration::from_secs(3), || async {
        browser.requests().await.len() == asked
    })
    .await;
    browser.bring_back().await;
    eventually("it to ask again", SOON, || async { browser.requests().await.len() > asked }).await;

    // The relay goes, and comes back.
    eventually("everything to be SENT", SOON, || async {
        small.database.statuses().await.keys().eq(["SENT"])
    })
    .await;
    let status = relay.status().await;
    relay.kill().await;
    browser.wait_for("#state-name", "no answer").await;
    browser.wait_for("#error", "no answer since").await;
    assert_written_as_people_read_it(&browser, status).await;
    assert_fit_for_everybody(&browser, "without a relay").await;
    write_events(&small, 77).await;
    let relay = options.start_ready().await;
    browser.wait_for("#state-name", "streaming").await;
    stage_says(&browser, "Status", "77 since it started").await;
    assert_eq!(browser.text("#error").await, "");
    let local = format!("localhost:{port}");
    assert_kept_to_itself(
        &browser,
        &[&local],
        &["ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE"],
    )
    .await;
    assert_eq!(relay.stop().await, 0);
    small.clear().await;
}
