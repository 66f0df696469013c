//! Who begins to wait at the very moment when others are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{Mutex as Blocking, mpsc},
    time::Instant,
};

use hearth_base::{clock::Clock, requester::Requester, stream::SyncToken};
use ruma::{UserId, owned_server_name, presence::PresenceState};

use super::*;
use crate::{Services, sync::Ask};

/// Where the writer stops once it knows whom to tell, before what it tells can be read.
#[derive(Default)]
struct Gate(Blocking<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>);

impl Gate {
    /// Closes it for the next commit: the first tells when that has come, the second lets it go on.
    fn close(&self) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
        let ((tell, told), (open, opened)) = (mpsc::channel(), mpsc::channel());
        *self.0.lock().unwrap() = Some((tell, opened));
        (told, open)
    }

    fn pass(&self) {
        let closed = self.0.lock().unwrap().take();
        if let Some((tell, opened)) = closed {
            tell.send(()).unwrap();
            opened.recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn who_begins_to_wait_while_others_are_told_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new();
    let settings = hearth_store::Settings::new(crate::testing::engine(dir.path()));
    let store = Store::open(&settings, &supervisor).await.unwrap();
    let (gate, notifier) = (Arc::new(Gate::default()), Arc::new(OnceLock::<Arc<Notifier>>::new()));
    let (passed, publisher) = (gate.clone(), notifier.clone());
    store.subscribe(Box::new(move |changes| {
        let bells = publisher.get().map(|notifier| notifier.publish(changes));
        passed.pass();
        Box::new(move || bells.into_iter().for_each(Bells::ring))
    }));
    let ours = crate::Settings::new(owned_server_name!("localhost"));
    let services = Services::start(ours, store.clone(), Clock::new(), supervisor.clone()).await.unwrap();
    assert!(notifier.set(services.notifier.clone()).is_ok());

    let user_id = UserId::parse("@ann:localhost").unwrap();
    let user = store.intern_user(&user_id).await.unwrap();
    let (boot, ephemeral) = (services.notifier.boot(), services.notifier.ephemeral());
    let since = SyncToken { pos: store.head(), to_device: 0, boot, ephemeral }.to_string();
    let (told, open) = gate.close();
    let writing = tokio::spawn({
        let store = store.clone();
        async move { store.change_account_data(user, None, "m.test", 100, |_| Ok(Some("{}".to_owned()))).await }
    });
    tokio::task::spawn_blocking(move || told.recv_timeout(Duration::from_secs(60))).await.unwrap().unwrap();

    // She was not here when it was said whose bells are to be rung.
    let begun = Instant::now();
    let waiting = tokio::spawn({
        let (services, who) = (services.clone(), Requester::internal(user_id, user));
        let (timeout, set_presence) = (Duration::from_secs(30), PresenceState::Offline);
        let ask = Ask { since: Some(since), timeout, set_presence, ..Ask::default() };
        async move { services.sync.sync(&who, &ask).await.unwrap() }
    });
    // Whoever waits for the bell from here on waits in vain; who knows better does not wait for it.
    let is_waiting = || services.notifier.slot(user).is_some_and(|slot| slot.is_waited_for());
    while !is_waiting() && begun.elapsed() < Duration::from_millis(500) {
        tokio::task::yield_now().await;
    }
    open.send(()).unwrap();
    writing.await.unwrap().unwrap();
    let answer = waiting.await.unwrap();
    assert!(answer.contains("m.test"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}
