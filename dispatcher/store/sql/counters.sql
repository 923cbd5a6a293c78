-- name: counter.move
-- Move the number of jobs by queue, shape and state.
-- writes: counter
insert into counter (queue, shape_id, state, n) values (:queue, :shape_id, :state, :by)
    on conflict (queue, shape_id, state) do update set n = counter.n + :by

-- name: counter.all
-- Every counter of jobs that is not zero, for metrics and demand.
-- reads: counter
select queue, shape_id, state, n from counter where n > 0

-- name: counter.ready
-- How many jobs of each shape are ready in a queue, or in the one of all sites.
-- reads: counter
select queue, shape_id, n from counter where queue in (:queue, '') and state = 'activated' and n > 0

-- name: owned.move
-- Move the number of jobs by owner, queue and state.
-- writes: owned
insert into owned (owner, queue, state, n) values (:owner, :queue, :state, :by)
    on conflict (owner, queue, state) do update set n = owned.n + :by

-- name: owned.of
-- An owner's jobs by queue and state, for `overview`.
-- reads: owned
select queue, state, n from owned where owner = :owner and n > 0

-- name: failure.find
-- The number under which failures of an owner with this code and text are counted.
-- reads: failure
select kind from failure where owner = :owner and code = :code and text = :text

-- name: failure.kinds
-- How many texts an owner's failures with this code have, for the limit on them.
-- reads: failure
select count(*) from failure where owner = :owner and code = :code

-- name: failure.add
-- Give a kind of failure its number.
-- writes: failure
insert into failure (owner, code, text, site, example, n, first, last)
    values (:owner, :code, :text, :site, :example, 0, :now, :now)
    on conflict (owner, code, text) do update set last = :now returning kind

-- name: failure.more
-- Count failures of a kind; keep the last example.
-- writes: failure
update failure set n = n + :by, last = :at, example = :example where kind = :kind

-- name: failure.less
-- Stop counting the failures of jobs that are deleted.
-- reads: job
-- writes: failure
update failure set n = n - (select count(*) from job j where j.kind = failure.kind
    and j.job_id in {ids})
    where kind in (select kind from job where job_id in {ids} and kind is not null)

-- name: failure.top
-- The most frequent failures: number, code, example, count, times of the last and the first, and site.
-- reads: failure
select max(kind) as kind, code, max(example) as example, sum(n) as n, max(last) as last,
    min(first) as first, max(site) as site
    from failure
    where n > 0 and last >= :since and (:owner = '' or owner = :owner)
    group by code, text order by 4 desc, 1 limit :most

-- name: failure.alike
-- The kinds with the same code and text, of one owner or of all.
-- reads: failure
select f.kind from failure me join failure f on f.code = me.code and f.text = me.text
    where me.kind = :kind and (:owner = '' or (me.owner = :owner and f.owner = :owner))
    and f.n > 0 limit 1000
