-- name: task.find
-- A task by the request that made it.
-- owner: user
-- reads: task
-- locks: task
select task_id, digest, state from task where owner = :owner and request_id = :request_id

-- name: task.add
-- Begin a task; no answer if it was begun before.
-- owner: user
-- writes: task
insert into task (owner, user_group, request_id, digest, name, state, active, finishing, retrying,
                  reason, created, changed, spec)
    values (:owner, :user_group, :request_id, :digest, :name, :state, 0, 0, 0, '', :now, :now, :spec)
    on conflict do nothing returning task_id

-- name: task.get
-- A task, with what it says; one that is being forgotten has no steps any more.
-- owner: checked by _found
-- reads: step, task
-- locks: task
select task_id, owner, user_group, name, state, active, finishing, retrying, reason, created, changed,
    spec from task where task_id = :task_id
    and exists (select 1 from step where step.task_id = task.task_id)

-- name: task.put
-- How far a task is.
-- writes: task
update task set state = :state, active = :active, finishing = :finishing, retrying = :retrying,
    reason = :reason, changed = :now where task_id = :task_id

-- name: task.active
-- Tasks that may have something to do.
-- reads: task
select task_id from task where active = 1 order by task_id

-- name: task.count_active
-- How many tasks of an owner are not at their end; those that are half submitted are not, too.
-- owner: user
-- reads: task
select count(*) from task where owner = :owner and (active = 1 or state = 'submitting')

-- name: task.page
-- Tasks of an owner, or of all if it is blank, in a state, or in any if it is blank; newest first, each
-- with how long what it says is.
-- owner: user
-- reads: task
select task_id, length(spec) from task
    where task_id < :before and (:owner = '' or owner = :owner) and (:state = '' or state = :state)
    order by task_id desc limit :most

-- name: step.add
-- A step of a new task.
-- writes: step
insert into step (task_id, nr, items, fresh, ready, open, finished, failed, jobs, open_jobs, listed,
                  planned)
    values (:task_id, :nr, :items, 0, 0, 0, 0, 0, 0, 0, :listed, :planned)
    on conflict do nothing

-- name: step.all
-- How far the steps of a task are.
-- reads: step
select nr, items, fresh, ready, open, finished, failed, jobs, open_jobs, listed, coming, held,
    held_bytes, cramped, moved, looked, problem, barren, planned, answers, planner_job,
    planner_tries, best, best_item, unimproved from step
    where task_id = :task_id order by nr

-- name: step.put
-- How far a step is.
-- writes: step
update step set items = :items, fresh = :fresh, ready = :ready, open = :open, finished = :finished,
    failed = :failed, jobs = :jobs, open_jobs = :open_jobs, barren = :barren where task_id = :task_id and nr = :nr

-- name: step.search
-- How far the search of a step is.
-- writes: step
update step set items = :items, listed = :listed, problem = :problem, answers = :answers,
    planner_job = :planner_job, planner_tries = :planner_tries, best = :best,
    best_item = :best_item, unimproved = :unimproved where task_id = :task_id and nr = :nr

-- name: task_slice.add
-- Some items of a step.
-- writes: task_slice
insert into task_slice (task_id, step, first, items, body)
    values (:task_id, :step, :first, :items, :body)
    on conflict do nothing

-- name: task_slice.at
-- The slices from the one with this item on, up to an item.
-- reads: task_slice
select first, body from task_slice where task_id = :task_id and step = :step and first <= :last
    and first >= (select max(first) from task_slice
        where task_id = :task_id and step = :step and first <= :first)
    order by first

-- name: task_slice.peek
-- The slice of items that has this one, unless it is large.
-- reads: task_slice
select first, body from task_slice where task_id = :task_id and step = :step
    and first = (select max(first) from task_slice
        where task_id = :task_id and step = :step and first <= :first)
    and length(body) <= :most

-- name: unit.add
-- Items that go through a job together.
-- writes: unit
insert into unit (task_id, step, first, items, nr, tries, job_id, state, outcome, reason)
    values (:task_id, :step, :first, :items, :nr, :tries, :job_id, :state, '', :reason)

-- name: unit.put
-- What becomes of such items.
-- writes: unit
update unit set state = :state, tries = :tries, job_id = :job_id, reason = :reason, loss = :loss
    where task_id = :task_id and step = :step and first = :first

-- name: unit.end
-- Note in the commit in which a job ends that its task is to be told.
-- writes: unit
update unit set state = 'ended', outcome = :state where job_id = :job_id and state = 'open'

