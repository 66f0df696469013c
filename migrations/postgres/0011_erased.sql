-- Whose events are kept from those who come later: read whole at the start.
CREATE INDEX accounts_erased ON accounts (user_nid) WHERE erased;
