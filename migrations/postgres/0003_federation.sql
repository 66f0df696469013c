-- Other servers: how they fare, and whose signatures we can check.

-- Servers that could not be reached lately; the others have no row.
CREATE TABLE destinations (
    server      TEXT PRIMARY KEY,
    failing_ms  BIGINT NOT NULL,         -- since when
    retry_ms    BIGINT NOT NULL,         -- not to be called before
    interval_ms BIGINT NOT NULL          -- the pause that ends then
);

-- Public keys of other servers, those that no longer sign too: old events still need them.
CREATE TABLE server_keys (
    server      TEXT NOT NULL,
    key_id      TEXT NOT NULL,           -- ed25519:...
    public_key  TEXT NOT NULL,           -- unpadded base64
    valid_ms    BIGINT NOT NULL,         -- what it signed until then is believed
    old         BOOLEAN NOT NULL,        -- signs no requests any more
    PRIMARY KEY (server, key_id)
);

-- The newest document of a server, as it signed it; what a notary hands on.
CREATE TABLE key_documents (
    server      TEXT PRIMARY KEY,
    json        TEXT NOT NULL,
    valid_ms    BIGINT NOT NULL,
    fetched_ms  BIGINT NOT NULL
);
