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
select action_id, said, caller, at, last, cursor, done, kept, ended from action
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
update action set done = done + :done, kept = kept + :kept where action_id = :action_id

-- name: action.end
-- Note that an action is complete; no answer if it was before.
-- writes: action
update action set ended = :now where action_id = :action_id and ended is null
    returning done, kept

-- name: action.trim
-- Forget actions that ended before a time.
-- writes: action
delete from action where ended < :before

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
