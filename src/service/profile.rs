//! Profiles: name, avatar, and whatever else people say of themselves (spec: "Profiles").
//!
//! A new name or avatar is also written into the rooms the user is in, by [`crate::membership`]; that goes on in the
//! background once it takes long. Profiles of other servers' users are asked for there, each time.

use std::{sync::Arc, time::Duration};

use hearth_base::{Doing, Error, OrNotFound, Requester, Result, ids::UserNid, tasks::Supervisor};
use hearth_store::Store;
use http::StatusCode;
use ruma::{
    MxcUri, OwnedServerName, UserId, api::federation::query::get_profile_information, profile::ProfileFieldName,
};
use serde_json::{Map, Value, value::RawValue};

use crate::{events::check_may_write, federation::Federation, membership::Membership};

/// How profiles are configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Profiles are shown to users of this server only (`require_auth_for_profile_requests`).
    pub require_auth: bool,
    /// And only to those who share a room with them (`limit_profile_requests_to_users_who_share_rooms`).
    pub shared_rooms_only: bool,
    /// Users may change their name (`enable_set_displayname`).
    pub set_displayname: bool,
    /// Users may change their avatar (`enable_set_avatar_url`).
    pub set_avatar_url: bool,
    /// Bytes of an avatar at most (`max_avatar_size`).
    pub max_avatar_size: Option<u64>,
    /// Types that an avatar may have; none means all (`allowed_avatar_mimetypes`).
    pub avatar_types: Option<Vec<String>>,
    /// Users may set other fields.
    pub set_fields: bool,
    /// If set, users may set these other fields only.
    pub allowed_fields: Option<Vec<String>>,
    /// Fields that users may not set.
    pub forbidden_fields: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            require_auth: false,
            shared_rooms_only: false,
            set_displayname: true,
            set_avatar_url: true,
            max_avatar_size: None,
            avatar_types: None,
            set_fields: true,
            allowed_fields: None,
            forbidden_fields: Vec::new(),
        }
    }
}

const NAME: &str = "displayname";
const AVATAR: &str = "avatar_url";
/// Bytes of a profile, names of fields included (spec).
const MAX_PROFILE: usize = 64 << 10;
/// Bytes of a field's name (spec).
const MAX_FIELD: usize = 255;
/// Letters of a display name: it goes into an event of every room.
const MAX_NAME: usize = 256;
/// Bytes of an avatar's address.
const MAX_AVATAR: usize = 1_000;
/// How long who changes their name waits for the rooms to show it; the rest goes on by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// Profiles.
#[derive(Debug)]
pub struct Profile {
    store: Store,
    federation: Arc<Federation>,
    membership: Arc<Membership>,
    server_name: OwnedServerName,
    supervisor: Supervisor,
    settings: Settings,
}

impl Profile {
    /// Made once.
    #[must_use]
    pub fn new(
        store: Store,
        federation: Arc<Federation>,
        membership: Arc<Membership>,
        supervisor: Supervisor,
        settings: Settings,
    ) -> Self {
        let server_name = federation.name().to_owned();
        Self { store, federation, membership, server_name, supervisor, settings }
    }

    /// How profiles are configured; for the capabilities that clients are told.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A whole profile, as a JSON object.
    ///
    /// # Errors
    /// 404 for users we do not know; 401 or 403 where profiles are not shown to everybody; 502 and 504 if their server
    /// cannot be asked.
    pub async fn get(&self, who: Option<&Requester>, user: &UserId) -> Result<Box<RawValue>> {
        self.check_may_see(who, user).await?;
        if user.server_name() != self.server_name {
            return self.ask_server(user, None).await;
        }
        self.local(user).await
    }

    async fn local(&self, user: &UserId) -> Result<Box<RawValue>> {
        let nid = self.known(user).await?;
        let fields = self.store.profile(nid).await?;
        raw(object(fields.iter().map(|(field, value)| (field.as_str(), value.as_str()))))
    }

    /// One field of a profile, as a JSON object of that field. Everybody has a name and an avatar that may be empty: if they
    /// are not set, the object is.
    ///
    /// # Errors
    /// 404 if another field is not set, else as [`Self::get`].
    pub async fn field(&self, who: Option<&Requester>, user: &UserId, field: &str) -> Result<Box<RawValue>> {
        check_field(field)?;
        self.check_may_see(who, user).await?;
        if user.server_name() != self.server_name {
            return self.ask_server(user, Some(field)).await;
        }
        self.local_field(user, field).await
    }

    async fn local_field(&self, user: &UserId, field: &str) -> Result<Box<RawValue>> {
        let nid = self.known(user).await?;
        match self.store.profile_field(nid, field).await? {
            None if matches!(field, NAME | AVATAR) => raw(object([])),
            value => raw(object([(field, value.or_not_found("Profile field")?.as_str())])),
        }
    }

