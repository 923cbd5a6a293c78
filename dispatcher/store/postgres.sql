-- Statements that PostgreSQL says otherwise, or that must hold when others write at the same time.

-- name: shape.add
insert into shape (cores, memory_mb, disk_mb, gpus, nodes, walltime_s)
    values (:cores, :memory_mb, :disk_mb, :gpus, :nodes, :walltime_s)
    on conflict (cores, memory_mb, disk_mb, gpus, nodes, walltime_s) do update set cores = :cores returning shape_id
-- name: lane.add
insert into lane (shape_id, of_shape, user_group)
    select last, :of_shape, :user_group from (select 1000000000 + nextval('lane_number') as last) as number
    on conflict (user_group, of_shape) do update set of_shape = :of_shape returning shape_id
-- name: worker.plan
insert into worker (site, queue, phase, intent, idx, deadline)
    values (:site, :queue, 'planned', :intent, :idx, :deadline)
    on conflict (intent, idx) where intent <> '' do update set intent = :intent returning worker_id
-- name: worker.add
insert into worker (site, queue, host, phase, instance, batch_id, version, registered, last_heard, total, room)
    values (:site, :queue, :host, 'active', :instance, :batch_id, :version, :now, :now, :total, :total)
    on conflict (instance) where intent = '' and instance <> '' do update set last_heard = :now returning worker_id
-- name: bulletin.spread
select pg_notify(:channel, :text)
-- name: worker.skip
select setval(pg_get_serial_sequence('worker', 'worker_id'), (select coalesce(max(worker_id), 0) + :by from worker))
-- name: old.partition
select old_job_partition(:at)
-- name: event.next
insert into event (seq, at, kind, job_id, worker_id, data)
    values ((select last from series where name = 'event') + :seq, :at, :kind, :job_id, :worker_id, :data)
-- name: event.notify
select pg_notify(:channel, (select last::text from series where name = 'event'))
-- name: job.standings
select job_id, state, attempt_nr, max_attempts, retry_all, queue, shape_id, worker_id, owner, name, parents_left
    from job where job_id in (select value from json_each(:ids)) order by job_id
