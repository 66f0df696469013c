//! Pages for clients that do not know a stage of registering: the person completes it in a browser (client-server API,
//! "User-Interactive Authentication API", "Fallback").

use hearth_base::{Error, Result};
use http::{Method, StatusCode};
use ruma::api::{
    IncomingRequest, Metadata, client::uiaa::get_uiaa_fallback_page::v3 as page, error::DeserializationError,
};
use serde_json::json;

use crate::{
    Cx,
    extract::{Form, Public},
    respond::Html,
    routes::Routes,
    uiaa::{self, DUMMY, REGISTRATION_TOKEN, TERMS},
};

/// Their routes.
#[must_use]
pub fn routes() -> Routes {
    Routes::new().on(show).on(submit)
}

/// The same path as the page, posted to by its form.
#[derive(Debug)]
pub(crate) struct Submitted(page::Request);

impl Metadata for Submitted {
    const METHOD: Method = Method::POST;
    const RATE_LIMITED: bool = false;
    type Authentication = <page::Request as Metadata>::Authentication;
    type PathBuilder = <page::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = page::Request::PATH_BUILDER;
}

impl IncomingRequest for Submitted {
    type EndpointError = <page::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = page::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        args: &[&str],
    ) -> std::result::Result<Self, DeserializationError> {
        page::Request::try_from_http_request_inner(request, args).map(Self)
    }
}

/// Shows what is to be done.
async fn show(cx: Cx, req: Public<page::Request>) -> Result<Html> {
    known(&cx, &req.body).await?;
    form(&cx, req.body.auth_type.as_str(), "")
}

/// Takes what was done.
async fn submit(cx: Cx, req: Form<Submitted>) -> Result<Html> {
    let page::Request { auth_type, session, .. } = &req.body.0;
    known(&cx, &req.body.0).await?;
    let stage = auth_type.as_str();
    let result = match stage {
        REGISTRATION_TOKEN => {
            let token = req.fields.iter().find(|(name, _)| name == "token").map_or("", |(_, value)| value.trim());
            match uiaa::registration_token(&cx, &req.origin, token).await {
                Ok(result) => result,
                Err(e) if e.status() == StatusCode::UNAUTHORIZED => {
                    return form(&cx, stage, "This token is not valid.");
                }
                Err(e) => return Err(e),
            }
        }
        TERMS => cx.accounts.settings().terms.as_ref().map_or(json!(null), |t| json!(t.version)),
        _ => json!(true),
    };
    cx.login.complete_uia(session.clone(), stage.to_owned(), result).await?;
    Ok(Html(StatusCode::OK, DONE.to_owned()))
}

/// Only sessions of newcomers, and only stages asked of them.
async fn known(cx: &Cx, request: &page::Request) -> Result<()> {
    let session = cx.login.uia(&request.session).await?;
    let asked = uiaa::for_newcomers(cx.accounts.settings());
    let stage = request.auth_type.as_str();
    if session.is_none_or(|s| s.user_nid.is_some()) || !asked.flows.iter().flatten().any(|s| *s == stage) {
        return Err(Error::not_found("This authentication session is unknown or has run out"));
    }
    Ok(())
}

fn form(cx: &Cx, stage: &str, complaint: &str) -> Result<Html> {
    let fields = match (stage, &cx.accounts.settings().terms) {
        (TERMS, Some(terms)) => format!(
            "<p>To create an account here you have to agree to the <a href=\"{}\" target=\"_blank\" \
             rel=\"noopener noreferrer\">{}</a>.</p><button>I agree</button>",
            escape(&terms.url),
            escape(&terms.name)
        ),
        (REGISTRATION_TOKEN, _) => "<p>To create an account here you need a registration token.</p>\
             <p><input name=\"token\" autocomplete=\"off\" autofocus required maxlength=\"64\"></p><button>Continue</button>"
            .to_owned(),
        (DUMMY, _) => "<p>One click, and the account is made.</p><button>Continue</button>".to_owned(),
        _ => return Err(Error::not_found("There is no page for this stage")),
    };
    let complaint = if complaint.is_empty() { String::new() } else { format!("<p role=\"alert\">{complaint}</p>") };
    // The form posts to the address it was shown at, so nothing of the request is written into the page.
    Ok(Html(StatusCode::OK, format!("{HEAD}<form method=\"post\">{complaint}{fields}</form></body></html>")))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Create an account</title>\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
    <style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:30rem;margin:4rem auto;padding:0 1rem}\
    button,input{font:inherit;padding:.4rem .8rem}</style></head><body>";

/// What the specification has such a page do once it is done.
const DONE: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Done</title></head><body>\
    <p>Done. You may close this window.</p><script>\
    if (window.onAuthDone) { window.onAuthDone(); } \
    else if (window.opener && window.opener.postMessage) { window.opener.postMessage('authDone', '*'); }\
    </script></body></html>";