    /// What another server may see of a user of ours (server-server API, "Querying for information").
    ///
    /// # Errors
    /// 403 where other servers see no profiles; 404 for users who are not ours, and for a field that is not set, as in
    /// [`Self::field`].
    pub async fn for_server(&self, user: &UserId, field: Option<&str>) -> Result<Box<RawValue>> {
        if !self.federation.settings().profiles {
            return Err(Error::forbidden("Profiles cannot be looked up by other servers here"));
        }
        if user.server_name() != self.server_name {
            return Err(Error::not_found("This user is not of this server"));
        }
        match field {
            Some(field) => self.local_field(user, field).await,
            None => self.local(user).await,
        }
    }

    /// The profile of a user of another server, or one field of it. What their server says is believed only as far as
    /// its form goes.
    async fn ask_server(&self, user: &UserId, field: Option<&str>) -> Result<Box<RawValue>> {
        let server = user.server_name();
        let mut request = get_profile_information::v1::Request::new(user.to_owned());
        // Others than these two are asked for whole: servers that know no fields would refuse.
        request.field = field.filter(|f| matches!(*f, NAME | AVATAR)).map(ProfileFieldName::from);
        let patience = self.federation.short().up_to(2 * MAX_PROFILE);
        let answer = self.federation.send_now(server, request, patience).await;
        let answer = answer.map_err(|e| self.federation.told(server, &e))?;
        let is_sane = |name: &str, value: &Value| match name {
            NAME | AVATAR => value.is_string(),
            _ => check_field(name).is_ok(),
        };
        let mut fields = Map::new();
        for (name, value) in answer.iter() {
            if is_sane(name, value) && field.is_none_or(|f| f == name) {
                fields.insert(name.clone(), value.clone());
            }
        }
        if fields.is_empty() && field.is_some_and(|f| !matches!(f, NAME | AVATAR)) {
            return Err(Error::not_found("Profile field not found"));
        }
        raw(Value::Object(fields).to_string())
    }

    /// Whether a profile may be shown to somebody.
    async fn check_may_see(&self, who: Option<&Requester>, user: &UserId) -> Result<()> {
        if !self.settings.require_auth {
            return Ok(());
        }
        let who = who.ok_or_else(Error::missing_token)?;
        if !self.settings.shared_rooms_only || who.is(user) {
            return Ok(());
        }
        let shares = match self.store.user_nid(user).await? {
            Some(nid) => self.store.share_a_room(who.user_nid, nid).await?,
            None => false,
        };
        if shares { Ok(()) } else { Err(Error::forbidden("You share no room with this user")) }
    }

    /// The number of a user of ours who has a profile.
    async fn known(&self, user: &UserId) -> Result<UserNid> {
        let nid = self.store.user_nid(user).await?.or_not_found("User")?;
        let account = self.store.account(nid).await?.or_not_found("User")?;
        if account.deactivated && account.erased { Err(Error::not_found("User not found")) } else { Ok(nid) }
    }

    /// Sets a field. `propagate` says whether rooms are to show a new name or avatar.
    ///
    /// # Errors
    /// 403 for other users' profiles and for fields that may not be set; 400 for a value that does not fit the field, a
    /// name of a field that is none, or a profile that gets too large.
    pub async fn set(
        &self,
        who: &Requester,
        user: &UserId,
        field: &str,
        value: &RawValue,
        propagate: bool,
    ) -> Result<()> {
        self.check_may_set(who, user, field)?;
        let value = match field {
            NAME => name_of(value)?,
            AVATAR => {
                let avatar = avatar_of(value)?;
                self.check_avatar(avatar.as_deref()).await?;
                avatar
            }
            _ => Some(value.get().to_owned()),
        };
        let size = field.len() + value.as_ref().map_or(0, String::len);
        let fits = move |others: &[(String, String)]| {
            // Quotes, colon and comma of each field, and the braces.
            let others: usize = others.iter().map(|(f, v)| f.len() + v.len() + 4).sum();
            if others + size + 6 <= MAX_PROFILE {
                return Ok(());
            }
            Err(Error::told(StatusCode::BAD_REQUEST, "M_PROFILE_TOO_LARGE", "The profile would exceed 64 KiB"))
        };
        self.store.set_profile_field(who.user_nid, field, value, fits).await?;
        self.show(who, field, propagate).await
    }

