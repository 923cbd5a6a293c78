-- A job is one narrow row that changes often and one body that is written once.
create table job (
    job_id       integer primary key,
    state        text    not null,
    queue        text    not null,           -- '': any queue that can run it
    shape_id     integer not null,
    priority     integer not null,
    attempt_nr   integer not null default 0,
    max_attempts integer not null,
    retry_all    integer not null,
    parents_left integer not null default 0, -- parents that have not finished
    worker_id    integer,
    code         integer not null default 0,
    created      real    not null,
    changed      real    not null,
    activated    real,
    owner        text    not null,
    name         text    not null,
    diagnosis    text    not null default ''
);
create index job_ready on job (queue, shape_id, priority desc, job_id) where state = 'activated';
create index job_in_state on job (state, job_id);

create table body (
    job_id integer primary key,
    spec   blob not null,                    -- JobSpec as JSON, the bytes that pilots get
    wants  integer not null                  -- inputs to be filled in from the parents' outputs
);

create table shape (
    shape_id   integer primary key,
    cores      integer not null,
    memory_mb  integer not null,
    disk_mb    integer not null,
    gpus       integer not null,
    nodes      integer not null,
    walltime_s integer not null,
    unique (cores, memory_mb, disk_mb, gpus, nodes, walltime_s)
);

create table counter (                       -- jobs by queue, shape and state, kept by each commit
    queue    text    not null,
    shape_id integer not null,
    state    text    not null,
    n        integer not null,
    primary key (queue, shape_id, state)
) without rowid;

create table parent (
    parent integer not null,
    child  integer not null,
    told   integer not null default 0,       -- whether the child knows that this parent has ended
    primary key (parent, child)
) without rowid;
create index parent_of on parent (child);

create table unfolding (job_id integer primary key);  -- ended jobs with children still to be told

create table attempt (
    job_id      integer not null,
    attempt_nr  integer not null,
    worker_id   integer not null,
    request     text    not null,            -- the acquire that got it: repeated, it gets it again
    state       text    not null,
    leased      real    not null,
    started     real,
    running     real,
    holding     real,
    ended       real,
    exit_code   integer,
    code        integer not null default 0,
    host        text    not null default '',
    runtime     text    not null default '',
    diagnosis   text    not null default '',
    remedy      text    not null default '',
    usage       text,
    timing      text,
    stderr_tail text    not null default '',
    curve       text,                        -- samples of resource use, kept when it ends
    primary key (job_id, attempt_nr)
) without rowid;
create index attempt_held on attempt (worker_id) where ended is null;

create table file (                          -- outputs of finished jobs: what children read
    job_id  integer not null,
    name    text    not null,
    url     text    not null,
    size    integer not null,
    adler32 text    not null,
    md5     text,
    primary key (job_id, name)
) without rowid;

create table worker (
    worker_id  integer primary key,
    site       text    not null,
    queue      text    not null,
    host       text    not null default '',
    phase      text    not null,
    ending     text,
    intent     text    not null default '',
    idx        integer not null default 0,
    instance   text    not null default '',  -- of the process that registered
    batch_id   text    not null default '',
    version    text    not null default '',
    diagnosis  text    not null default '',
    deadline   real,                         -- after this it may not register
    draining   integer not null default 0,
    registered real,
    last_heard real,
    ended      real,
    room       text,
    total      text
);
create unique index worker_planned on worker (intent, idx) where intent <> '';
create index worker_alive on worker (site) where ended is null;

create table request (                       -- submissions, so that a repeated one is known
    owner      text    not null,
    request_id text    not null,
    first      integer not null,             -- its jobs are first .. first + jobs - 1
    jobs       integer not null,
    complete   integer not null,
    made       real    not null,
    primary key (owner, request_id)
) without rowid;

create table event (
    seq       integer primary key,
    at        real not null,
    kind      text not null,
    job_id    integer,
    worker_id integer,
    data      text not null
);
create index event_of_job on event (job_id, seq) where job_id is not null;

create table log (
    job_id     integer not null,
    attempt_nr integer not null,
    stream     text    not null,
    start      integer not null,             -- byte offset in the stream
    stop       integer not null,
    piece      blob    not null,
    primary key (job_id, attempt_nr, stream, start)
) without rowid;

create table site (
    site     text primary key,
    instance text    not null,
    epoch    integer not null,
    slots    text    not null,
    online   integer not null
);
