-- name: list.get
-- How far the upload of a list of items is, and the most that one of them asks for.
-- owner: user
-- reads: item_list
-- locks: item_list
select list_id, items, bare, cores, memory_mb, gpus, outputs, inputs from item_list
    where owner = :owner and name = :name

-- name: list.add
-- Begin a list of items; no answer if it was begun before.
-- owner: user
-- writes: item_list
insert into item_list (owner, name, items, bare, cores, memory_mb, gpus, changed)
    values (:owner, :name, 0, 0, 0, 0, 0, :now)
    on conflict do nothing returning list_id

-- name: list.grow
-- Note that a list has one slice more.
-- writes: item_list
update item_list set items = :items, bare = :bare, cores = :cores, memory_mb = :memory_mb,
    gpus = :gpus, outputs = outputs + :outputs, inputs = inputs + :inputs, bytes = bytes + :bytes, changed = :now
    where list_id = :list_id

-- name: list.unused
-- How many lists of an owner no job has named yet, and their bytes.
-- owner: user
-- reads: item_list
select count(*), cast(coalesce(sum(bytes), 0) as bigint) from item_list
    where owner = :owner and used = 0

-- name: list.use
-- Note that a job names a list.
-- writes: item_list
update item_list set used = 1 where list_id = :list_id and used = 0

-- name: list.old
-- A list that no job needs, and that nothing was added to since a time.
-- reads: cluster, item_list
select list_id from item_list where changed < :before
    and not exists (select 1 from cluster where cluster.list_id = item_list.list_id)
    order by changed limit 1

-- name: list.drop
-- Forget a list whose slices are gone.
-- writes: item_list
delete from item_list where list_id = :list_id

-- name: slice.add
-- A slice of a list of items.
-- writes: item_slice
insert into item_slice (list_id, first, items, digest, body)
    values (:list_id, :first, :items, :digest, :body)

-- name: slice.digest
-- What a slice says, to know it again.
-- reads: item_slice
select items, digest from item_slice where list_id = :list_id and first = :first

-- name: slice.at
-- The slices from the one with this item on, up to an item.
-- reads: item_slice
select first, body from item_slice where list_id = :list_id and first <= :last
    and first >= (select max(first) from item_slice where list_id = :list_id and first <= :index)
    order by first

-- name: slice.sizes
-- How many items and how many bytes those slices have.
-- reads: item_slice
select first, items, length(body) from item_slice where list_id = :list_id and first <= :last
    and first >= (select max(first) from item_slice where list_id = :list_id and first <= :index)
    order by first

-- name: item_output.add
-- An output that an item of a list names.
-- writes: item_output
insert into item_output (list_id, name, idx) values (:list_id, :name, :idx)

-- name: item_output.all
-- The outputs that items of a list name, and which do.
-- reads: item_output
select name, idx from item_output where list_id = :list_id

-- name: item_output.drop
-- Forget them with their list.
-- writes: item_output
delete from item_output where list_id = :list_id

-- name: slice.trim
-- Delete some slices of a list; returns them.
-- writes: item_slice
delete from item_slice where list_id = :list_id and first in (select first from item_slice
    where list_id = :list_id order by first limit :most) returning first

-- name: cluster.add
-- The items of a new job.
-- writes: cluster
insert into cluster (cluster_id, job_id, list_id, items, needed, tries, redo, base, fresh, finished,
    failed, mark, held, swept, finishing, request, request_nr)
    values (:job_id, :job_id, :list_id, :items, :needed, :tries, :redo, 1, 0, 0, 0, 0, 0, 0, 0, '', 0)

-- name: cluster.add_job
-- A job that carries items, or did before another tried it again.
-- writes: cluster_job
insert into cluster_job (job_id, cluster_id) values (:job_id, :cluster_id)

-- name: cluster.get
-- The items that a job carries, or did carry.
-- owner: checked by items, item, log, exchange_items, tell, keep, _show_items, reason
-- reads: cluster, cluster_job
-- locks: cluster
select cluster.cluster_id, cluster.job_id, list_id, items, needed, tries, redo, base, fresh, finished,
    failed, mark, held, swept, finishing, kept, request, request_nr, pool, room, at_once, rests
    from cluster_job join cluster on cluster.cluster_id = cluster_job.cluster_id
    where cluster_job.job_id = :of_job

-- name: cluster.put
-- How far the items of a job are.
-- writes: cluster
update cluster set fresh = :fresh, finished = :finished, failed = :failed, mark = :mark, held = :held,
    swept = :swept, finishing = :finishing, kept = :kept, request = :request, request_nr = :request_nr
    where cluster_id = :cluster_id

-- name: pool.get
-- The items of a step, which several jobs lease.
-- owner: the dispatcher's own
-- reads: cluster
-- locks: cluster
select cluster_id, job_id, list_id, items, needed, tries, redo, base, fresh, finished, failed, mark,
    held, swept, finishing, kept, request, request_nr, pool, room, at_once, rests
    from cluster where cluster_id = :cluster_id

