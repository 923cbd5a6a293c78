-- name: shape.find
-- The number of a shape.
-- reads: shape
select shape_id from shape where cores = :cores and memory_mb = :memory_mb and disk_mb = :disk_mb
    and gpus = :gpus and nodes = :nodes and walltime_s = :walltime_s

-- name: shape.add
-- Give a shape its number.
-- writes: shape
insert into shape (cores, memory_mb, disk_mb, gpus, nodes, walltime_s)
    values (:cores, :memory_mb, :disk_mb, :gpus, :nodes, :walltime_s) returning shape_id

-- name: shape.all
-- Every shape with its number: memory holds all of them. `nodes` has 10^7 more for each number of
-- its kind of machine, so that a version which knows of none gives such jobs to nobody; what is left
-- has the share of a GPU in it likewise (rules/records.py).
-- reads: machine, shape
select shape_id, cores, memory_mb, disk_mb, gpus, nodes % 10000000, walltime_s, coalesce(m.text, '')
    from shape left join machine m on m.machine_id = nodes / 10000000

-- name: machine.find
-- The number of a kind of machine.
-- reads: machine
select machine_id from machine where text = :text

-- name: machine.add
-- Give a kind of machine its number.
-- writes: machine
insert into machine (text) values (:text) returning machine_id

-- name: lane.find
-- The number of the lane in which jobs of a shape and a group wait.
-- reads: lane
select shape_id from lane where of_shape = :of_shape and user_group = :user_group

-- name: lane.add
-- Give a lane its number, above all numbers of shapes.
-- writes: lane
insert into lane (shape_id, of_shape, user_group)
    select coalesce(max(shape_id), 1000000000) + 1, :of_shape, :user_group from lane
    returning shape_id

-- name: lane.all
-- The group of every lane.
-- reads: lane
select shape_id, user_group from lane

-- name: lane.shapes
-- The shape of every lane, as `shape.all` returns shapes, of which `nodes` is told there.
-- reads: lane, machine, shape
select l.shape_id, s.cores, s.memory_mb, s.disk_mb, s.gpus, s.nodes % 10000000, s.walltime_s,
    coalesce(m.text, '')
    from lane l join shape s on s.shape_id = l.of_shape
    left join machine m on m.machine_id = s.nodes / 10000000

-- name: variety.has
-- A row if the owner has submitted jobs of this shape to this queue before.
-- reads: variety
select 1 from variety where queue = :queue and owner = :owner and shape_id = :shape_id

-- name: variety.add
-- Note that the owner has jobs of this shape in this queue.
-- writes: variety
insert into variety (queue, owner, shape_id, added) values (:queue, :owner, :shape_id, :now)
    on conflict (queue, owner, shape_id) do update set added = :now

-- name: variety.count
-- How many shapes the owner has in this queue, for the limit on them.
-- reads: variety
select count(*) from variety where queue = :queue and owner = :owner

-- name: variety.tidy
-- Drop the owner's shapes of which no job is left that has not ended.
-- reads: counter
-- writes: variety
delete from variety where queue = :queue and owner = :owner and added < :before
    and not exists (select 1 from counter c
    where c.queue = variety.queue and c.shape_id = variety.shape_id and c.n > 0
    and c.state not in ('finished', 'failed', 'cancelled', 'closed'))

-- name: share.head
-- The turn of the best job of a queue and a shape.
-- reads: job
select rank from job where queue = :queue and shape_id = :shape_id and state = 'activated'
    order by priority desc, rank, job_id limit 1

-- name: share.get
-- The turn that an owner's next job in a queue gets.
-- reads: share
select rank from share where queue = :queue and owner = :owner

-- name: share.last
-- The highest turn of a queue.
-- reads: share
select coalesce(max(rank), 0) from share where queue = :queue

-- name: share.put
-- Note the turn that an owner's next job gets.
-- writes: share
insert into share (queue, owner, rank) values (:queue, :owner, :rank)
    on conflict (queue, owner) do update set rank = :rank
