-- What a worker ran, long after it has ended.
create index attempt_worker on attempt (worker_id);
