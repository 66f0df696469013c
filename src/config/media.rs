//! Media: where files are, how large they may be, thumbnails, how long they are kept, previews of links.

use std::{path::PathBuf, time::Duration};

use ruma::OwnedServerName;

use crate::read::At;

pub mod previews;

pub use previews::Previews;

/// Media.
#[derive(Clone, Debug)]
pub struct Media {
    /// Serve the media API at all.
    pub enabled: bool,
    /// New media can only be fetched with a token.
    pub authenticated: bool,
    /// Directory of the store.
    pub store_path: PathBuf,
    /// A second copy (old option, or a provider of plain files).
    pub providers: Vec<StorageProvider>,
    /// Keep files in [`Self::store_path`].
    pub keep_local: bool,
    /// Largest upload, bytes.
    pub max_upload_size: u64,
    /// Ids reserved and not uploaded yet, a user.
    pub max_pending_uploads: u32,
    /// How long such an id holds.
    pub unused_expiration: Duration,
    /// How much a user may upload in a time.
    pub upload_limits: Vec<UploadLimit>,
    /// Larger images get no thumbnail, pixels.
    pub max_image_pixels: u64,
    /// Make the very size that is asked for.
    pub dynamic_thumbnails: bool,
    /// Sizes made at upload.
    pub thumbnail_sizes: Vec<ThumbnailSize>,
    /// Bytes of remote media that one requester may make us fetch: at once, and a second.
    pub remote_download: (u64, u64),
    /// Servers whose media is neither fetched nor served.
    pub prevent_from: Vec<OwnedServerName>,
    /// Removal of local media, since the last access; none means never.
    pub local_lifetime: Option<Duration>,
    /// Removal of cached media of others.
    pub remote_lifetime: Option<Duration>,
    /// Largest avatar, bytes.
    pub max_avatar_size: Option<u64>,
    /// Types that an avatar may have; none means all.
    pub avatar_types: Option<Vec<String>>,
    /// Previews of links; none means that they are off.
    pub previews: Option<Previews>,
}

/// A further place where media is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageProvider {
    /// Directory, in the layout of the store.
    pub directory: PathBuf,
    /// Copy what local users upload.
    pub store_local: bool,
    /// Copy what is fetched from others.
    pub store_remote: bool,
    /// Wait until it is there.
    pub synchronous: bool,
}

/// How much a user may upload in a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadLimit {
    /// The time.
    pub period: Duration,
    /// Bytes in it.
    pub max_size: u64,
    /// Page about the limit.
    pub info_uri: Option<String>,
    /// Whether a user can get a higher one.
    pub can_upgrade: bool,
}

/// A size of thumbnails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThumbnailSize {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Cut to fit, not scaled into the frame.
    pub crop: bool,
}

impl Media {
    pub(crate) fn read(root: &At<'_>) -> Self {
        let avatar_types = root.get("allowed_avatar_mimetypes");
        let mut providers = root.get("media_storage_providers").each(StorageProvider::read);
        if let Some(directory) = root.get("backup_media_store_path").node().map(|_| root.get("backup_media_store_path"))
        {
            let directory = directory.path_buf();
            providers.push(StorageProvider { directory, store_local: true, store_remote: true, synchronous: false });
        }
        let keep = root.get("enable_local_media_storage");
        let keep_local = keep.bool();
        if !keep_local && providers.is_empty() {
            keep.wrong("leaves no place for media", "add a storage provider, or set it to true");
        }
        Self {
            enabled: root.get("enable_media_repo").bool(),
            authenticated: root.get("enable_authenticated_media").bool(),
            store_path: root.get("media_store_path").path_buf(),
            providers,
            keep_local,
            max_upload_size: root.get("max_upload_size").size(),
            max_pending_uploads: root.get("max_pending_media_uploads").int(),
            unused_expiration: root.get("unused_expiration_time").duration(),
            upload_limits: root.get("media_upload_limits").each(UploadLimit::read),
            max_image_pixels: root.get("max_image_pixels").size(),
            dynamic_thumbnails: root.get("dynamic_thumbnails").bool(),
            thumbnail_sizes: root.get("thumbnail_sizes").each(ThumbnailSize::read),
            remote_download: (
                root.get("remote_media_download_burst_count").size(),
                root.get("remote_media_download_per_second").size(),
            ),
            prevent_from: root.get("prevent_media_downloads_from").each(|at| at.parse("a server name")),
            local_lifetime: root.get("media_retention.local_media_lifetime").opt_duration(),
            remote_lifetime: root.get("media_retention.remote_media_lifetime").opt_duration(),
            max_avatar_size: root.get("max_avatar_size").opt_size(),
            avatar_types: avatar_types.is_set().then(|| avatar_types.strings()),
            previews: Previews::read(root),
        }
    }
}

impl StorageProvider {
    fn read(at: &At<'_>) -> Option<Self> {
        let directory = at.get("config.directory");
        if !directory.is_set() {
            directory.wrong("must be set", "name the directory that media is copied to");
            return None;
        }
        Some(Self {
            directory: directory.path_buf(),
            store_local: at.get("store_local").bool(),
            store_remote: at.get("store_remote").bool(),
            synchronous: at.get("store_synchronous").bool(),
        })
    }
}

impl UploadLimit {
    fn read(at: &At<'_>) -> Option<Self> {
        for key in ["time_period", "max_size"] {
            if !at.get(key).is_set() {
                at.get(key).wrong("must be set", "write {time_period: 1d, max_size: 1G}");
                return None;
            }
        }
        Some(Self {
            period: at.get("time_period").duration(),
            max_size: at.get("max_size").size(),
            info_uri: at.get("info_uri").opt_str(),
            can_upgrade: at.get("can_upgrade").opt_bool().unwrap_or(false),
        })
    }
}

impl ThumbnailSize {
    fn read(at: &At<'_>) -> Option<Self> {
        let size = |key: &str| {
            let at = at.get(key);
            let pixels: u32 = at.int();
            if !(1..=8192).contains(&pixels) {
                at.wrong("must be from 1 to 8192 pixels", "");
            }
            pixels
        };
        let crop = at.get("method").word(&[("crop", true), ("scale", false)])?;
        Some(Self { width: size("width"), height: size("height"), crop })
    }
}
