//! Pushers: where a user wants to be told of events (spec: "Push Notifications", `/pushers`).

use hearth_base::{Error, Requester, Result, ids::StreamPos};
use hearth_store::push::Pusher;
use serde_json::{Map, Value};

use super::Push;

/// A pusher as a client asks for it.
#[derive(Clone, Debug)]
pub struct NewPusher {
    /// The app.
    pub app_id: String,
    /// Address within the app's push service.
    pub pushkey: String,
    /// `http`.
    pub kind: String,
    /// Name of the app.
    pub app_name: String,
    /// Name of the device.
    pub device_name: String,
    /// Profile tag.
    pub profile_tag: Option<String>,
    /// Language.
    pub lang: String,
    /// For `http`: `url`, `format`, and whatever the gateway is to get.
    pub data: Map<String, Value>,
    /// Whether pushers of other users for the same app and key stay.
    pub append: bool,
    /// Whether it pushes at present (MSC3881).
    pub enabled: bool,
}

/// Bytes of what names a pusher (spec).
const MAX_APP_ID: usize = 64;
/// Bytes of a pushkey (spec).
const MAX_PUSHKEY: usize = 512;
/// Bytes of the texts.
const MAX_TEXT: usize = 1_024;
/// Bytes of the data.
const MAX_DATA: usize = 16 << 10;
/// Where push gateways listen (spec: push gateway API).
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

impl Push {
    /// The pushers of a user.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn pushers(&self, who: &Requester) -> Result<Vec<Pusher>> {
        self.store.pushers(who.user_nid).await
    }

    /// Sets a pusher.
    ///
    /// # Errors
    /// 400 for values that make no pusher.
    pub async fn set_pusher(&self, who: &Requester, new: NewPusher) -> Result<()> {
        check(&new)?;
        let pusher = Pusher {
            user: who.user_nid,
            app_id: new.app_id,
            pushkey: new.pushkey,
            device_id: who.device_id.as_ref().map(ToString::to_string),
            kind: new.kind,
            app_name: new.app_name,
            device_name: new.device_name,
            profile_tag: new.profile_tag,
            lang: new.lang,
            data: Value::Object(new.data).to_string(),
            enabled: new.enabled,
            created_ms: i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX),
            pos: StreamPos::ZERO,
        };
        if self.store.set_pusher(pusher, !new.append, self.settings.max_pushers).await? {
            Ok(())
        } else {
            Err(Error::unknown("You have too many pushers"))
        }
    }

    /// Takes a pusher away; no error if there is none.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn remove_pusher(&self, who: &Requester, app_id: String, pushkey: String) -> Result<()> {
        self.store.remove_pusher(who.user_nid, app_id, pushkey).await.map(drop)
    }
}

fn check(new: &NewPusher) -> Result<()> {
    if new.app_id.is_empty() || new.app_id.len() > MAX_APP_ID {
        return Err(Error::invalid_param("`app_id` is 1 to 64 bytes long"));
    }
    if new.pushkey.is_empty() || new.pushkey.len() > MAX_PUSHKEY {
        return Err(Error::invalid_param("`pushkey` is 1 to 512 bytes long"));
    }
    let texts = [&new.app_name, &new.device_name, &new.lang, new.profile_tag.as_ref().unwrap_or(&new.lang)];
    if texts.iter().any(|text| text.len() > MAX_TEXT) {
        return Err(Error::invalid_param("A text of the pusher is too long"));
    }
    if Value::Object(new.data.clone()).to_string().len() > MAX_DATA {
        return Err(Error::too_large("`data` is too large"));
    }
    if new.kind != "http" {
        return Err(Error::invalid_param("This server offers pushers of the kind `http`"));
    }
    let url =
        new.data.get("url").and_then(Value::as_str).ok_or_else(|| Error::missing_param("`data.url` is missing"))?;
    let uri: http::Uri = url.parse().map_err(|_| Error::invalid_param("`data.url` is no URL"))?;
    let known = matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some_and(|h| !h.is_empty());
    if !known || uri.path() != GATEWAY_PATH {
        return Err(Error::invalid_param(format!("`data.url` must be an HTTPS URL with the path {GATEWAY_PATH}")));
    }
    Ok(())
}
