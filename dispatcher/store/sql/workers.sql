-- fragment: worker_columns
-- A worker as users see it.
worker_id, site, queue, host, phase, ending, registered, last_heard, room, total, intent, idx,
    batch_id, version, diagnosis, draining, hardware, occupancy, ended

-- name: worker.plan
-- A worker that an edge is about to submit.
-- writes: worker
insert into worker (site, queue, phase, intent, idx, deadline)
    values (:site, :queue, 'planned', :intent, :idx, :deadline) returning worker_id

-- name: worker.planned
-- The worker of an edge's intent, for the pilot that says it is that one.
-- owner: site
-- reads: worker
-- locks: worker
select worker_id, queue, instance, phase, ending, deadline, registered from worker
    where intent = :intent and idx = :idx and site = :site

-- name: worker.of_harvester
-- The worker of a Harvester instance by its number.
-- owner: harvester
-- reads: worker
-- locks: worker
select worker_id, queue, instance, phase, ending, deadline, registered, total, host, batch_id
    from worker
    where intent = :intent and idx = :idx and intent like 'harvester:%'

-- name: worker.of_intent
-- All workers of an intent.
-- owner: checked by plan
-- reads: worker
select worker_id, idx, site from worker where intent = :intent order by idx

-- name: worker.add
-- A worker that nobody planned: a pilot that was started by hand, or a PanDA client.
-- writes: worker
insert into worker (site, queue, host, phase, instance, batch_id, version, registered, last_heard,
    total, room)
    values (:site, :queue, :host, 'active', :instance, :batch_id, :version, :now, :now,
        :total, :total)
    returning worker_id

-- name: worker.skip
-- Leave a gap of `by` numbers, as after a restore.
-- writes: worker
insert into worker (worker_id, site, queue, phase, ending, ended, diagnosis)
    select coalesce(max(worker_id), 0) + :by, '', '', 'ended', 'lost', 0, 'ids begin anew here,
    after a restore' from worker

-- name: worker.register
-- A planned worker's pilot has come.
-- writes: worker
update worker set phase = 'active', ending = null, ended = null, host = :host, instance = :instance,
    batch_id = case when batch_id = '' then :batch_id else batch_id end, version = :version,
    registered = :now, last_heard = :now, total = :total, room = :total where worker_id = :worker_id

-- name: worker.describe
-- What kind of machine a worker has.
-- writes: worker
update worker set hardware = :hardware where worker_id = :worker_id

-- name: worker.of_instance
-- A worker that nobody planned, by the name that its pilot gave itself.
-- owner: in the key, see `instance_of` and `place_of`
-- reads: worker
-- locks: worker
select worker_id, queue, instance, phase, ending, deadline, registered, total, host, batch_id
    from worker
    where instance = :instance and intent = ''

-- name: worker.state
-- What decides on a worker's next phase.
-- reads: worker
-- locks: worker
select phase, ending, site, intent, registered, batch_id, diagnosis from worker
    where worker_id = :worker_id

-- name: worker.phase
-- Move a worker to another phase. An empty batch id or diagnosis leaves what is there.
-- writes: worker
update worker set phase = :phase, ending = :ending, ended = :ended,
    batch_id = case when :batch_id = '' then batch_id else :batch_id end,
    diagnosis = case when :diagnosis = '' then diagnosis else :diagnosis end
    where worker_id = :worker_id

-- name: worker.drain
-- Have a worker take no more jobs; an answer if it lives and is the site's.
-- owner: site
-- writes: worker
update worker set draining = 1, phase = case when phase = 'active' then 'draining' else phase end
    where worker_id = :worker_id and site = :site and ended is null returning worker_id

-- name: worker.heard
-- When a worker was last seen, what it had left, and what became of its core-seconds.
-- writes: worker
update worker set last_heard = :at, room = :room, occupancy = coalesce(:occupancy, occupancy)
    where worker_id = :worker_id

-- name: worker.occupied
-- What became of a worker's core-seconds, as it says at its end.
-- owner: checked by bye
-- writes: worker
update worker set occupancy = :occupancy where worker_id = :worker_id

-- name: worker.alive
-- Workers that have not ended, as `worker.row` returns them: memory is made from it at a start.
-- reads: worker
select {worker_columns} from worker where ended is null

-- name: worker.phases
-- How many workers of each site are in each phase.
-- reads: worker
select site, phase, count(*) from worker where ended is null group by site, phase

-- name: worker.number
-- How many workers a page would be taken from.
-- owner: checked by workers
-- reads: worker
select count(*) from worker where (:site = '' or site = :site) and (ended is null or :ended = 1)

