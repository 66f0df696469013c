//! Outgoing mail, and accounts that end unless they are renewed by mail.

use std::{path::PathBuf, time::Duration};

use url::Url;

use crate::{read::At, secret::Secret};

/// How mail is sent and what it says.
#[derive(Clone, Debug)]
pub struct Email {
    /// SMTP server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User at the SMTP server.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret<String>>,
    /// How the connection is protected.
    pub tls: EmailTls,
    /// The name expected in the server's certificate.
    pub tls_name: String,
    /// The From header; `%(app)s` stands for [`Self::app_name`].
    pub from: String,
    /// What the service calls itself in mails.
    pub app_name: String,
    /// Whether mails about missed messages are sent.
    pub notifications: bool,
    /// Whether each new user with an address gets them.
    pub notify_new_users: bool,
    /// How long a message has to be unread.
    pub notification_delay: Duration,
    /// What links into the client begin with.
    pub client_base_url: String,
    /// How long a link that proves an address holds.
    pub validation_lifetime: Duration,
    /// Client named to those who are invited by mail.
    pub invite_client: Option<Url>,
    /// Subjects, with `%(app)s`, `%(person)s`, `%(room)s`, `%(server_name)s` to be filled in.
    pub subjects: Subjects,
}

/// How the connection to the SMTP server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailTls {
    /// From the first byte.
    Immediate,
    /// STARTTLS, and no mail without it.
    Required,
    /// STARTTLS where the server offers it.
    Offered,
    /// None.
    Off,
}

/// Subjects of mails.
#[derive(Clone, Debug)]
pub struct Subjects {
    /// One message in a room with a name.
    pub message_from_person_in_room: String,
    /// One message.
    pub message_from_person: String,
    /// Several messages.
    pub messages_from_person: String,
    /// Several messages in a room with a name.
    pub messages_in_room: String,
    /// Messages in several rooms.
    pub messages_in_room_and_others: String,
    /// Messages in several rooms without a name.
    pub messages_from_person_and_others: String,
    /// An invite to a room with a name.
    pub invite_from_person_to_room: String,
    /// An invite.
    pub invite_from_person: String,
    /// A new password.
    pub password_reset: String,
    /// A proof of an address.
    pub email_validation: String,
}

/// Accounts that end.
#[derive(Clone, Debug)]
pub struct AccountValidity {
    /// How long an account lives.
    pub period: Duration,
    /// So long before the end a mail asks to renew it; none means that only admins renew.
    pub renew_at: Option<Duration>,
    /// Subject of that mail.
    pub renew_subject: String,
    /// The span over which the ends of existing accounts are spread.
    pub spread: Duration,
    /// Directory of pages after the link, and the two pages.
    pub pages: [Option<PathBuf>; 3],
}

impl Email {
    pub(super) fn read(root: &At<'_>) -> Option<Self> {
        let at = root.get("email");
        if at.entries().is_empty() {
            return None;
        }
        let immediate = at.get("force_tls").bool();
        let required = at.get("require_transport_security").bool();
        let starttls = at.get("enable_tls").bool();
        let tls = match (immediate, required, starttls) {
            (true, _, _) => EmailTls::Immediate,
            (false, true, true) => EmailTls::Required,
            (false, false, true) => EmailTls::Offered,
            (false, required, false) => {
                if required {
                    let at = at.get("require_transport_security");
                    at.wrong("and email.enable_tls: false cannot both hold", "remove enable_tls: false");
                }
                EmailTls::Off
            }
        };
        let from_at = at.get("notif_from");
        if !from_at.is_set() {
            from_at.wrong("must be set, because mail needs a sender", "write it as \"Chat <chat@example.com>\"");
        }
        let port = at.get("smtp_port");
        let host = at.get("smtp_host").str();
        Some(Self {
            port: if port.is_set() {
                port.int()
            } else if immediate {
                465
            } else {
                25
            },
            user: at.get("smtp_user").opt_str(),
            password: at.get("smtp_pass").opt_str().map(Secret::new),
            tls,
            tls_name: at.get("tlsname").node().map_or_else(|| host.clone(), |_| at.get("tlsname").str()),
            host,
            from: from_at.opt_str().unwrap_or_default(),
            app_name: at.get("app_name").str(),
            notifications: at.get("enable_notifs").bool(),
            notify_new_users: at.get("notif_for_new_users").bool(),
            notification_delay: at.get("notif_delay_before_mail").duration(),
            client_base_url: at.get("client_base_url").str(),
            validation_lifetime: at.get("validation_token_lifetime").duration(),
            invite_client: at.get("invite_client_location").opt_url(),
            subjects: Subjects::read(&at.get("subjects")),
        })
    }
}

impl Subjects {
    fn read(at: &At<'_>) -> Self {
        let subject = |key: &str| at.get(key).str();
        Self {
            message_from_person_in_room: subject("message_from_person_in_room"),
            message_from_person: subject("message_from_person"),
            messages_from_person: subject("messages_from_person"),
            messages_in_room: subject("messages_in_room"),
            messages_in_room_and_others: subject("messages_in_room_and_others"),
            messages_from_person_and_others: subject("messages_from_person_and_others"),
            invite_from_person_to_room: subject("invite_from_person_to_room"),
            invite_from_person: subject("invite_from_person"),
            password_reset: subject("password_reset"),
            email_validation: subject("email_validation"),
        }
    }
}

impl AccountValidity {
    pub(super) fn read(root: &At<'_>, has_email: bool) -> Option<Self> {
        let at = root.get("account_validity");
        if !at.get("enabled").bool() {
            return None;
        }
        let period_at = at.get("period");
        if !period_at.is_set() {
            period_at.wrong("must be set", "write how long an account lives, such as 6w");
            return None;
        }
        let period = period_at.duration();
        let renew_at = at.get("renew_at");
        if renew_at.is_set() && !has_email {
            renew_at.wrong("needs mail to be sent", "fill in the section email");
        }
        let spread = at.get("startup_job_max_delta");
        let page = |key: &str| at.get(key).opt_path();
        Some(Self {
            period,
            renew_at: renew_at.opt_duration(),
            renew_subject: at.get("renew_email_subject").str(),
            spread: if spread.is_set() { spread.duration() } else { period / 10 },
            pages: [page("template_dir"), page("account_renewed_html_path"), page("invalid_token_html_path")],
        })
    }
}
