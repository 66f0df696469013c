//! Invites to an e-mail address, once an identity server has found whose it is (server-server API, "Third-party invites").

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    response::IntoResponse,
    routing::get,
};
use hearth_rules::Signer;
use http::Method;
use ruma::{CanonicalJsonObject, server_name};
use serde_json::{Value, json};

use super::{
    hostile::as_json,
    joining::{joins_through, membership},
    support::{Peer, Peers, Told, on_the_web},
};
use crate::support::{
    User,
    rooms::{encoded, state_of},
};

const BIND: &str = "/_matrix/federation/v1/3pid/onbind";

/// An identity server: a key, and a page that says whether it holds.
struct Identity {
    signer: Signer,
    url: String,
    holds: Arc<AtomicBool>,
}

impl Identity {
    async fn start(last: u8, until: &Peer) -> Self {
        let (signer, holds) =
            (Signer::new(server_name!("id.org").to_owned(), &[last; 32], "0").unwrap(), Arc::default());
        let state = (signer.public_key(), Arc::clone(&holds));
        let router = Router::new().route("/isvalid", get(is_valid)).with_state(state);
        let url = format!("{}/isvalid?ephemeral=no", on_the_web(last, router, until).await);
        let identity = Self { signer, url, holds };
        identity.holds.store(true, Ordering::SeqCst);
        identity
    }

    /// Alice's invite to an address.
    async fn invited(&self, alice: &User, room: &str, token: &str) {
        let key = self.signer.public_key();
        let content = json!({
            "display_name": "b...@example.org",
            "key_validity_url": self.url,
            "public_key": key,
            "public_keys": [{ "public_key": key, "key_validity_url": self.url }],
        });
        alice.sets(room, "m.room.third_party_invite", token, content).await.good();
    }

    /// The proof that an address is a user's.
    fn proof(&self, mxid: &str, token: &str) -> Value {
        let proof = json!({ "mxid": mxid, "token": token, "sender": "ignored" });
        let mut proof: CanonicalJsonObject = serde_json::from_value(proof).unwrap();
        self.signer.sign_json(&mut proof).unwrap();
        serde_json::to_value(&proof).unwrap()
    }
}

async fn is_valid(
    State((key, holds)): State<(String, Arc<AtomicBool>)>,
    RawQuery(query): RawQuery,
) -> impl IntoResponse {
    assert_eq!(query.unwrap(), format!("ephemeral=no&public_key={}", encoded(&key).replace("%20", "+")));
    as_json(json!({ "valid": holds.load(Ordering::SeqCst) }))
}

/// What an identity server tells the server of the user to whom it has bound an address.
async fn binds(method: Method, at: &Peer, user: &str, invites: Value) -> Told {
    let body = json!({ "medium": "email", "address": "bob@example.org", "mxid": user, "invites": invites });
    // It signs no requests.
    at.sends(at, method, BIND, Some(body), None).await
}

fn waiting(room: &str, sender: &User, user: &str, signed: Value) -> Value {
    json!([{ "medium": "email", "address": "bob@example.org", "mxid": user, "room_id": room, "sender": sender.id,
        "signed": signed }])
}

#[tokio::test]
async fn an_invite_to_an_address_finds_its_user_elsewhere() {
    let [here, there] = Peers::two().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let identity = Identity::start(9, &here).await;
    let bob_id = bob.id.as_str();
    for version in ["1", "3", "11", "12"] {
        let room = alice.creates(json!({ "room_version": version, "name": "Private" })).await;
        identity.invited(&alice, &room, "tok").await;
        let invites = waiting(&room, &alice, bob_id, identity.proof(bob_id, "tok"));
        binds(Method::PUT, &there, bob_id, invites).await.good();
        assert_eq!(membership(&alice, &room, &bob).await, "invite");
        let member = alice.reads(&room, "m.room.member", bob_id).await.good();
        assert_eq!(member["third_party_invite"]["display_name"], "b...@example.org");
        let sync = bob.syncs("").await;
        let shown = &sync["rooms"]["invite"][&room]["invite_state"]["events"];
        assert_eq!(state_of(shown, "m.room.member", bob_id).unwrap()["sender"], alice.id.as_str());
        bob.joins(&room).await.good();
        assert_eq!(membership(&alice, &room, &bob).await, "join");
        // Who is in is not thrown out by a repetition.
        let invites = waiting(&room, &alice, bob_id, identity.proof(bob_id, "tok"));
        binds(Method::POST, &there, bob_id, invites).await.good();
        assert_eq!(membership(&alice, &room, &bob).await, "join");
    }
}

