create table if not exists pilot (
    instance   text primary key,
    token      text not null unique,     -- what it shows us
    credential text not null,            -- what it came with, for the dispatcher
    register   blob not null,            -- m.Register
    intent     text not null,            -- '' and -1 for one that was started by hand
    idx        integer not null,
    worker_id  integer not null,         -- 0: the dispatcher does not know it yet
    at         real not null,            -- when it came
    asked      integer not null,         -- acquires that got something: names the next one
    ending     text not null,            -- '' while it lives
    diagnosis  text not null
) without rowid;
create unique index if not exists pilot_planned on pilot (intent, idx) where intent != '';

create table if not exists job (
    job_id     integer not null,
    attempt_nr integer not null,
    owner      text not null,            -- the pilot in whose name it was leased
    holder     text,                     -- the pilot that has it; null: it waits here
    request    text not null,            -- by which the holder got it
    assignment blob not null,            -- m.Assignment
    primary key (job_id, attempt_nr)
) without rowid;

create table if not exists report (
    job_id     integer not null,
    attempt_nr integer not null,
    at         real not null,
    report     blob not null,            -- m.Report
    primary key (job_id, attempt_nr)
) without rowid;

-- beside `report`, which the version before writes as well
create table if not exists seal (
    job_id     integer not null,
    attempt_nr integer not null,
    seal       text not null,            -- by which the verdict about an owed report is known
    primary key (job_id, attempt_nr)
) without rowid;

create table if not exists name (
    whose text primary key,              -- 'relay': ours; 'giver': of the dispatcher that gives the jobs
    name  text not null
) without rowid;
