-- Accounts, sessions, devices, keys. Tokens are kept as SHA-256, so that a stolen database opens no door.

CREATE TABLE accounts (
    user_nid        BIGINT PRIMARY KEY,
    password_hash   TEXT,                -- PHC string (argon2id) or bcrypt; NULL: no password login
    admin           BOOLEAN NOT NULL,
    guest           BOOLEAN NOT NULL,
    user_type       TEXT,
    appservice_id   TEXT,
    created_ms      BIGINT NOT NULL,
    deactivated     BOOLEAN NOT NULL,
    erased          BOOLEAN NOT NULL,
    locked          BOOLEAN NOT NULL,
    suspended       BOOLEAN NOT NULL,
    shadow_banned   BOOLEAN NOT NULL,
    approved        BOOLEAN NOT NULL,
    consent_version TEXT,
    consent_ms      BIGINT
);

CREATE TABLE threepids (
    medium       TEXT NOT NULL,
    address      TEXT NOT NULL,
    user_nid     BIGINT NOT NULL,
    validated_ms BIGINT NOT NULL,
    added_ms     BIGINT NOT NULL,
    PRIMARY KEY (medium, address)
);
CREATE INDEX threepids_user ON threepids (user_nid);

CREATE TABLE profiles (
    user_nid  BIGINT NOT NULL,
    field     TEXT NOT NULL,             -- displayname, avatar_url, m.tz, ...
    value     TEXT NOT NULL,             -- JSON
    PRIMARY KEY (user_nid, field)
);

CREATE TABLE devices (
    user_nid      BIGINT NOT NULL,
    device_id     TEXT NOT NULL,
    display_name  TEXT,
    created_ms    BIGINT NOT NULL,
    last_seen_ms  BIGINT,
    last_seen_ip  TEXT,
    user_agent    TEXT,
    PRIMARY KEY (user_nid, device_id)
);

CREATE TABLE access_tokens (
    token_hash   BYTEA PRIMARY KEY,
    user_nid     BIGINT NOT NULL,
    device_id    TEXT,
    created_ms   BIGINT NOT NULL,
    expires_ms   BIGINT,
    refresh_hash BYTEA,                   -- the refresh token it came with
    used         BOOLEAN NOT NULL,
    puppet_of    BIGINT                  -- admin who acts as this user
);
CREATE INDEX access_tokens_device ON access_tokens (user_nid, device_id);
CREATE INDEX access_tokens_refresh ON access_tokens (refresh_hash) WHERE refresh_hash IS NOT NULL;

CREATE TABLE refresh_tokens (
    token_hash   BYTEA PRIMARY KEY,
    user_nid     BIGINT NOT NULL,
    device_id    TEXT NOT NULL,
    next_hash    BYTEA,                   -- set once used; the old one dies when the new one is used
    expires_ms   BIGINT,
    ultimate_ms  BIGINT                  -- end of the whole session
);
CREATE INDEX refresh_tokens_device ON refresh_tokens (user_nid, device_id);
CREATE INDEX refresh_tokens_next ON refresh_tokens (next_hash) WHERE next_hash IS NOT NULL;

CREATE TABLE login_tokens (
    token_hash   BYTEA PRIMARY KEY,
    user_nid     BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL,
    used         BOOLEAN NOT NULL
);

CREATE TABLE registration_tokens (
    token        TEXT PRIMARY KEY,
    uses_allowed BIGINT,
    pending      BIGINT NOT NULL,
    completed    BIGINT NOT NULL,
    expires_ms   BIGINT
);

-- User-interactive authentication in progress (spec: client-server API, "User-Interactive Authentication API").
CREATE TABLE uia_sessions (
    session_id   TEXT PRIMARY KEY,
    created_ms   BIGINT NOT NULL,
    user_nid     BIGINT,                 -- who it is bound to, unless registering
    operation    TEXT NOT NULL,          -- method and path it was begun for
    request      TEXT NOT NULL,          -- parameters of the first request, JSON
    completed    TEXT NOT NULL           -- stages done and their results, JSON
);

CREATE TABLE openid_tokens (
    token_hash   BYTEA PRIMARY KEY,
    user_nid     BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL
);

CREATE TABLE device_keys (
    user_nid   BIGINT NOT NULL,
    device_id  TEXT NOT NULL,
    json       TEXT NOT NULL,            -- as uploaded, with its own signatures
    PRIMARY KEY (user_nid, device_id)
);

CREATE TABLE one_time_keys (
    user_nid   BIGINT NOT NULL,
    device_id  TEXT NOT NULL,
    algorithm  TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    json       TEXT NOT NULL,
    added_ms   BIGINT NOT NULL,          -- later uploads have later ones, whatever the clock says
    PRIMARY KEY (user_nid, device_id, algorithm, added_ms, key_id)
);

CREATE TABLE fallback_keys (
    user_nid   BIGINT NOT NULL,
    device_id  TEXT NOT NULL,
    algorithm  TEXT NOT NULL,
    key_id     TEXT NOT NULL,
    json       TEXT NOT NULL,
    used       BOOLEAN NOT NULL,
    PRIMARY KEY (user_nid, device_id, algorithm)
);

CREATE TABLE cross_signing_keys (
    user_nid   BIGINT NOT NULL,
    usage      TEXT NOT NULL,            -- master, self_signing, user_signing
    json       TEXT NOT NULL,
    PRIMARY KEY (user_nid, usage)
);

