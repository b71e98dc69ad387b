//! A real headless Chromium, driven by its own driver in W3C WebDriver, which is JSON over HTTP: the
//! few commands that tests need are less than the crates that know all of them.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::wait::{SOON, until};

/// A browser with one page.
pub struct Browser {
    driver: Child,
    address: String,
    session: String,
    requested: Mutex<Vec<String>>,
    _profile: tempfile::TempDir,
}

/// How an answer names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys as WebDriver writes them.
pub const ESCAPE: &str = "\u{e00c}";
pub const RIGHT: &str = "\u{e014}";
pub const TAB: &str = "\u{e004}";

impl Browser {
    /// Starts one of a desk's size.
    pub async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--log-level=SEVERE"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver, which dev/test installs");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.filter_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let port = { port }.next().expect("the driver's port");
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self {
            driver,
            address: format!("127.0.0.1:{port}"),
            session: String::new(),
            requested: Mutex::default(),
            _profile: profile,
        };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let options = json!({ "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en-US",
            "--window-size=1280,1000", profile,
        ], "perfLoggingPrefs": { "enableNetwork": true, "enablePage": false } });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let answer = browser.ask("POST", "/session", &wanted).await.expect("a session");
        browser.session = answer["sessionId"].as_str().unwrap().to_owned();
        // What it asks for on its own account is over with its first page.
        browser.open("about:blank").await;
        browser.requests().await;
        browser.requested = Mutex::default();
        browser
    }

    /// One request: the driver leaves connections open, so that somebody has to count.
    async fn send(
        &self,
        method: &str,
        path: &str,
        body: String,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error>> {
        let stream = tokio::net::TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", &self.address);
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let code = answer.status().as_u16();
        let text = answer.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok((code, text))
    }

    /// One command of WebDriver.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let answer = tokio::time::timeout(Duration::from_secs(60), self.send(method, path, body));
        let answer = answer.await.map_err(|_| "no answer")?;
        let (code, text) = answer.map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        let value = answer["value"].take();
        if code == 200 { Ok(value) } else { Err(value["message"].to_string()) }
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value, String> {
        self.ask("POST", &format!("/session/{}/{path}", self.session), &body).await
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.post("url", json!({ "url": url })).await.unwrap();
    }

    /// Runs the body of a function in the page and gives what it returns.
    pub async fn script(&self, body: &str) -> Value {
        self.script_with(body, json!([])).await
    }

    /// The same with arguments.
    pub async fn script_with(&self, body: &str, arguments: Value) -> Value {
        let asked = json!({ "script": body, "args": arguments });
        self.post("execute/sync", asked).await.unwrap_or_else(|error| panic!("{body}: {error}"))
    }

    /// A command of the browser's own protocol.
    pub async fn protocol(&self, command: &str, parameters: Value) -> Value {
        let asked = json!({ "cmd": command, "params": parameters });
        self.post("goog/cdp/execute", asked).await.unwrap_or_else(|e| panic!("{command}: {e}"))
    }

    async fn find(&self, selector: &str) -> Result<String, String> {
        let found = self.post("element", json!({ "using": "css selector", "value": selector }));
        Ok(found.await?[ELEMENT].as_str().ok_or("not an element")?.to_owned())
    }

    /// Does something with an element as soon as it is there and lets that be done.
    async fn element(&self, selector: &str, command: &str, body: Value) {
        let last = std::cell::RefCell::new(String::new());
        let tried = until(format!("{command} of {selector}"), SOON, || async {
            let tried = async {
                let id = self.find(selector).await?;
                self.post(&format!("element/{id}/{command}"), body.clone()).await
            };
            tried.await.map_err(|error| last.replace(error)).ok()
        });
        tried.await;
    }

    /// Presses it, as a person would: it has to be seen and not covered.
    pub async fn click(&self, selector: &str) {
        self.element(selector, "click", json!({})).await;
    }

    /// Presses the one that says this.
    pub async fn click_text(&self, selector: &str, text: &str) {
        let mark = "const found = [...document.querySelectorAll(arguments[0])].find((each) => \
                    each.checkVisibility() && each.textContent.includes(arguments[1])); \
                    document.querySelector('[data-meant]')?.removeAttribute('data-meant'); \
                    found?.setAttribute('data-meant', ''); return found !== undefined;";
        until(format!("{selector} with {text:?}"), SOON, || async {
            let is_there = self.script_with(mark, json!([selector, text])).await == true;
            let pressed = async {
                let id = self.find("[data-meant]").await?;
                self.post(&format!("element/{id}/click"), json!({})).await
            };
            if is_there { pressed.await.ok() } else { None }
        })
        .await;
    }

    /// Types into it.
    pub async fn write(&self, selector: &str, text: &str) {
        self.element(selector, "value", json!({ "text": text })).await;
    }

    /// Presses a key wherever the focus is.
    pub async fn press(&self, key: &str) {
        let keys = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        let actions = json!({ "actions": [{ "type": "key", "id": "keys", "actions": keys }] });
        self.post("actions", actions).await.unwrap();
    }

    /// What is seen of it; nothing if it is not there, or not seen.
    pub async fn text(&self, selector: &str) -> String {
        let seen = "const found = document.querySelector(arguments[0]); \
                    return found?.checkVisibility() ? found.innerText : '';";
        self.script_with(seen, json!([selector])).await.as_str().unwrap().to_owned()
    }

    /// Waits until it says this.
    pub async fn wait_for(&self, selector: &str, text: &str) -> String {
        let last = std::cell::RefCell::new(String::new());
        let found = tokio::time::timeout(SOON, async {
            until(format!("{selector} to say {text:?}"), SOON * 2, || async {
                let seen = self.text(selector).await;
                last.replace(seen.clone());
                seen.contains(text).then_some(seen)
            })
            .await
        });
        let found = found.await;
        found.unwrap_or_else(|_| panic!("{selector} says {:?}, not {text:?}", last.borrow()))
    }

    /// How many of them are seen.
    pub async fn count(&self, selector: &str) -> u64 {
        let count = "return [...document.querySelectorAll(arguments[0])] \
                     .filter((each) => each.checkVisibility()).length;";
        self.script_with(count, json!([selector])).await.as_u64().unwrap()
    }

    /// Makes it as wide and high as that; a phone takes touches, too.
    pub async fn size(&self, width: u32, height: u32, is_phone: bool) {
        let scale = if is_phone { 2 } else { 1 };
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone });
        self.protocol("Emulation.setDeviceMetricsOverride", metrics).await;
        let touch = json!({ "enabled": is_phone });
        self.protocol("Emulation.setTouchEmulationEnabled", touch).await;
    }

    /// Prefers `light` or `dark`.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": "reduce" }]);
        self.protocol("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// A picture of what is seen.
    pub async fn picture(&self, path: &Path) {
        let taken = self.protocol("Page.captureScreenshot", json!({ "format": "png" })).await;
        let bytes = BASE64.decode(taken["data"].as_str().unwrap().as_bytes()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// What the browser complained about since it was last asked: of scripts, policies, and so on.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.post("se/log", json!({ "type": "browser" })).await.unwrap();
        let entries = log.as_array().unwrap().iter();
        entries.map(|entry| format!("{}: {}", entry["source"], entry["message"])).collect()
    }

    /// Every address that the page asked for so far.
    pub async fn requests(&self) -> Vec<String> {
        let log = self.post("se/log", json!({ "type": "performance" })).await.unwrap();
        let messages = log.as_array().unwrap().iter().filter_map(|entry| {
            let entry: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &entry["message"];
            let is_request = message["method"] == "Network.requestWillBeSent";
            let url = message["params"]["request"]["url"].as_str().map(str::to_owned);
            url.filter(|_| is_request)
        });
        let mut requested = self.requested.lock().unwrap();
        requested.extend(messages);
        requested.clone()
    }

    /// What people who do not see can work with: role and name of each control.
    pub async fn controls(&self) -> Vec<(String, String)> {
        const ROLES: [&str; 9] = [
            "button",
            "checkbox",
            "combobox",
            "link",
            "listbox",
            "searchbox",
            "tab",
            "textbox",
            "img",
        ];
        self.protocol("Accessibility.enable", json!({})).await;
        let tree = self.protocol("Accessibility.getFullAXTree", json!({})).await;
        let word = |node: &Value, member: &str| {
            node[member]["value"].as_str().unwrap_or_default().trim().to_owned()
        };
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let nodes = nodes.filter(|node| node["ignored"] != true);
        let controls = nodes.map(|node| (word(node, "role"), word(node, "name")));
        controls.filter(|(role, _)| ROLES.contains(&role.as_str())).collect()
    }

    /// Puts the window away, so that nobody sees the page.
    pub async fn hide(&self) {
        self.post("window/minimize", json!({})).await.unwrap();
        assert_eq!(self.script("return document.hidden").await, true);
    }

    /// Brings it back.
    pub async fn bring_back(&self) {
        let size = json!({ "width": 1280, "height": 1000 });
        self.post("window/rect", size).await.unwrap();
        assert_eq!(self.script("return document.hidden").await, false);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser before it ends.
        let _ = kill(Pid::from_raw(self.driver.id().cast_signed()), Signal::SIGTERM);
        let _ = self.driver.wait();
    }
}
