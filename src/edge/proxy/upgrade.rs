//! WebSockets: once both sides have switched, bytes go both ways until either ends or the server stops.

use http::{
    Request, Version,
    header::{CONNECTION, UPGRADE},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tracing::debug;

use crate::listener::connection::Caller;

/// Whether a request asks to switch to a WebSocket; other protocols are not switched to.
pub(super) fn wanted<B>(request: &Request<B>) -> bool {
    let has = |name, word: &str| {
        request
            .headers()
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.split(',').any(|part| part.trim().eq_ignore_ascii_case(word)))
    };
    request.version() == Version::HTTP_11 && has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

/// Joins the two sides. The connection stays among the counted ones until this ends.
pub(super) fn join(caller: &Caller, client: OnUpgrade, upstream: OnUpgrade) {
    let (shared, activity) = (caller.shared.clone(), caller.activity.clone());
    let stopping = shared.stopping.clone();
    shared.supervisor.detach(async move {
        let _activity = activity;
        let both = async {
            let (client, upstream) = tokio::try_join!(client, upstream)?;
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            // An error here is one side hanging up, which is how such connections end.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            Ok::<_, hyper::Error>(())
        };
        // A WebSocket never ends by itself: at the stop it is closed at once, and the client connects again.
        if let Some(Err(e)) = stopping.run_until_cancelled(both).await {
            debug!(error = %e, "upgrade failed");
        }
    });
}
