-- Jobs that ended long ago, one document each.
create table old_job (
    job_id integer not null,
    ended  real    not null,
    detail blob    not null,                 -- JobDetail as JSON
    primary key (job_id, ended)
);
create index job_ended on job (changed) where state in ('finished', 'failed', 'cancelled', 'closed');
-- Events are forgotten, their numbers are not given again.
update series set last = (select max(seq) from event)
    where name = 'event' and last < (select max(seq) from event);
