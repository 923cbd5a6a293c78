-- Tails are written only where several dispatchers serve, never here.
insert into excluded_node (site, host, until, reason)
    select owner, name, at, json_extract(data, '$.reason') from panda_fact where kind = 'excluded';
insert into about (name, value) select name, data from panda_fact where kind = 'store';
create trigger excluded_of_before after insert on panda_fact when new.kind = 'excluded'
    begin insert into excluded_node (site, host, until, reason)
        values (new.owner, new.name, new.at, json_extract(new.data, '$.reason'))
        on conflict (site, host) do update set until = excluded.until, reason = excluded.reason; end;
create trigger excluded_again_of_before after update on panda_fact when new.kind = 'excluded'
    begin update excluded_node set until = new.at, reason = json_extract(new.data, '$.reason')
        where site = new.owner and host = new.name; end;
create trigger excluded_for_before after insert on excluded_node
    begin insert into panda_fact (kind, owner, name, at, data) values ('excluded', new.site, new.host,
        new.until, json_object('until', new.until, 'reason', new.reason))
        on conflict (kind, owner, name) do update set at = excluded.at, data = excluded.data; end;
create trigger excluded_again_for_before after update on excluded_node
    begin update panda_fact set at = new.until,
        data = json_object('until', new.until, 'reason', new.reason)
        where kind = 'excluded' and owner = new.site and name = new.host; end;
create trigger about_of_before after insert on panda_fact when new.kind = 'store'
    begin insert into about (name, value) values (new.name, new.data) on conflict do nothing; end;
create trigger about_for_before after insert on about
    begin insert into panda_fact (kind, owner, name, at, data)
        values ('store', '', new.name, 0, new.value) on conflict do nothing; end;
