//! Media as users see them: what goes in comes out, within limits, to those who may.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use hearth_base::requester::Requester;
use image::ImageFormat;
use ruma::{UserId, server_name};
use tempfile::TempDir;

use super::{sizes::Size, *};
use crate::testing::on_both;
use sizes::Method;

struct Stage {
    media: Media,
    clock: Clock,
    alice: Requester,
    bob: Requester,
    dir: TempDir,
}

async fn stage(change: impl FnOnce(&mut Settings)) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let supervisor = Supervisor::new();
    let engine = crate::testing::engine(dir.path());
    let mut disk = hearth_store::Settings::new(engine);
    disk.media = Some(dir.path().join("media"));
    let store = Store::open(&disk, &supervisor).await.unwrap();
    let mut settings = Settings::default();
    change(&mut settings);
    let mut users = Vec::new();
    for id in ["@alice:example.org", "@bob:example.org"] {
        let id = UserId::parse(id).unwrap();
        let nid = store.intern_user(&id).await.unwrap();
        users.push(Requester::internal(id, nid));
    }
    let clock = Clock::new();
    let name = server_name!("example.org").to_owned();
    let signer = Arc::new(crate::server_keys::Settings::generate().signer(name.clone()).unwrap());
    let federation = crate::federation::Settings::default();
    let federation = Arc::new(Federation::new(federation, signer, store.clone(), clock.clone()).unwrap());
    let media = Media::new(name, settings, federation, store, clock.clone(), supervisor);
    let bob = users.pop().unwrap();
    Stage { media, clock, alice: users.pop().unwrap(), bob, dir }
}

const AUTHENTICATED: Access = Access { authenticated: true, allow_remote: true, wait: Duration::ZERO };
const LEGACY: Access = Access { authenticated: false, ..AUTHENTICATED };