    /// Removes a field; no error if it is not set.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub async fn delete(&self, who: &Requester, user: &UserId, field: &str, propagate: bool) -> Result<()> {
        self.check_may_set(who, user, field)?;
        self.store.set_profile_field(who.user_nid, field, None, |_| Ok(())).await?;
        self.show(who, field, propagate).await
    }

    fn check_may_set(&self, who: &Requester, user: &UserId, field: &str) -> Result<()> {
        check_field(field)?;
        if !who.is(user) {
            return Err(Error::forbidden("This profile belongs to another user"));
        }
        check_may_write(who)?;
        let s = &self.settings;
        let allowed = match field {
            NAME => s.set_displayname,
            AVATAR => s.set_avatar_url,
            _ => s.set_fields && s.allowed_fields.as_ref().is_none_or(|allowed| allowed.iter().any(|f| f == field)),
        };
        if (!allowed || s.forbidden_fields.iter().any(|f| f == field)) && !who.is_admin {
            return Err(Error::forbidden("This field of profiles cannot be changed here"));
        }
        Ok(())
    }

    /// Whether an avatar, a JSON string, is as small and of such a type as the operator wants. One that is not here
    /// cannot be looked at, and is refused where there are such wishes.
    async fn check_avatar(&self, avatar: Option<&str>) -> Result<()> {
        let (most, types) = (self.settings.max_avatar_size, &self.settings.avatar_types);
        let Some(avatar) = avatar.filter(|_| most.is_some() || types.is_some()) else { return Ok(()) };
        let url: String = serde_json::from_str(avatar).doing("reading an avatar")?;
        let parts = <&MxcUri>::from(url.as_str()).parts();
        let (server, id) = parts.map_err(|_| Error::invalid_param("`avatar_url` must be an mxc:// address"))?;
        let media = self.store.media(server, id).await?.filter(|m| m.blob.is_some());
        let media = media.ok_or_else(|| Error::forbidden("The avatar was not found: upload it here first"))?;
        if most.is_some_and(|most| media.size > most) {
            return Err(Error::forbidden(format!("Avatars have {} bytes at most", most.unwrap_or_default())));
        }
        let kind = media.content_type.as_deref().and_then(|t| t.split(';').next()).unwrap_or_default().trim();
        if types.as_ref().is_some_and(|types| !types.iter().any(|t| t.eq_ignore_ascii_case(kind))) {
            return Err(Error::forbidden("Avatars of this type are not allowed here"));
        }
        Ok(())
    }

    /// Has the rooms show a name or avatar, also if it is not new: a stop may have cut short what was begun when it was, and
    /// whoever says it again wants it shown. The work is done even if the caller goes.
    async fn show(&self, who: &Requester, field: &str, propagate: bool) -> Result<()> {
        if !propagate || !matches!(field, NAME | AVATAR) {
            return Ok(());
        }
        let (membership, who) = (self.membership.clone(), who.clone());
        let shown = self.supervisor.job(async move { membership.propagate_profile(&who).await });
        tokio::time::timeout(PATIENCE, shown).await.unwrap_or(Ok(()))
    }
}

/// A field's name: one the spec knows, or a namespaced one (appendices: "Common Namespaced Identifier Grammar").
fn check_field(field: &str) -> Result<()> {
    if field.len() > MAX_FIELD {
        return Err(Error::told(StatusCode::BAD_REQUEST, "M_KEY_TOO_LARGE", "The name of the field exceeds 255 bytes"));
    }
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
    let is_namespaced = field.starts_with(|c: char| c.is_ascii_lowercase()) && field.contains('.');
    if matches!(field, NAME | AVATAR) || (is_namespaced && field.chars().all(is_letter)) {
        return Ok(());
    }
    Err(Error::invalid_param("This is no name of a profile field"))
}

/// A display name as JSON; `None` for one that says nothing.
fn name_of(value: &RawValue) -> Result<Option<String>> {
    let name: Option<String> =
        serde_json::from_str(value.get()).map_err(|_| Error::bad_json("`displayname` must be a string"))?;
    match name.filter(|n| !n.is_empty()) {
        Some(name) if name.chars().count() > MAX_NAME => Err(Error::invalid_param("The display name is too long")),
        Some(name) => serde_json::to_string(&name).doing("writing a display name").map(Some),
        None => Ok(None),
    }
}

/// An avatar's address as JSON; `None` for one that says nothing.
fn avatar_of(value: &RawValue) -> Result<Option<String>> {
    let url: Option<String> =
        serde_json::from_str(value.get()).map_err(|_| Error::bad_json("`avatar_url` must be a string"))?;
    match url.filter(|u| !u.is_empty()) {
        // Whether it is an mxc:// address is the client's affair, as long as nothing is asked of what it names.
        Some(url) if url.len() > MAX_AVATAR => Err(Error::invalid_param("`avatar_url` is too long")),
        Some(url) => serde_json::to_string(&url).doing("writing an avatar").map(Some),
        None => Ok(None),
    }
}

/// An object of values that are JSON already; names of fields need no escapes.
fn object<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let fields: Vec<String> = fields.into_iter().map(|(field, value)| format!("\"{field}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn raw(json: String) -> Result<Box<RawValue>> {
    RawValue::from_string(json).doing("reading a profile")
}
