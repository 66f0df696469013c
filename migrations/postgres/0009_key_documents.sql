-- Documents of servers' keys, as they signed them, each with a key that is in no newer one of its server; what a notary
-- hands on. The table had the newest of each server alone, and did not say which keys are in it.
ALTER TABLE key_documents ADD COLUMN key_ids TEXT NOT NULL DEFAULT '[]';  -- JSON array
ALTER TABLE key_documents ALTER COLUMN key_ids DROP DEFAULT;
ALTER TABLE key_documents DROP CONSTRAINT key_documents_pkey;
ALTER TABLE key_documents ADD PRIMARY KEY (server, fetched_ms);
