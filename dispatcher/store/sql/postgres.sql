-- What PostgreSQL needs otherwise, or what must hold while other dispatchers write at the same time.

-- fragment: ids
-- The members of a JSON list of numbers.
(select value::bigint from json_array_elements_text(:ids::json))

-- fragment: ended_rows
-- A JSON list of attempts that ended.
json_to_recordset(:ended::json) as r (job_id bigint, at double precision, owner text, queue text,
    site text, outcome text, n double precision, wall_ms double precision, cpu_ms double precision,
    peak_mb double precision, gpu_ms double precision, shape_id bigint, worker_id bigint,
    cores bigint, memory_mb bigint, gpus bigint, nodes bigint)

-- fragment: open_attempts
-- The table of attempts: the planner finds the index of the open ones by itself.
attempt a

-- fragment: begins
starts_with({column}, {value})

-- fragment: ends
right({column}, length({value})) = {value}

-- fragment: contains
strpos({column}, {value}) > 0

-- fragment: folded
-- Without the case of ASCII's letters, as in SQLite.
lower({column} collate "C")

-- name: event.last
-- reads: series
select last from series where name = 'event'

-- name: event.of_job
-- reads: event
select seq, at, kind, job_id, worker_id, data from event where job_id = :job_id and seq > :after
    order by seq limit :most

-- name: shape.add
-- writes: shape
insert into shape (cores, memory_mb, disk_mb, gpus, nodes, walltime_s)
    values (:cores, :memory_mb, :disk_mb, :gpus, :nodes, :walltime_s)
    on conflict (cores, memory_mb, disk_mb, gpus, nodes, walltime_s)
    do update set cores = :cores returning shape_id

-- name: machine.add
-- writes: machine
insert into machine (text) values (:text)
    on conflict (text) do update set text = :text returning machine_id

-- name: lane.add
-- writes: lane
insert into lane (shape_id, of_shape, user_group)
    select last, :of_shape, :user_group
    from (select 1000000000 + nextval('lane_number') as last) as number
    on conflict (user_group, of_shape) do update set of_shape = :of_shape returning shape_id

-- name: worker.plan
-- writes: worker
insert into worker (site, queue, phase, intent, idx, deadline)
    values (:site, :queue, 'planned', :intent, :idx, :deadline)
    on conflict (intent, idx) where intent <> '' do update set intent = :intent returning worker_id

-- name: worker.add
-- writes: worker
insert into worker
    (site, queue, host, phase, instance, batch_id, version, registered, last_heard, total, room)
    values (:site, :queue, :host, 'active', :instance, :batch_id, :version, :now, :now, :total, :total)
    on conflict (instance) where intent = '' and instance <> ''
    do update set last_heard = :now returning worker_id

-- name: worker.skip
-- writes: worker
select setval(pg_get_serial_sequence('worker', 'worker_id'),
    (select coalesce(max(worker_id), 0) + :by from worker))

-- name: old.partition
-- writes: old_job
select old_job_partition(:at)

-- Events and notices between dispatchers.

-- name: event.next
-- The events of a commit, numbered from the last one on, and a notice to the other dispatchers.
-- writes: event, series
with taken as (update series set last = last + :by where name = 'event' returning last),
    written as (insert into event (seq, at, kind, job_id, worker_id, data)
        select (select last from taken) + seq, at, kind, job_id, worker_id, data
        from json_to_recordset(:rows::json) as r
            (seq bigint, at double precision, kind text, job_id bigint, worker_id bigint, data text))
    select last, pg_notify(:channel, last::text) from taken

-- name: bulletin.spread
-- A message to all dispatchers on this store, sent by the commit.
select pg_notify(:channel, :text)

-- What is read ahead for the many changes of a commit.

-- name: job.standings
-- `job.standing` of many jobs, always in the same order so that no two commits wait in a ring.
-- reads: job
-- locks: job
select job_id, state, attempt_nr, max_attempts, retry_all, queue, shape_id, worker_id, owner, name,
    parents_left, items, task_id, tally
    from job where job_id in {ids} order by job_id

-- name: job.ready_whole
-- `job.ready`, `body.get` and `job.standing` of the jobs that are next.
-- reads: body, job
-- locks: job skip locked
select job.job_id, priority, rank, spec, wants,
    state, attempt_nr, max_attempts, retry_all, queue, shape_id, worker_id, owner, name, parents_left,
    items, task_id, tally
    from job join body on body.job_id = job.job_id
    where queue = :queue and shape_id = :shape_id and state = 'activated'
    order by priority desc, rank, job.job_id limit :most