#[tokio::test]
async fn who_is_in_the_room_invites_its_own() {
    let [here, there] = Peers::two().await;
    let (alice, bob, carol) = (here.user("alice").await, there.user("bob").await, there.user("carol").await);
    let identity = Identity::start(9, &here).await;
    let room = alice.creates(json!({ "room_version": "11" })).await;
    alice.invites(&room, &carol).await.good();
    joins_through(&carol, &room, &[here.name().as_str()]).await.good();
    identity.invited(&alice, &room, "tok").await;
    // The news of it is on its way.
    let known = async {
        while carol.reads(&room, "m.room.third_party_invite", "tok").await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), known).await.unwrap();
    let bob_id = bob.id.as_str();
    let invites = waiting(&room, &alice, bob_id, identity.proof(bob_id, "tok"));
    binds(Method::PUT, &there, bob_id, invites).await.good();
    assert_eq!(membership(&carol, &room, &bob).await, "invite");
    assert_eq!(there.was_asked_for("/invite/"), 1, "only Carol was invited by another server");
    bob.joins(&room).await.good();
    let seen = async {
        while alice.reads(&room, "m.room.member", bob_id).await.body["membership"] != "join" {
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), seen).await.unwrap();
}

#[tokio::test]
async fn what_proves_nothing_invites_nobody() {
    let [here, there, third] = Peers::three().await;
    let (alice, bob) = (here.user("alice").await, there.user("bob").await);
    let (identity, other) = (Identity::start(9, &here).await, Identity::start(10, &here).await);
    let room = alice.creates(json!({ "room_version": "11" })).await;
    identity.invited(&alice, &room, "tok").await;
    let bob_id = bob.id.as_str();
    let exchange = |signed: Value| {
        json!({ "type": "m.room.member", "room_id": room, "sender": alice.id, "state_key": bob_id,
            "content": { "membership": "invite", "third_party_invite": { "display_name": "x", "signed": signed } } })
    };
    let path = format!("/_matrix/federation/v1/exchange_third_party_invite/{}", encoded(&room));
    let asks = async |from: &Peer, body: Value| from.calls(&here, Method::PUT, &path, Some(body)).await;
    let good = identity.proof(bob_id, "tok");
    let mut changed = good.clone();
    changed["mxid"] = json!(alice.id);
    for (what, signed) in [
        ("another key", other.proof(bob_id, "tok")),
        ("another token", identity.proof(bob_id, "other")),
        ("another user", identity.proof(alice.id.as_str(), "tok")),
        ("changed afterwards", changed),
        ("no signature", json!({ "mxid": bob_id, "token": "tok" })),
        ("nothing", json!({})),
    ] {
        let told = asks(&there, exchange(signed)).await;
        assert_eq!((told.status, &told.body["errcode"]), (403, &json!("M_FORBIDDEN")), "{what}");
    }
    asks(&third, exchange(good.clone())).await.refused(403, "M_FORBIDDEN");
    let with = |key: &str, value: Value| {
        let mut body = exchange(good.clone());
        body[key] = value;
        body
    };
    asks(&there, with("sender", json!(bob_id))).await.refused(403, "M_FORBIDDEN");
    asks(&there, with("type", json!("m.room.name"))).await.refused(400, "M_INVALID_PARAM");
    asks(&there, with("room_id", json!("!other:x.org"))).await.refused(400, "M_INVALID_PARAM");
    asks(&there, with("content", json!({ "membership": "invite" }))).await.refused(400, "M_BAD_JSON");
    let elsewhere = path.replace(&encoded(&room), &encoded("!other:x.org"));
    let body = with("room_id", json!("!other:x.org"));
    there.calls(&here, Method::PUT, &elsewhere, Some(body)).await.refused(404, "M_NOT_FOUND");
    identity.holds.store(false, Ordering::SeqCst);
    asks(&there, exchange(good.clone())).await.refused(403, "M_FORBIDDEN");
    alice.reads(&room, "m.room.member", bob_id).await.refused(404, "M_NOT_FOUND");
    // Identity servers are nobody in particular.
    binds(Method::PUT, &there, alice.id.as_str(), json!([])).await.refused(400, "M_INVALID_PARAM");
    let nobody = format!("@nobody:{}", there.name());
    binds(Method::PUT, &there, &nobody, json!([])).await.refused(403, "M_FORBIDDEN");
    let invites = waiting(&room, &alice, alice.id.as_str(), good.clone());
    binds(Method::PUT, &there, bob_id, invites).await.refused(400, "M_INVALID_PARAM");
    // An invite that is taken back holds no longer.
    identity.holds.store(true, Ordering::SeqCst);
    alice.sets(&room, "m.room.third_party_invite", "tok", json!({})).await.good();
    asks(&there, exchange(good)).await.refused(403, "M_FORBIDDEN");
}
