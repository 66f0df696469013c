//! What a browser sees at the server's own address when no web client is served there.

use axum::{Router, response::Html, routing::get};
use ruma::ServerName;

/// Adds the page at `/`.
pub(super) fn with_page(router: Router, server_name: &ServerName) -> Router {
    let page = page(server_name);
    router.route("/", get(move || async move { Html(page) }))
}

fn page(server_name: &ServerName) -> String {
    // A server name holds nothing that HTML would take for markup.
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{server_name}</title><style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:4em auto;\
         padding:0 1em}}code{{background:#8882;padding:.1em .3em}}</style>\
         <h1>{server_name}</h1><p>This is a Matrix homeserver, and it is running.</p>\
         <p>Use a Matrix client with it, for example Element, FluffyChat or Cinny: choose “other homeserver” and enter the \
         address of this page.</p><p>Its administrator makes accounts with <code>hearth register-user</code>.</p></html>"
    )
}
