//! Invites to addresses (spec: "Third-party invites"), on the side of who takes one: an identity server has signed that the
//! address is theirs, and the room's `m.room.third_party_invite` says by which keys that is to be believed.

use hearth_base::{Error, Requester, Result};
use hearth_rules::event::Draft;
use hearth_store::rooms::Room;
use ruma::{OwnedUserId, events::TimelineEventType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Membership;
use crate::events::With;

/// What an identity server signs (spec: `third_party_signed`).
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ThirdPartySigned {
    /// Who invited.
    pub sender: OwnedUserId,
    /// Who is invited.
    pub mxid: OwnedUserId,
    /// Which invite: the state key of the event.
    pub token: String,
    /// The signatures over the rest.
    pub signatures: Map<String, Value>,
}

impl Membership {
    /// Makes of an invite to an address one of the user who holds it. The room's rules check the signature.
    ///
    /// # Errors
    /// 403 if there is no such invite, it is somebody else's, or the signature is not by a key it names.
    pub(super) async fn accept(&self, who: &Requester, room: &Room, signed: &ThirdPartySigned) -> Result<()> {
        #[derive(Deserialize)]
        struct Invite {
            #[serde(default)]
            display_name: Value,
        }
        if !who.is(&signed.mxid) {
            return Err(Error::forbidden("The invite is meant for somebody else"));
        }
        let invite = self.state.current_entry(room, "m.room.third_party_invite", &signed.token).await?;
        let invite = invite.ok_or_else(|| Error::forbidden("There is no such invite in this room"))?;
        if invite.pdu.sender() != signed.sender || signed.sender.server_name() != self.server_name {
            return Err(Error::forbidden("The invite is not of a user of this server"));
        }
        let display_name = invite.pdu.content_as::<Invite>().map(|i| i.display_name).unwrap_or_default();
        let content = json!({
            "membership": "invite",
            "third_party_invite": { "display_name": display_name, "signed": signed },
        });
        let draft = Draft::of(
            Some(room.room_id.clone()),
            signed.sender.clone(),
            TimelineEventType::RoomMember,
            Some(who.user_id.to_string()),
            &content,
            self.clock.now_ms(),
        )?;
        self.events.append(room.nid, invite.sender, draft, With::default()).await.map(drop)
    }
}
