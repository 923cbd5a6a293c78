-- What attempts took, and pilots were for, summed up over hours, days and months.

-- name: usage.sizes
-- What a job asks for, and where its worker is: for an attempt whose sum may have to be taken back.
-- Its shape's number may be that of a lane.
-- owner: checked by book
-- reads: lane, sized, shape, worker
select coalesce(w.site, '') as site, coalesce(w.queue, '') as worker_queue,
    coalesce(z.cores, s.cores, 1) as cores, coalesce(z.memory_mb, s.memory_mb, 0) as memory_mb,
    coalesce(z.gpus, s.gpus, 0) as gpus, coalesce(z.nodes, s.nodes, 1) as nodes
    from (select 1) as one left join sized z on z.job_id = :job_id
    left join lane l on l.shape_id = :shape_id
    left join shape s on s.shape_id = coalesce(l.of_shape, :shape_id)
    left join worker w on w.worker_id = :worker_id

-- name: usage.add
-- Add what attempts took that ended, or take it off again (`n` is then -1): to the sums of all, and to
-- those of each label of their jobs. `nodes` has other things in it (`shape.all`).
-- reads: label, lane, sized, shape, worker
-- writes: usage
insert into usage (part, label, span, at, owner, queue, site, value, outcome, n, wall_ms, core_ms, cpu_ms,
        memory, peak, gpu, gpu_ms)
    with ended as (select r.job_id, r.at, r.owner, r.outcome, r.n,
            case when r.queue = '' then coalesce(w.queue, '') else r.queue end as queue,
            coalesce(r.site, w.site, '') as site, r.n * r.wall_ms as wall_ms,
            r.n * r.cpu_ms as cpu_ms, r.peak_mb, r.n * r.gpu_ms as gpu_ms,
            coalesce(r.cores, z.cores, s.cores, 1) as cores,
            coalesce(r.memory_mb, z.memory_mb, s.memory_mb, 0) as memory_mb,
            100 * coalesce(r.gpus, z.gpus, s.gpus, 0)
                + (coalesce(r.nodes, z.nodes, s.nodes, 1) - 1) / 100000 % 100 as gpus,
            (coalesce(r.nodes, z.nodes, s.nodes, 1) - 1) % 100000 + 1 as nodes
        from {ended_rows} left join sized z on z.job_id = r.job_id
        left join lane on lane.shape_id = r.shape_id
        left join shape s on s.shape_id = coalesce(lane.of_shape, r.shape_id)
        left join worker w on w.worker_id = r.worker_id)
    select '', label, 'hour', at, owner, queue, site, value, outcome, sum(n), sum(wall_ms),
        sum(wall_ms * cores * nodes), sum(cpu_ms), sum(wall_ms * memory_mb * nodes),
        sum(wall_ms * peak_mb), sum(wall_ms * gpus * nodes), sum(gpu_ms)
        from (select '' as label, '' as value, ended.* from ended
            union all select l.name, l.value, ended.* from ended join label l on l.job_id = ended.job_id
        ) as each
        group by label, at, owner, queue, site, value, outcome
        order by label, at, owner, queue, site, value, outcome
    {usage_more}

-- name: usage.put
-- Add to the sum of a longer span.
-- writes: usage
insert into usage (part, label, span, at, owner, queue, site, value, outcome, n, wall_ms, core_ms, cpu_ms,
        memory, peak, gpu, gpu_ms)
    values (:part, :label, :span, :at, :owner, :queue, :site, :value, :outcome, :n, :wall_ms, :core_ms,
        :cpu_ms, :memory, :peak, :gpu, :gpu_ms)
    {usage_more}

-- fragment: usage_more
-- To a sum that is there.
on conflict (part, label, span, at, owner, queue, site, value, outcome) do update set
    n = usage.n + excluded.n,
    wall_ms = usage.wall_ms + excluded.wall_ms, core_ms = usage.core_ms + excluded.core_ms,
    cpu_ms = usage.cpu_ms + excluded.cpu_ms, memory = usage.memory + excluded.memory,
    peak = usage.peak + excluded.peak, gpu = usage.gpu + excluded.gpu,
    gpu_ms = usage.gpu_ms + excluded.gpu_ms

-- name: usage.due
-- The oldest hour or day from before a time.
-- reads: usage
select min(at) from usage where span = :span and at < :before

-- name: usage.take
-- Delete the sums of an hour or a day, and return them: they become part of a longer span.
-- writes: usage
delete from usage where span = :span and at = :at returning part, label, owner, queue,
    site, value, outcome, n, wall_ms, core_ms, cpu_ms, memory, peak, gpu, gpu_ms

-- name: usage.sums
-- What attempts took in a time, by their jobs' owners, queues, sites or a label's values, and by what
-- came of them.
-- reads: usage
select case when :by_user = 1 then owner else '' end as who,
    case when :by_queue = 1 then queue else '' end as which,
    case when :by_site = 1 then site else '' end as place,
    case when :by_label = 1 then value else '' end as word,
    outcome, sum(n) as n, sum(wall_ms) as wall_ms, sum(core_ms) as core_ms,
    sum(cpu_ms) as cpu_ms, sum(memory) as memory, sum(peak) as peak, sum(gpu) as gpu,
    sum(gpu_ms) as gpu_ms
    from usage where {usage_of}
    group by 1, 2, 3, 4, 5

-- name: usage.over_time
-- The core-time that attempts had asked for, by hour, day or month and by what came of them.
-- reads: usage
select at, outcome, sum(core_ms) as core_ms from usage where {usage_of} group by 1, 2 order by 1

-- fragment: usage_of
-- Which sums are asked for.
part = :part and label = :label and span = :span and at >= :since and at < :until and (:owner = '' or owner = :owner)
    and (:queue = '' or queue = :queue) and (:site = '' or site = :site)
    and (:any_value = 1 or value = :value)

-- name: pilot_time.add
-- Add core-seconds of a worker.
-- writes: pilot_time
insert into pilot_time (at, span, site, queue, reason, core_ms)
    values (:at, :span, :site, :queue, :reason, :core_ms)
    on conflict (at, span, site, queue, reason) do update set
    core_ms = pilot_time.core_ms + excluded.core_ms

-- name: pilot_time.due
-- The oldest hour or day from before a time.
-- reads: pilot_time
select min(at) from pilot_time where span = :span and at < :before

-- name: pilot_time.take
-- Delete the sums of an hour or a day, and return them: they become part of a longer span.
-- writes: pilot_time
delete from pilot_time where span = :span and at = :at returning site, queue, reason, core_ms

-- name: pilot_time.sums
-- What became of pilots' core-seconds, by site or queue.
-- reads: pilot_time
select case when :by_queue = 1 then queue else '' end as which,
    case when :by_site = 1 then site else '' end as place, reason, sum(core_ms) as core_ms
    from pilot_time where at >= :since and at < :until
    and (:queue = '' or queue = :queue) and (:site = '' or site = :site)
    group by 1, 2, 3

-- name: worker.occupations
-- What these workers have told of their core-seconds.
-- reads: worker
-- locks: worker
select worker_id, site, queue, occupancy from worker where worker_id in {ids} order by worker_id
