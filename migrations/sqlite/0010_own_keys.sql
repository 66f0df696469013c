-- When a cross-signing key was put, for its owner's own devices: a user-signing key is no news to anybody else.
ALTER TABLE cross_signing_keys ADD COLUMN pos BIGINT NOT NULL DEFAULT 0;
