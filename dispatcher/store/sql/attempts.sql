-- name: attempt.add
-- An attempt that is leased to a worker.
-- writes: attempt
insert into attempt (job_id, attempt_nr, worker_id, request, state, leased)
    values (:job_id, :attempt_nr, :worker_id, :request, 'sent', :now)

-- name: attempt.of_request
-- What a worker was given for a request before: it gets the same again.
-- reads: attempt, job
select a.job_id, a.attempt_nr, j.shape_id from attempt a join job j on j.job_id = a.job_id
    where a.worker_id = :worker_id and a.ended is null and a.request = :request

-- name: attempt.mark
-- The state that a pilot reports; each state's first time is kept.
-- writes: attempt
update attempt set state = :state,
    started = case when started is null and :state <> 'sent' then :since else started end,
    running = case when running is null and :state in ('running', 'holding') then :since
        else running end,
    holding = case when holding is null and :state = 'holding' then :since else holding end,
    heard = :now, held = coalesce(:held, held)
    where job_id = :job_id and attempt_nr = :attempt_nr

-- name: attempt.end
-- How an attempt ended. A late report may still end one that was lost.
-- writes: attempt
update attempt set state = :state, ended = :ended, exit_code = :exit_code, code = :code,
    host = :host, runtime = :runtime, diagnosis = :diagnosis, remedy = :remedy, usage = :usage,
    timing = :timing, stderr_tail = :stderr_tail, result = :result, curve = :curve,
    held = coalesce(:held, held), booked = :booked
    where job_id = :job_id and attempt_nr = :attempt_nr and (ended is null or state = 'lost')

-- name: attempt.resume
-- Take an attempt for running again that was lost too early.
-- writes: attempt
update attempt set state = :state, ended = null, code = 0, diagnosis = '', heard = :now,
    booked = null
    where job_id = :job_id and attempt_nr = :attempt_nr

-- name: attempt.open
-- Attempts that have not ended, and the owners of their jobs: leases are made from them at a start.
-- reads: attempt, job
select a.job_id, a.attempt_nr, a.worker_id, a.state, j.owner
    from attempt a join job j on j.job_id = a.job_id where a.ended is null

-- name: attempt.get
-- Worker and state of an attempt, its times, and what was summed up of it while it was lost.
-- owner: checked by look, keep, _conclude, _claim, change, judge, job_credentials, job_upload, _told, _tell
-- reads: attempt
select worker_id, state, leased, running, booked from attempt where job_id = :job_id and attempt_nr = :attempt_nr

-- name: attempt.of_job
-- The attempts of a job as users see them, with their workers' sites.
-- owner: checked by _log_chunk, reason
-- reads: attempt, worker
select a.attempt_nr, a.worker_id, a.state, coalesce(w.site, ''), a.host, a.leased, a.started,
    a.running, a.holding, a.ended, a.exit_code, a.code, a.diagnosis, a.remedy, a.runtime, a.usage,
    case when a.ended is null then a.staging end, a.timing, a.stderr_tail, a.result, w.registered
    from attempt a left join worker w on w.worker_id = a.worker_id
    where a.job_id = :job_id order by a.attempt_nr

-- name: attempt.of_worker
-- The attempts of a worker in the order of their leases, after one; with what their jobs ask for.
-- owner: checked by _runs_of
-- reads: attempt, job, lane, shape
select a.job_id, a.attempt_nr, a.state, a.leased, a.running, a.holding, a.ended, a.timing, a.held,
    coalesce(j.owner, '') as owner, coalesce(j.name, '') as name, coalesce(j.items, 0) as items,
    coalesce(s.cores, 1) as cores
    from attempt a left join job j on j.job_id = a.job_id
    left join lane l on l.shape_id = j.shape_id
    left join shape s on s.shape_id = coalesce(l.of_shape, j.shape_id)
    where a.worker_id = :worker_id and (a.leased, a.job_id) > (:leased, :job_id)
    order by a.leased, a.job_id limit :most

-- name: attempt.heard
-- When a pilot last listed this attempt.
-- writes: attempt
update attempt set heard = :at where job_id = :job_id and attempt_nr = :attempt_nr and ended is null

-- name: attempt.heard_of
-- When pilots last listed these jobs' open attempts.
-- reads: attempt
select job_id, attempt_nr, heard from attempt where job_id in {ids} and ended is null

-- name: attempt.show
-- What a running payload uses and how far its files are, as users see it.
-- writes: attempt
update attempt set curve = :curve, usage = :usage, staging = :staging where job_id = :job_id
    and attempt_nr = :attempt_nr and ended is null

