-- name: request.find
-- A submission that was begun before: its first job id, how many, and whether it is complete.
-- owner: user
-- reads: request
-- locks: request
select first, jobs, complete, process, digest from request where owner = :owner
    and request_id = :request_id

-- name: request.add
-- Begin a submission; no answer if it was begun before.
-- owner: user
-- writes: request
insert into request (owner, request_id, first, jobs, complete, made, process, digest)
    values (:owner, :request_id, :first, :jobs, 0, :made, :process, :digest)
    on conflict do nothing returning first

-- name: request.complete
-- Mark a submission as complete, so that its jobs stay.
-- owner: user
-- writes: request
update request set complete = 1 where owner = :owner and request_id = :request_id

-- name: request.broken
-- Submissions that a process (or any) began and did not complete.
-- reads: request
select owner, request_id, first, jobs from request where complete = 0
    and (process = :process or :process = '')

-- name: request.drop
-- Forget a submission that is undone.
-- owner: user
-- writes: request
delete from request where owner = :owner and request_id = :request_id

-- name: retry.claim
-- Name the job that replaces a failed one; no answer if another has replaced it already.
-- writes: retry
insert into retry (job_id, new_id, made_by, made) values (:job_id, :new_id, :made_by, :made)
    on conflict do nothing returning new_id

-- name: retry.of
-- The job that replaced this one, by whom and when.
-- owner: checked by later
-- reads: retry
select new_id, made_by, made from retry where job_id = :job_id

-- name: retry.made
-- The job that this one replaces, by whom and when.
-- reads: retry
select job_id, made_by, made from retry where new_id = :new_id

-- name: retry.drop_range
-- Undo `retry.claim` for the jobs of a broken submission.
-- writes: retry
delete from retry where new_id between :first and :last

-- name: series.take
-- Take the next `by` numbers of a series; returns the last of them.
-- writes: series
update series set last = last + :by where name = :name returning last
