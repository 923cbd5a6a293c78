-- name: job.add
-- A job, as its submission is written down: nobody sees it until `job.open_range`.
-- writes: job
insert into job (job_id, state, queue, shape_id, priority, max_attempts, retry_all, parents_left,
                 created, changed, owner, name, rank, items, task_id, tally)
    values (:job_id, 'defined', :queue, :shape_id, :priority, :max_attempts, :retry_all, 0,
            :created, :created, :owner, :name, :rank, :items, :task_id, :tally)

-- name: job.defined_range
-- Jobs of a submission by queue, shape and owner, and whether they are to wait for parents, as
-- counters have them.
-- reads: job
select queue, shape_id, parents_left > 0 as blocked, count(*) as n, owner
    from job where job_id between :first and :last and state = 'defined' group by 1, 2, 3, 5

-- name: job.doom
-- Let a job fail as soon as its submission is complete: a parent of it has failed.
-- writes: job
update job set code = :code, diagnosis = :diagnosis where job_id = :job_id

-- name: job.doomed
-- Jobs of a submission that are to fail at once, and why.
-- reads: job
select job_id, code, diagnosis from job where job_id between :first and :last
    and state = 'defined' and code <> 0

-- name: job.open_range
-- Let a submission's jobs begin: to wait for parents, or for workers.
-- writes: job
update job set state = case when parents_left > 0 then :blocked else :ready end,
    activated = case when parents_left > 0 then null else :now end
    where job_id between :first and :last and state = 'defined'

-- name: job.drop_range
-- Undo `job.add` for a broken submission.
-- writes: job
delete from job where job_id between :first and :last

-- name: job.standing
-- What decides on a job's next state, and where it is counted.
-- owner: checked by _handled, _owners, _is_held, _take, _conclude_jobs, _claim, _past, judge, gather, _above, _told, _tell, _looked, _log_of_item
-- reads: job
-- locks: job
select state, attempt_nr, max_attempts, retry_all, queue, shape_id, worker_id, owner, name,
    parents_left, items, task_id, tally
    from job where job_id = :job_id

-- name: job.parents
-- State and owner of jobs that are named as parents.
-- reads: job
-- locks: job
select job_id, state, owner from job where job_id in {ids} order by job_id

-- name: job.wait_for
-- Let a job wait for `n` more parents.
-- writes: job
update job set parents_left = parents_left + :n where job_id = :job_id

-- name: job.set_state
-- Move a job that has not ended to its next state.
-- writes: job
update job set state = :state, attempt_nr = :attempt_nr, max_attempts = :max_attempts,
    worker_id = :worker_id, changed = :now,
    activated = case when :state = 'activated' then :now else activated end
    where job_id = :job_id

-- name: job.end
-- Move a job to a final state, with the reason.
-- writes: job
update job set state = :state, changed = :now, code = :code, diagnosis = :diagnosis,
    attempt_nr = :attempt_nr, kind = :kind where job_id = :job_id

-- name: job.parent_done
-- One parent fewer for each of these jobs; returns what decides whether they begin.
-- writes: job
-- forgets: ids
update job set parents_left = parents_left - 1 where job_id in {ids}
    returning job_id, parents_left, state, queue, shape_id, attempt_nr, owner

-- name: job.activate
-- Jobs that wait for parents no more.
-- writes: job
-- forgets: ids
update job set state = :state, changed = :now, activated = :now
    where job_id in {ids}

-- name: job.ready
-- The next jobs to lease of a queue and a shape, best first.
-- reads: job
-- locks: job skip locked
select job_id, priority, rank from job
    where queue = :queue and shape_id = :shape_id and state = 'activated'
    order by priority desc, rank, job_id limit :most

-- name: job.ready_sized
-- The same in a lane of a rounded shape, with what each job asks for itself: its machine stands
-- beside it, and `nodes` has 10^7 more where there is one (`shape.all`).
-- reads: job, sized
-- locks: job skip locked
select job.job_id, priority, rank, cores, memory_mb, disk_mb, gpus, nodes % 10000000, walltime_s,
    machine from job join sized on sized.job_id = job.job_id
    where queue = :queue and shape_id = :shape_id and state = 'activated'
    order by priority desc, rank, job.job_id limit :most

