-- The sizes of jobs that a user has in a queue: so many have an index range each, the others share one.
create table variety (
    queue    text    not null,
    owner    text    not null,
    shape_id integer not null,               -- or of a lane
    added    real    not null,
    primary key (queue, owner, shape_id)
) without rowid;
-- The size of each job in a range that jobs of many sizes share.
create table sized (
    job_id     integer primary key,
    cores      integer not null,
    memory_mb  integer not null,
    disk_mb    integer not null,
    gpus       integer not null,
    nodes      integer not null,
    walltime_s integer not null
);
