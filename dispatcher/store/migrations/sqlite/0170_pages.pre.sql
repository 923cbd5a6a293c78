-- The steps that a job takes in a worker's hands move no index: such jobs are found by their attempts.
drop index job_in_state;
create index job_at_rest on job (state, job_id) where state not in ('sent', 'starting', 'running', 'holding');
-- The events of a job, entered in their order some thousand at a time (`event.enter`); the newest are
-- looked for among themselves.
drop index event_of_job;
create table job_event (job_id integer not null, seq integer not null, primary key (job_id, seq)) without rowid;
insert into job_event select job_id, seq from event where job_id is not null;
insert into series (name, last) select 'job_event', last from series where name = 'event';
create trigger job_event_gone after delete on event when old.job_id is not null
    begin delete from job_event where job_id = old.job_id and seq = old.seq; end;
