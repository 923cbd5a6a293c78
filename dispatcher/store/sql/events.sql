-- name: event.add
-- An event with its number.
-- writes: event
insert into event (seq, at, kind, job_id, worker_id, data) values (:seq, :at, :kind, :job_id,
    :worker_id, :data)

-- name: event.last
-- The number of the last event.
-- reads: event, series
select coalesce((select max(seq) from event), (select last from series where name = 'event'))

-- name: event.after
-- The events that follow a number.
-- reads: event
select seq, at, kind, job_id, worker_id, data from event where seq > :after order by seq limit :most

-- name: event.of_job
-- The events of a job that follow a number.
-- owner: checked by events
-- reads: event, job_event, series
select seq, at, kind, job_id, worker_id, data from event where seq > :after and seq in
    (select seq from job_event where job_id = :job_id and seq > :after union all
     select seq from event where seq > (select last from series where name = 'job_event')
     and job_id = :job_id)
    order by seq limit :most
