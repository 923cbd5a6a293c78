-- A repeated acquire is found by its worker and request, not among all that the worker holds.
drop index attempt_held;
create index attempt_held on attempt (worker_id, request) where ended is null;
