//! Sessions in memory: there from the start, and never other than on disk.

use super::on_both;
use crate::{
    accounts::{Created, Flag, NewAccount},
    devices::NewDevice,
    execute,
    login::NewToken,
};

const FORGET_ON_DISK: &str = "DELETE FROM access_tokens WHERE token_hash = $1";

on_both! {
    async fn a_session_is_remembered_from_its_login_and_with_every_change(disk) {
        let open = disk.open().await;
        let user = open.user("alice").await;
        let device = NewDevice {
            user,
            device_id: "PHONE".to_owned(),
            display_name: None,
            created_ms: 1_000,
            ip: None,
            user_agent: None,
        };
        let token = |n: u8| NewToken {
            token_hash: [n; 32],
            user,
            device_id: Some("PHONE".to_owned()),
            created_ms: 1_000,
            expires_ms: Some(5_000),
            refresh: None,
            puppet_of: None,
        };
        let account = NewAccount {
            user,
            password_hash: None,
            admin: true,
            guest: false,
            was_guest: false,
            user_type: None,
            appservice_id: None,
            created_ms: 1_000,
            displayname: None,
            registration_token: None,
            consent_version: None,
            session: Some((device.clone(), token(1))),
        };
        assert_eq!(open.store.create_account(account).await.unwrap(), Created::Yes);
        let session = async |n: u8| open.store.session(&[n; 32]).await.unwrap();
        let forgotten_on_disk = async |n: u8| {
            let gone = open.store.write(move |tx| {
                Box::pin(async move { execute!(tx, FORGET_ON_DISK, &[n; 32][..]) })
            });
            assert_eq!(gone.await.unwrap(), 1);
        };

        open.store.set_flag(user, Flag::Locked, true).await.unwrap();
        let first = session(1).await.unwrap();
        assert!(first.locked && first.requester.is_admin);
        open.store.set_flag(user, Flag::Locked, false).await.unwrap();
        assert!(!session(1).await.unwrap().locked);

        // The next login of the device ends this one.
        open.store.log_in(device, token(2)).await.unwrap();
        assert!(session(1).await.is_none());
        forgotten_on_disk(2).await;
        let second = session(2).await.unwrap();
        assert_eq!(second.requester.user_id, "@alice:localhost");
        assert_eq!(second.requester.device_id.as_ref().map(|d| d.as_str()), Some("PHONE"));
        assert_eq!(second.expires_ms, Some(5_000));
        assert!(second.requester.is_admin && !second.locked);
        open.close().await;
    }
}