-- name: attempt.known
-- `attempt.get` of all attempts of many jobs.
-- reads: attempt
select job_id, attempt_nr, worker_id, state, leased, running, booked from attempt where job_id in {ids}

-- name: attempt.of_requests
-- `attempt.of_request` of many requests. The offset keeps the order: one request after the other,
-- whatever the planner believes of the table.
-- reads: attempt, job
select r.worker_id, r.request, a.job_id, a.attempt_nr, j.shape_id
    from json_to_recordset(:rows::json) as r (worker_id bigint, request text)
    cross join lateral (select job_id, attempt_nr from attempt
        where worker_id = r.worker_id and request = r.request and ended is null offset 0) a
    join job j on j.job_id = a.job_id

-- name: counter.all_ready
-- `counter.ready` of all queues.
-- reads: counter
select queue, shape_id, n from counter where state = 'activated' and n > 0

-- What is written for many rows at once.

-- name: counter.move
-- writes: counter
-- key: queue, shape_id, state
insert into counter (queue, shape_id, state, n) select queue, shape_id, state, by
    from json_to_recordset(:rows::json) as r (queue text, shape_id bigint, state text, by bigint)
    on conflict (queue, shape_id, state) do update set n = counter.n + excluded.n

-- name: owned.move
-- writes: owned
-- key: owner, queue, state
insert into owned (owner, queue, state, n) select owner, queue, state, by
    from json_to_recordset(:rows::json) as r (owner text, queue text, state text, by bigint)
    on conflict (owner, queue, state) do update set n = owned.n + excluded.n

-- name: tally.move
-- writes: tally
-- key: first
update tally set waiting = tally.waiting + r.waiting, running = tally.running + r.running,
    finished = tally.finished + r.finished, failed = tally.failed + r.failed,
    cancelled = tally.cancelled + r.cancelled
    from json_to_recordset(:rows::json) as r (first bigint, waiting bigint, running bigint,
        finished bigint, failed bigint, cancelled bigint)
    where tally.first = r.first

-- name: job.set_state
-- writes: job
-- key: job_id
update job set state = r.state, attempt_nr = r.attempt_nr, max_attempts = r.max_attempts,
    worker_id = r.worker_id, changed = r.now,
    activated = case when r.state = 'activated' then r.now else activated end
    from json_to_recordset(:rows::json) as r (job_id bigint, state text, attempt_nr bigint,
        max_attempts bigint, worker_id bigint, now double precision)
    where job.job_id = r.job_id

-- name: job.end
-- writes: job
-- key: job_id
update job set state = r.state, changed = r.now, code = r.code, diagnosis = r.diagnosis,
    attempt_nr = r.attempt_nr, kind = r.kind
    from json_to_recordset(:rows::json) as r (job_id bigint, state text, now double precision,
        code bigint, diagnosis text, attempt_nr bigint, kind bigint)
    where job.job_id = r.job_id

-- name: attempt.add
-- writes: attempt
-- key: job_id, attempt_nr
insert into attempt (job_id, attempt_nr, worker_id, request, state, leased)
    select job_id, attempt_nr, worker_id, request, 'sent', now
    from json_to_recordset(:rows::json) as r (job_id bigint, attempt_nr bigint, worker_id bigint,
        request text, now double precision)

-- name: attempt.mark
-- writes: attempt
-- key: job_id, attempt_nr
update attempt a set state = r.state,
    started = case when started is null and r.state <> 'sent' then r.since else started end,
    running = case when running is null and r.state in ('running', 'holding') then r.since
        else running end,
    holding = case when holding is null and r.state = 'holding' then r.since else holding end,
    heard = r.now, held = coalesce(r.held, a.held)
    from json_to_recordset(:rows::json) as r (job_id bigint, attempt_nr bigint, state text,
        since double precision, now double precision, held text)
    where a.job_id = r.job_id and a.attempt_nr = r.attempt_nr

