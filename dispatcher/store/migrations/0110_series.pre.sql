-- Numbers that are given once: the last job id and, where several dispatchers write, the last event.
create table series (
    name text   primary key,
    last integer not null
);
insert into series (name, last) select 'job', coalesce(max(last), 0) from (
    select max(job_id) as last from job union all select max(first + jobs - 1) from request) as known;
insert into series (name, last) select 'event', coalesce(max(seq), 0) from event;
