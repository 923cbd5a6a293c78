-- The number that versions before the table `migration` look at: they refuse a higher one.
pragma user_version = 1;
create table meta (name text primary key, value text not null) without rowid;
create table worker (
    intent text not null, "index" integer not null, slot text not null, queue text not null,
    planned real not null, deadline real not null, phase text not null, outcome text, ending text,
    batch_id text not null, worker_id integer not null, started real, registered real, ended real,
    absent real, diagnosis text not null,
    news integer not null default 1,  -- changed since the dispatcher was last told
    primary key (intent, "index")
) without rowid;
create index worker_live on worker (intent) where phase != 'ended';
create index worker_news on worker (intent) where news = 1;
create index worker_batch_id on worker (batch_id);
create index worker_id on worker (worker_id);
create table decision (
    id integer primary key, at real not null, site_file text not null, decision text not null
);
create table health (
    slot text primary key, failures integer not null, since real not null, reason text not null
) without rowid;
