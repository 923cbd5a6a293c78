-- Workers that speak PanDA's dialects report each half hour; null: the length of all other leases.
alter table worker add column lease_s real;

-- The last thing said of something that only PanDA's clients tell: instances, statistics, nodes.
create table panda_fact (
    kind  text not null,                     -- harvester, workers, metrics, node, gpu
    owner text not null,                     -- the instance, or the site
    name  text not null,
    at    real not null,
    data  text not null,                     -- JSON
    primary key (kind, owner, name)
) without rowid;

create table panda_command (                 -- to Harvester: the last one of its kind, as PanDA keeps them
    command_id integer primary key,
    harvester  text    not null,
    command    text    not null,             -- with its argument, as SET_N_WORKERS_JOBTYPE:QUEUE
    params     text    not null,             -- JSON
    state      text    not null,             -- new, retrieved, acknowledged
    ack        integer not null,
    made       real    not null,
    unique (harvester, command)
);
