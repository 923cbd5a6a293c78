-- What an attempt held of which nodes, and from when to when: JSON; null: an older pilot, or not yet.
alter table attempt add column held text;
-- A worker's nodes, and its core-seconds by what became of them: JSON; null: an older pilot.
alter table worker add column occupancy text;
create index attempt_of_worker on attempt (worker_id, leased, job_id);