-- name: unit.task_of
-- The task whose job it is, while that task is kept and has not made another of the same items.
-- owner: checked by _past
-- reads: unit
select task_id from unit where job_id = :job_id

-- name: unit.ended
-- Units whose jobs have ended.
-- reads: unit
select step, first, items, nr, tries, job_id, state, outcome from unit
    where task_id = :task_id and state = 'ended' limit :most

-- name: unit.ready
-- Units of a step that wait for another job.
-- reads: task_file, unit
select step, first, items, nr, tries, job_id, state, outcome from unit
    where task_id = :task_id and step = :step and state = 'ready' and state in ('ready', 'failed')
    and not exists (select 1 from task_file where task_file.task_id = unit.task_id
        and task_file.step = unit.step and task_file.item >= unit.first
        and task_file.item < unit.first + unit.items and task_file.place <> ''
        and task_file.state in ('listed', 'asking', 'asked', 'here'))
    order by first limit :most

-- name: unit.failed
-- Units that have failed for good.
-- reads: unit
select step, first, items, nr, tries, job_id, state, outcome from unit
    where task_id = :task_id and state = 'failed' and state in ('ready', 'failed')
    order by step, first limit :most

-- name: unit.results
-- The result documents of the jobs `ids` that finished.
-- reads: attempt
select job_id, result from attempt where job_id in {ids} and state = 'finished'

-- name: unit.points
-- Points of a search from one on, in their order.
-- owner: checked by _found
-- reads: unit
select first, items, state, job_id, loss, reason from unit
    where task_id = :task_id and step = :step and first >= :after order by first limit :most

-- name: unit.losses
-- Items of a step that have finished, and their losses.
-- reads: unit
select first, loss from unit where task_id = :task_id and step = :step and loss is not null
    order by first

-- name: unit.lost
-- Items of a step that have failed for good.
-- reads: unit
select first from unit where task_id = :task_id and step = :step and state = 'failed'
    and state in ('ready', 'failed') order by first

-- name: unit.why
-- Why some items of a step have failed of which no job could be made, or whose job left no loss.
-- reads: unit
select first, items, reason, outcome from unit
    where task_id = :task_id and step = :step and state = 'failed' and state in ('ready', 'failed')
    and reason <> '' order by first limit 1

-- name: unit.page
-- Units of a step in their order, after one.
-- owner: checked by _found
-- reads: unit
select first, items, tries, job_id, state, reason from unit
    where task_id = :task_id and step = :step and first > :after order by first limit :most

-- name: unit.page_left
-- Units of a step that have failed, or wait for another job, in their order, after one.
-- owner: checked by _found
-- reads: unit
select first, items, tries, job_id, state, reason from unit
    where task_id = :task_id and step = :step and state = :state and state in ('ready', 'failed')
    and first > :after order by first limit :most

-- name: unit.page_open
-- Units of a step whose jobs are not final, in the order of these, after one.
-- owner: checked by _found
-- reads: unit
select first, items, tries, job_id, state, reason from unit
    where task_id = :task_id and step = :step and state = 'open' and job_id > :after
    order by job_id limit :most

-- name: unit.open
-- The jobs of a task that are not final.
-- reads: unit
select job_id from unit where task_id = :task_id and state = 'open' order by job_id limit :most

-- name: unit.idle
-- Jobs of a step that lease items, and have not begun.
-- reads: job, unit
select unit.job_id from unit join job on job.job_id = unit.job_id
    where unit.state = 'open' and unit.task_id = :task_id and unit.step = :step
    and job.state = 'activated' order by unit.job_id limit :most

-- name: unit.missed
-- Units whose jobs were ended by a dispatcher that knew of no tasks.
-- reads: job, unit
select unit.job_id, job.state from unit join job on job.job_id = unit.job_id
    where unit.task_id = :task_id and unit.state = 'open'
    and job.state in ('finished', 'failed', 'cancelled', 'closed') limit :most

-- name: unit.files
-- What the jobs `ids` have left.
-- reads: file
select job_id, name, url, size, adler32, md5 from file where job_id in {ids} order by job_id, name

-- name: unit.file_counts
-- How many files the jobs `ids` have left.
-- reads: file
select job_id, count(*) from file where job_id in {ids} group by job_id

-- name: task.old
-- A task that has been at its end, or half submitted, since before a time.
-- reads: task
-- locks: task
select task_id from task where active = 0 and changed < :before order by changed limit 1

-- name: task.drop
-- Forget a task whose units and items are gone.
-- writes: task
delete from task where task_id = :task_id

