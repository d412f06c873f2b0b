-- Who may ask the API for what.

CREATE TABLE api_keys (
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9]{10}$'),
    name text NOT NULL,
    sha256 bytea NOT NULL CHECK (length(sha256) = 32),
    scopes text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'write', 'admin']),
    domains text[],
    districts text[],
    tags jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    CHECK (NOT 'admin' = ANY(scopes) OR (domains IS NULL AND districts IS NULL AND tags = '[]'))
);
COMMENT ON TABLE api_keys IS
    'sha256: of the secret, which has 256 random bits and is shown once; a slow hash would add nothing to that. domains, districts: any of '
    'them, NULL: all; tags: [[name, value], …], all of them, a null for whatever value. Rows are revoked, never deleted.';

-- Whoever may read every table need not read this one. The role is there where citybeat runs the servers.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'grafana') THEN
        REVOKE ALL ON api_keys FROM grafana;
    END IF;
END $$;

CREATE FUNCTION visible_sources(domains text[], districts text[], tags jsonb[], tag_names text[]) RETURNS SETOF sources
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT s.* FROM sources s
    WHERE EXISTS (SELECT FROM devices d WHERE d.source_id = s.id)
        AND NOT EXISTS (
            SELECT FROM devices d
            WHERE d.source_id = s.id AND d.id NOT IN (
                SELECT v.id FROM selected_devices(NULL, visible_sources.domains, visible_sources.districts, visible_sources.tags,
                    visible_sources.tag_names, NULL, NULL, true) v));
END;
COMMENT ON FUNCTION visible_sources IS
    'What is counted by source is shown to a restricted key only if every device of the source, retired or not, is within the key''s '
    'restriction: what a gateway carries for others is nobody else''s business.';
