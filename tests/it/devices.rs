//! The devices of a user.

use serde_json::{Value, json};

use crate::on_both;

const DEVICES: &str = "/_matrix/client/v3/devices";

fn ids(list: &Value) -> Vec<String> {
    list["devices"].as_array().unwrap().iter().map(|d| d["device_id"].as_str().unwrap().to_owned()).collect()
}

on_both! {
    async fn devices_are_listed_named_and_seen(server) {
        let ada = server.user("ada").await;
        let one = format!("{DEVICES}/{}", ada.device);
        let device = ada.get(&one).await.good();
        assert_eq!((&device["device_id"], &device["last_seen_ip"]), (&json!(ada.device), &json!("127.0.0.1")));
        assert_eq!(device["user_id"], ada.id.as_str());
        // There are clients that look for a name though there is none.
        assert_eq!(device.get("display_name"), Some(&json!(null)));
        ada.put(&one, json!({"display_name": "Looking glass"})).await.good();
        assert_eq!(ada.get(&one).await.good()["display_name"], "Looking glass");
        ada.put(&one, json!({})).await.good();
        assert_eq!(ada.get(&one).await.good()["display_name"], "Looking glass");
        ada.put(&one, json!({"display_name": "x".repeat(101)})).await.refused(400, "M_TOO_LARGE");
        ada.put(&one, json!({"display_name": 5})).await.refused(400, "M_BAD_JSON");
        ada.get(&format!("{DEVICES}/NONE")).await.refused(404, "M_NOT_FOUND");
        ada.put(&format!("{DEVICES}/NONE"), json!({"display_name": "x"})).await.refused(404, "M_NOT_FOUND");

        // Another's devices are not there.
        let eve = server.user("eve").await;
        eve.get(&one).await.refused(404, "M_NOT_FOUND");
        eve.put(&one, json!({"display_name": "mine"})).await.refused(404, "M_NOT_FOUND");
        assert_eq!(ids(&eve.get(DEVICES).await.good()), [eve.device.as_str()]);

        // Where a user was last is told to themselves and administrators.
        let whois = format!("/_matrix/client/v3/admin/whois/{}", ada.id);
        let told = ada.get(&whois).await.good();
        let connection = &told["devices"][ada.device.as_str()]["sessions"][0]["connections"][0];
        assert_eq!((&told["user_id"], &connection["ip"]), (&json!(ada.id), &json!("127.0.0.1")));
        assert!(connection["last_seen"].is_u64(), "{told}");
        eve.get(&whois).await.refused(403, "M_FORBIDDEN");
        let root = server.admin("root").await;
        assert_eq!(root.get(&whois).await.good(), told);
        root.get("/_matrix/client/v3/admin/whois/@nobody:localhost").await.refused(404, "M_NOT_FOUND");

        // When it was last seen is written now and then.
        let before = ada.get(&one).await.good()["last_seen_ts"].as_i64().unwrap();
        server.clock().advance_ms(120_000);
        ada.get(&one).await.good();
        server.services().login.flush_seen().await.unwrap();
        assert!(ada.get(&one).await.good()["last_seen_ts"].as_i64().unwrap() >= before + 120_000);
    }

    async fn what_was_said_of_a_device_goes_with_it(server) {
        let ada = server.user("ada").await;
        let phone = ada.another_device().await;
        let data = |kind: &str| format!("/_matrix/client/v3/user/{}/account_data/{kind}", ada.id);
        let settings = ["m.local_notification_settings", "org.matrix.msc3890.local_notification_settings"];
        for kind in settings {
            for device in [&ada, &phone] {
                let path = data(&format!("{kind}.{}", device.device));
                ada.put(&path, json!({ "is_silenced": true })).await.good();
            }
        }
        phone.post("/_matrix/client/v3/logout", json!({})).await.good();
        for kind in settings {
            ada.get(&data(&format!("{kind}.{}", phone.device))).await.refused(404, "M_NOT_FOUND");
            ada.get(&data(&format!("{kind}.{}", ada.device))).await.good();
        }
    }

    async fn a_deleted_device_has_no_session_left(server) {
        let ada = server.user("ada").await;
        let (phone, tablet, watch) = (ada.another_device().await, ada.another_device().await, ada.another_device().await);
        let path = format!("{DEVICES}/{}", phone.device);
        let (session, _) = ada.delete(&path, json!({})).await.asked();
        phone.get(DEVICES).await.good();
        let mut body = ada.confirmed(json!({}));
        body["auth"]["session"] = json!(session);
        ada.delete(&path, body.clone()).await.good();
        phone.get(DEVICES).await.refused(401, "M_UNKNOWN_TOKEN");
        // The confirmation was for that device and is spent.
        ada.delete(&format!("{DEVICES}/{}", tablet.device), body).await.asked();

        let many = json!({"devices": [tablet.device, watch.device, "NONE"]});
        ada.post("/_matrix/client/v3/delete_devices", many.clone()).await.asked();
        ada.post("/_matrix/client/v3/delete_devices", ada.confirmed(many)).await.good();
        for gone in [&tablet, &watch] {
            gone.get(DEVICES).await.refused(401, "M_UNKNOWN_TOKEN");
        }
        assert_eq!(ids(&ada.get(DEVICES).await.good()), [ada.device.as_str()]);
        ada.post("/_matrix/client/v3/delete_devices", json!({})).await.refused(400, "M_BAD_JSON");

        // Nobody deletes another's devices, or their own by another's password.
        let eve = server.user("eve").await;
        let mut body = ada.confirmed(json!({}));
        body["auth"]["session"] = json!(ada.delete(&path, json!({})).await.asked().0);
        body["auth"]["identifier"]["user"] = json!(eve.id);
        body["auth"]["password"] = json!(eve.password());
        ada.delete(&path, body).await.refused(403, "M_FORBIDDEN");
        eve.post("/_matrix/client/v3/delete_devices", eve.confirmed(json!({"devices": [ada.device]}))).await.good();
        ada.get(DEVICES).await.good();
    }

    async fn who_a_password_is_of_may_be_said_as_of_old(server) {
        let ada = server.user("ada").await;
        let master = |key: &str| {
            json!({ "master_key": { "user_id": ada.id, "usage": ["master"], "keys": { (format!("ed25519:{key}")): key } } })
        };
        let path = "/_matrix/client/v3/keys/device_signing/upload";
        let (one, two) = ("A".repeat(43), format!("{}A", "B".repeat(42)));
        ada.post(path, master(&one)).await.good();
        let mut other = master(&two);
        let (session, _) = ada.post(path, other.clone()).await.asked();
        other["auth"] = json!({ "type": "m.login.password", "session": session, "user": ada.id, "password": "wrong" });
        ada.post(path, other.clone()).await.asked();
        other["auth"]["password"] = json!(ada.password());
        ada.post(path, other).await.good();
    }
}
