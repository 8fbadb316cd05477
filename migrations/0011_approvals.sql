create table chimeway.approvals (
    id uuid primary key,
    workflow_run_id uuid not null,
    workflow_step_id uuid not null,
    visit integer not null,
    tenant_id text not null,
    assignee_kind text not null,
    assignee text not null,
    opened_at timestamptz not null,
    deadline timestamptz,
    decision text,
    decided_by text,
    decided_at timestamptz,
    note text,
    constraint approvals_visit_unique unique (workflow_run_id, visit),
    constraint approvals_assignee_kind check (assignee_kind in ('user', 'role')),
    constraint approvals_decision check (decision in ('approved', 'rejected', 'timed_out', 'withdrawn')),
    constraint approvals_decided check ((decision is null) = (decided_at is null)),
    constraint approvals_decided_by check ((decision in ('approved', 'rejected')) = (decided_by is not null))
);
comment on table chimeway.approvals is
    'Decisions that people are asked for, one per visit of an approval step. Written by whoever has locked the run, and decided once';
comment on column chimeway.approvals.id is 'Time-ordered id; the history of the run names it';
comment on column chimeway.approvals.workflow_run_id is 'Of which run';
comment on column chimeway.approvals.workflow_step_id is 'Of which step';
comment on column chimeway.approvals.visit is 'Of which visit';
comment on column chimeway.approvals.tenant_id is 'Whose it is';
comment on column chimeway.approvals.assignee_kind is 'user, or role: whoever has it at the time of the decision';
comment on column chimeway.approvals.assignee is 'Which user or role may decide';
comment on column chimeway.approvals.opened_at is 'When the step was entered';
comment on column chimeway.approvals.deadline is 'When a worker closes it; a decision that commits before that worker counts. Null: never';
comment on column chimeway.approvals.decision is
    'approved, rejected, timed_out, or withdrawn: the run left without one; null while it is open';
comment on column chimeway.approvals.decided_by is 'Who approved or rejected, in the host''s words';
comment on column chimeway.approvals.decided_at is 'When';
comment on column chimeway.approvals.note is 'What they said about it';
create index approvals_open on chimeway.approvals (tenant_id, assignee_kind, assignee, id) where decision is null;

create table chimeway.role_members (
    tenant_id text not null,
    role text not null,
    member text not null,
    added_at timestamptz not null,
    primary key (tenant_id, role, member)
);
comment on table chimeway.role_members is 'Who may decide as what; looked at when somebody decides';
comment on column chimeway.role_members.tenant_id is 'Whose it is';
comment on column chimeway.role_members.role is 'As what: manager';
comment on column chimeway.role_members.member is 'Who, in the host''s words';
comment on column chimeway.role_members.added_at is 'When they were given it';
create index role_members_roles on chimeway.role_members (tenant_id, member, role);

-- The one place where a person decides. The run is locked first, as by everybody who writes its approvals;
-- what decided it meanwhile is seen by the statements after that.
create function chimeway.decide(
    tenant_id text,
    run_id uuid,
    decision text,
    decided_by text,
    note text
) returns table (answer text, approval uuid, won text, won_by text, won_at timestamptz)
language plpgsql volatile
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
declare
    run record;
    known record;
begin
    select r.visit, r.state = 'waiting' and r.cancel_requested_at is null as open into run
    from chimeway.workflow_runs r
    where r.id = decide.run_id and r.tenant_id = decide.tenant_id
    for no key update;
    if not found then
        return query select 'not_found', null::uuid, null::text, null::text, null::timestamptz;
        return;
    end if;
    update chimeway.approvals a
    set decision = decide.decision, decided_by = decide.decided_by, decided_at = chimeway.clock(), note = decide.note
    where a.workflow_run_id = decide.run_id and a.visit = run.visit and a.decision is null and run.open
        and case a.assignee_kind
            when 'user' then a.assignee = decide.decided_by
            else exists (
                select from chimeway.role_members m
                where m.tenant_id = a.tenant_id and m.role = a.assignee and m.member = decide.decided_by
            )
        end
    returning a.id, a.decision, a.decided_by, a.decided_at into known;
    if found then
        update chimeway.workflow_runs r set wake_at = chimeway.now() where r.id = decide.run_id;
        return query select known.decision, known.id, known.decision, known.decided_by, known.decided_at;
        return;
    end if;
    -- A later statement, which sees who was faster.
    select a.id, a.decision, a.decided_by, a.decided_at into known
    from chimeway.approvals a
    where a.workflow_run_id = decide.run_id
    order by a.visit desc
    limit 1;
    return query select
        case
            when known.id is null or known.decision = 'withdrawn' or known.decision is null and not run.open
                then 'not_pending'
            when known.decision is null then 'not_allowed'
            else 'already_decided'
        end,
        known.id, known.decision, known.decided_by, known.decided_at;
end
$$;
comment on function chimeway.decide(text, uuid, text, text, text) is
    'Decides the approval that a run waits for, if it is still open and this one may; says what became of it and who was faster';

create function chimeway.decide_checked(
    tenant_id text,
    run_id uuid,
    decision text,
    decided_by text,
    note text
) returns text
language plpgsql volatile
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
declare
    answer text;
begin
    if chimeway.is_unfit(decide_checked.decided_by, 255) then
        perform chimeway.refuse('CW015', 'who decides is blank, longer than 255 bytes or holds a control character',
            'pass decided_by, for example decided_by => ''user_123''');
    end if;
    if octet_length(decide_checked.note) > 1000 then
        perform chimeway.refuse('CW014', 'the note is longer than 1000 bytes', 'say it shorter');
    end if;
    select d.answer into answer
    from chimeway.decide(decide_checked.tenant_id, decide_checked.run_id, decide_checked.decision,
        decide_checked.decided_by, decide_checked.note) d;
    if answer = decide_checked.decision then
        perform chimeway.wake('chimeway_workflows');
    end if;
    return answer;
end
$$;
comment on function chimeway.decide_checked(text, uuid, text, text, text) is
    'As decide, for callers from outside: refuses what is no name, and wakes workers';

create function chimeway.approve(
    tenant_id text,
    run_id uuid,
    decided_by text,
    note text default null
) returns text
language sql volatile security definer
set search_path = pg_catalog, chimeway, pg_temp
as $$
    select chimeway.decide_checked(approve.tenant_id, approve.run_id, 'approved', approve.decided_by, approve.note)
$$;
comment on function chimeway.approve(text, uuid, text, text) is
    'Approves what a run waits for, in the caller''s transaction: approved, already_decided, not_allowed, not_pending or not_found. Once it has committed a worker moves the run on';

create function chimeway.reject(
    tenant_id text,
    run_id uuid,
    decided_by text,
    note text default null
) returns text
language sql volatile security definer
set search_path = pg_catalog, chimeway, pg_temp
as $$
    select chimeway.decide_checked(reject.tenant_id, reject.run_id, 'rejected', reject.decided_by, reject.note)
$$;
comment on function chimeway.reject(text, uuid, text, text) is
    'Rejects what a run waits for, in the caller''s transaction: rejected, already_decided, not_allowed, not_pending or not_found. Once it has committed a worker moves the run on';

revoke execute on function chimeway.decide(text, uuid, text, text, text),
    chimeway.decide_checked(text, uuid, text, text, text), chimeway.approve(text, uuid, text, text),
    chimeway.reject(text, uuid, text, text) from public;