-- name: attempt.end
-- writes: attempt
-- key: job_id, attempt_nr
update attempt a set state = r.state, ended = r.ended, exit_code = r.exit_code, code = r.code,
    host = r.host, runtime = r.runtime, diagnosis = r.diagnosis, remedy = r.remedy, usage = r.usage,
    timing = r.timing, stderr_tail = r.stderr_tail, result = r.result, curve = r.curve,
    held = coalesce(r.held, a.held), booked = r.booked
    from json_to_recordset(:rows::json) as r (job_id bigint, attempt_nr bigint, state text,
        ended double precision, exit_code bigint, code bigint, host text, runtime text,
        diagnosis text, remedy text, usage text, timing text, stderr_tail text, result text,
        curve text, held text, booked text)
    where a.job_id = r.job_id and a.attempt_nr = r.attempt_nr
    and (a.ended is null or a.state = 'lost')

-- name: worker.heard
-- writes: worker
-- key: worker_id
update worker w set last_heard = r.at, room = r.room,
    occupancy = coalesce(r.occupancy, w.occupancy)
    from json_to_recordset(:rows::json) as r (worker_id bigint, at double precision, room text,
        occupancy text)
    where w.worker_id = r.worker_id

-- name: attempt.heard
-- `coalesce` keeps the planner from the index of open attempts, in which each of them would be looked for.
-- writes: attempt
-- key: job_id, attempt_nr
-- forgets: nothing
update attempt a set heard = r.at
    from json_to_recordset(:rows::json) as r (job_id bigint, attempt_nr bigint, at double precision)
    where a.job_id = r.job_id and a.attempt_nr = r.attempt_nr and coalesce(a.ended, 0) = 0

-- name: item.some
-- One look at the index for each: of a new table the planner believes that a job has few items, and
-- would read all of them. The offset keeps the order.
-- reads: item
select i.* from json_array_elements_text(:ids::json) as wanted
    cross join lateral (select {item_columns} from item
        where cluster_id = :cluster_id and idx = wanted.value::bigint offset 0) i

-- name: item.add
-- writes: item
-- key: cluster_id, idx
insert into item (cluster_id, idx, state, mark, attempt, failures, lost, request_nr, name, code,
    diagnosis, host, slot, stdout_tail, stderr_tail)
    select cluster_id, idx, state, mark, attempt, 0, 0, request_nr, name, 0, '', '', '', '', ''
    from json_to_recordset(:rows::json) as r (cluster_id bigint, idx bigint, state text, mark bigint,
        attempt bigint, request_nr bigint, name text)

-- name: item.lease
-- writes: item
-- key: cluster_id, idx
update item i set state = r.state, mark = r.mark, attempt = r.attempt, failures = r.failures,
    lost = r.lost, request_nr = r.request_nr
    from json_to_recordset(:rows::json) as r (cluster_id bigint, idx bigint, state text, mark bigint,
        attempt bigint, failures bigint, lost bigint, request_nr bigint)
    where i.cluster_id = r.cluster_id and i.idx = r.idx

-- name: item.run
-- writes: item
-- key: cluster_id, idx
update item i set state = r.state, host = r.host, slot = r.slot, started = r.started, ended = null
    from json_to_recordset(:rows::json) as r (cluster_id bigint, idx bigint, state text, host text,
        slot text, started double precision)
    where i.cluster_id = r.cluster_id and i.idx = r.idx

-- name: item.end
-- writes: item
-- key: cluster_id, idx
update item i set state = r.state, mark = r.mark, failures = r.failures, lost = r.lost,
    exit_code = r.exit_code, code = r.code, diagnosis = r.diagnosis, host = r.host, slot = r.slot,
    started = r.started, ended = r.ended, usage = r.usage, stdout_tail = r.stdout_tail,
    stderr_tail = r.stderr_tail
    from json_to_recordset(:rows::json) as r (cluster_id bigint, idx bigint, state text, mark bigint,
        failures bigint, lost bigint, exit_code bigint, code bigint, diagnosis text, host text,
        slot text, started double precision, ended double precision, usage text, stdout_tail text,
        stderr_tail text)
    where i.cluster_id = r.cluster_id and i.idx = r.idx

-- name: item.give_back
-- writes: item
-- key: cluster_id, idx
update item i set state = r.state, mark = 0, failures = r.failures, lost = r.lost
    from json_to_recordset(:rows::json) as r (cluster_id bigint, idx bigint, state text,
        failures bigint, lost bigint)
    where i.cluster_id = r.cluster_id and i.idx = r.idx
