-- A request that comes again is compared with what it said the first time. Null: from a version before.
alter table request add column digest text;
-- Which job is the new try of which, who asked for it and when.
create table retry (
    job_id integer primary key,
    new_id integer not null unique,
    made_by text not null,
    made   real   not null
);
-- What is asked of a job that was moved away needs no reading of its whole record. Null: read it.
alter table old_job add column state text;
alter table old_job add column owner text;
