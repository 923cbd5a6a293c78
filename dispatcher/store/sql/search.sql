-- Lists of jobs that match a query. `searching.py` puts the query in the place of `{where}`, made of the
-- fragments below and of parameters; a search by state, kind or label begins at an index.

-- fragment: where
-- Every job, until a query is put here.
'all' = 'all'

-- fragment: job_filter
-- Of a slice of ids, jobs that the caller may see.
j.job_id >= :least and j.job_id < :before and (:owner = '' or j.owner = :owner)

-- fragment: labelled
-- Jobs that have a label, by the index of labels.
label l cross join job j

-- name: job.page
-- A page of jobs as users see them, newest first.
-- reads: job
select {job_columns} from job j where {job_filter} and {where} order by j.job_id desc limit :most

-- name: job.page_in_state
-- The same for a state in which no worker has the job: those states have an index.
-- reads: job
select {job_columns} from job j where j.state = :state
    and j.state <> 'sent' and j.state <> 'starting' and j.state <> 'running' and j.state <> 'holding'
    and {job_filter} and {where} order by j.job_id desc limit :most

-- name: job.page_with_worker
-- The same for a state in which a worker has the job. The join begins at the open attempts, which are few.
-- reads: attempt, job
select {job_columns} from {open_attempts} cross join job j
    where a.ended is null and j.job_id = a.job_id and j.attempt_nr = a.attempt_nr
    and j.state = :state and {job_filter} and {where} order by j.job_id desc limit :most

-- name: job.page_of_kind
-- The same for one kind of failure.
-- reads: job
select {job_columns} from job j where j.kind = :kind and {job_filter} and {where}
    order by j.job_id desc limit :most

-- name: job.page_of_label
-- The same for one value of a label.
-- reads: job, label
select {job_columns} from {labelled} where l.name = :label and l.value = :value
    and j.job_id = l.job_id and l.job_id >= :least and l.job_id < :before
    and {job_filter} and {where} order by l.job_id desc limit :most

-- name: job.count
-- How many jobs match, by owner and state.
-- reads: job
select j.owner, j.state, count(*) from job j where {job_filter} and {where} group by 1, 2

-- name: job.count_in_state
-- The same for a state in which no worker has the job.
-- reads: job
select j.owner, j.state, count(*) from job j where j.state = :state
    and j.state <> 'sent' and j.state <> 'starting' and j.state <> 'running' and j.state <> 'holding'
    and {job_filter} and {where} group by 1, 2

-- name: job.count_with_worker
-- The same for a state in which a worker has the job.
-- reads: attempt, job
select j.owner, j.state, count(*) from {open_attempts} cross join job j
    where a.ended is null and j.job_id = a.job_id and j.attempt_nr = a.attempt_nr
    and j.state = :state and {job_filter} and {where} group by 1, 2

-- name: job.count_of_kind
-- The same for one kind of failure.
-- reads: job
select j.owner, j.state, count(*) from job j where j.kind = :kind and {job_filter} and {where}
    group by 1, 2

-- name: job.count_of_label
-- The same for one value of a label.
-- reads: job, label
select j.owner, j.state, count(*) from {labelled} where l.name = :label and l.value = :value
    and j.job_id = l.job_id and l.job_id >= :least and l.job_id < :before
    and {job_filter} and {where} group by 1, 2

-- name: job.next
-- The jobs that follow one and match, oldest first.
-- reads: job
select j.job_id from job j where {job_filter} and {where} order by j.job_id limit :most

-- name: job.still
-- Of these jobs those that match.
-- reads: job
select j.job_id from job j where j.job_id in {ids} and {where}

-- name: label.add
-- A label of a job.
-- writes: label
insert into label (job_id, name, value) values (:job_id, :name, :value)

-- name: label.of_job
-- The labels of a job.
-- owner: checked by _past
-- reads: label
select name, value from label where job_id = :job_id order by name

-- name: label.drop_range
-- Undo `label.add` for a broken submission.
-- writes: label
delete from label where job_id between :first and :last

-- name: old.drop_label
-- Delete the labels of jobs that are old now.
-- writes: label
delete from label where job_id in {ids}

-- fragment: of_state
j.state

-- fragment: of_queue
j.queue

-- fragment: of_user
j.owner

-- fragment: of_name
j.name

-- fragment: of_diagnosis
j.diagnosis

-- fragment: of_site
-- Where its last attempt is, or was.
coalesce((select w.site from attempt t join worker w on w.worker_id = t.worker_id
    where t.job_id = j.job_id and t.attempt_nr = j.attempt_nr), '')

-- fragment: of_host
-- As the attempt's report says, until then as its worker said.
coalesce((select case when t.host <> '' then t.host else w.host end from attempt t
    join worker w on w.worker_id = t.worker_id
    where t.job_id = j.job_id and t.attempt_nr = j.attempt_nr), '')

-- fragment: of_id
j.job_id

-- fragment: of_submission
-- A search has the numbers of its jobs in the place of this where it can.
(select max(r.first) from request r where r.first <= j.job_id)

-- fragment: of_code
j.code

-- fragment: of_kind
-- A job that did not fail is of none.
coalesce(j.kind, -1)

-- fragment: of_priority
j.priority

-- fragment: of_try
j.attempt_nr

-- fragment: of_age
({now} - j.created)

-- fragment: of_changed
({now} - j.changed)

-- fragment: of_duration
-- Since its payload began, until the attempt ended.
(select coalesce(t.ended, {now}) - t.running from attempt t
    where t.job_id = j.job_id and t.attempt_nr = j.attempt_nr)

-- fragment: has_label
exists (select 1 from label l where l.job_id = j.job_id and l.name = {value})

-- fragment: has_value
exists (select 1 from label l where l.job_id = j.job_id and l.name = {value} and ({words}))
