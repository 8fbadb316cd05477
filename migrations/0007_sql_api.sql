-- What other languages call. Each function takes part in the caller's transaction, needs EXECUTE only
-- (security definer), and is immune to a caller's search_path and temporary tables. Names and meanings
-- are stable; SQLSTATEs of class CW are listed in docs/sql-api.md.

create function chimeway.refuse(code text, message text, hint text) returns void
language plpgsql
set search_path = pg_catalog, chimeway, pg_temp
as $$
begin
    raise exception using errcode = code, message = message, hint = hint;
end
$$;
comment on function chimeway.refuse(text, text, text) is 'Raises a refusal with a stable SQLSTATE';

-- What a name may be is the same here and in Rust, whatever the locale of the server: `\s` and
-- `[[:cntrl:]]` would follow that.
create function chimeway.is_blank(value text) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, chimeway, pg_temp
as $$
    select is_blank.value is null or is_blank.value !~
        '[^\u0009-\u000D\u0020\u0085\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000]'
$$;
comment on function chimeway.is_blank(text) is 'Whether a text is null, empty or nothing but white space of Unicode';

create function chimeway.is_unfit(value text, longest integer) returns boolean
language sql immutable parallel safe
set search_path = pg_catalog, chimeway, pg_temp
as $$
    select chimeway.is_blank(is_unfit.value) or octet_length(is_unfit.value) > is_unfit.longest
        or is_unfit.value ~ '[\u0001-\u001F\u007F-\u009F]'
$$;
comment on function chimeway.is_unfit(text, integer) is
    'Whether a text is no name: null, blank, longer than so many bytes, or with a control character';

-- Workers read JSON with a parser that has limits: what is beyond them could never be sent.
create function chimeway.check_json(what text, value jsonb, instead text) returns void
language plpgsql
set search_path = pg_catalog, chimeway, pg_temp
as $$
begin
    if jsonb_typeof(check_json.value) is distinct from 'object' then
        perform chimeway.refuse('CW004', format('%s is not a JSON object', check_json.what), check_json.instead);
    end if;
    -- Nearly every one is small, which costs nothing to see.
    if pg_column_size(check_json.value) > 65536 and octet_length(check_json.value::text) > 1048576 then
        perform chimeway.refuse('CW004', format('%s is longer than 1 MiB', check_json.what),
            'keep what is large in a table of your own, and its id here');
    end if;
    if jsonb_path_exists(check_json.value, 'strict $.**{101}') then
        perform chimeway.refuse('CW004', format('%s is nested deeper than 100 levels', check_json.what),
            'keep what is deeper in a table of your own, and its id here');
    end if;
    if jsonb_path_exists(check_json.value, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))') then
        perform chimeway.refuse('CW004', format('%s holds a number beyond 1e308', check_json.what),
            'write it as a text');
    end if;
end
$$;
comment on function chimeway.check_json(text, jsonb, text) is
    'Refuses what is no JSON object, or none that a worker can read';