-- name: attempt.shown
-- What the running payloads of a worker use, as far as it was stored for users to see; nobody is told
-- whose they are.
-- owner: checked by _used
-- reads: attempt
select usage from attempt where worker_id = :worker_id and ended is null and usage is not null

-- name: attempt.traced_job
-- The attempts of a job at a site, for `harvester-edge trace`.
-- owner: site
-- reads: attempt, worker
select a.job_id, a.attempt_nr, a.worker_id, a.state, w.host, a.leased, a.ended, a.code
    from attempt a join worker w on w.worker_id = a.worker_id
    where a.job_id = :job_id and w.site = :site order by a.attempt_nr desc limit 100

-- name: attempt.traced_worker
-- The attempts of a worker at a site, for `harvester-edge trace`.
-- owner: site
-- reads: attempt, worker
select a.job_id, a.attempt_nr, a.worker_id, a.state, w.host, a.leased, a.ended, a.code
    from attempt a join worker w on w.worker_id = a.worker_id
    where a.worker_id = :worker_id and w.site = :site order by a.leased desc limit 1000

-- name: attempt.curve
-- Use over time of one attempt, or of the last.
-- owner: checked by samples
-- reads: attempt
select attempt_nr, curve, usage, ended from attempt where job_id = :job_id
    and (attempt_nr = :attempt_nr or :attempt_nr is null)
    order by attempt_nr desc limit 1

-- name: attempt.tried_on
-- Nodes on which a job was lost or failed, and whether the attempt ended with the code `:lost`.
-- reads: attempt, worker
select w.host, a.state = 'lost' and a.code = :lost
    from attempt a join worker w on w.worker_id = a.worker_id
    where a.job_id = :job_id and a.state in ('lost', 'failed')

-- name: attempt.held_by
-- Jobs that a worker has.
-- owner: checked by _take, _conclude_jobs, _free
-- reads: attempt
select job_id from attempt where worker_id = :worker_id and ended is null

-- name: log.add
-- A piece of a job's output.
-- owner: checked by keep, chunk, KeptStream
-- writes: log
insert into log (job_id, attempt_nr, stream, start, stop, piece)
    values (:job_id, :attempt_nr, :stream, :start, :stop, :piece) on conflict do nothing

-- name: log.held
-- Where the kept output of an attempt ends, its size and its number of pieces.
-- owner: checked by keep, chunk, KeptStream
-- reads: log
select coalesce(max(stop), 0), coalesce(sum(stop - start), 0), count(*) from log
    where job_id = :job_id and attempt_nr = :attempt_nr and stream = :stream

-- name: log.from
-- The kept output of an attempt from an offset on.
-- owner: checked by keep, chunk, KeptStream
-- reads: log
select start, stop, piece from log where job_id = :job_id and attempt_nr = :attempt_nr
    and stream = :stream and stop > :offset order by start limit :most

-- name: file.add
-- An output that a job has left somewhere.
-- writes: file
insert into file (job_id, name, url, size, adler32, md5, item) values (:job_id, :name, :url, :size,
    :adler32, :md5, :item)
    on conflict (job_id, name) do update set url = :url, size = :size, adler32 = :adler32,
    md5 = :md5, item = :item

-- name: file.inherit
-- Outputs that the items of a job have left, for the job that goes on with the items.
-- writes: file
insert into file (job_id, name, url, size, adler32, md5, item)
    select :job_id, name, url, size, adler32, md5, item from file
    where job_id = :of_job and item is not null

-- name: file.of_job
-- The outputs of a job.
-- owner: checked by reason
-- reads: file
select name, url, size, adler32, job_id, item from file where job_id = :job_id order by name

-- name: file.of_item
-- Those that one of its items left.
-- owner: checked by item
-- reads: file
select name, url, size, adler32, job_id, item from file where job_id = :job_id and item = :index
    order by name

-- name: file.of_parents
-- The outputs of a job's parents: its inputs.
-- reads: file, parent
select f.name, f.url, f.size, f.adler32, f.md5 from parent p join file f on f.job_id = p.parent
    where p.child = :child

-- name: tail.put
-- The end of a running job's file, for all dispatchers on the store.
-- writes: tail
insert into tail (job_id, at, text) values (:job_id, :at, :text)
    on conflict (job_id) do update set at = :at, text = :text

-- name: tail.get
-- When the end of a job's file came last, and what it was.
-- reads: tail
select at, text from tail where job_id = :job_id