-- name: worker.row
-- A worker as users see it.
-- reads: worker
select {worker_columns} from worker where worker_id = :worker_id

-- name: worker.lengths
-- How long the leases of a worker last, and how long its relay may be cut off.
-- reads: worker
select lease_s, outage_s from worker where worker_id = :worker_id

-- name: worker.news
-- Workers that other dispatchers have seen since.
-- reads: worker
select worker_id, last_heard, room, draining from worker
    where ended is null and phase in ('active', 'draining') and last_heard > :since

-- name: worker.page
-- A page of workers, newest first.
-- owner: site
-- reads: worker
select {worker_columns} from worker where (:site = '' or site = :site)
    and (ended is null or :ended = 1)
    order by worker_id desc limit :most

-- name: worker.just_ended
-- Workers of a site that ended lately.
-- owner: site
-- reads: worker
select {worker_columns} from worker where site = :site and ended >= :since
    order by worker_id desc limit 1000

-- name: worker.patient
-- How long leases last of workers that speak PanDA's dialects.
-- reads: attempt, worker
select worker_id, lease_s from worker w where lease_s is not null
    and (ended is null or exists (select 1 from attempt a where a.worker_id = w.worker_id
    and a.ended is null))

-- name: worker.set_outage
-- How long the relay in front of an intent's workers may be cut off.
-- owner: site
-- writes: worker
update worker set outage_s = :outage_s where intent = :intent and site = :site

-- name: worker.behind_relay
-- The same of all workers that have one, or still hold jobs.
-- reads: attempt, worker
select worker_id, outage_s from worker w where outage_s is not null
    and (ended is null or exists (select 1 from attempt a where a.worker_id = w.worker_id
    and a.ended is null))

-- name: worker.site
-- Where a worker is, for the failures that are counted by site.
-- reads: worker
select site from worker where worker_id = :worker_id

-- name: worker.home
-- Site and queue of a registered worker, for its relay.
-- reads: worker
select site, queue, outage_s from worker where worker_id = :worker_id and registered is not null

-- name: worker.serve
-- Let a PanDA client work for a queue, with leases of this length.
-- writes: worker
update worker set queue = case when :queue = '' then queue else :queue end,
    site = case when :queue = '' then site else :queue end, lease_s = :lease_s
    where worker_id = :worker_id

-- name: worker.fill
-- What a PanDA client says of its worker, where nothing is known yet.
-- writes: worker
update worker set site = case when site = '' then :queue else site end, queue = case
    when queue = '' then :queue else queue end,
    host = case when host = '' then :host else host end, batch_id = case
    when batch_id = '' then :batch_id else batch_id end
    where worker_id = :worker_id

-- name: worker.last_index
-- The highest number of a Harvester's workers.
-- owner: harvester
-- reads: worker
select coalesce(max(idx), 0) from worker where intent = :intent and intent like 'harvester:%'

-- name: worker.place
-- Queue of a worker and length of its leases.
-- reads: worker
select queue, lease_s from worker where worker_id = :worker_id

-- name: worker.waiting
-- Workers that a Harvester has for a queue and that have not come.
-- owner: harvester
-- reads: worker
select count(*) from worker where intent = :intent and intent like 'harvester:%' and queue = :queue
    and registered is null and ended is null

-- name: site.get
-- The edge that has a site, and what it last said.
-- owner: site
-- reads: site
-- locks: site
select instance, epoch, slots, online, heard from site where site = :site

-- name: site.put
-- Let an edge have a site.
-- owner: site
-- writes: site
insert into site (site, instance, epoch, slots, online, heard)
    values (:site, :instance, :epoch, :slots, :online, :heard) on conflict (site)
    do update set instance = :instance, epoch = :epoch, slots = :slots, online = :online,
    heard = :heard

-- name: site.heard
-- When the edge of a site was last seen, unless that is known to be later.
-- writes: site
update site set heard = :heard where site = :site and instance = :instance
    and coalesce(heard, 0) < :heard

-- name: site.all
-- Every site with its edge.
-- reads: site
select site, instance, epoch, slots, online, heard from site

-- name: node.exclude
-- Give no jobs to a node for a while.
-- owner: checked by _exclude
-- writes: excluded_node
insert into excluded_node (site, host, until, reason) values (:site, :host, :until, :reason)
    on conflict (site, host) do update set until = :until, reason = :reason

-- name: node.excluded
-- The nodes that get no jobs now.
-- reads: excluded_node
select site, host, until, reason from excluded_node where until >= :now
    order by site, host limit 10000
