-- What somebody does to many jobs, slice by slice: how far it is, so that whoever goes on does nothing twice.
create table action (
    action_id  integer primary key,
    owner      text    not null,             -- who does it
    request_id text    not null,
    verb       text    not null,
    said       text    not null,             -- the request, as JSON
    caller     text    not null,             -- what its token allowed, as JSON
    at         real    not null,             -- when the jobs were counted
    last       integer not null,             -- the greatest job that was counted
    cursor     integer not null,             -- the last job that was looked at
    done       integer not null,
    kept       integer not null,             -- jobs that stayed as they were
    ended      real,
    unique (owner, request_id)
);
create index action_open on action (action_id) where ended is null;
