-- Documents of servers' keys, as they signed them, each with a key that is in no newer one of its server; what a notary
-- hands on. The old table had the newest of each server alone, and did not say which keys are in it.
ALTER TABLE key_documents RENAME TO former_key_documents;
CREATE TABLE key_documents (
    server      TEXT NOT NULL,
    fetched_ms  BIGINT NOT NULL,
    valid_ms    BIGINT NOT NULL,
    key_ids     TEXT NOT NULL,           -- JSON array
    json        TEXT NOT NULL,
    PRIMARY KEY (server, fetched_ms)
) WITHOUT ROWID;
INSERT INTO key_documents (server, fetched_ms, valid_ms, key_ids, json)
    SELECT server, fetched_ms, valid_ms, '[]', json FROM former_key_documents;
DROP TABLE former_key_documents;
