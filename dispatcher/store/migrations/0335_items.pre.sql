-- How many items a job carries: payloads that lie beside it.
alter table job add column items integer not null default 0;
-- A list of items, which its owner uploads in slices before a job that names it.
create table item_list (
    list_id    integer primary key,
    owner      text    not null,
    name       text    not null,             -- made by the owner
    items      integer not null,
    bare       integer not null,             -- those without a command of their own
    cores      integer not null,             -- the most that one of them asks for, and so on
    memory_mb  integer not null,
    gpus       integer not null,
    changed    real    not null,
    unique (owner, name)
);
create index item_list_changed on item_list (changed);
create table item_slice (
    list_id integer not null,
    first   integer not null,                -- the index of its first item
    items   integer not null,
    digest  text    not null,
    body    blob    not null,                -- ItemSpecs as JSON
    primary key (list_id, first)
);
-- The items of a job, and of the jobs that try it again: which of them are with whom.
create table cluster (
    cluster_id integer primary key,          -- the id of the first of these jobs
    job_id     integer unique,               -- of the last, which has them now; null: to be deleted
    list_id    integer not null,
    items      integer not null,
    needed     integer not null,             -- so many must finish
    tries      integer,                      -- of an item, whatever the failure
    redo       integer not null,             -- what finished goes with the attempt of the job
    base       integer not null,             -- mark of what failed now; of attempt n of the job: base + n
    fresh      integer not null,             -- items from here on were never leased, and have no row
    finished   integer not null,
    failed     integer not null,
    mark       integer not null,             -- of the attempt of the job that leased last
    held       integer not null,             -- items that it holds
    swept      integer not null,             -- whether it found all that was left by those before it
    finishing  integer not null,             -- the mark under which an item finished last
    request    text    not null,             -- the last lease: repeated, it gives the same
    request_nr integer not null
);
create index cluster_of_list on cluster (list_id);
create table cluster_job (
    job_id     integer primary key,
    cluster_id integer not null,
    past       text                          -- ItemCounts, when another job took the items over
);
-- An item that was leased once.
create table item (
    cluster_id  integer not null,
    idx         integer not null,
    state       text    not null,
    mark        integer not null,            -- see `cluster`; 0: it waits, or has finished for good
    attempt     integer not null,
    failures    integer not null,
    lost        integer not null,
    request_nr  integer not null,
    name        text    not null,
    exit_code   integer,
    code        integer not null,
    diagnosis   text    not null,
    host        text    not null,
    slot        text    not null,
    started     real,
    ended       real,
    usage       text,
    stdout_tail text    not null,
    stderr_tail text    not null,
    primary key (cluster_id, idx)
) without rowid;
create index item_in_state on item (cluster_id, state, mark, idx);
create table item_log (
    cluster_id integer not null,
    idx        integer not null,
    attempt    integer not null,
    stream     text    not null,
    start      integer not null,             -- byte offset in the stream
    stop       integer not null,
    piece      blob    not null,
    primary key (cluster_id, idx, attempt, stream, start)
) without rowid;
