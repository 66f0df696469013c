//! Requests counted by listener, by who answered and by kind of status; each handle looked up once.

use std::sync::Arc;

use dashmap::DashMap;
use http::StatusCode;
use metrics::Counter;

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    App,
    Metrics,
    Challenge,
    Redirect,
    WellKnown,
    Files,
    Upstream,
    Refused,
    Nothing,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Metrics => "metrics",
            Self::Challenge => "challenge",
            Self::Redirect => "redirect",
            Self::WellKnown => "well_known",
            Self::Files => "files",
            Self::Upstream => "upstream",
            Self::Refused => "refused",
            Self::Nothing => "nothing",
        }
    }
}

/// The counters; bounded by listeners × targets × five.
#[derive(Default)]
pub(crate) struct Counted(DashMap<(Arc<str>, Target, u16), Counter>);

impl Counted {
    pub fn count(&self, listener: &Arc<str>, target: Target, status: StatusCode) {
        let class = status.as_u16() / 100;
        let key = (listener.clone(), target, class);
        if let Some(counter) = self.0.get(&key) {
            return counter.increment(1);
        }
        let counter = metrics::counter!(
            "hearth_edge_requests_total",
            "listener" => listener.to_string(), "target" => target.name(), "code" => format!("{class}xx")
        );
        counter.increment(1);
        self.0.insert(key, counter);
    }
}
