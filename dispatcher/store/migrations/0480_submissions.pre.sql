-- A submission is an object: what its user calls it, whose its jobs are, and what it tries again. Null: from a version
-- before. It is found by its first job.
alter table request add column name text;
alter table request add column labels text;              -- as JSON
alter table request add column of_user text;             -- whose the jobs are; null: the sender's
alter table request add column retry_of integer;         -- the first job of the submission that this one tries again
alter table request add column task_id integer;
create index request_first on request (first);

-- How many jobs of a large submission wait, run and have ended, kept by each commit that changes one. The jobs of a small
-- one are counted when somebody looks.
create table tally (
    first     integer primary key,
    waiting   integer not null,
    running   integer not null,
    finished  integer not null,
    failed    integer not null,
    cancelled integer not null
);
alter table job add column tally integer;                -- the submission in whose tally it is counted; null: in none
