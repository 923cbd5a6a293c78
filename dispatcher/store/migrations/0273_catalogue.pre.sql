create table registration (                  -- an output that a catalogue of data is to know
    job_id     integer not null,
    name       text not null,                -- of the output
    owner      text not null,
    scope      text not null,
    lfn        text not null,                -- its name in the catalogue: it carries job and attempt
    rse        text not null,                -- the storage where it is
    size       integer not null,             -- bytes
    adler32    text not null,
    dataset    text not null,                -- scope:name; blank: none
    lifetime_s integer,                      -- null: for ever
    state      text not null,                -- due, done, refused
    due        real not null,                -- when it is tried next, seconds since 1970
    tries      integer not null default 0,
    reason     text not null default '',     -- why it is not done yet, or never
    remedy     text not null default '',
    primary key (job_id, name)
) without rowid;
create index registration_due on registration (due) where state = 'due';
create index registration_refused on registration (job_id) where state = 'refused';
create index registration_open on registration (dataset) where state <> 'done';
create table dataset_use (                   -- the jobs of a submission that write to a data set
    dataset text not null,                   -- scope:name
    first   integer not null,                -- the first and the last of these jobs
    last    integer not null,
    open    integer not null default 1,      -- 0: it was closed after they had ended
    primary key (dataset, first)
) without rowid;
create index dataset_use_open on dataset_use (dataset) where open = 1;
