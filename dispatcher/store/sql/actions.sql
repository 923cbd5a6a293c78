-- name: action.add
-- Begin an action; no answer if this request has begun one.
-- owner: user
-- writes: action
insert into action (owner, request_id, verb, said, caller, at, last, cursor, done, kept)
    values (:owner, :request_id, :verb, :said, :caller, :at, :last, 0, 0, 0)
    on conflict (owner, request_id) do nothing returning action_id

-- name: action.find
-- The action that a request has begun.
-- owner: user
-- reads: action
select action_id, said, caller, at, last, cursor, done, kept, ended, undo from action
    where owner = :owner and request_id = :request_id

-- name: action.open
-- Actions that have not ended: who does them, by which request.
-- reads: action
select owner, request_id from action where ended is null order by action_id limit :most

-- name: action.advance
-- Note how far an action is; no answer if another process went on with it meanwhile.
-- writes: action
update action set cursor = :cursor
    where action_id = :action_id and cursor = :before and ended is null returning action_id

-- name: action.more
-- Count what became of the jobs of a slice.
-- writes: action
update action set done = done + :done, kept = kept + :kept, undo = undo + :undo
    where action_id = :action_id

-- name: action.end
-- Note that an action is complete; no answer if it was before.
-- writes: action
update action set ended = :now where action_id = :action_id and ended is null
    returning done, kept

-- name: action.get
-- Who does it, and whether it has ended.
-- owner: checked by cancelled
-- reads: action
select owner, verb, ended, undo from action where action_id = :action_id

-- name: action.trim
-- Forget actions that ended before a time.
-- writes: action
delete from action where ended < :before and undo = 0

-- name: reached.trim
-- Forget what such actions have reached, before they are forgotten.
-- writes: reached
-- reads: action
delete from reached where action_id in (select action_id from action
    where ended < :before and undo = 0)

-- name: reached.more
-- Count jobs of a submission that an action has reached.
-- writes: reached
insert into reached (first, action_id, jobs) values (:first, :action_id, :jobs)
    on conflict (first, action_id) do update set jobs = reached.jobs + excluded.jobs

-- name: reached.of
-- What was done to a submission: the latest first.
-- owner: checked by find
-- reads: reached, action
select a.action_id, a.owner as by, a.verb, a.at, r.jobs from reached r
    join action a on a.action_id = r.action_id where r.first = :first
    order by a.action_id desc limit :most

-- name: undo.add
-- A job that waited when it was cancelled.
-- writes: undo
insert into undo (action_id, job_id) values (:action_id, :job_id)

-- name: undo.next
-- The next jobs that can be brought back.
-- reads: undo
select job_id from undo where action_id = :action_id and job_id > :after
    order by job_id limit :most

-- name: undo.due
-- An action whose jobs can no longer be brought back.
-- reads: action
select action_id from action where undo > 0 and ended < :before order by ended limit 1

-- name: undo.drop
-- Forget some of its jobs.
-- writes: undo
delete from undo where action_id = :action_id and job_id <= :last

-- name: undo.over
-- There are no more.
-- writes: action
update action set undo = 0 where action_id = :action_id

-- name: job.set_priority
-- Change what goes first.
-- writes: job
update job set priority = :priority where job_id = :job_id

-- name: job.priority
-- What a job goes by.
-- owner: checked by _past
-- reads: job
select priority from job where job_id = :job_id

-- name: job.set_queue
-- Put a job into the line of another queue.
-- writes: job
update job set queue = :queue, shape_id = :shape_id, rank = :rank where job_id = :job_id

-- name: sized.drop
-- A job is now in a lane of its own shape.
-- writes: sized
delete from sized where job_id = :job_id
