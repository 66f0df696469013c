//! Servers that are no Hearths: a name, a key, and events made by hand.

use std::{net::Ipv4Addr, sync::Arc};

use axum::{Router, response::IntoResponse, routing::get};
use bytes::Bytes;
use hearth_base::{clock::Clock, tasks::Supervisor};
use hearth_remote::federation::Federation;
use hearth_rules::{
    Draft, RoomVersion, Signer,
    event::{Pdu, Reference},
};
use hearth_service::federation::joins::Reply;
use hearth_store::server_keys::{KeyDocument, VerifyKey};
use http::{Method, Request};
use ruma::{CanonicalJsonObject, OwnedServerName, OwnedUserId, events::room::member::MembershipState};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    World,
    peers::{Door, authority},
    support::rooms::{encoded, txn},
};

const V1: &str = "/_matrix/federation/v1";

/// A server with a user in the room, and the newest event it knows of.
pub struct Outsider {
    pub signer: Arc<Signer>,
    pub remote: Federation,
    pub user: OwnedUserId,
    pub room: String,
    auth: Vec<Reference>,
    prev: Reference,
    depth: u64,
    ts: u64,
    _supervisor: Supervisor,
}

fn version() -> &'static RoomVersion {
    RoomVersion::get("11").unwrap()
}

/// A document of a server's key, and its text.
fn keys(signer: &Signer, until: u64) -> String {
    let mut object: CanonicalJsonObject = serde_json::from_value(json!({
        "server_name": signer.server_name(),
        "verify_keys": { signer.key_id(): { "key": signer.public_key() } },
        "old_verify_keys": {},
        "valid_until_ts": until,
    }))
    .unwrap();
    signer.sign_json(&mut object).unwrap();
    serde_json::to_string(&object).unwrap()
}

/// The member event of a template.
fn completed(template: &Value, signer: &Signer, ts: u64) -> Pdu {
    let event = &template["event"];
    let text = |key: &str| event[key].as_str().unwrap().to_owned();
    let ids = |key: &str| serde_json::from_value::<Vec<Reference>>(event[key].clone()).unwrap();
    let (room, sender) = (text("room_id").try_into().unwrap(), text("sender").try_into().unwrap());
    let draft = Draft::of(Some(room), sender, "m.room.member".into(), Some(text("state_key")), &event["content"], ts);
    let depth = event["depth"].as_u64().unwrap();
    draft.unwrap().build(version(), &ids("prev_events"), depth, &ids("auth_events"), signer).unwrap()
}

