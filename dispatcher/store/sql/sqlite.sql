-- What SQLite has words of its own for.

-- fragment: ids
-- The members of a JSON list of numbers.
(select value from json_each(:ids))

-- fragment: ended_rows
-- A JSON list of attempts that ended.
(select json_extract(value, '$.job_id') as job_id, json_extract(value, '$.at') as at,
    json_extract(value, '$.owner') as owner, json_extract(value, '$.queue') as queue,
    json_extract(value, '$.site') as site, json_extract(value, '$.outcome') as outcome,
    json_extract(value, '$.n') as n, json_extract(value, '$.wall_ms') as wall_ms,
    json_extract(value, '$.cpu_ms') as cpu_ms, json_extract(value, '$.peak_mb') as peak_mb,
    json_extract(value, '$.gpu_ms') as gpu_ms, json_extract(value, '$.shape_id') as shape_id,
    json_extract(value, '$.worker_id') as worker_id, json_extract(value, '$.cores') as cores,
    json_extract(value, '$.memory_mb') as memory_mb, json_extract(value, '$.gpus') as gpus,
    json_extract(value, '$.nodes') as nodes
    from json_each(:ended)) as r

-- fragment: open_attempts
-- The table of attempts, read by the index of those that have not ended.
attempt a indexed by attempt_held

-- fragment: begins
substr({column}, 1, length({value})) = {value}

-- fragment: ends
-- What is as long as nothing ends with nothing.
({value} = '' or substr({column}, -length({value})) = {value})

-- fragment: contains
instr({column}, {value}) > 0

-- fragment: folded
-- Without the case of ASCII's letters.
lower({column})

-- name: event.set_aside
-- The last number that may have been given to an event.
-- reads: series
select last from series where name = 'event'

-- name: event.entered
-- The last event that is entered under its job.
-- reads: series
select last from series where name = 'job_event'

-- name: event.enter
-- Enter events under their jobs.
-- reads: event
-- writes: job_event
insert into job_event select job_id, seq from event where seq > :after
    and job_id is not null order by job_id, seq
