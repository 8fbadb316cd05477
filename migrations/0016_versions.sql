-- Which programs may work on which schema, so that workers of two releases run side by side while one takes the
-- other's place. `chimeway migrate` writes a row for each migration before it applies it, from the line
-- `-- works-from: N` of its file.

create table chimeway.schema_versions (
    version bigint primary key,
    works_from bigint not null,
    announced_at timestamptz not null,
    constraint schema_versions_works_from check (works_from <= version)
);
comment on table chimeway.schema_versions is
    'Which programs may work on the schema once a migration is applied; written before it is, so that others stop in time';
comment on column chimeway.schema_versions.version is 'The migration';
comment on column chimeway.schema_versions.works_from is
    'A program may go on that knows this version or a later one; the version itself: only who knows it';
comment on column chimeway.schema_versions.announced_at is 'When it was said';

create function chimeway.first_foreign_version(known bigint) returns bigint
language plpgsql stable
set search_path = pg_catalog, chimeway, pg_temp
as $$
begin
    return (
        select min(beyond.version)
        from (
            -- What nothing is said of is not for a program that does not know it.
            select m.version
            from chimeway._sqlx_migrations m
            left join chimeway.schema_versions v on v.version = m.version
            where m.success and m.version > first_foreign_version.known
                and (v.works_from is null or v.works_from > first_foreign_version.known)
            union all
            select v.version
            from chimeway.schema_versions v
            where v.version > first_foreign_version.known and v.works_from > first_foreign_version.known
        ) beyond
    );
end
$$;
comment on function chimeway.first_foreign_version(bigint) is
    'The first version, applied or announced, that a program which knows this one cannot work with; null: it may go on';
revoke execute on function chimeway.first_foreign_version(bigint) from public;