-- name: job.oldest_ready
-- Since when the best job of a queue and a shape is ready.
-- reads: job
select min(activated) from (select activated from job
    where queue = :queue and shape_id = :shape_id and state = 'activated'
    order by priority desc, rank, job_id limit 1) as best

-- fragment: job_columns
-- A job as users see it.
j.job_id, j.name, j.queue, j.owner, j.state, j.attempt_nr, j.priority, j.created, j.changed,
    j.worker_id, j.code, j.diagnosis

-- name: job.row
-- A job as users see it, and since when it is ready.
-- owner: checked by job_of, judge, look
-- reads: job
select {job_columns}, j.activated from job j where j.job_id = :job_id

-- name: job.range
-- The lowest and the highest job id, between which pages are looked for.
-- reads: job
select (select min(job_id) from job), (select max(job_id) from job)

-- name: job.states_of
-- State and owner of jobs, for those that wait for their end.
-- reads: job
select job_id, state, owner from job where job_id in {ids}

-- name: job.ahead
-- How many jobs stand before this one in its queue and shape, up to 100,000.
-- owner: checked by why, _waiting
-- reads: job
select count(*) from (select 1 from job j, (select rank, job_id from job
    where job_id = :job_id) as me
    where j.queue = :queue and j.shape_id = :shape_id and j.state = 'activated'
        and (j.priority > :priority
            or (j.priority = :priority and (j.rank, j.job_id) < (me.rank, me.job_id)))
    limit 100000) as before

-- name: body.add
-- What a job runs and asks for (JSON), beside the row that changes.
-- writes: body
insert into body (job_id, spec, wants) values (:job_id, :spec, :wants)

-- name: body.fill
-- Write what a job runs once its number is known.
-- writes: body
update body set spec = :spec, wants = :wants where job_id = :job_id

-- name: body.get
-- What a job runs and asks for.
-- owner: checked by _past
-- reads: body
select spec, wants from body where job_id = :job_id

-- name: body.drop_range
-- Undo `body.add` for a broken submission.
-- writes: body
delete from body where job_id between :first and :last

-- name: parent.add
-- Make a job wait for another; `told`: the parent has ended already.
-- writes: parent
insert into parent (parent, child, told) values (:parent, :child, :told)

-- name: parent.states
-- The parents of a job and their states; a parent that is deleted has finished.
-- owner: checked by why, _past, _above, reason
-- reads: job, parent
select p.parent, coalesce(j.state, 'finished') from parent p left join job j on j.job_id = p.parent
    where p.child = :child

-- name: parent.children
-- Jobs that wait for this one.
-- reads: parent
select child from parent where parent = :parent order by child limit :most

-- name: parent.tell
-- Mark the next children as informed that their parent has ended; returns them.
-- writes: parent
update parent set told = 1 where parent = :parent and told = 0
    and child in (select child from parent where parent = :parent and told = 0
        order by child limit :most)
    returning child

-- name: parent.drop_range
-- Undo `parent.add` for a broken submission.
-- writes: parent
delete from parent where child between :first and :last

-- name: unfolding.add
-- Note that a job has ended whose children are yet to be informed; an answer only if it has any.
-- reads: parent
-- writes: unfolding
insert into unfolding (job_id)
    select :job_id where exists (select 1 from parent where parent = :job_id)
    on conflict do nothing returning job_id

-- name: unfolding.any
-- Ended jobs whose children are yet to be informed.
-- reads: job, unfolding
select u.job_id, j.state, j.name from unfolding u join job j on j.job_id = u.job_id limit :most

-- name: unfolding.done
-- All children of a job are informed.
-- writes: unfolding
delete from unfolding where job_id = :job_id

-- name: sized.add
-- What a job asks for that waits among larger ones, in a lane of a rounded shape.
-- writes: sized
insert into sized (job_id, cores, memory_mb, disk_mb, gpus, nodes, walltime_s, machine)
    values (:job_id, :cores, :memory_mb, :disk_mb, :gpus, :nodes, :walltime_s, :machine)

-- name: sized.get
-- What a job asks for, where that is less than its lane's shape; `nodes` as in `job.ready_sized`.
-- reads: sized
select cores, memory_mb, disk_mb, gpus, nodes % 10000000, walltime_s, machine from sized where job_id = :job_id

-- name: sized.drop_range
-- Undo `sized.add` for the jobs of a broken submission.
-- writes: sized
delete from sized where job_id between :first and :last