fn body(bytes: impl Into<Vec<u8>>) -> impl Stream<Item = Result<Bytes>> + Send {
    let chunks: Vec<Result<Bytes>> = bytes.into().chunks(50_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    stream::iter(chunks)
}

fn head(content_type: &str, file_name: &str) -> UploadHead {
    UploadHead { content_type: Some(content_type.to_owned()), file_name: Some(file_name.to_owned()), length: None }
}

impl Stage {
    async fn upload(&self, bytes: impl Into<Vec<u8>>) -> String {
        let uri = self.media.upload(&self.alice, UploadHead::default(), body(bytes)).await.unwrap();
        id(&uri)
    }

    async fn download(&self, id: &str) -> Result<Vec<u8>> {
        let content = self.media.download("example.org", id, AUTHENTICATED).await?;
        self.read(&content).await
    }

    async fn read(&self, content: &Content) -> Result<Vec<u8>> {
        let chunks: Vec<Result<Bytes>> = self.media.read(content, None).await?.collect().await;
        Ok(chunks.into_iter().collect::<Result<Vec<_>>>()?.concat())
    }

    fn blobs(&self) -> usize {
        files(&self.dir.path().join("media/blobs"))
    }

    async fn no_drafts(&self) -> bool {
        for _ in 0..200 {
            if files(&self.dir.path().join("media/tmp")) == 0 {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).map(|p| if p.is_dir() { files(&p) } else { 1 }).sum()
}

fn id(uri: &ruma::MxcUri) -> String {
    assert!(uri.is_valid(), "{uri}");
    uri.media_id().unwrap().to_owned()
}

fn told<T: std::fmt::Debug>(result: Result<T>) -> (u16, String) {
    let error = result.unwrap_err();
    (error.status().as_u16(), error.errcode().to_owned())
}

fn code(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}

on_both! {
    async fn what_goes_in_comes_out_with_what_was_said_of_it() {
        let s = stage(|_| {}).await;
        let bytes = vec![7u8; 700_000];
        let uri = s.media.upload(&s.alice, head("image/png", "a b\u{7}.png"), body(bytes.clone())).await.unwrap();
        assert_eq!(uri.server_name().unwrap(), "example.org");
        let content = s.media.download("example.org", uri.media_id().unwrap(), AUTHENTICATED).await.unwrap();
        assert_eq!(content.size, 700_000);
        assert_eq!(content.content_type.as_deref(), Some("image/png"));
        assert_eq!(content.file_name.as_deref(), Some("a b.png"), "control characters are gone");
        assert!(s.read(&content).await.unwrap() == bytes);
        let part: Vec<Result<Bytes>> = s.media.read(&content, Some(5..9)).await.unwrap().collect().await;
        assert_eq!(part.into_iter().map(|b| b.unwrap().len()).sum::<usize>(), 4);
    }

    async fn an_upload_that_is_too_large_is_refused_early_and_late() {
        let s = stage(|set| set.max_upload_size = 100_000).await;
        let untouched = stream::once(async { panic!("the body must not be read") });
        let head = UploadHead { length: Some(100_001), ..UploadHead::default() };
        assert_eq!(told(s.media.upload(&s.alice, head, untouched).await), code(413, "M_TOO_LARGE"));
        let refused = s.media.upload(&s.alice, UploadHead::default(), body(vec![0; 100_001])).await;
        assert_eq!(told(refused), code(413, "M_TOO_LARGE"));
        assert!(s.no_drafts().await);
        assert_eq!(s.blobs(), 0);
        s.upload(vec![0; 100_000]).await;
    }

    async fn a_body_that_breaks_off_leaves_nothing() {
        let s = stage(|_| {}).await;
        let broken = stream::iter([Ok(Bytes::from(vec![0; 400_000])), Err(Error::unknown("gone"))]);
        assert!(s.media.upload(&s.alice, UploadHead::default(), broken).await.is_err());
        assert!(s.no_drafts().await);
        assert_eq!(s.blobs(), 0);
    }

    async fn guests_and_suspended_users_do_not_upload() {
        let s = stage(|_| {}).await;
        let guest = Requester { is_guest: true, ..s.alice.clone() };
        let upload = s.media.upload(&guest, UploadHead::default(), body("x")).await;
        assert_eq!(told(upload), code(403, "M_GUEST_ACCESS_FORBIDDEN"));
        let suspended = Requester { is_suspended: true, ..s.alice.clone() };
        assert_eq!(told(s.media.create(&suspended).await), code(403, "M_USER_SUSPENDED"));
    }

    async fn equal_content_is_kept_once_and_until_its_last_id_goes() {
        let s = stage(|_| {}).await;
        let (one, two) = (s.upload("same").await, s.upload("same").await);
        assert_ne!(one, two);
        assert_eq!(s.blobs(), 1);
        s.media.delete(&s.alice, "example.org", &one).await.unwrap();
        assert_eq!(told(s.download(&one).await), code(404, "M_NOT_FOUND"));
        assert_eq!(s.download(&two).await.unwrap(), b"same");
        s.media.delete(&s.alice, "example.org", &two).await.unwrap();
        assert_eq!(s.blobs(), 0);
        assert_eq!(told(s.media.delete(&s.alice, "example.org", &two).await), code(404, "M_NOT_FOUND"));
    }

    async fn ids_that_lead_elsewhere_lead_nowhere() {
        let s = stage(|_| {}).await;
        s.upload("x").await;
        let long = "a".repeat(256);
        for id in ["", ".", "..", "../hearth.db", "a/b", "a%2fb", "a\\b", "a\0", "é", "a b", &long] {
            assert_eq!(told(s.media.download("example.org", id, AUTHENTICATED).await), code(404, "M_NOT_FOUND"), "{id}");
        }
        for server in ["", "..", "a/b", "example.org/..", "exa mple.org", "example.org:port", "@a:example.org"] {
            let told = told(s.media.download(server, "abc", AUTHENTICATED).await);
            assert!([code(400, "M_INVALID_PARAM"), code(404, "M_NOT_FOUND")].contains(&told), "{server}");
        }
    }

    async fn servers_that_are_away_are_told_of_and_blocked_ones_never_asked() {
        let s = stage(|set| set.blocked_servers.push(server_name!("evil.org").to_owned())).await;
        assert_eq!(told(s.media.download("127.0.0.9:1", "abc", AUTHENTICATED).await), code(502, "M_UNKNOWN"));
        assert_eq!(told(s.media.download("evil.org", "abc", AUTHENTICATED).await), code(404, "M_NOT_FOUND"));
    }

    async fn media_of_the_time_after_the_freeze_need_a_login() {
        let mut s = stage(|set| set.authenticated_media = false).await;
        let old = s.upload("old").await;
        Arc::make_mut(&mut s.media.settings).authenticated_media = true;
        let new = s.upload("new").await;
        assert!(s.media.download("example.org", &old, LEGACY).await.is_ok());
        assert_eq!(told(s.media.download("example.org", &new, LEGACY).await), code(404, "M_NOT_FOUND"));
        assert!(s.media.download("example.org", &new, AUTHENTICATED).await.is_ok());
    }

    async fn quarantined_media_are_gone_until_given_back() {
        let s = stage(|_| {}).await;
        let medium = s.upload("bad").await;
        s.download(&medium).await.unwrap();
        assert!(s.media.quarantine(&s.bob, "example.org", &medium).await.unwrap());
        assert_eq!(told(s.download(&medium).await), code(404, "M_NOT_FOUND"));
        s.media.unquarantine(&s.bob, "example.org", &medium).await.unwrap();
        s.download(&medium).await.unwrap();
        s.media.protect(&s.bob, "example.org", &medium, true).await.unwrap();
        assert!(!s.media.quarantine(&s.bob, "example.org", &medium).await.unwrap());
        s.download(&medium).await.unwrap();
        assert_eq!(told(s.media.quarantine(&s.bob, "example.org", "nothing").await), code(404, "M_NOT_FOUND"));
    }

    async fn an_announced_upload_comes_once_from_the_one_who_announced_it() {
        let s = stage(|_| {}).await;
        let announced = s.media.create(&s.alice).await.unwrap();
        assert!(announced.expires_ms > s.clock.now_ms() + 86_000_000);
        let id = id(&announced.uri);
        let put =
            |who, bytes: &'static str| s.media.upload_to(who, "example.org", &id, head("text/plain", "a.txt"), body(bytes));
        assert_eq!(told(s.download(&id).await), code(504, "M_NOT_YET_UPLOADED"));
        assert_eq!(told(put(&s.bob, "b").await), code(403, "M_FORBIDDEN"));
        put(&s.alice, "a").await.unwrap();
        assert_eq!(s.download(&id).await.unwrap(), b"a");
        assert_eq!(told(put(&s.alice, "again").await), code(409, "M_CANNOT_OVERWRITE_MEDIA"));
        assert_eq!(s.blobs(), 1);
        let unknown = s.media.upload_to(&s.alice, "example.org", "unknown", UploadHead::default(), body("x")).await;
        assert_eq!(told(unknown), code(404, "M_NOT_FOUND"));
    }

    async fn two_uploads_for_one_id_leave_the_first() {
        let s = stage(|_| {}).await;
        let id = id(&s.media.create(&s.alice).await.unwrap().uri);
        let put = |bytes: &'static str| s.media.upload_to(&s.alice, "example.org", &id, UploadHead::default(), body(bytes));
        let (one, two) = tokio::join!(put("one"), put("two"));
        let refused = if one.is_ok() { two } else { one };
        assert_eq!(told(refused), code(409, "M_CANNOT_OVERWRITE_MEDIA"));
        assert!(matches!(s.download(&id).await.unwrap().as_slice(), b"one" | b"two"));
        assert_eq!(s.blobs(), 1, "what was refused is not kept");
    }

    async fn who_waits_for_an_announced_upload_gets_it() {
        let s = stage(|_| {}).await;
        let id = id(&s.media.create(&s.alice).await.unwrap().uri);
        let access = Access { wait: Duration::from_secs(30), ..AUTHENTICATED };
        let (content, ()) = tokio::join!(s.media.download("example.org", &id, access), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            s.media.upload_to(&s.alice, "example.org", &id, UploadHead::default(), body("late")).await.unwrap();
        });
        assert_eq!(s.read(&content.unwrap()).await.unwrap(), b"late");
        assert!(s.media.arrivals.waiting.lock().is_empty(), "nobody waits any more");
    }

    async fn announced_uploads_are_few_and_expire() {
        let s = stage(|set| set.max_pending_uploads = 2).await;
        let first = id(&s.media.create(&s.alice).await.unwrap().uri);
        s.media.create(&s.alice).await.unwrap();
        assert_eq!(told(s.media.create(&s.alice).await), code(429, "M_LIMIT_EXCEEDED"));
        s.media.create(&s.bob).await.unwrap();
        s.clock.advance_ms(24 * 3_600_000 + 1);
        let late = s.media.upload_to(&s.alice, "example.org", &first, UploadHead::default(), body("x")).await;
        assert_eq!(told(late), code(404, "M_NOT_FOUND"));
        assert_eq!(told(s.download(&first).await), code(404, "M_NOT_FOUND"));
        s.media.create(&s.alice).await.unwrap();
        s.media.sweep().await.unwrap();
        assert!(s.media.store.media(server_name!("example.org"), &first).await.unwrap().is_none());
    }

    async fn a_user_uploads_so_much_within_a_time() {
        let limit = UploadLimit {
            period: Duration::from_secs(3600),
            max_bytes: 1000,
            info_uri: "https://example.org/quota".to_owned(),
            can_upgrade: true,
        };
        let s = stage(|set| set.upload_limits.push(limit)).await;
        s.upload(vec![1; 600]).await;
        let refused = s.media.upload(&s.alice, UploadHead::default(), body(vec![2; 600])).await.unwrap_err();
        assert_eq!((refused.status().as_u16(), refused.errcode()), (403, "M_USER_LIMIT_EXCEEDED"));
        assert_eq!(refused.body()["info_uri"], "https://example.org/quota");
        assert_eq!(refused.body()["can_upgrade"], true);
        assert_eq!(s.blobs(), 1, "what was refused is not kept");
        let early = UploadHead { length: Some(600), ..UploadHead::default() };
        let untouched = stream::once(async { panic!("the body must not be read") });
        assert_eq!(told(s.media.upload(&s.alice, early, untouched).await).0, 403);
        s.media.upload(&s.bob, UploadHead::default(), body(vec![2; 600])).await.unwrap();
        s.clock.advance_ms(3_601_000);
        s.upload(vec![3; 600]).await;
    }

    async fn unused_media_go_after_their_time() {
        let s = stage(|set| set.local_lifetime = Some(Duration::from_secs(100))).await;
        let (used, unused, kept) = (s.upload("used").await, s.upload("unused").await, s.upload("kept").await);
        s.media.protect(&s.alice, "example.org", &kept, true).await.unwrap();
        s.clock.advance_ms(90_000);
        s.download(&used).await.unwrap();
        s.media.sweep().await.unwrap();
        s.clock.advance_ms(20_000);
        s.media.sweep().await.unwrap();
        assert_eq!(told(s.download(&unused).await), code(404, "M_NOT_FOUND"));
        s.download(&used).await.unwrap();
        s.download(&kept).await.unwrap();
        assert_eq!(s.blobs(), 2);
    }
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::RgbImage::from_fn(width, height, |x, y| image::Rgb([(x % 256) as u8, (y % 256) as u8, 9]))
        .write_to(&mut std::io::Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    bytes
}

fn wish(width: u32, height: u32, method: Method) -> Wish {
    Wish { size: Size { width, height, method }, animated: false }
}

on_both! {
    async fn a_thumbnail_is_made_once_and_goes_with_its_image() {
        let s = stage(|_| {}).await;
        let bytes = png(500, 400);
        let medium = s.upload(bytes.clone()).await;
        let ask = |w| s.media.thumbnail("example.org", &medium, w, AUTHENTICATED);
        let (a, b) = tokio::join!(ask(wish(90, 90, Method::Crop)), ask(wish(96, 96, Method::Crop)));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a, b);
        assert_eq!(a.content_type.as_deref(), Some("image/png"));
        assert_eq!(a.file_name.as_deref(), Some("thumbnail.png"));
        let made = image::load_from_memory(&s.read(&a).await.unwrap()).unwrap();
        assert_eq!((made.width(), made.height()), (96, 96));
        assert_eq!(s.blobs(), 2);

        let whole = ask(wish(640, 480, Method::Scale)).await.unwrap();
        assert!(s.read(&whole).await.unwrap() == bytes, "small enough as it is");
        assert_eq!(whole.content_type.as_deref(), Some("image/png"), "by its bytes, not by what was said");

        s.media.thumbnails.invalidate_all();
        assert_eq!(ask(wish(96, 96, Method::Crop)).await.unwrap(), a, "found again");
        s.media.quarantine(&s.alice, "example.org", &medium).await.unwrap();
        assert_eq!(told(ask(wish(96, 96, Method::Crop)).await), code(404, "M_NOT_FOUND"));
        s.media.delete(&s.alice, "example.org", &medium).await.unwrap();
        assert_eq!(s.blobs(), 0);
    }

    async fn what_cannot_be_scaled_is_told() {
        let s = stage(|set| set.max_image_pixels = 10_000).await;
        let (text, large) = (s.upload("words").await, s.upload(png(101, 100)).await);
        for _ in 0..2 {
            let ask = |id| s.media.thumbnail("example.org", id, wish(32, 32, Method::Crop), AUTHENTICATED);
            assert_eq!(told(ask(&text).await), code(400, "M_UNKNOWN"));
            assert_eq!(told(ask(&large).await), code(413, "M_TOO_LARGE"));
        }
    }

    async fn odd_wishes_do_not_fill_the_disk() {
        let s = stage(|set| set.sizes.dynamic = true).await;
        let medium = s.upload(png(300, 200)).await;
        for width in 10..60 {
            let content = s.media.thumbnail("example.org", &medium, wish(width, 7, Method::Crop), AUTHENTICATED).await;
            assert!(content.unwrap().size > 0);
        }
        let kept = s.media.store.count_thumbnails(server_name!("example.org"), &medium).await.unwrap();
        assert!(kept <= 33, "{kept}");
    }
}
