-- 1: the items of a step of a task, which several jobs lease; its `mark` is the last that was given out.
alter table cluster add column pool integer not null default 0;
-- How many items an attempt of such a job may lease in all.
alter table cluster add column room integer not null default 0;
-- How many it may have at once.
alter table cluster add column at_once integer not null default 0;
-- 1: none is leased for now.
alter table cluster add column rests integer not null default 0;
-- Attempts of jobs that lease such items, each under a mark of its own.
create table lessee (
    cluster_id integer not null,
    mark       integer not null,
    job_id     integer not null,
    attempt_nr integer not null,
    held       integer not null,             -- items that it has
    taken      integer not null,             -- how many it was given in all
    finishing  integer not null,             -- its mark, once an item has finished there
    kept       integer not null,             -- its mark, once the outputs of all that finished are stored
    request    text    not null,             -- its last lease: repeated, it gives the same
    request_nr integer not null,
    primary key (cluster_id, mark)
);
create unique index lessee_of_attempt on lessee (job_id, attempt_nr);
-- How many jobs that lease items have failed in a row without any that finished.
alter table step add column barren integer not null default 0;
