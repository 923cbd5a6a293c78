-- How many jobs that an action cancelled waited then: they can be brought back for a while.
alter table action add column undo integer not null default 0;
create index action_undo on action (ended) where undo > 0;
-- Which ones.
create table undo (
    action_id integer not null,
    job_id    integer not null,
    primary key (action_id, job_id)
) without rowid;
-- Which submissions an action has reached, and how many of their jobs.
create table reached (
    first     integer not null,              -- the submission
    action_id integer not null,
    jobs      integer not null,
    primary key (first, action_id)
) without rowid;
create index reached_action on reached (action_id);