-- name: pool.add
-- The items of a step, of which none is known yet.
-- writes: cluster
insert into cluster (cluster_id, job_id, list_id, items, needed, tries, redo, base, fresh, finished,
    failed, mark, held, swept, finishing, request, request_nr, pool, room, at_once)
    values (:cluster_id, :cluster_id, :list_id, 0, 0, :tries, :redo, 1, 0, 0, 0, 0, 0, 1, 0, '', 0, 1,
    :room, :at_once)

-- name: pool.of_list
-- The same, by their list.
-- owner: the dispatcher's own
-- reads: cluster
select cluster_id from cluster where list_id = :list_id and pool = 1

-- name: pool.feed
-- Let a step have more of them.
-- writes: cluster
update cluster set items = items + :more where cluster_id = :cluster_id

-- name: pool.put
-- How far the items of a step are.
-- writes: cluster
update cluster set fresh = :fresh, finished = :finished, failed = :failed, mark = :mark,
    swept = :swept where cluster_id = :cluster_id

-- name: pool.counts
-- How far the items of a task's steps are.
-- reads: cluster, lessee
select cluster_id, items, fresh, finished, failed,
    cast((select coalesce(sum(held), 0) from lessee where lessee.cluster_id = cluster.cluster_id)
        as bigint) as held
    from cluster where cluster_id between :low and :high and pool = 1

-- name: pool.rest
-- Lease no items of a task for now, or do again.
-- writes: cluster
update cluster set rests = :rests where cluster_id between :low and :high and pool = 1

-- name: pool.cut
-- Let no more items of a step begin.
-- writes: cluster
update cluster set items = fresh where cluster_id = :cluster_id and pool = 1

-- name: pool.again
-- Have those of a task tried again that failed.
-- writes: cluster
update cluster set base = base + 1, failed = 0, swept = 0
    where cluster_id between :low and :high and pool = 1 and failed > 0

-- name: pool.leave
-- Let the items of a task be deleted.
-- writes: cluster
update cluster set job_id = null where cluster_id between :low and :high and pool = 1

-- name: lessee.of
-- What an attempt of a job has of the items of its step; of the last that leased, if it is below 0.
-- reads: lessee
select mark, attempt_nr, held, taken, finishing, kept, request, request_nr from lessee
    where job_id = :job_id and (attempt_nr = :attempt_nr or :attempt_nr < 0)
    order by attempt_nr desc limit 1

-- name: lessee.marks
-- Under which marks the attempts of a job have leased.
-- reads: lessee
select mark from lessee where job_id = :job_id

-- name: lessee.add
-- An attempt that begins to lease.
-- writes: lessee
insert into lessee (cluster_id, mark, job_id, attempt_nr, held, taken, finishing, kept, request,
    request_nr) values (:cluster_id, :mark, :job_id, :attempt_nr, 0, 0, 0, 0, '', 0)

-- name: lessee.put
-- How far an attempt is with the items that it leases.
-- writes: lessee
update lessee set held = :held, taken = :taken, finishing = :finishing, kept = :kept,
    request = :request, request_nr = :request_nr where cluster_id = :cluster_id and mark = :mark

-- name: lessee.gone
-- Attempts that are over, and whose outputs are not in storage, or that had items which have not ended;
-- and whether they are.
-- reads: job, lessee
select lessee.mark, lessee.kept from lessee left join job on job.job_id = lessee.job_id
    and job.attempt_nr = lessee.attempt_nr
    and job.state in ('sent', 'starting', 'running', 'holding')
    where lessee.cluster_id = :cluster_id and (lessee.kept = 0 or lessee.held > 0)
    and job.job_id is null
    order by lessee.mark limit :most

-- name: lessee.emptied
-- Note that an attempt has no items any more.
-- writes: lessee
update lessee set held = 0 where cluster_id = :cluster_id and mark = :mark

-- name: lessee.drop
-- Forget an attempt that has no items any more.
-- writes: lessee
delete from lessee where cluster_id = :cluster_id and mark = :mark

-- name: lessee.trim
-- Forget those of items that no job has.
-- writes: lessee
delete from lessee where cluster_id = :cluster_id

-- name: cluster.move
-- Let another job go on with the items: those that failed are tried again.
-- writes: cluster
update cluster set job_id = :job_id, base = :base, failed = 0, swept = 0, request = ''
    where cluster_id = :cluster_id

-- name: cluster.past
-- What became of the items of a job that another tried again.
-- owner: checked by _show_items
-- reads: cluster_job
select past from cluster_job where job_id = :job_id

-- name: cluster.remember
-- Note what became of the items of a job before another goes on with them.
-- writes: cluster_job
update cluster_job set past = :past where job_id = :job_id

-- name: cluster.leave
-- Let the items of a job that is moved away be deleted.
-- writes: cluster
update cluster set job_id = null where job_id = :job_id

-- name: cluster.drop_job
-- Forget that a job that is moved away had items.
-- writes: cluster_job
delete from cluster_job where job_id = :job_id

