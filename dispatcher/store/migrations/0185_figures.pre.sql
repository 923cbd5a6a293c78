-- Jobs by owner, queue and state, kept by each commit: what a user who is no administrator sees.
create table owned (
    owner text    not null,
    queue text    not null,
    state text    not null,
    n     integer not null,
    primary key (owner, queue, state)
) without rowid;
insert into owned (owner, queue, state, n) select owner, queue, state, count(*) from job group by 1, 2, 3;
-- Failures that look alike, and how many there are of each kind.
create table failure (
    kind    integer primary key,
    owner   text    not null,
    code    integer not null,
    text    text    not null,   -- the diagnosis without its numbers and paths; '': all others of the code
    example text    not null,
    n       integer not null,
    last    real    not null,
    unique (owner, code, text)
);
alter table job add column kind integer;        -- of its failure
insert into failure (owner, code, text, example, n, last)
    select owner, code, '', max(diagnosis), count(*), max(changed) from job where state = 'failed' group by 1, 2;
update job set kind = (select f.kind from failure f where f.owner = job.owner and f.code = job.code)
    where state = 'failed';
create index job_kind on job (kind, job_id) where kind is not null;
