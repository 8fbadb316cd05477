create table chimeway.templates (
    apply_no bigint generated always as identity,
    render_key text not null,
    template_hash text not null,
    subject text,
    text_body text,
    html_body text,
    applied_at timestamptz not null,
    constraint templates_pkey primary key (apply_no),
    constraint templates_render_key_not_blank check (btrim(render_key) <> ''),
    constraint templates_body check (text_body is not null or html_body is not null)
);
comment on table chimeway.templates is 'What messages say, by render key; the row applied last is used, rows never change';
comment on column chimeway.templates.apply_no is 'Counts what was applied: the highest of a render key is the latest';
comment on column chimeway.templates.render_key is 'Which content: the render_key of a notify step';
comment on column chimeway.templates.template_hash is
    'SHA-256 of the three parts, in hex: what is the latest already is not stored again';
comment on column chimeway.templates.subject is 'The subject line, as <render_key>.subject.txt has it';
comment on column chimeway.templates.text_body is 'The plain text, as <render_key>.txt has it';
comment on column chimeway.templates.html_body is 'The HTML, as <render_key>.html has it';
comment on column chimeway.templates.applied_at is 'When it was applied';
create index templates_latest on chimeway.templates (render_key, apply_no desc);

create trigger templates_immutable before update on chimeway.templates
    for each row execute function chimeway.refuse_change();

alter table chimeway.delivery_attempts add column template_hash text;
comment on column chimeway.delivery_attempts.template_hash is
    'Which content was sent: a template_hash of chimeway.templates; null where the channel renders nothing';