create function chimeway.check_recipients(recipients jsonb) returns void
language plpgsql
set search_path = pg_catalog, chimeway, pg_temp
as $$
begin
    if jsonb_typeof(recipients) is distinct from 'array' or jsonb_array_length(recipients) = 0 then
        perform chimeway.refuse('CW005', 'recipients is not a list of at least one recipient',
            'write [{"identity": "user_123"}]');
    end if;
    if exists (
        select from jsonb_array_elements(recipients) r
        where jsonb_typeof(r) <> 'object'
            or jsonb_typeof(r -> 'identity') is distinct from 'string'
            or chimeway.is_unfit(r ->> 'identity', 255)
            or coalesce(jsonb_typeof(r -> 'type'), 'string') not in ('string', 'null')
            or coalesce(jsonb_typeof(r -> 'locale'), 'string') not in ('string', 'null')
            or coalesce(jsonb_typeof(r -> 'time_zone'), 'string') not in ('string', 'null')
            or coalesce(jsonb_typeof(r -> 'addresses'), 'object') not in ('object', 'null')
    ) then
        perform chimeway.refuse('CW005', 'a recipient has no identity, or a field of the wrong type',
            'write [{"identity": "user_123", "type": "user", "addresses": {"email": ".."}}]');
    end if;
    -- A line break in an address would become a header of a mail.
    if exists (
        select from jsonb_array_elements(recipients) r,
            jsonb_each(coalesce(nullif(r -> 'addresses', 'null'::jsonb), '{}')) a
        where jsonb_typeof(a.value) not in ('string', 'null')
            or jsonb_typeof(a.value) = 'string' and chimeway.is_unfit(a.value #>> '{}', 2048)
            or chimeway.is_unfit(a.key, 255)
    ) then
        perform chimeway.refuse('CW010',
            'an address of a recipient is no text, blank, longer than 2048 bytes or holds a control character',
            'write {"email": "ada@example.com"}, on one line; null forgets an address');
    end if;
    if exists (
        select from jsonb_array_elements(recipients) r
        where r ->> 'locale' !~ '^[A-Za-z]{2,8}([_-][A-Za-z0-9]{1,8})*$' or octet_length(r ->> 'locale') > 64
    ) then
        perform chimeway.refuse('CW012', 'the locale of a recipient is not a language tag',
            'write a BCP 47 tag such as en-GB, or leave it out');
    end if;
end
$$;
comment on function chimeway.check_recipients(jsonb) is 'Refuses recipients that no worker could expand';

-- The list of zones is read from files and takes tens of milliseconds: only for what is new.
create function chimeway.has_unknown_zone(tenant_id text, recipients jsonb) returns boolean
language sql stable
set search_path = pg_catalog, chimeway, pg_temp
as $$
    with given as materialized (
        select r ->> 'time_zone' as zone
        from jsonb_array_elements(has_unknown_zone.recipients) r
        where r ->> 'time_zone' is not null and not exists (
            select from chimeway.recipients known
            where known.tenant_id = has_unknown_zone.tenant_id and known.identity = r ->> 'identity'
                and known.time_zone = r ->> 'time_zone'
        )
    )
    select case
        when exists (select from given)
        then exists (select from given where zone not in (select name from pg_timezone_names))
        else false
    end
$$;
comment on function chimeway.has_unknown_zone(text, jsonb) is
    'Whether one of these recipients has a time zone, not stored with it yet, that is not an IANA name';

create function chimeway.check_zones(tenant_id text, recipients jsonb) returns void
language plpgsql
set search_path = pg_catalog, chimeway, pg_temp
as $$
begin
    if chimeway.has_unknown_zone(check_zones.tenant_id, check_zones.recipients) then
        perform chimeway.refuse('CW011', 'the time zone of a recipient is not known',
            'write an IANA name such as Europe/London; pg_timezone_names has them all');
    end if;
end
$$;
comment on function chimeway.check_zones(text, jsonb) is 'Refuses recipients in time zones that do not exist';

-- In order of identity, so that two sessions cannot deadlock. Only hosts' transactions call it: a worker
-- would have to wait for a row that a host holds.
create function chimeway.upsert_recipients(tenant_id text, recipients jsonb) returns void
language sql volatile
set search_path = pg_catalog, chimeway, pg_temp
as $$
    insert into chimeway.recipients as known (tenant_id, identity, type, addresses, locale, time_zone, updated_at)
    select distinct on (r ->> 'identity')
        upsert_recipients.tenant_id, r ->> 'identity', r ->> 'type',
        coalesce(nullif(r -> 'addresses', 'null'::jsonb), '{}'), r ->> 'locale', r ->> 'time_zone', chimeway.now()
    from jsonb_array_elements(upsert_recipients.recipients) r
    where r ->> 'locale' is not null or r ->> 'time_zone' is not null
        or coalesce(nullif(r -> 'addresses', 'null'::jsonb), '{}') <> '{}'
    order by r ->> 'identity'
    on conflict (tenant_id, identity) do update
    set type = coalesce(excluded.type, known.type),
        addresses = jsonb_strip_nulls(known.addresses || excluded.addresses),
        locale = coalesce(excluded.locale, known.locale),
        time_zone = coalesce(excluded.time_zone, known.time_zone),
        updated_at = excluded.updated_at
$$;
comment on function chimeway.upsert_recipients(text, jsonb) is
    'Stores how recipients are reached, where that is given; what is not given keeps what is stored';

create function chimeway.trigger(
    workflow text,
    params jsonb,
    tenant_id text,
    recipients jsonb default null,
    idempotency_key text default null,
    correlation_id text default null
) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
declare
    called_at timestamptz := chimeway.clock();
    is_active boolean;
    definition uuid;
    event uuid := chimeway.uuid_v7();
    known record;
    too_deep boolean := chimeway.depth() > 16;
    rounds integer := 0;
begin
    if chimeway.is_unfit(trigger.tenant_id, 255) then
        perform chimeway.refuse('CW003', 'the tenant is blank, longer than 255 bytes or holds a control character',
            'pass tenant_id, for example tenant_id => ''org_456''');
    end if;
    perform chimeway.check_json('params', trigger.params, 'write {"actor_id": "user_123", ..}');
    if trigger.idempotency_key is not null
        and (chimeway.is_blank(trigger.idempotency_key) or octet_length(trigger.idempotency_key) > 255) then
        perform chimeway.refuse('CW006', 'the idempotency key is blank or longer than 255 bytes',
            'leave it out, or pass what makes this trigger unique');
    end if;
    if trigger.recipients is not null then
        perform chimeway.check_recipients(trigger.recipients);
        perform chimeway.check_zones(trigger.tenant_id, trigger.recipients);
    elsif jsonb_typeof(trigger.params -> 'actor_id') is distinct from 'string'
        or chimeway.is_unfit(trigger.params ->> 'actor_id', 255) then
        perform chimeway.refuse('CW005', 'there is no recipient: neither recipients nor params.actor_id is given',
            'pass recipients => ''[{"identity": "user_123"}]''');
    end if;

    -- A key is free again when its event is pruned, which may happen between two looks: then once more.
    loop
        -- A repeated key first: it returns what it began, also when the workflow has been paused since.
        if trigger.idempotency_key is not null then
            select e.id, e.workflow_key into known from chimeway.events e
            where e.tenant_id = trigger.tenant_id and e.idempotency_key = trigger.idempotency_key;
            if found then
                return chimeway.same_trigger(known.id, known.workflow_key, trigger.workflow);
            end if;
        end if;

        select w.active into is_active from chimeway.workflows w where w.workflow_key = trigger.workflow;
        if not found then
            perform chimeway.refuse('CW001', format('there is no workflow %L', trigger.workflow),
                'apply its document with `chimeway workflows apply`; `chimeway workflows list` shows what there is');
        elsif not is_active then
            perform chimeway.refuse('CW002', format('the workflow %L is paused', trigger.workflow),
                format('resume it with `chimeway workflows resume %s`', trigger.workflow));
        end if;
        select d.id into definition from chimeway.workflow_definitions d
        where d.workflow_key = trigger.workflow
        order by d.workflow_version desc limit 1;

        insert into chimeway.events (
            id, tenant_id, workflow_key, workflow_definition_id, params, recipients,
            correlation_id, idempotency_key, occurred_at, inserted_at, expand_at, quarantine_reason, depth
        ) values (
            event, trigger.tenant_id, trigger.workflow, definition, trigger.params,
            (
                -- Addresses live in one place, with the recipient.
                select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('identity', r -> 'identity', 'type', r -> 'type')))
                from jsonb_array_elements(trigger.recipients) r
            ),
            trigger.correlation_id, trigger.idempotency_key, called_at, called_at,
            case when not too_deep then called_at end, case when too_deep then 'depth_exceeded' end, chimeway.depth()
        )
        on conflict (tenant_id, idempotency_key) where idempotency_key is not null do nothing;
        exit when found;
        -- Another session committed the same key meanwhile: a new statement sees its row. Where that snapshot
        -- cannot see it, the caller has to repeat its transaction.
        rounds := rounds + 1;
        if rounds = 10 then
            raise exception using errcode = 'serialization_failure',
                message = 'another transaction used the idempotency key',
                hint = 'repeat the transaction';
        end if;
    end loop;

    if trigger.recipients is not null then
        perform chimeway.upsert_recipients(trigger.tenant_id, trigger.recipients);
    end if;
    perform chimeway.wake('chimeway_workflows');
    return event;