-- Signatures on devices and cross-signing keys, added after these were uploaded.
CREATE TABLE key_signatures (
    target_nid  BIGINT NOT NULL,         -- whose key or device is signed
    target_key  TEXT NOT NULL,           -- device id, or public key of a cross-signing key
    signer_nid  BIGINT NOT NULL,
    key_id      TEXT NOT NULL,           -- ed25519:...
    signature   TEXT NOT NULL,
    pos         BIGINT NOT NULL,         -- when it was made, for the signer's own devices
    PRIMARY KEY (target_nid, target_key, signer_nid, key_id)
);
CREATE INDEX key_signatures_signer ON key_signatures (signer_nid, pos);

-- When a user's devices or keys last changed.
CREATE TABLE device_lists (
    user_nid  BIGINT PRIMARY KEY,
    pos       BIGINT NOT NULL
);
CREATE INDEX device_lists_pos ON device_lists (pos);

CREATE TABLE key_backups (
    user_nid   BIGINT NOT NULL,
    version    BIGINT NOT NULL,
    algorithm  TEXT NOT NULL,
    auth_data  TEXT NOT NULL,
    etag       BIGINT NOT NULL,          -- counts changes of the sessions
    sessions   BIGINT NOT NULL,          -- how many there are
    deleted    BOOLEAN NOT NULL,
    PRIMARY KEY (user_nid, version)
);

CREATE TABLE key_backup_sessions (
    user_nid    BIGINT NOT NULL,
    version     BIGINT NOT NULL,
    room_id     TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    first_index BIGINT NOT NULL,
    forwarded   BIGINT NOT NULL,
    verified    BOOLEAN NOT NULL,
    data        TEXT NOT NULL,
    PRIMARY KEY (user_nid, version, room_id, session_id)
);

-- Messages from device to device, until the recipient's next sync says they arrived.
CREATE TABLE to_device (
    user_nid   BIGINT NOT NULL,
    device_id  TEXT NOT NULL,
    id         BIGINT NOT NULL,          -- a log position: the order of arrival
    json       TEXT NOT NULL,            -- {type, sender, content}
    PRIMARY KEY (user_nid, device_id, id)
);

-- Transaction ids of sendToDevice.
CREATE TABLE to_device_txns (
    user_nid   BIGINT NOT NULL,
    device_id  TEXT NOT NULL,
    txn_id     TEXT NOT NULL,
    sent_ms    BIGINT NOT NULL,
    PRIMARY KEY (user_nid, device_id, txn_id)
);

CREATE TABLE media (
    server_name  TEXT NOT NULL,
    media_id     TEXT NOT NULL,
    user_nid     BIGINT,                 -- uploader, if local
    blob         TEXT,                   -- name in the blob store; NULL: announced, not uploaded yet
    content_type TEXT,
    file_name    TEXT,
    size         BIGINT NOT NULL,
    created_ms   BIGINT NOT NULL,
    accessed_ms  BIGINT NOT NULL,
    quarantined_by TEXT,
    protected    BOOLEAN NOT NULL,
    authenticated BOOLEAN NOT NULL,      -- came after unauthenticated downloads were frozen
    expires_ms   BIGINT,                 -- of an announced upload
    PRIMARY KEY (server_name, media_id)
);
CREATE INDEX media_user ON media (user_nid, created_ms);
CREATE INDEX media_blob ON media (blob);
CREATE INDEX media_announced ON media (expires_ms) WHERE blob IS NULL;

CREATE TABLE thumbnails (
    server_name  TEXT NOT NULL,
    media_id     TEXT NOT NULL,
    width        BIGINT NOT NULL,
    height       BIGINT NOT NULL,
    method       TEXT NOT NULL,
    animated     BOOLEAN NOT NULL,
    content_type TEXT NOT NULL,
    blob         TEXT NOT NULL,
    size         BIGINT NOT NULL,
    PRIMARY KEY (server_name, media_id, width, height, method, animated)
);
CREATE INDEX thumbnails_blob ON thumbnails (blob);

CREATE TABLE reports (
    id          BIGINT PRIMARY KEY,
    received_ms BIGINT NOT NULL,
    user_nid    BIGINT NOT NULL,
    room_id     TEXT,
    event_id    TEXT,
    target_id   TEXT,
    reason      TEXT,
    score       BIGINT
);

-- Where a user wants to be told of events (spec: push module). One app and key may serve several users.
CREATE TABLE pushers (
    user_nid     BIGINT NOT NULL,
    app_id       TEXT NOT NULL,
    pushkey      TEXT NOT NULL,
    device_id    TEXT,                   -- of the session that set it; the pusher goes with the device
    kind         TEXT NOT NULL,          -- http, email
    app_name     TEXT NOT NULL,
    device_name  TEXT NOT NULL,
    profile_tag  TEXT,
    lang         TEXT NOT NULL,
    data         TEXT NOT NULL,          -- JSON object
    enabled      BOOLEAN NOT NULL,
    created_ms   BIGINT NOT NULL,
    pos          BIGINT NOT NULL,        -- pushed up to here
    PRIMARY KEY (user_nid, app_id, pushkey)
);
CREATE INDEX pushers_key ON pushers (app_id, pushkey);
