-- What kinds of machines jobs need, in the canonical form of the protocol. A shape of jobs that need
-- one has `nodes` + 10^7 × `machine_id` nodes: for a version before this one no worker has so many.
create table machine (
    machine_id integer primary key,
    text       text not null unique
);
-- The same of a job whose shape stands beside it, where `nodes` has 10^7 more; blank: any machine.
alter table sized add column machine text not null default '';
