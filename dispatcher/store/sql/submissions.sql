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
insert into request (owner, request_id, first, jobs, complete, made, process, digest, name, labels,
                     of_user, retry_of, task_id)
    values (:owner, :request_id, :first, :jobs, 0, :made, :process, :digest, :name, :labels,
            :of_user, :retry_of, :task_id)
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

-- fragment: submission_columns
-- A submission as users see it. A task's, and one that is not complete, are none.
r.first, r.jobs, r.made, coalesce(r.name, '') as name, coalesce(r.labels, '') as labels,
    r.owner as by, coalesce(r.of_user, r.owner) as owner, r.retry_of,
    t.waiting, t.running, t.finished, t.failed, t.cancelled

-- fragment: is_submission
r.complete = 1 and coalesce(r.task_id, 0) = 0

-- name: submission.page
-- Submissions of a slice of ids, newest first.
-- reads: request, tally
select {submission_columns} from request r left join tally t on t.first = r.first
    where r.first >= :least and r.first < :before and {is_submission}
    and (:owner = '' or coalesce(r.of_user, r.owner) = :owner) order by r.first desc limit :most

-- name: submission.range
-- The least and the greatest number of a submission.
-- reads: request
select (select min(first) from request), (select max(first) from request)

-- name: submission.of_job
-- The submission that is the last to begin at or before a job: its own, if it has one.
-- owner: checked by find, _span, _bound, recount
-- reads: request, tally
select {submission_columns} from (select * from request where first <= :job_id
    order by first desc limit 1) r left join tally t on t.first = r.first where {is_submission}

-- name: submission.retries
-- The submissions that try one again.
-- owner: checked by find
-- reads: request
select r.first from request r where r.retry_of = :first and r.first > :first and r.complete = 1
    order by r.first limit :most

-- name: submission.states
-- How many jobs of a submission are in each state.
-- owner: checked by row
-- reads: job
select state, count(*) from job where job_id >= :first and job_id < :before group by state

-- name: submission.old_states
-- The same of those that were moved away; a null: an earlier version moved them.
-- owner: checked by row
-- reads: old_job
select state, count(*) from old_job where job_id >= :first and job_id < :before group by state

-- name: submission.named
-- What the first job of a submission is called.
-- owner: checked by row
-- reads: job
select name from job where job_id = :job_id

-- name: submission.ends
-- Jobs of a submission that have ended, and their codes.
-- owner: checked by again
-- reads: job
select job_id, state, code from job where job_id >= :first and job_id < :before
    and state in ('finished', 'failed', 'cancelled', 'closed') order by job_id

-- name: tally.begin
-- Count the jobs of a submission from here on.
-- writes: tally
insert into tally (first, waiting, running, finished, failed, cancelled)
    values (:first, :waiting, 0, 0, 0, 0)

-- name: tally.move
-- Move the numbers of jobs of a submission.
-- writes: tally
update tally set waiting = waiting + :waiting, running = running + :running,
    finished = finished + :finished, failed = failed + :failed, cancelled = cancelled + :cancelled
    where first = :first

-- name: tally.lock
-- The tally of a submission, which nobody moves before the commit.
-- reads: tally
-- locks: tally
select first from tally where first = :first

-- name: tally.open
-- Tallies of submissions after one that have jobs which have not ended.
-- reads: tally
select first from tally where first > :first and waiting + running > 0 order by first limit :most

-- name: tally.set
-- Say how many jobs of a submission there are, after they were counted anew.
-- writes: tally
update tally set waiting = :waiting, running = :running, finished = :finished, failed = :failed,
    cancelled = :cancelled where first = :first
