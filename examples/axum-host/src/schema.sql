-- The host's own tables, in its own schema. Chimeway's lie beside them, in `chimeway`.
create table if not exists documents (
    id text primary key,
    comments integer not null default 0
);
insert into documents (id) values ('doc_789') on conflict do nothing;

create table if not exists comments (
    id bigint generated always as identity primary key,
    document_id text not null,
    author text not null,
    body text not null
);
