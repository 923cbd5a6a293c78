-- Where a job is, without the steps that it takes in a worker's hands: those move no index.
drop index job_in_state;
alter table job add column stage text not null default 'defined';
update job set stage = case when state in ('sent', 'starting', 'running', 'holding') then 'held' else state end;
create index job_in_stage on job (stage, job_id);
create trigger job_stage after update of state on job
    when new.stage is not case when new.state in ('sent', 'starting', 'running', 'holding') then 'held' else new.state end
    begin
        update job set stage = case when new.state in ('sent', 'starting', 'running', 'holding') then 'held' else new.state end
            where job_id = new.job_id;
    end;
-- The events of a job, entered in their order some thousand at a time (`event.enter`); the newest are
-- looked for among themselves.
drop index event_of_job;
create table job_event (job_id integer not null, seq integer not null, primary key (job_id, seq)) without rowid;
insert into job_event select job_id, seq from event where job_id is not null;
insert into series (name, last) select 'job_event', last from series where name = 'event';
create trigger job_event_gone after delete on event when old.job_id is not null
    begin delete from job_event where job_id = old.job_id and seq = old.seq; end;