end
$$;
comment on function chimeway.trigger(text, jsonb, text, jsonb, text, text) is
    'Starts a workflow for each recipient, in the caller''s transaction; returns the event''s id. A repeated idempotency key returns the first event and writes nothing; a second caller waits while the first one''s transaction is open';

create function chimeway.same_trigger(event uuid, first_workflow text, workflow text) returns uuid
language plpgsql
set search_path = pg_catalog, chimeway, pg_temp
as $$
begin
    if first_workflow is distinct from workflow then
        perform chimeway.refuse('CW007', format('the idempotency key was used for the workflow %L', first_workflow),
            'use another key for another workflow');
    end if;
    return event;
end
$$;
comment on function chimeway.same_trigger(uuid, text, text) is 'The event of a repeated key, if it is the same workflow''s';

-- The id of the notification a payload is about, where it names one of ours.
create function chimeway.notification_of(payload jsonb) returns uuid
language sql immutable
set search_path = pg_catalog, chimeway, pg_temp
as $$
    select case
        when payload ->> 'notification_id' ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
        then (payload ->> 'notification_id')::uuid
    end
$$;
comment on function chimeway.notification_of(jsonb) is 'The notification a signal''s payload names, or null';

-- The id of the delivery a payload is about, where it names one of ours.
create function chimeway.delivery_of(payload jsonb) returns uuid
language sql immutable
set search_path = pg_catalog, chimeway, pg_temp
as $$
    select case
        when payload ->> 'delivery_id' ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
        then (payload ->> 'delivery_id')::uuid
    end
