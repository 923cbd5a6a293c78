-- The task that made a job; 0: a user did.
alter table job add column task_id integer not null default 0;
-- What a user wants done, in steps that turn items into jobs.
create table task (
    task_id    integer primary key,
    owner      text    not null,
    user_group text    not null,
    request_id text    not null,             -- made by the owner
    digest     text    not null,             -- of what the request says, to know it again
    name       text    not null,
    state      text    not null,             -- a TaskState
    active     integer not null,             -- 1: it may have work for `advance`, now or later
    finishing  integer not null,             -- 1: no more items of lists and ranges begin
    retrying   integer not null,             -- 1: items that failed are to be tried again
    reason     text    not null,
    created    real    not null,
    changed    real    not null,
    spec       blob    not null,             -- a Task as JSON, of each list only the first item
    unique (owner, request_id)
);
create index task_active on task (task_id) where active = 1;
create index task_of_owner on task (owner, task_id);
-- How far a step is, in items.
create table step (
    task_id   integer not null,
    nr        integer not null,              -- its place in the task
    items     integer not null,              -- how many are known
    fresh     integer not null,              -- items from here on were never in a job
    ready     integer not null,              -- were in one that failed, and wait for another
    open      integer not null,              -- are in jobs that are not final
    finished  integer not null,
    failed    integer not null,
    jobs      integer not null,              -- how many there were
    open_jobs integer not null,
    primary key (task_id, nr)
);
-- Items in their order, several to a row; those of a range are reckoned.
create table task_slice (
    task_id integer not null,
    step    integer not null,
    first   integer not null,                -- the number of its first item
    items   integer not null,
    body    blob    not null,                -- their values as a JSON list
    primary key (task_id, step, first)
);
-- Items that go together through one job, or several one after the other. No item is in two units.
create table unit (
    task_id integer not null,
    step    integer not null,
    first   integer not null,                -- the number of its first item
    items   integer not null,
    nr      integer not null,                -- its place among the units of its step
    tries   integer not null,                -- how many jobs it has had
    job_id  integer unique,                  -- the last of them
    state   text    not null,                -- open, ended, ready, finished or failed
    outcome text    not null,                -- the state in which the job ended
    reason  text    not null,                -- why no job could be made of it
    primary key (task_id, step, first)
);
create index unit_ended on unit (task_id) where state = 'ended';
create index unit_left on unit (task_id, state, step, first) where state in ('ready', 'failed');
