-- Previews of links: what clients were answered, and the images that were fetched for it.

CREATE TABLE url_previews (
    key        TEXT NOT NULL,            -- BLAKE3 of the address
    fetched_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    json       TEXT NOT NULL,            -- the answer
    PRIMARY KEY (key, fetched_ms)
);
CREATE INDEX url_previews_expiry ON url_previews (expires_ms);

-- Media of ours that nobody uploaded: they go with their time.
CREATE TABLE preview_media (
    media_id   TEXT PRIMARY KEY,
    size       BIGINT NOT NULL,          -- bytes
    expires_ms BIGINT NOT NULL
);
CREATE INDEX preview_media_expiry ON preview_media (expires_ms);
