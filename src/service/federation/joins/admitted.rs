//! What a server gets whose user we let in: the state before the join and what allows it, or (MSC3706) without the members,
//! which it fetches later. Written while it is sent, as other long answers are.

use std::collections::{BTreeSet, HashSet};

use hearth_base::{
    Error, Result,
    ids::{EventNid, KeyNid},
};
use hearth_store::{events::StoredEvent, rooms::Room, state::StateMap};
use ruma::{OwnedServerName, events::room::member::MembershipState};
use serde_json::json;

use super::Joins;
use crate::federation::answers::Pieces;

impl Joins {
    /// The answer to a join (server-server API, `PUT /send_join`).
    pub(super) async fn admitted(&self, room: &Room, join: &StoredEvent, omit_members: bool) -> Result<Pieces> {
        let before = join.snap.ok_or_else(|| Error::broken("a join without a state before it"))?;
        let before = self.store.snapshot(before).await?;
        // To come back for a few costs both servers more than to take them along.
        let worth_omitting = self.federation.settings().completion.worth_omitting;
        let part = match omit_members && before.len() >= worth_omitting {
            true => Some(self.without_members(room, join, &before).await?),
            false => None,
        };
        let part = part.filter(|part| before.len() - part.len() >= worth_omitting);
        let omit_members = part.is_some();
        let state = part.unwrap_or_else(|| before.values().copied().collect());
        let mut chain = self.store.auth_chain(state.iter().copied().chain([join.nid])).await?;
        if omit_members {
            let state: HashSet<EventNid> = state.iter().copied().collect();
            chain.retain(|nid| !state.contains(nid));
        }
        let mut chain: Vec<EventNid> = chain.into_iter().collect();
        chain.sort_unstable();
        let mut rest = format!(
            "],\"event\":{},\"members_omitted\":{omit_members},\"origin\":{}",
            join.pdu.json(),
            json!(self.name())
        );
        if omit_members {
            rest.push_str(",\"servers_in_room\":");
            rest.push_str(&json!(self.servers_before(room, join).await?).to_string());
        }
        rest.push_str(",\"state\":[");
        Ok(Pieces::new(self.store.clone())
            .text("{\"auth_chain\":[")
            .events(chain.into())
            .text(rest)
            .events(state.into())
            .text("]}"))
    }

    /// A state but for its members; those by whom a nameless room is named are in it.
    async fn without_members(&self, room: &Room, join: &StoredEvent, state: &StateMap) -> Result<Vec<EventNid>> {
        let mut shown: Vec<KeyNid> = Vec::new();
        if !self.state.is_named(state).await? {
            let heroes = self.store.heroes(room.nid, join.sender).await?;
            for hero in self.store.user_ids(&heroes).await? {
                shown.extend(self.store.key_nid("m.room.member", hero.as_str()).await?);
            }
        }
        let keys: Vec<KeyNid> = state.keys().copied().collect();
        let names = self.store.keys(&keys).await?;
        let stays = state.iter().zip(&names).filter(|((key, _), name)| {
            let is_member = name.event_type == "m.room.member";
            !is_member || shown.contains(key)
        });
        Ok(stays.map(|((_, nid), _)| *nid).collect())
    }

    /// The servers that were in the room before somebody joined.
    async fn servers_before(&self, room: &Room, join: &StoredEvent) -> Result<BTreeSet<OwnedServerName>> {
        let mut servers: BTreeSet<OwnedServerName> = self.servers.of_room(room.nid).await?.iter().cloned().collect();
        servers.insert(self.name().to_owned());
        let theirs = join.pdu.sender().server_name();
        let joining = self.store.key_nid("m.room.member", join.pdu.sender().as_str()).await?;
        let members = self.store.members_of_server(room.nid, theirs).await?;
        let others = |(key, is): &(KeyNid, MembershipState)| Some(*key) != joining && *is == MembershipState::Join;
        if !members.iter().any(others) {
            servers.remove(theirs);
        }
        Ok(servers)
    }
}
