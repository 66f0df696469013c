//! Configured places: which folder or upstream stands where.

use std::sync::Arc;

use hearth_config::edge::At;

use crate::{Error, Settings, apps, proxy::Upstream, static_files::Site};

/// What stands at a place.
#[derive(Clone)]
pub(crate) enum Place {
    Files(Arc<Site>),
    Upstream(Arc<Upstream>),
}

/// All places, the most exact first: those of a named host before those of any, longer paths before shorter.
#[derive(Default)]
pub(crate) struct Routes(Vec<(At, Place)>);

impl Routes {
    /// # Errors
    /// If a folder is not there, or an upstream cannot be.
    pub fn new(settings: &Settings, https_port: Option<u16>) -> Result<Self, Error> {
        let Some(edge) = &settings.edge else { return Ok(Self::default()) };
        let mut all: Vec<(At, Place)> = Vec::new();
        let files = |site: Site| Place::Files(Arc::new(site));
        if let Some(element) = &edge.element {
            all.push((element.at.clone(), files(apps::element(element, settings, https_port)?)));
        }
        if let Some(app) = &edge.admin_ui {
            all.push((app.at.clone(), files(apps::admin_ui(app, settings, https_port)?)));
        }
        for app in &edge.apps {
            all.push((app.at.clone(), files(Site::new(app)?)));
        }
        for upstream in &edge.upstreams {
            let reached = Upstream::new(upstream);
            let reached = reached.map_err(|what| Error::Setting(format!("edge.upstreams `{}`", upstream.at), what))?;
            all.push((upstream.at.clone(), Place::Upstream(Arc::new(reached))));
        }
        all.sort_by_key(|(at, _)| (at.host.is_none(), std::cmp::Reverse(at.path.len()), at.to_string()));
        Ok(Self(all))
    }

    /// What stands at this host and path, with the rest of the path. `least`: the length of a path of our own that
    /// would answer otherwise; only something at least as exact goes before it.
    pub fn find<'p>(&self, host: Option<&str>, path: &'p str, least: usize) -> Option<(&Place, &'p str)> {
        self.0.iter().find_map(|(at, place)| {
            let here = at.host.as_deref().is_none_or(|wanted| host.is_some_and(|h| h.eq_ignore_ascii_case(wanted)));
            if !here || at.path.len() < least {
                return None;
            }
            Some((place, at.below(path)?))
        })
    }
}
