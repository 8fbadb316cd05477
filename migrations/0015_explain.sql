-- Where a run is and why. It names tables of all the files before, and belongs to the SQL API: callable by a grant
-- only (deploy/grants.sql).

create function chimeway.explain(tenant_id text, run_id uuid) returns jsonb
language plpgsql stable security definer
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
begin
    return (select jsonb_build_object(
        'id', r.id,
        'tenant_id', r.tenant_id,
        'workflow', d.workflow_key,
        'version', d.workflow_version,
        'state', r.state,
        'status_reason', r.status_reason,
        'current_step_name', s.step_key,
        'suspended_until', r.suspended_until,
        'pending_signals', to_jsonb(r.pending_signals),
        'terminal_reason', r.terminal_reason,
        'quarantine_reason', r.quarantine_reason,
        'visit', r.visit,
        'wake_at', r.wake_at,
        'started_at', r.started_at,
        'ended_at', r.ended_at,
        'cancel_requested_at', r.cancel_requested_at,
        'interventions', coalesce((
            select jsonb_agg(jsonb_build_object(
                'kind', i.kind, 'subject', i.subject, 'subject_id', i.subject_id, 'made_by', i.made_by,
                'reason', i.reason, 'made_at', i.made_at
            ) order by i.made_at, i.id)
            from chimeway.interventions i
            where i.subject_id = r.id or i.subject_id in (
                select v.id from chimeway.deliveries v where v.workflow_run_id = r.id
            )
        ), '[]'::jsonb),
        'now', chimeway.now(),
        'approvals', coalesce((
            select jsonb_agg(jsonb_build_object(
                'id', a.id, 'step', p.step_key, 'visit', a.visit, 'assignee_kind', a.assignee_kind,
                'assignee', a.assignee, 'opened_at', a.opened_at, 'deadline', a.deadline,
                'decision', a.decision, 'decided_by', a.decided_by, 'decided_at', a.decided_at
            ) order by a.visit)
            from chimeway.approvals a
            left join chimeway.workflow_steps p on p.id = a.workflow_step_id
            where a.workflow_run_id = r.id
        ), '[]'::jsonb),
        'deliveries', coalesce((
            select jsonb_agg(jsonb_build_object(
                'id', v.id,
                'channel', v.channel,
                'status', v.status,
                'status_reason', v.status_reason,
                'checkpoint', v.checkpoint,
                'attempts', v.attempts,
                'next_attempt_at', case when v.status in ('pending', 'failed') then v.next_attempt_at end,
                'step', vs.step_key,
                'visit', v.visit,
                'lease_until', v.lease_until,
                'progress_owed', v.progress_owed_at is not null,
                'last_outcome', (
                    select a.outcome from chimeway.delivery_attempts a
                    where a.delivery_id = v.id order by a.attempt_number desc limit 1
                ),
                'last_class', (
                    select a.response ->> 'class' from chimeway.delivery_attempts a
                    where a.delivery_id = v.id order by a.attempt_number desc limit 1
                )
            ) order by v.visit, v.action_index)
            from chimeway.deliveries v
            left join chimeway.workflow_steps vs on vs.id = v.workflow_step_id
            where v.workflow_run_id = r.id
        ), '[]'::jsonb)
    )
    -- What few runs have is said of them alone.
    || case when r.event_id is null then '{}'::jsonb else
        jsonb_build_object('record', jsonb_build_object('entity', r.record_entity, 'id', r.record_id))
    end
    || case when r.act_at is null then '{}'::jsonb else
        jsonb_build_object('act_at', r.act_at, 'tries', r.tries)
    end
    || case when r.terminal_reason not in ('failed:context_missing_path', 'failed:missing_path')
            or r.terminal_reason is null then '{}'::jsonb
        else jsonb_build_object('missing_path', r.status_context -> 'name')
    end
    from chimeway.workflow_runs r
    left join chimeway.workflow_definitions d on d.id = r.workflow_definition_id
    left join chimeway.workflow_steps s on s.id = r.current_step_id
    where r.id = explain.run_id and r.tenant_id = explain.tenant_id);
end
$$;
comment on function chimeway.explain(text, uuid) is
    'Where a run is and why, as facts; null where that tenant has no such run';
revoke execute on function chimeway.explain(text, uuid) from public;
