//! Listeners: which there are, their sockets, and what happens on a connection until a request is whole.
//!
//! Sockets are bound by `bind` (so that a busy port is told in a sentence and rights can be dropped after), accepted
//! by Pingora, and served by `connection`. Who is answered with what is `dispatch`'s business.

use std::{net::SocketAddr, sync::Arc};

use hearth_config::edge::{EdgeConfig, Listen, Mistake, Ports};

use crate::{
    Error,
    settings::{Listener, Place, Resources, Serves, Settings},
};

mod activity;
pub(crate) mod bind;
pub(crate) mod connection;
mod io;
mod proxied;
pub(crate) mod sending;

/// What a connection knows of the listener it came in by.
#[derive(Debug)]
pub(crate) struct Door {
    /// For logs, metrics, `admin_api.listeners` and [`hearth_base::peer::Peer`].
    pub name: Arc<str>,
    /// Whether TLS is spoken here.
    pub tls: bool,
    /// Whether forwarded headers may be believed here.
    pub x_forwarded: bool,
    /// What is answered here.
    pub serves: Serves,
    /// Whether plain HTTP is sent on to HTTPS here, unless `edge.redirect` says otherwise.
    pub redirect: bool,
    /// Whether answers may be compressed here.
    pub compress: bool,
    /// Whether it is one of `edge.listen`, where `edge.proxy_protocol` holds.
    pub own: bool,
}

/// A listener as it is to be opened.
#[derive(Debug)]
pub(crate) struct Planned {
    /// Where it stands in the configuration.
    pub key: String,
    pub door: Arc<Door>,
    pub place: Place,
}

/// All listeners that the settings ask for: those of homeserver.yaml, then the edge's own.
pub(crate) fn plan(settings: &Settings) -> Vec<Planned> {
    let mut all: Vec<Planned> = settings.listeners.iter().map(from_homeserver).collect();
    let Some(edge) = &settings.edge else { return all };
    let Listen { http, https, federation, addresses } = &edge.listen;
    let mut own = |name: &str, ports: &Ports, tls: bool, redirect: bool| {
        let sockets: Vec<SocketAddr> = ports.sockets(addresses);
        if !sockets.is_empty() {
            let serves = Serves::Http(Resources::EDGE);
            let door = Arc::new(Door {
                name: Arc::from(name),
                tls,
                x_forwarded: false,
                serves,
                redirect,
                compress: false,
                own: true,
            });
            all.push(Planned { key: format!("edge.listen.{name}"), door, place: Place::Tcp(sockets) });
        }
    };
    own("http", http, false, !https.0.is_empty());
    own("https", https, true, false);
    own("federation", federation, true, false);
    all
}

/// The listeners that were asked for at the start: they are open, and no others are before the next one.
pub(crate) struct Opened {
    listeners: Vec<Listener>,
    listen: Listen,
}

impl Opened {
    pub fn of(settings: &Settings) -> Self {
        let none =
            || Listen { http: Ports(vec![]), https: Ports(vec![]), federation: Ports(vec![]), addresses: vec![] };
        let listen = settings.edge.as_ref().map_or_else(none, |edge| edge.listen.clone());
        Self { listeners: settings.listeners.clone(), listen }
    }

    /// Other settings with these listeners, so that nothing is told of sockets that are not open.
    pub fn within(&self, settings: Settings) -> Settings {
        let edge = settings.edge.map(|edge| EdgeConfig { listen: self.listen.clone(), ..edge });
        Settings { listeners: self.listeners.clone(), edge, ..settings }
    }

    /// Which listeners the settings want otherwise.
    pub fn wanted_otherwise(&self, settings: &Settings) -> Vec<String> {
        let edge = EdgeConfig { listen: self.listen.clone(), ..EdgeConfig::default() };
        let open = plan(&Settings { listeners: self.listeners.clone(), edge: Some(edge), ..Settings::default() });
        let wanted = plan(settings);
        let lacks = |all: &[Planned], one: &&Planned| !all.iter().any(|other| one.is_like(other));
        let new = wanted.iter().filter(|one| lacks(&open, one));
        let mut names = Vec::new();
        for one in new.chain(open.iter().filter(|one| lacks(&wanted, one))) {
            let name = if one.door.own { one.key.clone() } else { format!("listener {}", one.door.name) };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

impl Planned {
    /// Whether nobody could tell them apart; where they stand in the configuration is no matter.
    fn is_like(&self, other: &Self) -> bool {
        let of = |door: &Door| (door.name.clone(), door.tls, door.x_forwarded, door.serves, door.compress, door.own);
        self.place == other.place && of(&self.door) == of(&other.door)
    }
}

/// What keeps them from being open at once: the sockets that two of them want, each under the key of the later.
pub(crate) fn clashes(planned: &[Planned]) -> Vec<Mistake> {
    let clash = |one: &SocketAddr, two: &SocketAddr| {
        let alike = one.is_ipv4() == two.is_ipv4() && (one.ip().is_unspecified() || two.ip().is_unspecified());
        one.port() == two.port() && one.port() != 0 && (one.ip() == two.ip() || alike)
    };
    let mut found = Vec::new();
    for (n, two) in planned.iter().enumerate() {
        if let Place::Tcp(all) = &two.place
            && let Some(twice) = all.iter().enumerate().find(|(n, a)| all.iter().take(*n).any(|b| clash(a, b)))
        {
            let what = format!("{} is wanted twice by `{}`: name it once", twice.1, two.door.name);
            found.push((two.key.clone(), what));
        }
        for one in planned.iter().take(n) {
            let place = match (&one.place, &two.place) {
                (Place::Unix(one, _), Place::Unix(two, _)) if one == two => one.display().to_string(),
                (Place::Tcp(one), Place::Tcp(two)) => match one.iter().find(|a| two.iter().any(|b| clash(a, b))) {
                    Some(address) => address.to_string(),
                    None => continue,
                },
                _ => continue,
            };
            let (one, name) = (&one.door.name, &two.door.name);
            let what = format!(
                "{place} is wanted by two listeners, `{one}` and `{name}`: give one of them another port or address"
            );
            found.push((two.key.clone(), what));
        }
    }
    found
}

/// Whether a listener could be opened.
#[derive(Debug)]
pub struct Trial {
    /// Its name.
    pub listener: Arc<str>,
    /// Its addresses, or a sentence on the first that cannot be opened.
    pub opened: Result<Vec<String>, Error>,
}

/// Opens each listener's sockets and closes them again.
pub(crate) fn try_all(settings: &Settings) -> Vec<Trial> {
    let labels = |bound: Vec<bind::Bound>| bound.into_iter().map(|one| one.label.clone()).collect();
    let plan = plan(settings);
    let trial = |p: &Planned| Trial { listener: p.door.name.clone(), opened: bind::open(p).map(labels) };
    plan.iter().map(trial).collect()
}

fn from_homeserver(listener: &Listener) -> Planned {
    let door = Door {
        name: Arc::from(listener.name.as_str()),
        tls: listener.tls,
        x_forwarded: listener.x_forwarded,
        serves: listener.serves,
        redirect: false,
        compress: listener.compress,
        own: false,
    };
    Planned { key: listener.key.clone(), door: Arc::new(door), place: listener.place.clone() }
}
