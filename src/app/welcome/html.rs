//! The words and the look of the pages. Whatever is put into them goes through [`escape`].

/// What the page at `/` tells.
pub(super) struct Front<'a> {
    pub name: &'a str,
    /// What to enter in a client.
    pub address: &'a str,
    pub has_accounts: bool,
    /// Whether anybody may register.
    pub registration: bool,
}

/// What the form of the first account shows.
pub(super) struct Form<'a> {
    pub name: &'a str,
    pub token: &'a str,
    /// What was entered before.
    pub username: &'a str,
    /// What was wrong with it.
    pub wrong: Option<&'a str>,
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d1d1b;--dim:#6b6a66;--paper:#faf9f6;--card:#fff;--line:#dedcd6;--fire:#b3471d;--bad:#a4161a}\
@media(prefers-color-scheme:dark){:root{--ink:#e8e6e1;--dim:#a09d96;--paper:#171614;--card:#201f1c;--line:#3a3833;--fire:#f0824f;\
--bad:#ff7b72}}\
*{box-sizing:border-box}body{font:1rem/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:38rem;\
margin:8vh auto;padding:0 1.2rem}h1{font-size:1.6rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.05rem;margin:0 0 .5rem}\
.state{color:var(--dim);margin:.2rem 0 2rem}.state b{color:#2e7d32;font-weight:600}\
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1.1rem 1.3rem;margin:0 0 1rem}\
p,ul{margin:.4rem 0}ul{padding-left:1.2rem}a{color:var(--fire)}code{background:#8882;padding:.1em .35em;border-radius:.25em;\
overflow-wrap:anywhere}label{display:block;margin:.9rem 0 .2rem;font-weight:600}small{color:var(--dim)}\
input{font:inherit;width:100%;padding:.5rem .6rem;border:1px solid var(--line);border-radius:.4rem;background:var(--paper);\
color:inherit}button{font:inherit;font-weight:600;margin-top:1.2rem;padding:.55rem 1.1rem;border:0;border-radius:.4rem;\
background:var(--fire);color:#fff;cursor:pointer}@media(prefers-color-scheme:dark){button{color:#1a0d06}}\
.wrong{color:var(--bad);font-weight:600}";

/// The page at `/`.
pub(super) fn front(front: &Front<'_>) -> String {
    let accounts = if !front.has_accounts {
        "<p>There is no account yet. The first one, an administrator’s, is made by the link that the server printed when \
         it started.</p><p>Or at a terminal: <code>hearth register-user -a -c homeserver.yaml</code></p>"
    } else if front.registration {
        "<p>Registration is open: your client can make an account for you.</p>"
    } else {
        "<p>Accounts are made by the administrator of this server. If you have one, log in with your client.</p>"
    };
    let body = format!(
        "{state}<section><h2>Accounts</h2>{accounts}</section>{clients}",
        state = state(front.name),
        clients = clients(front.address)
    );
    whole(front.name, &body)
}

/// The form of the first account.
pub(super) fn form(form: &Form<'_>) -> String {
    let wrong = form.wrong.map(|w| format!("<p class=wrong role=alert>{}.</p>", escape(w))).unwrap_or_default();
    let body = format!(
        "{state}<section><h2>Make the first account</h2>\
         <p>It belongs to the administrator of this server. This page works once.</p>{wrong}\
         <form method=post action=\"/_hearth/first\" autocomplete=off>\
         <input type=hidden name=token value=\"{token}\">\
         <label for=username>User name</label>\
         <input id=username name=username value=\"{username}\" required autofocus autocapitalize=none spellcheck=false \
         autocomplete=username maxlength=200>\
         <small>a–z, digits and <code>._=-/+</code>; your id becomes <code>@name:{name}</code></small>\
         <label for=password>Password</label>\
         <input id=password name=password type=password required autocomplete=new-password maxlength=512>\
         <label for=repeat>Password, once more</label>\
         <input id=repeat name=repeat type=password required autocomplete=new-password maxlength=512>\
         <button>Make the account</button></form></section>",
        state = state(form.name),
        token = escape(form.token),
        username = escape(form.username),
        name = escape(form.name),
    );
    whole(form.name, &body)
}

/// After the first account was made.
pub(super) fn made(name: &str, user_id: &str, address: &str) -> String {
    let body = format!(
        "{state}<section><h2>Done</h2><p><code>{user_id}</code> is here, and is an administrator. Log in with a client \
         and the password you chose.</p></section>{clients}",
        state = state(name),
        user_id = escape(user_id),
        clients = clients(address)
    );
    whole(name, &body)
}

/// The link is used up.
pub(super) fn done_before(name: &str) -> String {
    refusal(
        name,
        "There is an account already",
        "This link made the first account and has done its work. Further accounts: <code>hearth register-user</code>.",
    )
}

/// The token is absent or wrong.
pub(super) fn no_token(name: &str) -> String {
    refusal(
        name,
        "This page needs its link",
        "Open the whole link that the server printed when it started, with all that stands behind <code>token=</code>.",
    )
}

/// Too many wrong tokens.
pub(super) fn too_often(name: &str) -> String {
    refusal(name, "Too many tries", "Wait a minute, then open the link that the server printed when it started.")
}

/// Something inside failed.
pub(super) fn failed() -> String {
    refusal("Hearth", "This did not work", "The server cannot do this right now. Its log says why.")
}

fn refusal(name: &str, heading: &str, text: &str) -> String {
    whole(
        name,
        &format!("<h1>{}</h1><p class=state></p><section><h2>{heading}</h2><p>{text}</p></section>", escape(name)),
    )
}

fn state(name: &str) -> String {
    format!(
        "<h1>{}</h1><p class=state><b>●</b> A Matrix server, and it is running · Hearth {}</p>",
        escape(name),
        env!("CARGO_PKG_VERSION")
    )
}

fn clients(address: &str) -> String {
    format!(
        "<section><h2>Clients</h2><p>Use any Matrix client. Where it asks for the homeserver, enter \
         <code>{}</code></p><ul>\
         <li><a href=\"https://element.io/download\">Element</a> – web, desktop, phones</li>\
         <li><a href=\"https://fluffychat.im/\">FluffyChat</a> – phones, desktop, web</li>\
         <li><a href=\"https://cinny.in/\">Cinny</a> – web, desktop</li>\
         <li><a href=\"https://matrix.org/ecosystem/clients/\">all the others</a></li></ul></section>",
        escape(address)
    )
}

fn whole(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport \
         content=\"width=device-width,initial-scale=1\"><meta name=robots content=noindex><title>{}</title>\
         <style>{STYLE}</style></head><body>{body}</body></html>\n",
        escape(title)
    )
}

/// Text as text, in and outside of attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_entered_stays_text() {
        let page =
            form(&Form { name: "a.test", token: "\"><script>", username: "\" onfocus='x' <b>", wrong: Some("<i>&") });
        assert!(!page.contains("<script>") && !page.contains("<b>\"") && !page.contains("<i>"), "{page}");
        assert!(page.contains("value=\"&quot; onfocus=&#39;x&#39; &lt;b&gt;\""), "{page}");
    }
}
