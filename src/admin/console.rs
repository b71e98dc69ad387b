//! The console: a web page over `/api`, embedded in the binary (docs/adr/0018).
//!
//! The files hold no data, so that they need no token; what they show comes from `/api`, which may ask
//! for one. Their addresses are relative: a proxy may serve the console below any path.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::guard::{Guard, check_page};

/// A file: its name, its type, what it is.
struct Asset(&'static str, &'static str, &'static str);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The page itself, then what it asks for.
const ASSETS: [Asset; 16] = [
    Asset("", HTML, include_str!("console/index.html")),
    Asset("icon.svg", "image/svg+xml", include_str!("console/icon.svg")),
    Asset("page.css", CSS, include_str!("console/page.css")),
    Asset("stages.css", CSS, include_str!("console/stages.css")),
    Asset("held.css", CSS, include_str!("console/held.css")),
    Asset("access.js", JAVASCRIPT, include_str!("console/access.js")),
    Asset("api.js", JAVASCRIPT, include_str!("console/api.js")),
    Asset("app.js", JAVASCRIPT, include_str!("console/app.js")),
    Asset("act.js", JAVASCRIPT, include_str!("console/act.js")),
    Asset("chart.js", JAVASCRIPT, include_str!("console/chart.js")),
    Asset("detail.js", JAVASCRIPT, include_str!("console/detail.js")),
    Asset("dom.js", JAVASCRIPT, include_str!("console/dom.js")),
    Asset("format.js", JAVASCRIPT, include_str!("console/format.js")),
    Asset("held.js", JAVASCRIPT, include_str!("console/held.js")),
    Asset("rows.js", JAVASCRIPT, include_str!("console/rows.js")),
    Asset("stages.js", JAVASCRIPT, include_str!("console/stages.js")),
];

/// Nothing from elsewhere, nothing inline, no frame; and no text becomes HTML by mistake, because no
/// string is a trusted type.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; form-action 'none'; base-uri 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What every answer says.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // A relay that was updated has other files.
    (header::CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The routes, which answer to names of this address only.
pub(super) fn routes(guard: Guard) -> Router {
    let mut routes = Router::new()
        .route("/", get(|| async { elsewhere("console/") }))
        .route("/console", get(|| async { elsewhere("console/") }))
        .route("/console/", get(|| async { asset("") }));
    routes = routes
        .route("/console/{name}", get(|Path(name): Path<String>| async move { asset(&name) }));
    let routes = routes.layer(middleware::from_fn_with_state(guard, check_page));
    routes.layer(middleware::map_response(sealed))
}

fn elsewhere(place: &'static str) -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, place)]).into_response()
}

fn asset(name: &str) -> Response {
    match ASSETS.iter().find(|Asset(known, _, _)| *known == name) {
        Some(Asset(_, form, content)) => {
            ([(header::CONTENT_TYPE, *form)], *content).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn sealed(mut response: Response) -> Response {
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is served, and what one file asks of another is there.
    #[test]
    fn every_file_is_served_and_asks_only_for_files_that_are() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/console");
        let mut written: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| if name == "index.html" { String::new() } else { name })
            .collect();
        written.sort();
        let mut served: Vec<_> = ASSETS.iter().map(|Asset(name, _, _)| *name).collect();
        served.sort_unstable();
        assert_eq!(written, served);
        for Asset(name, _, content) in &ASSETS {
            let asked = ["src=\"", "href=\"", "from \"./", "import \"./"];
            for rest in asked.iter().flat_map(|word| content.split(word).skip(1)) {
                let target = rest.split('"').next().unwrap_or_default();
                let is_place = target.starts_with('#');
                assert!(is_place || served.contains(&target), "{name} asks for {target}");
            }
        }
    }

    /// The policy forbids most of this; here it does not even come as far as a browser.
    #[test]
    fn no_file_reaches_out_or_makes_text_html() {
        for Asset(name, _, content) in &ASSETS {
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "https:",
                "//cdn",
                "localStorage.",
                "sessionStorage.",
                "document.cookie",
                "console.log",
                "style=\"",
                "onclick=",
                "setAttribute(\"style\"",
            ] {
                assert!(!content.contains(word), "{name}: {word}");
            }
            let lines = content.lines().count();
            assert!(lines <= 500, "{name}: {lines} lines");
        }
    }
}
