-- The version before must not write between the copy and the triggers. A reason may have a NUL,
-- which PostgreSQL's text cannot.
lock table panda_fact in share row exclusive mode;
insert into tail (job_id, at, text)
    select name::bigint, at, data from panda_fact where kind = 'tail';
insert into excluded_node (site, host, until, reason)
    select owner, name, at, replace(data, '\u0000', '\ufffd')::json ->> 'reason'
    from panda_fact where kind = 'excluded';
insert into about (name, value) select name, data from panda_fact where kind = 'store';
create function native_of_before() returns trigger language plpgsql as $$
begin
    if new.kind = 'tail' then
        insert into tail (job_id, at, text) values (new.name::bigint, new.at, new.data)
            on conflict (job_id) do update set at = excluded.at, text = excluded.text;
    elsif new.kind = 'excluded' then
        insert into excluded_node (site, host, until, reason)
            values (new.owner, new.name, new.at,
                replace(new.data, '\u0000', '\ufffd')::json ->> 'reason')
            on conflict (site, host) do update set until = excluded.until, reason = excluded.reason;
    else
        insert into about (name, value) values (new.name, new.data) on conflict do nothing;
    end if;
    return null;
end $$;
create trigger native_of_before after insert or update on panda_fact for each row
    when (new.kind in ('tail', 'excluded', 'store') and pg_trigger_depth() = 0)
    execute function native_of_before();
create function native_for_before() returns trigger language plpgsql as $$
begin
    if tg_table_name = 'tail' then
        insert into panda_fact (kind, owner, name, at, data)
            values ('tail', '', new.job_id::text, new.at, new.text)
            on conflict (kind, owner, name) do update set at = excluded.at, data = excluded.data;
    elsif tg_table_name = 'excluded_node' then
        insert into panda_fact (kind, owner, name, at, data)
            values ('excluded', new.site, new.host, new.until,
                json_build_object('until', new.until, 'reason', new.reason)::text)
            on conflict (kind, owner, name) do update set at = excluded.at, data = excluded.data;
    else
        insert into panda_fact (kind, owner, name, at, data)
            values ('store', '', new.name, 0, new.value) on conflict do nothing;
    end if;
    return null;
end $$;
create trigger native_for_before after insert or update on tail for each row
    when (pg_trigger_depth() = 0) execute function native_for_before();
create trigger native_for_before after insert or update on excluded_node for each row
    when (pg_trigger_depth() = 0) execute function native_for_before();
create trigger native_for_before after insert on about for each row
    when (pg_trigger_depth() = 0) execute function native_for_before();