$$;
comment on function chimeway.delivery_of(jsonb) is 'The delivery a signal''s payload names, or null';

create function chimeway.track(
    tenant_id text,
    actor_id text,
    event_name text,
    payload jsonb default '{}'
) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
declare
    called_at timestamptz := chimeway.clock();
    signal uuid := chimeway.uuid_v7();
begin
    if chimeway.is_unfit(track.tenant_id, 255) then
        perform chimeway.refuse('CW003', 'the tenant is blank, longer than 255 bytes or holds a control character',
            'pass tenant_id, for example tenant_id => ''org_456''');
    end if;
    if chimeway.is_unfit(track.actor_id, 255) then
        perform chimeway.refuse('CW008', 'the actor is blank, longer than 255 bytes or holds a control character',
            'pass actor_id, for example actor_id => ''user_123''');
    end if;
    if chimeway.is_unfit(track.event_name, 255) then
        perform chimeway.refuse('CW009', 'the event name is blank, longer than 255 bytes or holds a control character',
            'pass event_name, for example event_name => ''notification_read''');
    end if;
    perform chimeway.check_json('payload', track.payload, 'write {} where there is nothing to say');
    insert into chimeway.signals (id, tenant_id, actor_id, event_name, payload, notification_id, occurred_at, route_at)
    values (signal, track.tenant_id, track.actor_id, track.event_name, track.payload,
        chimeway.notification_of(track.payload), called_at, called_at);
    perform chimeway.wake('chimeway_signals');
    return signal;
end
$$;
comment on function chimeway.track(text, text, text, jsonb) is
    'Tells what an actor did, in the caller''s transaction; returns the signal''s id. It counts for every run of that actor that began before';

