-- name: registration.add
-- An output that the catalogue is to know, with the report that makes it count.
-- writes: registration
insert into registration (job_id, name, owner, scope, lfn, rse, size, adler32, dataset, lifetime_s,
        state, due, reason, remedy)
    values (:job_id, :name, :owner, :scope, :lfn, :rse, :size, :adler32, :dataset, :lifetime_s,
        :state, :due, :reason, :remedy)
    on conflict do nothing

-- name: registration.due
-- The outputs that are to be registered now, those that have waited longest first.
-- reads: registration
select job_id, name, owner, scope, lfn, rse, size, adler32, dataset, lifetime_s, tries
    from registration where state = 'due' and due <= :now order by due, job_id, name limit :most

-- name: registration.settle
-- What became of an output's registration. One that is done stays so.
-- writes: registration
update registration set state = :state, due = :due, tries = tries + 1, reason = :reason,
    remedy = :remedy where job_id = :job_id and name = :name and state = 'due'

-- name: registration.again
-- Try a job's refused registrations again.
-- owner: checked by reregister
-- writes: registration
update registration set state = 'due', due = :now where job_id = :job_id and state = 'refused'
    returning name

-- name: registration.of_job
-- How far the registration of a job's outputs is.
-- owner: checked by reason
-- reads: registration
select name, state, reason, remedy from registration where job_id = :job_id order by name

-- name: registration.number_due
-- How many outputs are to be registered.
-- reads: registration
select count(*) from registration where state = 'due'

-- name: registration.number_refused
-- How many outputs the catalogue refused.
-- reads: registration
select count(*) from registration where state = 'refused'

-- name: registration.drop
-- Forget the registrations of jobs that are old now.
-- writes: registration
delete from registration where job_id in {ids} and state <> 'due'

-- name: dataset_use.add
-- That jobs of a submission write to a data set.
-- writes: dataset_use
insert into dataset_use (dataset, first, last) values (:dataset, :first, :last)
    on conflict do nothing

-- name: dataset_use.open
-- Data sets that are not closed, in their order.
-- reads: dataset_use
select distinct dataset from dataset_use where open = 1 and dataset > :after
    order by dataset limit :most

-- name: dataset_use.of
-- The jobs that may write to an open data set: the first and the last of each submission.
-- reads: dataset_use
select first, last from dataset_use where dataset = :dataset and open = 1

-- name: dataset_use.writer
-- The first of some jobs that has not ended.
-- reads: job
select job_id from job where job_id between :first and :last
    and state not in ('finished', 'failed', 'cancelled', 'closed') order by job_id limit 1

-- name: dataset_use.missing
-- An output that belongs to a data set and is not in the catalogue.
-- reads: registration
select name from registration where dataset = :dataset and state <> 'done' limit 1

-- name: dataset_use.close
-- A data set was closed after all that had been submitted for it by then.
-- writes: dataset_use
update dataset_use set open = 0 where dataset = :dataset and first = :first
