//! The page that logs in for clients that know none of the ways: they show it, and are told the answer (client-server API,
//! "Login Fallback").

use hearth_base::Result;
use http::StatusCode;

use crate::{Cx, extract::Public, respond::Html};

pub(super) mod page {
    //! `GET /_matrix/static/client/login/`, of which ruma has no type.
    use ruma::{
        api::{auth_scheme::NoAccessToken, request, response},
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: NoAccessToken,
        history: {
            1.0 => "/_matrix/static/client/login/",
        }
    }

    /// What stands in the query is for the page itself.
    #[request]
    pub struct Request {}

    /// Ruma asks for one; the answer is a page.
    #[response]
    pub struct Response {}
}

/// Shows where to type name and password.
pub(super) async fn show(cx: Cx, _: Public<page::Request>) -> Result<Html> {
    let body = if cx.accounts.settings().password_login { FORM } else { NOTHING };
    Ok(Html(StatusCode::OK, format!("{HEAD}{body}</body></html>")))
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Log in</title>\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
    <style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:30rem;margin:4rem auto;padding:0 1rem}\
    button,input{font:inherit;padding:.4rem .8rem}label{display:block;margin:.6rem 0}</style></head><body>";

const NOTHING: &str = "<p>This server takes no passwords; there is no way to log in here.</p>";

/// What else the client wants of the login comes in the query and goes along; who logs in is for the person to say.
const FORM: &str = r#"<form id="form"><p role="alert" id="told"></p>
<label>User name<br><input name="user" autocomplete="username" autocapitalize="none" autofocus required></label>
<label>Password<br><input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button></form><script>
const form = document.getElementById("form"), told = document.getElementById("told");
const own = ["type", "identifier", "user", "medium", "address", "password", "token", "session"];
form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = {};
    for (const [name, value] of new URLSearchParams(location.search)) {
        if (!own.includes(name)) body[name] = name === "refresh_token" ? value === "true" : value;
    }
    body.type = "m.login.password";
    body.identifier = { type: "m.id.user", user: form.user.value };
    body.password = form.password.value;
    told.textContent = "";
    let answer;
    try {
        const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
        const response = await fetch("/_matrix/client/v3/login", sent);
        answer = await response.json();
        if (!response.ok) throw new Error(answer.error);
    } catch (error) {
        told.textContent = error.message || "The server cannot be reached.";
        return;
    }
    form.textContent = "You are logged in.";
    if (window.matrixLogin && window.matrixLogin.onLogin) window.matrixLogin.onLogin(answer);
});
</script>"#;