create function chimeway.upsert_recipient(
    tenant_id text,
    identity text,
    addresses jsonb,
    locale text default null,
    time_zone text default null
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
declare
    given jsonb := jsonb_build_array(jsonb_build_object(
        'identity', upsert_recipient.identity, 'addresses', upsert_recipient.addresses,
        'locale', upsert_recipient.locale, 'time_zone', upsert_recipient.time_zone
    ));
begin
    if chimeway.is_unfit(upsert_recipient.tenant_id, 255) then
        perform chimeway.refuse('CW003', 'the tenant is blank, longer than 255 bytes or holds a control character',
            'pass tenant_id, for example tenant_id => ''org_456''');
    end if;
    perform chimeway.check_recipients(given);
    perform chimeway.check_zones(upsert_recipient.tenant_id, given);
    perform chimeway.upsert_recipients(upsert_recipient.tenant_id, given);
end
$$;
comment on function chimeway.upsert_recipient(text, text, jsonb, text, text) is
    'Stores how a recipient is reached, in the caller''s transaction; what is not given keeps what is stored, and an address that is null is forgotten. It counts for messages that are claimed from then on';

create function chimeway.set_preference(
    tenant_id text,
    identity text,
    kind text,
    name text,
    enabled boolean
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
begin
    if chimeway.is_unfit(set_preference.tenant_id, 255) then
        perform chimeway.refuse('CW003', 'the tenant is blank, longer than 255 bytes or holds a control character',
            'pass tenant_id, for example tenant_id => ''org_456''');
    end if;
    if chimeway.is_unfit(set_preference.identity, 255) then
        perform chimeway.refuse('CW005', 'the recipient is blank, longer than 255 bytes or holds a control character',
            'pass identity, for example identity => ''user_123''');
    end if;
    if coalesce(set_preference.kind, '') not in ('channel', 'category')
        or chimeway.is_unfit(set_preference.name, 255) or set_preference.enabled is null then
        perform chimeway.refuse('CW013',
            'a preference is about a channel or a category, names it in at most 255 bytes, and is true or false',
            'write chimeway.set_preference(''org_456'', ''user_123'', ''channel'', ''email'', false)');
    end if;
    insert into chimeway.preferences as known (tenant_id, recipient, kind, name, enabled, updated_at)
    values (set_preference.tenant_id, set_preference.identity, set_preference.kind, set_preference.name,
        set_preference.enabled, chimeway.now())
    on conflict (tenant_id, recipient, kind, name) do update
    set enabled = excluded.enabled, updated_at = excluded.updated_at;
end
$$;
comment on function chimeway.set_preference(text, text, text, text, boolean) is
    'Says whether a recipient wants messages over a channel, or of a category, in the caller''s transaction; the last word counts, for messages that are claimed from then on';

-- Waits until whoever is claiming unsent messages of these runs lets go, a tenth of a second at most, and says
-- whether it did. The locks come from waiting and are given back at once, by an error that is caught: were they
-- kept, the result of what has just been claimed could not be recorded until the caller commits.
create function chimeway.await_claims(runs uuid[]) returns boolean
language plpgsql volatile
set search_path = pg_catalog, chimeway, pg_temp
set lock_timeout = '100ms'
as $$
begin
    perform from chimeway.deliveries d
    where d.workflow_run_id = any(await_claims.runs) and d.status in ('pending', 'failed')
    order by d.id
    for no key update;
    raise exception using errcode = 'raise_exception';
exception
    when lock_not_available then
        return false;
    when raise_exception then
        return true;
end
$$;
comment on function chimeway.await_claims(uuid[]) is
    'Waits up to 100 ms for claims in progress of what runs still had to send; keeps no lock';

-- The compare-and-set of a cancellation: of these runs, the live ones that nobody has cancelled yet. What
-- they still had to send is cancelled at once: a claim that began before this commits has looked at the
-- run as it was, but it takes no message that is not pending any more.
create function chimeway.request_cancel(
    tenant_id text,
    runs uuid[],
    made_by text,
    reason text
) returns setof uuid
language plpgsql volatile
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
declare
    asked uuid[];
begin
    with locked as materialized (
        select r.id
        from chimeway.workflow_runs r
        where r.id = any(request_cancel.runs) and r.tenant_id = request_cancel.tenant_id
            and r.ended_at is null and r.cancel_requested_at is null
        order by r.id
        for no key update
    ), cancelled as (
        update chimeway.workflow_runs r
        set cancel_requested_at = chimeway.now(), wake_at = chimeway.now()
        from locked
        where r.id = locked.id
        returning r.id, r.tenant_id, r.cancel_requested_at
    ), stamped as (
        insert into chimeway.interventions (id, tenant_id, kind, subject, subject_id, made_by, reason, made_at)
        select chimeway.uuid_v7(), c.tenant_id, 'cancel', 'run', c.id, request_cancel.made_by,
            request_cancel.reason, c.cancel_requested_at
        from cancelled c
    )
    select array_agg(c.id order by c.id) into asked from cancelled c;
    if asked is null then
        return;
    end if;
    for round in 1..3 loop
        -- A later statement: it sees what was planned while this one waited for a run.
        with unsent as materialized (
            select d.id
            from chimeway.deliveries d
            where d.workflow_run_id = any(asked) and d.status in ('pending', 'failed')
            order by d.id
            for no key update skip locked
        )
        update chimeway.deliveries d
        set status = 'cancelled', status_reason = 'cancelled', next_attempt_at = null, updated_at = chimeway.now()
        from unsent
        where d.id = unsent.id;
        -- One that a worker claims at this moment is on its way in a millisecond, and the caller is told so; or
        -- its claim fails, and the next round has it.
        exit when not exists (
            select from chimeway.deliveries d
            where d.workflow_run_id = any(asked) and d.status in ('pending', 'failed')
        ) or not chimeway.await_claims(asked);
    end loop;
    return query select * from unnest(asked);
end
$$;
comment on function chimeway.request_cancel(text, uuid[], text, text) is
    'Asks for the end of runs of one tenant, cancels what they had to send and stamps who and why; returns those that were live and not cancelled before';

create function chimeway.cancel(
    tenant_id text,
    run_id uuid,
    reason text default null
) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
begin
    if octet_length(cancel.reason) > 1000 then
        perform chimeway.refuse('CW014', 'the reason is longer than 1000 bytes', 'say it shorter');
    end if;
    -- Not current_user: under security definer that is the owner of this function.
    perform chimeway.request_cancel(cancel.tenant_id, array[cancel.run_id], session_user::text, cancel.reason);
    if not found then
        return false;
    end if;
    perform chimeway.wake('chimeway_workflows');
    return true;
end
$$;
comment on function chimeway.cancel(text, uuid, text) is
    'Asks for the end of a run, in the caller''s transaction: once that has committed nothing more is sent for it, but what a worker was sending already, and a worker ends it. False where that tenant has no such live run, or it was cancelled before';

-- Nobody calls these but by a grant (deploy/grants.sql gives them to a role).
revoke execute on all functions in schema chimeway from public;
