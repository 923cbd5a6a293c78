-- How much output of the items of a job is kept.
alter table cluster add column log_bytes integer not null default 0;