-- name: cluster.log_bytes
-- How much output of the items of a job is kept.
-- reads: cluster
select log_bytes from cluster where cluster_id = :cluster_id

-- name: cluster.logged
-- Note how much more output of the items of a job is kept.
-- writes: cluster
update cluster set log_bytes = log_bytes + :by where cluster_id = :cluster_id

-- name: cluster.left
-- Items that no job has any more.
-- reads: cluster
select cluster_id from cluster where job_id is null limit 1

-- name: cluster.drop
-- Forget items whose rows are gone.
-- writes: cluster
delete from cluster where cluster_id = :cluster_id

-- fragment: item_columns
-- An item that was leased once.
idx, state, mark, attempt, failures, lost, request_nr, name, exit_code, code, diagnosis, host, slot,
    started, ended

-- name: item.some
-- Some items of a job, as far as they were leased once.
-- reads: item
select {item_columns} from item where cluster_id = :cluster_id and idx in {ids}

-- name: item.page
-- Items of a job, in their order, as far as they were leased once.
-- reads: item
select {item_columns} from item where cluster_id = :cluster_id and idx > :after order by idx
    limit :most

-- name: item.page_in
-- The same of those in a state, with a mark.
-- reads: item
select {item_columns} from item where cluster_id = :cluster_id and state = :in_state and mark = :mark
    and idx > :after order by idx limit :most

-- name: item.page_before
-- The same of those with a mark below this and above another: an attempt that is over had them.
-- reads: item
select {item_columns} from item where cluster_id = :cluster_id and state = :in_state
    and mark > :above and mark < :mark and idx > :after order by idx limit :most

-- name: item.count_in
-- How many items of a job are in a state, with a mark.
-- reads: item
select count(*) from item where cluster_id = :cluster_id and state = :in_state and mark = :mark

-- name: item.count_all
-- How many items of a job are in a state, whoever has them.
-- reads: item
select count(*) from item where cluster_id = :cluster_id and state = :in_state

-- name: item.detail
-- What an item used and wrote last.
-- reads: item
select usage, stdout_tail, stderr_tail from item where cluster_id = :cluster_id and idx = :index

-- name: item.add
-- An item that is leased for the first time.
-- writes: item
insert into item (cluster_id, idx, state, mark, attempt, failures, lost, request_nr, name, code,
    diagnosis, host, slot, stdout_tail, stderr_tail)
    values (:cluster_id, :idx, :state, :mark, :attempt, 0, 0, :request_nr, :name, 0, '', '', '', '',
    '')

-- name: item.lease
-- An item that is leased again.
-- writes: item
update item set state = :state, mark = :mark, attempt = :attempt, failures = :failures, lost = :lost,
    request_nr = :request_nr where cluster_id = :cluster_id and idx = :idx

-- name: item.run
-- An item that runs.
-- writes: item
update item set state = :state, host = :host, slot = :slot, started = :started, ended = null
    where cluster_id = :cluster_id and idx = :idx

-- name: item.end
-- How an attempt of an item ended.
-- writes: item
update item set state = :state, mark = :mark, failures = :failures, lost = :lost,
    exit_code = :exit_code, code = :code, diagnosis = :diagnosis, host = :host, slot = :slot,
    started = :started, ended = :ended, usage = :usage, stdout_tail = :stdout_tail,
    stderr_tail = :stderr_tail where cluster_id = :cluster_id and idx = :idx

-- name: item.give_back
-- Let an item wait again that an attempt of its job had which is over.
-- writes: item
update item set state = :state, mark = 0, failures = :failures, lost = :lost
    where cluster_id = :cluster_id and idx = :idx

-- name: item.trim
-- Delete some items that no job has; returns them.
-- writes: item
delete from item where cluster_id = :cluster_id and idx in (select idx from item
    where cluster_id = :cluster_id order by idx limit :most) returning idx

-- name: item_log.add
-- A piece of an item's output.
-- writes: item_log
insert into item_log (cluster_id, idx, attempt, stream, start, stop, piece)
    values (:cluster_id, :index, :attempt, :stream, :start, :stop, :piece) on conflict do nothing

-- name: item_log.held
-- Where the kept output of an item's attempt ends, its size and its number of pieces.
-- reads: item_log
select coalesce(max(stop), 0), coalesce(sum(stop - start), 0), count(*) from item_log
    where cluster_id = :cluster_id and idx = :index and attempt = :attempt and stream = :stream

-- name: item_log.from
-- The kept output of an item's attempt from an offset on.
-- reads: item_log
select start, stop, piece from item_log where cluster_id = :cluster_id and idx = :index
    and attempt = :attempt and stream = :stream and stop > :offset order by start limit :most

-- name: item_log.trim
-- Delete some output of items that no job has; returns it.
-- writes: item_log
delete from item_log where cluster_id = :cluster_id and (idx, attempt, stream, start) in (
    select idx, attempt, stream, start from item_log where cluster_id = :cluster_id
    order by idx, attempt, stream, start limit :most) returning idx
