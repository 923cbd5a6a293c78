-- Among jobs of one priority users take turns: a job's rank is where its user's turn for it comes.
alter table job add column rank real not null default 0;
drop index job_ready;
create index job_ready on job (queue, shape_id, priority desc, rank, job_id) where state = 'activated';
create table share (                         -- how far a user's turns are given away
    queue text not null,
    owner text not null,
    rank  real not null,
    primary key (queue, owner)
) without rowid;
