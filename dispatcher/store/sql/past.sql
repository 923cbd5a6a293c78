-- name: request.trim
-- Forget complete submissions from before a time, of which no job is in the queue any more.
-- reads: job
-- writes: request
delete from request where made < :before and complete = 1
    and not exists (select 1 from job j where j.job_id >= request.first
        and j.job_id < request.first + request.jobs)

-- name: tally.trim
-- Forget the tallies of submissions that are forgotten.
-- reads: request
-- writes: tally
delete from tally where not exists (select 1 from request r where r.first = tally.first)

-- name: event.trim
-- Delete the oldest events, if they are from before a time; returns their numbers.
-- writes: event
delete from event where seq in (select seq from (select seq, at from event order by seq
    limit :most) as oldest
    where at < :before) returning seq

-- name: old.due
-- Jobs that ended before a time and that no other waits for, oldest first.
-- reads: job, parent, unfolding
select job_id from job
    where (state = 'finished' or state = 'failed' or state = 'cancelled' or state = 'closed')
    and changed < :before
    and not exists (select 1 from unfolding u where u.job_id = job.job_id)
    and not exists (select 1 from parent p join job c on c.job_id = p.child
        where p.parent = job.job_id
            and c.state not in ('finished', 'failed', 'cancelled', 'closed'))
    order by changed limit :most

-- name: old.partition
-- Make room for old jobs of a time, where old jobs are kept in parts.
select :at

-- name: old.add
-- An ended job with all that is shown of it, as one row.
-- writes: old_job
insert into old_job (job_id, ended, detail, state, owner) values (:job_id, :ended, :detail,
    :state, :owner)

-- name: old.get
-- All that is shown of an old job (JSON).
-- reads: old_job
select detail from old_job where job_id = :job_id

-- name: old.states_of
-- State and owner of old jobs; the detail where an older version wrote no state.
-- reads: old_job
select job_id, state, owner, case when state is null then detail end as detail from old_job
    where job_id in {ids}

-- name: old.drop_log
-- Delete the output of jobs that are old now.
-- writes: log
delete from log where job_id in {ids}

-- name: old.drop_file
-- Delete the lists of outputs of jobs that are old now.
-- writes: file
delete from file where job_id in {ids}

-- name: old.drop_attempt
-- Delete the attempts of jobs that are old now.
-- writes: attempt
delete from attempt where job_id in {ids}

-- name: old.drop_body
-- Delete what jobs ran that are old now.
-- writes: body
delete from body where job_id in {ids}

-- name: old.drop_parent
-- Delete what jobs waited for that are old now.
-- writes: parent
delete from parent where child in {ids}

-- name: old.drop_sized
-- Delete what jobs asked for that are old now.
-- writes: sized
delete from sized where job_id in {ids}

-- name: old.drop_tail
-- Delete the ends of files of jobs that are old now.
-- writes: tail
delete from tail where job_id in {ids}

-- name: old.drop_job
-- Delete jobs that are old now.
-- writes: job
delete from job where job_id in {ids}

-- name: refused.add
-- Refuse a token, or all of a subject made before a time.
-- writes: refused
insert into refused (what, made_before, until) values (:what, :made_before, :until)
    on conflict (what) do update set made_before = :made_before, until = :until

-- name: refused.all
-- What is refused now.
-- reads: refused
select what, made_before, until from refused where until > :now

-- name: refused.trim
-- Forget refusals of tokens that have expired by themselves.
-- writes: refused
delete from refused where until <= :now
