-- How a step is told of the files of a data set.
alter table step add column listed integer not null default 1;      -- 0: more may come into the data set
alter table step add column coming integer not null default 0;      -- files that are no items yet
alter table step add column held integer not null default 0;        -- files that are staged, or being so
alter table step add column held_bytes integer not null default 0;
alter table step add column cramped integer not null default 0;     -- 1: no more are staged before a job ends
alter table step add column moved real not null default 0;          -- when a file was last staged
alter table step add column looked real not null default 0;         -- when the data set was last listed
alter table step add column problem text not null default '';       -- why the catalogue does not help
-- Files of data sets.
create table task_file (
    task_id integer not null,
    step    integer not null,
    name    text    not null,                -- scope:name
    state   text    not null,                -- a FileState
    item    integer,                         -- its number among the items of the step, once it is one
    size    integer not null,                -- bytes
    place   text    not null,                -- where it is staged; blank: wherever it is
    body    blob    not null,                -- the item as JSON
    primary key (task_id, step, name)
);
create index task_file_item on task_file (task_id, step, item);
create index task_file_due on task_file (task_id, step, state, name) where state <> 'done';
create index task_file_read on task_file (task_id, step) where state = 'read';
-- Who else needs a file to be staged at a place.
create index task_file_staged on task_file (name, place) where place <> '';
