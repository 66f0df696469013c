//! The web apps we know: what their generated configuration says, so that they find this homeserver unasked.

use hearth_config::edge::{Element, WebApp};
use serde_json::{Map, Value, json};

use crate::{Error, Settings, static_files::Site, well_known::base_url};

/// Element Web: `config.json` is the folder's own (or a plain one), with our server as its default and
/// `edge.element.config` over it; the same for `config.<host>.json`, which Element asks for first.
///
/// # Errors
/// If the folder is not there, or its `config.json` is not JSON.
pub(crate) fn element(element: &Element, settings: &Settings, https_port: Option<u16>) -> Result<Site, Error> {
    let app = WebApp {
        folder: element.folder.clone(),
        at: element.at.clone(),
        spa: false,
        headers: std::collections::BTreeMap::default(),
    };
    let site = Site::new(&app)?;
    let mut config = match site.read("config.json") {
        Some(text) => serde_json::from_slice::<Map<String, Value>>(&text)
            .map_err(|e| Error::Content(element.folder.join("config.json"), e.to_string()))?,
        None => plain_config(settings),
    };
    if let Some(base) = base_url(settings, https_port) {
        let mut server = json!({"m.homeserver": {"base_url": base, "server_name": settings.server_name}});
        if let Some(identity) = &settings.default_identity_server {
            server["m.identity_server"] = json!({"base_url": identity});
        }
        config.insert("default_server_config".to_owned(), server);
        for older in ["default_server_name", "default_hs_url", "default_is_url"] {
            config.remove(older);
        }
    }
    config.extend(element.config.clone());
    let config = Value::Object(config);
    let mut site = site.with("config.json", &config);
    for host in element.at.host.iter().cloned().chain(crate::names(settings)) {
        site = site.with(&format!("config.{host}.json"), &config);
    }
    Ok(site)
}

fn plain_config(settings: &Settings) -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("brand".to_owned(), json!("Element"));
    config.insert("disable_guests".to_owned(), json!(true));
    config.insert("room_directory".to_owned(), json!({"servers": [settings.server_name]}));
    config
}

/// The admin interface: told to talk to this server alone, unless its folder has a `config.json` of its own.
///
/// # Errors
/// If the folder is not there.
pub(crate) fn admin_ui(app: &WebApp, settings: &Settings, https_port: Option<u16>) -> Result<Site, Error> {
    let site = Site::new(app)?;
    match base_url(settings, https_port) {
        Some(base) if site.read("config.json").is_none() => {
            Ok(site.with("config.json", &json!({"restrictBaseUrl": base.trim_end_matches('/')})))
        }
        _ => Ok(site),
    }
}
