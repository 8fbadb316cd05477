create table chimeway.api_tokens (
    id uuid primary key,
    token_hash bytea not null constraint api_tokens_hash_unique unique,
    subject text not null,
    tenant_id text,
    acts_for_others boolean not null default false,
    created_at timestamptz not null,
    revoked_at timestamptz,
    constraint api_tokens_hash_sha256 check (octet_length(token_hash) = 32),
    constraint api_tokens_subject_not_blank check (btrim(subject) <> ''),
    constraint api_tokens_tenant_not_blank check (btrim(tenant_id) <> '')
);
comment on table chimeway.api_tokens is 'Who may call the HTTP API; the tokens themselves are kept nowhere';
comment on column chimeway.api_tokens.id is 'Time-ordered id: names the token where it is listed and revoked';
comment on column chimeway.api_tokens.token_hash is
    'SHA-256 of the token. A token is 256 random bits, so that nothing slower is needed, and looking it up by its hash tells nothing of others';
comment on column chimeway.api_tokens.subject is 'Who calls: what is done with the token is done by this one';
comment on column chimeway.api_tokens.tenant_id is 'Whose data it reaches; null: an operator''s, which reaches every tenant''s, and the workflows';
comment on column chimeway.api_tokens.acts_for_others is 'Whether a call may name somebody else as the one who acts';
comment on column chimeway.api_tokens.created_at is 'When it was made';
comment on column chimeway.api_tokens.revoked_at is 'From when on it opens nothing; null while it does';