impl Outsider {
    /// A server on `127.0.0.<last>` whose user joins the room.
    pub async fn joins(last: u8, user: &str, world: &World) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0)).await.unwrap();
        let name: OwnedServerName = listener.local_addr().unwrap().to_string().try_into().unwrap();
        let signer = Arc::new(Signer::new(name.clone(), &[last; 32], "a").unwrap());
        let document = keys(&signer, Clock::new().now_ms() + 86_400_000);
        let answer = move || {
            let document = document.clone();
            async move { ([("content-type", "application/json")], document).into_response() }
        };
        let supervisor = Supervisor::new();
        let router = Router::new().route("/_matrix/key/v2/server", get(answer));
        let tls = authority().certifies(&[&Ipv4Addr::new(127, 0, 0, last).to_string()]);
        Door::open().serve(listener, tls, router, &supervisor);
        let settings =
            hearth_remote::Settings { custom_ca: vec![authority().file.clone()], ..hearth_remote::Settings::default() };
        let remote = Federation::new(settings, signer.clone(), Clock::new()).unwrap();
        let user: OwnedUserId = format!("@{user}:{name}").try_into().unwrap();
        let nowhere: Reference = serde_json::from_value(json!("$nowhere")).unwrap();
        let mut this = Self {
            signer,
            remote,
            user,
            room: world.room.clone(),
            auth: Vec::new(),
            prev: nowhere,
            depth: 0,
            ts: Clock::new().now_ms(),
            _supervisor: supervisor,
        };
        let path = format!("{V1}/make_join/{}/{}?ver=11", encoded(&this.room), encoded(this.user.as_str()));
        let template = this.asks(world, &path).await;
        let join = completed(&template, &this.signer, this.ts);
        let path =
            format!("/_matrix/federation/v2/send_join/{}/{}", encoded(&this.room), encoded(join.event_id().as_str()));
        let body: Value = serde_json::from_str(join.json()).unwrap();
        let told = this.calls(world, Method::PUT, &path, Some(body.to_string())).await.unwrap();
        for raw in told["state"].as_array().unwrap() {
            let event = Pdu::parse_remote(&raw.to_string(), version()).unwrap();
            if matches!(event.claimed().event_type().to_string().as_str(), "m.room.create" | "m.room.power_levels") {
                this.auth.push(event.claimed().reference(version()));
            }
        }
        this.auth.push(join.reference(version()));
        (this.prev, this.depth) = (join.reference(version()), join.depth());
        this
    }

    /// A signed request; what was answered, or its status.
    pub async fn calls(&self, world: &World, method: Method, path: &str, body: Option<String>) -> Result<Value, u16> {
        let to = world.server.name();
        let request = Request::builder().method(method).uri(path).body(Bytes::from(body.unwrap_or_default())).unwrap();
        let request = self.remote.sign(to, request).unwrap();
        match self.remote.exchange(to, request, self.remote.once()).await {
            Ok(answer) => Ok(serde_json::from_slice(answer.body()).unwrap_or(Value::Null)),
            Err(e) => Err(e.refusal().map_or(0, |r| r.status.as_u16())),
        }
    }

    async fn asks(&self, world: &World, path: &str) -> Value {
        self.calls(world, Method::GET, path, None).await.unwrap()
    }

    /// The next message, after the one before.
    pub fn says(&mut self, text: &str) -> String {
        let pdu = self.message(text, &self.signer);
        (self.prev, self.depth) = (pdu.reference(version()), pdu.depth());
        self.ts += 1;
        pdu.json().to_owned()
    }

    /// A message at the present place, signed by anybody.
    pub fn message(&self, text: &str, signer: &Signer) -> Pdu {
        let room = Some(self.room.as_str().try_into().unwrap());
        let content = json!({ "msgtype": "m.text", "body": text });
        let draft = Draft::of(room, self.user.clone(), "m.room.message".into(), None, &content, self.ts).unwrap();
        draft.build(version(), std::slice::from_ref(&self.prev), self.depth + 1, &self.auth, signer).unwrap()
    }

    /// The id of the newest event it knows.
    pub fn newest(&self) -> &str {
        self.prev.event_id().as_str()
    }

    /// A transaction's body.
    pub fn transaction(&self, pdus: &[String], edus: &[String]) -> String {
        let (origin, pdus, edus) = (self.signer.server_name(), pdus.join(","), edus.join(","));
        format!(r#"{{"origin":"{origin}","origin_server_ts":1,"pdus":[{pdus}],"edus":[{edus}]}}"#)
    }

    /// Sends a transaction.
    pub async fn sends(&self, world: &World, pdus: &[String]) -> Value {
        let body = self.transaction(pdus, &[]);
        self.calls(world, Method::PUT, &format!("{V1}/send/{}", txn()), Some(body)).await.unwrap()
    }
}

/// Users of servers where nobody listens join the room; gives the servers.
pub async fn nobodies_join(count: usize, world: &World) -> Vec<OwnedServerName> {
    let services = world.server.services();
    let now = world.server.clock().now_ms();
    let room = world.room.as_str().try_into().unwrap();
    let mut names = Vec::new();
    for n in 0..count {
        let name: OwnedServerName = format!("127.77.{}.{}:9", n / 200, n % 200 + 1).try_into().unwrap();
        let signer = Signer::new(name.clone(), &[7; 32], "a").unwrap();
        let until = i64::try_from(now + 86_400_000).unwrap();
        let key = VerifyKey { public_key: signer.public_key(), valid_ms: until, old: false };
        let document = KeyDocument {
            server: name.clone(),
            json: keys(&signer, now + 86_400_000),
            valid_ms: until,
            fetched_ms: 0,
            keys: [(signer.key_id().to_owned(), key)].into(),
            second_hand: false,
        };
        services.store.keep_key_documents(vec![document]).await.unwrap();
        let user: OwnedUserId = format!("@nobody:{name}").try_into().unwrap();
        let versions = [version().id.clone()];
        let template = services.joins.make(&name, room, &user, MembershipState::Join, Some(&versions)).await.unwrap();
        let join = completed(&serde_json::to_value(&template).unwrap(), &signer, now);
        let reply = Reply { origin: &name, room_id: room, event_id: join.event_id(), json: join.json() };
        services.joins.send_join(reply, true).await.unwrap();
        names.push(name);
    }
    names
}