-- name: step.drop
-- Forget the steps of a task.
-- writes: step
delete from step where task_id = :task_id

-- name: task_slice.trim
-- Delete some items of a task; returns them.
-- writes: task_slice
delete from task_slice where task_id = :task_id and (step, first) in (select step, first
    from task_slice where task_id = :task_id order by step, first limit :most) returning first

-- name: unit.trim
-- Delete some units of a task; returns them.
-- writes: unit
delete from unit where task_id = :task_id and (step, first) in (select step, first
    from unit where task_id = :task_id order by step, first limit :most) returning first

-- name: step.source
-- What a step knows of its data set.
-- writes: step
update step set listed = :listed, coming = :coming, held = :held, held_bytes = :held_bytes,
    cramped = :cramped, moved = :moved, looked = :looked, problem = :problem
    where task_id = :task_id and nr = :nr

-- name: task_file.add
-- A file of a step's data set, unless it is known; returns whether it was not.
-- writes: task_file
insert into task_file (task_id, step, name, state, item, size, place, body)
    values (:task_id, :step, :name, :state, null, :size, :place, :body)
    on conflict do nothing returning step

-- name: task_file.due
-- Files of a step in a state.
-- reads: task_file
select name, item, size, body from task_file
    where task_id = :task_id and step = :step and state = :state and state <> 'done'
    order by name limit :most

-- name: task_file.counts
-- How many files of a step are staged for it, or on their way, by state: no more than its cap.
-- reads: task_file
select state, count(*) from task_file where task_id = :task_id and step = :step
    and state in ('asking', 'asked', 'here', 'held') and state <> 'done' group by state

-- name: task_file.put
-- What becomes of a file.
-- writes: task_file
update task_file set state = :after, item = :item, body = :body
    where task_id = :task_id and step = :step and name = :name and state = :before

-- name: task_file.read
-- Let go of files of items whose job has ended.
-- writes: task_file
update task_file set state = 'read' where task_id = :task_id and step = :step
    and item >= :first and item < :first + :items and state = 'held'

-- name: task_file.done
-- Note that nothing keeps a file any more; returns its size, if it was to go.
-- writes: task_file
update task_file set state = 'done' where task_id = :task_id and step = :step and name = :name
    and state = 'read' returning size

-- name: task_file.let_go
-- Let go of all that is staged for a task, or on its way.
-- writes: task_file
update task_file set state = 'read' where task_id = :task_id and place <> ''
    and state in ('asking', 'asked', 'here', 'held') and state <> 'done'

-- name: task_file.again
-- Have files staged again for items, from one on.
-- writes: task_file
update task_file set state = case state when 'read' then 'asking' else 'listed' end
    where task_id = :task_id and step = :step and place <> ''
    and item >= :first and item < :first + :items and state in ('read', 'done')

-- name: task_file.unread
-- Have files staged again that were no items when their task ended.
-- writes: task_file
update task_file set state = case state when 'read' then 'asking' else 'listed' end
    where task_id = :task_id and step = :step and place <> ''
    and item is null and state in ('read', 'done')

-- name: task_file.gap
-- The first item, from one on, whose file is not there.
-- reads: task_file
select min(item) from task_file where task_id = :task_id and step = :step and place <> ''
    and item >= :first and state in ('listed', 'asking', 'asked', 'here')

-- name: task_file.other
-- Whether another step has a file staged at a place.
-- owner: the dispatcher's own
-- reads: task_file
select 1 from task_file where name = :name and place = :place and place <> ''
    and state in ('asking', 'asked', 'here', 'held') and not (task_id = :task_id and step = :step)
    limit 1

-- name: task_file.steps
-- Steps about whose files the catalogue is to be asked.
-- owner: the dispatcher's own
-- reads: step, task, task_file
select step.task_id, step.nr from step join task on task.task_id = step.task_id
    where task.active = 1 and task.state = 'running' and task.finishing = 0
    and ((step.listed = 0 and step.planned = 0 and step.looked <= :relisted)
        or exists (select 1 from task_file where task_file.task_id = step.task_id
            and task_file.step = step.nr and task_file.state in ('listed', 'asking', 'asked')
            and task_file.state <> 'done'))
union
select task_id, step from task_file where state = 'read'

-- name: task_file.trim
-- Delete some files of a task; returns them.
-- writes: task_file
delete from task_file where task_id = :task_id and (step, name) in (select step, name
    from task_file where task_id = :task_id order by step, name limit :most) returning name
