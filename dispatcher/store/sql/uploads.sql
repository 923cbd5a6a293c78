-- name: upload.get
-- A file of a user that travels with jobs, as far as it has come.
-- owner: user
-- reads: upload
-- locks: upload
select upload_id, have from upload where owner = :owner and digest = :digest and size = :size

-- name: upload.held
-- How many such files a user has, and their bytes.
-- owner: user
-- reads: upload
select count(*), cast(coalesce(sum(size), 0) as bigint) from upload where owner = :owner

-- name: upload.add
-- Begin a file; no answer if it was begun before.
-- owner: user
-- writes: upload
insert into upload (owner, digest, size, have, changed) values (:owner, :digest, :size, 0, :now)
    on conflict do nothing returning upload_id

-- name: upload.set
-- Note how much of a file is here, and that somebody needs it.
-- writes: upload
update upload set have = :have, changed = :now where upload_id = :upload_id

-- name: upload.old
-- A file that nobody has asked for since a time.
-- reads: upload
-- locks: upload skip locked
select upload_id, have from upload where changed < :before order by changed limit 1

-- name: upload.cut
-- Note that pieces of a file that nobody needs are gone.
-- writes: upload
update upload set have = :have where upload_id = :upload_id

-- name: upload.drop
-- Forget a file whose pieces are gone.
-- writes: upload
delete from upload where upload_id = :upload_id

-- name: upload_piece.add
-- A piece of a file.
-- writes: upload_piece
insert into upload_piece (upload_id, first, body) values (:upload_id, :first, :body)

-- name: upload_piece.at
-- The piece of a file in which a byte is.
-- reads: upload_piece
select first, body from upload_piece where upload_id = :upload_id and first <= :at
    order by first desc limit 1

-- name: upload_piece.trim
-- Delete some pieces of a file, the last ones; returns them.
-- writes: upload_piece
delete from upload_piece where upload_id = :upload_id and first in (select first from upload_piece
    where upload_id = :upload_id order by first desc limit :most) returning first

-- name: upload_use.add
-- That jobs of a submission name a file.
-- writes: upload_use
insert into upload_use (upload_id, first, last) values (:upload_id, :first, :last)
    on conflict do nothing

-- name: upload_use.forget
-- Forget the submissions whose jobs were all moved away.
-- reads: job
-- writes: upload_use
delete from upload_use where upload_id = :upload_id and not exists (select 1 from job
    where job.job_id between upload_use.first and upload_use.last)

-- name: upload_use.any
-- Whether jobs name a file.
-- reads: upload_use
select first from upload_use where upload_id = :upload_id limit 1

-- name: upload_task.add
-- That jobs of a task name a file.
-- writes: upload_task
insert into upload_task (upload_id, task_id) values (:upload_id, :task_id) on conflict do nothing

-- name: upload_task.forget
-- Forget the tasks that are kept no more.
-- reads: task
-- writes: upload_task
delete from upload_task where upload_id = :upload_id and not exists (select 1 from task
    where task.task_id = upload_task.task_id)

-- name: upload_task.any
-- Whether jobs of a task name a file.
-- reads: upload_task
select task_id from upload_task where upload_id = :upload_id limit 1
