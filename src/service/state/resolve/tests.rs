//! Resolution over what is on disk, against the states that another implementation comes to (`tests/golden`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use hearth_base::tasks::Supervisor;
use hearth_rules::event::Pdu;
use hearth_store::{Settings, events::NewEvent};
use serde::Deserialize;

use super::*;
use crate::testing::on_both;

const MEETINGS: &str = include_str!("../../../../tests/golden/resolution.jsonl");

#[derive(Deserialize)]
struct Meeting {
    version: String,
    seed: u32,
    events: Vec<(OwnedEventId, String)>,
    states: Vec<Vec<usize>>,
    resolved: Vec<usize>,
}

/// The events of a meeting on disk, the last of them perhaps on their way there only.
async fn resolves(meeting: &Meeting, fresh_ones: usize) {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new();
    let store = Store::open(&Settings::new(crate::testing::engine(dir.path())), &supervisor).await.unwrap();
    let version = RoomVersion::known(&meeting.version).unwrap();
    let mut nids: HashMap<OwnedEventId, EventNid> = HashMap::new();
    let (mut room, mut keys, mut outliers, mut fresh) = (None, Vec::new(), Vec::new(), Fresh::new());
    for (n, (id, json)) in meeting.events.iter().enumerate() {
        let pdu = Arc::new(Pdu::parse_stored(id.clone(), json.as_str(), version).unwrap());
        let sender = store.intern_user(pdu.sender()).await.unwrap();
        if room.is_none() {
            let made = store.make_stub_room(pdu.room_id().to_owned(), version.id.clone(), sender, 0).await;
            room = Some(made.unwrap());
        }
        let key = store.intern_key(&pdu.event_type().to_string(), pdu.state_key().unwrap()).await.unwrap();
        let nid = store.new_event_nid().await.unwrap();
        let auth: Vec<EventNid> =
            crate::federation::outliers::auth_ids(version, &pdu).iter().map(|id| nids[id]).collect();
        nids.insert(id.clone(), nid);
        keys.push((key, nid));
        if n + fresh_ones < meeting.events.len() {
            outliers.push(NewEvent::outlier(nid, pdu, sender, Some(key), Some(auth), false));
        } else {
            fresh.insert(nid, FreshEvent { pdu, auth: auth.into() });
        }
    }
    store.insert_outliers(room.unwrap(), outliers).await.unwrap();
    let state = |entries: &[usize]| entries.iter().map(|n| keys[*n]).collect::<StateMap>();
    let states: Vec<StateMap> = meeting.states.iter().map(|s| state(s)).collect();
    let resolved = State::new(store).resolve(version, &states, &fresh).await.unwrap();
    assert_eq!(resolved, state(&meeting.resolved), "version {version}, seed {}", meeting.seed);
}

fn meetings() -> impl Iterator<Item = Meeting> {
    MEETINGS.lines().map(|line| serde_json::from_str(line).unwrap())
}

on_both! {
    async fn two_histories_come_to_one_state() {
        let meeting = meetings().find(|m| m.version == "12" && m.states.iter().any(|s| *s != m.states[0])).unwrap();
        resolves(&meeting, 5).await;
    }
}

#[tokio::test]
async fn histories_that_meet_come_to_one_state() {
    for (n, meeting) in meetings().enumerate().filter(|(n, _)| n % 4 == 1) {
        resolves(&meeting, [0, 5, 40][n % 3]).await;
    }
}
