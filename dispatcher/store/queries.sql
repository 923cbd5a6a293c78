-- Every statement of the dispatcher, by name. `:name` is a parameter; nothing else reaches SQL.
--
-- What is found by a key that a caller names is found together with its owner. So a statement with such a key,
-- where a module that answers callers uses it, says on the line below its name how:
--   owner: user, site, worker, harvester    it compares with the caller's own (`owner = :owner` and so on)
--   owner: checked by F, G                  these functions compare what it returns, or are reached only past who does

-- name: shape.find
select shape_id from shape where cores = :cores and memory_mb = :memory_mb and disk_mb = :disk_mb
    and gpus = :gpus and nodes = :nodes and walltime_s = :walltime_s
-- name: shape.add
insert into shape (cores, memory_mb, disk_mb, gpus, nodes, walltime_s)
    values (:cores, :memory_mb, :disk_mb, :gpus, :nodes, :walltime_s) returning shape_id
-- name: shape.all
select shape_id, cores, memory_mb, disk_mb, gpus, nodes, walltime_s from shape

-- name: lane.find
select shape_id from lane where of_shape = :of_shape and user_group = :user_group
-- name: lane.add
insert into lane (shape_id, of_shape, user_group)
    select coalesce(max(shape_id), 1000000000) + 1, :of_shape, :user_group from lane returning shape_id
-- name: lane.all
select shape_id, user_group from lane
-- name: lane.shapes
select l.shape_id, s.cores, s.memory_mb, s.disk_mb, s.gpus, s.nodes, s.walltime_s
    from lane l join shape s on s.shape_id = l.of_shape

-- name: variety.has
select 1 from variety where queue = :queue and owner = :owner and shape_id = :shape_id
-- name: variety.add
insert into variety (queue, owner, shape_id, added) values (:queue, :owner, :shape_id, :now)
    on conflict (queue, owner, shape_id) do update set added = :now
-- name: variety.count
select count(*) from variety where queue = :queue and owner = :owner
-- name: variety.tidy
delete from variety where queue = :queue and owner = :owner and added < :before and not exists (select 1 from counter c
    where c.queue = variety.queue and c.shape_id = variety.shape_id and c.n > 0
    and c.state not in ('finished', 'failed', 'cancelled', 'closed'))
-- name: sized.add
insert into sized (job_id, cores, memory_mb, disk_mb, gpus, nodes, walltime_s)
    values (:job_id, :cores, :memory_mb, :disk_mb, :gpus, :nodes, :walltime_s)
-- name: sized.get
select cores, memory_mb, disk_mb, gpus, nodes, walltime_s from sized where job_id = :job_id
-- name: sized.drop_range
delete from sized where job_id between :first and :last

-- name: counter.move
insert into counter (queue, shape_id, state, n) values (:queue, :shape_id, :state, :by)
    on conflict (queue, shape_id, state) do update set n = counter.n + :by
-- name: owned.move
insert into owned (owner, queue, state, n) values (:owner, :queue, :state, :by)
    on conflict (owner, queue, state) do update set n = owned.n + :by
-- name: owned.of
select queue, state, n from owned where owner = :owner and n > 0
-- name: failure.find
select kind from failure where owner = :owner and code = :code and text = :text
-- name: failure.kinds
select count(*) from failure where owner = :owner and code = :code
-- name: failure.add
insert into failure (owner, code, text, example, n, last) values (:owner, :code, :text, :example, 0, :now)
    on conflict (owner, code, text) do update set last = :now returning kind
-- name: failure.more
update failure set n = n + :by, last = :at, example = :example where kind = :kind
-- name: failure.less
update failure set n = n - (select count(*) from job j where j.kind = failure.kind
    and j.job_id in (select value from json_each(:ids)))
    where kind in (select kind from job where job_id in (select value from json_each(:ids)) and kind is not null)
-- name: failure.top
select max(kind), code, max(example), sum(n), max(last) from failure
    where n > 0 and last >= :since and (:owner = '' or owner = :owner)
    group by code, text order by 4 desc, 1 limit :most
-- name: failure.alike
select f.kind from failure me join failure f on f.code = me.code and f.text = me.text
    where me.kind = :kind and (:owner = '' or (me.owner = :owner and f.owner = :owner)) and f.n > 0 limit 1000
-- name: counter.all
select queue, shape_id, state, n from counter where n > 0
-- name: counter.ready
select queue, shape_id, n from counter where queue in (:queue, '') and state = 'activated' and n > 0

-- name: request.find
-- owner: user
select first, jobs, complete, process, digest from request where owner = :owner and request_id = :request_id
-- name: request.add
-- owner: user
insert into request (owner, request_id, first, jobs, complete, made, process, digest)
    values (:owner, :request_id, :first, :jobs, 0, :made, :process, :digest)
    on conflict do nothing returning first
-- name: request.complete
-- owner: user
update request set complete = 1 where owner = :owner and request_id = :request_id
-- name: request.broken
select owner, request_id, first, jobs from request where complete = 0 and (process = :process or :process = '')
-- name: request.drop
-- owner: user
delete from request where owner = :owner and request_id = :request_id

-- name: retry.claim
insert into retry (job_id, new_id, made_by, made) values (:job_id, :new_id, :made_by, :made)
    on conflict do nothing returning new_id
-- name: retry.of
-- owner: checked by later
select new_id, made_by, made from retry where job_id = :job_id
-- name: retry.made
select job_id, made_by, made from retry where new_id = :new_id
-- name: retry.drop_range
delete from retry where new_id between :first and :last

-- name: series.take
update series set last = last + :by where name = :name returning last
-- name: job.add
insert into job (job_id, state, queue, shape_id, priority, max_attempts, retry_all, parents_left,
                 created, changed, owner, name, rank)
    values (:job_id, 'defined', :queue, :shape_id, :priority, :max_attempts, :retry_all, 0,
            :created, :created, :owner, :name, :rank)
-- name: body.add
insert into body (job_id, spec, wants) values (:job_id, :spec, :wants)
-- name: body.fill
update body set spec = :spec, wants = :wants where job_id = :job_id
-- name: body.get
-- owner: checked by _past
select spec, wants from body where job_id = :job_id
-- name: parent.add
insert into parent (parent, child, told) values (:parent, :child, :told)
-- name: parent.states
-- owner: checked by why, _past, _above, reason
select p.parent, coalesce(j.state, 'finished') from parent p left join job j on j.job_id = p.parent
    where p.child = :child
-- name: parent.children
select child from parent where parent = :parent order by child limit :most
-- name: parent.tell
update parent set told = 1 where parent = :parent and told = 0
    and child in (select child from parent where parent = :parent and told = 0 order by child limit :most)
    returning child
-- name: unfolding.add
insert into unfolding (job_id) select :job_id where exists (select 1 from parent where parent = :job_id)
    on conflict do nothing returning job_id
-- name: unfolding.any
select u.job_id, j.state, j.name from unfolding u join job j on j.job_id = u.job_id limit :most
-- name: unfolding.done
delete from unfolding where job_id = :job_id
-- name: job.defined_range
select queue, shape_id, case when parents_left > 0 then 'pending' else 'activated' end, count(*), owner
    from job where job_id between :first and :last and state = 'defined' group by 1, 2, 3, 5
-- name: job.doom
update job set code = :code, diagnosis = :diagnosis where job_id = :job_id
-- name: job.doomed
select job_id, code, diagnosis from job where job_id between :first and :last and state = 'defined' and code <> 0
-- name: job.open_range
update job set state = case when parents_left > 0 then 'pending' else 'activated' end,
    activated = case when parents_left > 0 then null else :now end
    where job_id between :first and :last and state = 'defined'
-- name: job.drop_range
delete from job where job_id between :first and :last
-- name: body.drop_range
delete from body where job_id between :first and :last
-- name: parent.drop_range
delete from parent where child between :first and :last

-- name: job.standing
-- owner: checked by _take, _left, _attempt_of, _past, _standing, gather, _above
select state, attempt_nr, max_attempts, retry_all, queue, shape_id, worker_id, owner, name, parents_left
    from job where job_id = :job_id
-- name: job.parents
select job_id, state, owner from job where job_id in (select value from json_each(:ids)) order by job_id
-- name: job.wait_for
update job set parents_left = parents_left + :n where job_id = :job_id
-- name: job.set_state
update job set state = :state, attempt_nr = :attempt_nr, max_attempts = :max_attempts, worker_id = :worker_id,
    changed = :now, activated = case when :state = 'activated' then :now else activated end
    where job_id = :job_id
-- name: job.end
update job set state = :state, changed = :now, code = :code, diagnosis = :diagnosis, attempt_nr = :attempt_nr,
    kind = :kind where job_id = :job_id
-- name: job.parent_done
update job set parents_left = parents_left - 1 where job_id in (select value from json_each(:ids))
    returning job_id, parents_left, state, queue, shape_id, attempt_nr, owner
-- name: job.activate
update job set state = 'activated', changed = :now, activated = :now
    where job_id in (select value from json_each(:ids))
-- name: job.ready
select job_id, priority, rank from job
    where queue = :queue and shape_id = :shape_id and state = 'activated'
    order by priority desc, rank, job_id limit :most
-- name: job.ready_sized
select job.job_id, priority, rank, cores, memory_mb, disk_mb, gpus, nodes, walltime_s
    from job join sized on sized.job_id = job.job_id
    where queue = :queue and shape_id = :shape_id and state = 'activated'
    order by priority desc, rank, job.job_id limit :most
-- name: job.oldest_ready
select min(activated) from (select activated from job
    where queue = :queue and shape_id = :shape_id and state = 'activated'
    order by priority desc, rank, job_id limit 1) as best
-- name: job.row
-- owner: checked by job_of, judge, look
select job_id, name, queue, owner, state, attempt_nr, priority, created, changed, worker_id, code, diagnosis,
    activated from job where job_id = :job_id
-- name: job.range
select (select min(job_id) from job), (select max(job_id) from job)
-- name: job.page
select job_id, name, queue, owner, state, attempt_nr, priority, created, changed, worker_id, code, diagnosis
    from job where job_id >= :least and job_id < :before and (:owner = '' or owner = :owner) and (:queue = '' or queue = :queue)
    and (code = :code or :code is null) and (:name = '' or name = :name or (:prefix <> '' and substr(name, 1, length(:prefix)) = :prefix))
    order by job_id desc limit :most
-- name: job.page_in_state
select job_id, name, queue, owner, state, attempt_nr, priority, created, changed, worker_id, code, diagnosis
    from job where state = :state and job_id >= :least and job_id < :before
    and state <> 'sent' and state <> 'starting' and state <> 'running' and state <> 'holding'
    and (:owner = '' or owner = :owner) and (:queue = '' or queue = :queue) and (code = :code or :code is null)
    and (:name = '' or name = :name or (:prefix <> '' and substr(name, 1, length(:prefix)) = :prefix)) order by job_id desc limit :most
-- name: job.page_with_worker
select j.job_id, name, queue, owner, j.state, j.attempt_nr, priority, created, changed, j.worker_id, j.code, j.diagnosis
    from attempt a indexed by attempt_held cross join job j -- in this order: the few that are open first
    where a.ended is null and j.job_id = a.job_id and j.attempt_nr = a.attempt_nr and j.state = :state and j.job_id >= :least
    and j.job_id < :before
    and (:owner = '' or owner = :owner) and (:queue = '' or queue = :queue) and (j.code = :code or :code is null)
    and (:name = '' or name = :name or (:prefix <> '' and substr(name, 1, length(:prefix)) = :prefix)) order by j.job_id desc limit :most
-- name: job.page_of_kind
select job_id, name, queue, owner, state, attempt_nr, priority, created, changed, worker_id, code, diagnosis
    from job where kind = :kind and job_id >= :least and job_id < :before and (:owner = '' or owner = :owner)
    and (:queue = '' or queue = :queue) and (code = :code or :code is null)
    and (:name = '' or name = :name or (:prefix <> '' and substr(name, 1, length(:prefix)) = :prefix)) order by job_id desc limit :most
-- name: job.states_of
select job_id, state, owner from job where job_id in (select value from json_each(:ids))
-- name: job.ahead
-- owner: checked by why, _waiting
select count(*) from (select 1 from job j, (select rank, job_id from job where job_id = :job_id) as me
    where j.queue = :queue and j.shape_id = :shape_id and j.state = 'activated' and (j.priority > :priority
    or (j.priority = :priority and (j.rank, j.job_id) < (me.rank, me.job_id))) limit 100000) as before

-- name: attempt.add
insert into attempt (job_id, attempt_nr, worker_id, request, state, leased)
    values (:job_id, :attempt_nr, :worker_id, :request, 'sent', :now)
-- name: attempt.of_request
select a.job_id, a.attempt_nr, j.shape_id from attempt a join job j on j.job_id = a.job_id
    where a.worker_id = :worker_id and a.ended is null and a.request = :request
-- name: attempt.mark
update attempt set state = :state,
    started = case when started is null and :state <> 'sent' then :since else started end,
    running = case when running is null and :state in ('running', 'holding') then :since else running end,
    holding = case when holding is null and :state = 'holding' then :since else holding end, heard = :now
    where job_id = :job_id and attempt_nr = :attempt_nr
-- name: attempt.end
update attempt set state = :state, ended = :ended, exit_code = :exit_code, code = :code, host = :host,
    runtime = :runtime, diagnosis = :diagnosis, remedy = :remedy, usage = :usage, timing = :timing,
    stderr_tail = :stderr_tail, curve = :curve
    where job_id = :job_id and attempt_nr = :attempt_nr and (ended is null or state = 'lost')
-- name: attempt.resume
update attempt set state = 'sent', ended = null, code = 0, diagnosis = '', heard = :now
    where job_id = :job_id and attempt_nr = :attempt_nr
-- name: attempt.open
select a.job_id, a.attempt_nr, a.worker_id, a.state, f.data from attempt a
    left join panda_fact f on f.kind = 'attempt' and f.owner = '' and f.name = a.job_id || '.' || a.attempt_nr
    where a.ended is null
-- name: attempt.get
-- owner: checked by look, keep, _conclude, _attempt_of, change, judge
select worker_id, state from attempt where job_id = :job_id and attempt_nr = :attempt_nr
-- name: attempt.of_job
-- owner: checked by _log_chunk, reason
select a.attempt_nr, a.worker_id, a.state, coalesce(w.site, ''), a.host, a.leased, a.started, a.running, a.holding,
    a.ended, a.exit_code, a.code, a.diagnosis, a.remedy, a.runtime, a.usage, a.timing, a.stderr_tail, w.registered
    from attempt a left join worker w on w.worker_id = a.worker_id where a.job_id = :job_id order by a.attempt_nr
-- name: attempt.heard
update attempt set heard = :at where job_id = :job_id and attempt_nr = :attempt_nr and ended is null
-- name: attempt.heard_of
select job_id, attempt_nr, heard from attempt where job_id in (select value from json_each(:ids)) and ended is null
-- name: attempt.show
update attempt set curve = :curve, usage = :usage where job_id = :job_id and attempt_nr = :attempt_nr and ended is null
-- name: attempt.traced_job
-- owner: site
select a.job_id, a.attempt_nr, a.worker_id, a.state, w.host, a.leased, a.ended, a.code
    from attempt a join worker w on w.worker_id = a.worker_id
    where a.job_id = :job_id and w.site = :site order by a.attempt_nr desc limit 100
-- name: attempt.traced_worker
-- owner: site
select a.job_id, a.attempt_nr, a.worker_id, a.state, w.host, a.leased, a.ended, a.code
    from attempt a join worker w on w.worker_id = a.worker_id
    where a.worker_id = :worker_id and w.site = :site order by a.leased desc limit 1000
-- name: attempt.curve
-- owner: checked by samples
select attempt_nr, curve, usage, ended from attempt where job_id = :job_id and (attempt_nr = :attempt_nr or :attempt_nr is null)
    order by attempt_nr desc limit 1
-- name: attempt.tried_on
select w.host, a.state = 'lost' and a.code = :lost from attempt a join worker w on w.worker_id = a.worker_id
    where a.job_id = :job_id and a.state in ('lost', 'failed')
-- name: attempt.held_by
-- owner: checked by _take, _left, _free
select job_id from attempt where worker_id = :worker_id and ended is null

-- name: file.add
insert into file (job_id, name, url, size, adler32, md5) values (:job_id, :name, :url, :size, :adler32, :md5)
    on conflict (job_id, name) do update set url = :url, size = :size, adler32 = :adler32, md5 = :md5
-- name: file.of_job
select name, url, size, adler32, job_id from file where job_id = :job_id order by name
-- name: file.of_parents
select f.name, f.url, f.size, f.adler32, f.md5 from parent p join file f on f.job_id = p.parent
    where p.child = :child

-- name: worker.plan
insert into worker (site, queue, phase, intent, idx, deadline)
    values (:site, :queue, 'planned', :intent, :idx, :deadline) returning worker_id
-- name: worker.planned
-- owner: site
select worker_id, queue, instance, phase, ending, deadline, registered from worker
    where intent = :intent and idx = :idx and site = :site
-- name: worker.of_harvester
-- owner: harvester
select worker_id, queue, instance, phase, ending, deadline, registered, total, host, batch_id from worker
    where intent = :intent and idx = :idx and intent like 'harvester:%'
-- name: worker.of_intent
-- owner: checked by plan
select worker_id, idx, site from worker where intent = :intent order by idx
-- name: worker.add
insert into worker (site, queue, host, phase, instance, batch_id, version, registered, last_heard, total, room)
    values (:site, :queue, :host, 'active', :instance, :batch_id, :version, :now, :now, :total, :total)
    returning worker_id
-- name: worker.skip
insert into worker (worker_id, site, queue, phase, ending, ended, diagnosis)
    select coalesce(max(worker_id), 0) + :by, '', '', 'ended', 'lost', 0, 'ids begin anew here, after a restore' from worker
-- name: worker.register
update worker set phase = 'active', ending = null, ended = null, host = :host, instance = :instance,
    batch_id = case when batch_id = '' then :batch_id else batch_id end, version = :version, registered = :now,
    last_heard = :now, total = :total, room = :total where worker_id = :worker_id
-- name: worker.of_instance
-- owner: in the key, see `instance_of` and `place_of`
select worker_id, queue, instance, phase, ending, deadline, registered, total, host, batch_id from worker
    where instance = :instance and intent = ''
-- name: worker.state
select phase, ending, site, intent, registered, batch_id, diagnosis from worker where worker_id = :worker_id
-- name: worker.phase
update worker set phase = :phase, ending = :ending, ended = :ended,
    batch_id = case when :batch_id = '' then batch_id else :batch_id end,
    diagnosis = case when :diagnosis = '' then diagnosis else :diagnosis end where worker_id = :worker_id
-- name: worker.drain
-- owner: site
update worker set draining = 1, phase = case when phase = 'active' then 'draining' else phase end
    where worker_id = :worker_id and site = :site and ended is null returning worker_id
-- name: worker.heard
update worker set last_heard = :at, room = :room where worker_id = :worker_id
-- name: worker.alive
select worker_id, site, queue, host, phase, ending, registered, last_heard, room, total, intent, idx, batch_id,
    version, diagnosis, draining from worker where ended is null
-- name: worker.phases
select site, phase, count(*) from worker where ended is null group by site, phase
-- name: worker.number
-- owner: checked by workers
select count(*) from worker where (:site = '' or site = :site) and (ended is null or :ended = 1)
-- name: worker.row
select worker_id, site, queue, host, phase, ending, registered, last_heard, room, total, intent, idx, batch_id,
    version, diagnosis, draining from worker where worker_id = :worker_id
-- name: worker.lengths
select lease_s, outage_s from worker where worker_id = :worker_id
-- name: worker.news
select worker_id, last_heard, room, draining from worker
    where ended is null and phase in ('active', 'draining') and last_heard > :since
-- name: worker.page
-- owner: site
select worker_id, site, queue, host, phase, ending, registered, last_heard, room, total, intent, idx, batch_id,
    version, diagnosis, draining from worker where (:site = '' or site = :site) and (ended is null or :ended = 1)
    order by worker_id desc limit :most
-- name: worker.just_ended
-- owner: site
select worker_id, site, queue, host, phase, ending, registered, last_heard, room, total, intent, idx, batch_id,
    version, diagnosis, draining from worker where site = :site and ended >= :since order by worker_id desc limit 1000

-- name: site.get
-- owner: site
select instance, epoch, slots, online, heard from site where site = :site
-- name: site.put
-- owner: site
insert into site (site, instance, epoch, slots, online, heard)
    values (:site, :instance, :epoch, :slots, :online, :heard) on conflict (site)
    do update set instance = :instance, epoch = :epoch, slots = :slots, online = :online, heard = :heard
-- name: site.heard
update site set heard = :heard where site = :site and instance = :instance and coalesce(heard, 0) < :heard
-- name: site.all
select site, instance, epoch, slots, online, heard from site

-- name: event.add
insert into event (seq, at, kind, job_id, worker_id, data) values (:seq, :at, :kind, :job_id, :worker_id, :data)
-- name: event.last
select coalesce((select max(seq) from event), (select last from series where name = 'event'))
-- name: event.set_aside
select last from series where name = 'event'
-- name: event.after
select seq, at, kind, job_id, worker_id, data from event where seq > :after order by seq limit :most
-- name: event.of_job
-- owner: checked by events
select seq, at, kind, job_id, worker_id, data from event where seq > :after and seq in
    (select seq from job_event where job_id = :job_id and seq > :after union all
     select seq from event where seq > (select last from series where name = 'job_event') and job_id = :job_id)
    order by seq limit :most
-- name: event.entered
select last from series where name = 'job_event'
-- name: event.enter
insert into job_event select job_id, seq from event where seq > :after and job_id is not null order by job_id, seq

-- name: log.add
-- owner: checked by keep, chunk, Held
insert into log (job_id, attempt_nr, stream, start, stop, piece)
    values (:job_id, :attempt_nr, :stream, :start, :stop, :piece) on conflict do nothing
-- name: log.held
-- owner: checked by keep, chunk, Held
select coalesce(max(stop), 0), coalesce(sum(stop - start), 0), count(*) from log
    where job_id = :job_id and attempt_nr = :attempt_nr and stream = :stream
-- name: log.from
-- owner: checked by keep, chunk, Held
select start, stop, piece from log where job_id = :job_id and attempt_nr = :attempt_nr and stream = :stream
    and stop > :offset order by start limit :most

-- name: worker.patient
select worker_id, lease_s from worker w where lease_s is not null
    and (ended is null or exists (select 1 from attempt a where a.worker_id = w.worker_id and a.ended is null))
-- name: worker.set_outage
-- owner: site
update worker set outage_s = :outage_s where intent = :intent and site = :site
-- name: worker.behind_relay
select worker_id, outage_s from worker w where outage_s is not null
    and (ended is null or exists (select 1 from attempt a where a.worker_id = w.worker_id and a.ended is null))
-- name: worker.home
select site, queue, outage_s from worker where worker_id = :worker_id and registered is not null
-- name: worker.serve
update worker set queue = case when :queue = '' then queue else :queue end,
    site = case when :queue = '' then site else :queue end, lease_s = :lease_s where worker_id = :worker_id
-- name: worker.fill
update worker set site = case when site = '' then :queue else site end, queue = case when queue = '' then :queue else queue end,
    host = case when host = '' then :host else host end, batch_id = case when batch_id = '' then :batch_id else batch_id end
    where worker_id = :worker_id
-- name: worker.last_index
-- owner: harvester
select coalesce(max(idx), 0) from worker where intent = :intent and intent like 'harvester:%'
-- name: worker.place
select queue, lease_s from worker where worker_id = :worker_id
-- name: worker.waiting
-- owner: harvester
select count(*) from worker where intent = :intent and intent like 'harvester:%' and queue = :queue
    and registered is null and ended is null
-- name: fact.put
insert into panda_fact (kind, owner, name, at, data) values (:kind, :owner, :name, :at, :data)
    on conflict (kind, owner, name) do update set at = :at, data = :data
-- name: fact.first
insert into panda_fact (kind, owner, name, at, data) values (:kind, :owner, :name, :at, :data)
    on conflict (kind, owner, name) do nothing
-- name: fact.get
select at, data from panda_fact where kind = :kind and owner = :owner and name = :name
-- name: fact.drop
delete from panda_fact where kind = :kind and owner = :owner and name = :name
-- name: fact.sweep
delete from panda_fact where kind in ('attempt', 'worker said')
    and name not in (select job_id || '.' || attempt_nr from attempt where ended is null)
-- name: fact.since
select owner, name, data from panda_fact where kind = :kind and at >= :since order by owner, name limit 10000
-- name: fact.names
select name from panda_fact where kind = :kind and owner = :owner and at >= :since limit 1000
-- name: command.put
-- owner: harvester
insert into panda_command (harvester, command, params, state, ack, made)
    values (:harvester, :command, :params, 'new', :ack, :now)
    on conflict (harvester, command) do update set params = :params, state = 'new', ack = :ack, made = :now
-- name: command.get
-- owner: harvester
select state, made from panda_command where harvester = :harvester and command = :command
-- name: command.new
-- owner: harvester
select command_id, command, params, ack, made from panda_command
    where harvester = :harvester and state = 'new' order by made, command_id limit :most
-- name: command.move
-- owner: checked by acknowledge, change
update panda_command set state = :state where command_id = :command_id

-- name: refused.add
insert into refused (what, made_before, until) values (:what, :made_before, :until)
    on conflict (what) do update set made_before = :made_before, until = :until
-- name: refused.all
select what, made_before, until from refused where until > :now
-- name: refused.trim
delete from refused where until <= :now

-- name: process.beat
insert into process (name, beat, knows) values (:name, 1, :knows)
    on conflict (name) do update set beat = process.beat + 1
-- name: process.all
select number, name, beat, knows from process order by number
-- name: process.drop
delete from process where name = :name

-- name: old.due
select job_id from job where (state = 'finished' or state = 'failed' or state = 'cancelled' or state = 'closed')
    and changed < :before
    and not exists (select 1 from unfolding u where u.job_id = job.job_id)
    and not exists (select 1 from parent p join job c on c.job_id = p.child
        where p.parent = job.job_id and c.state not in ('finished', 'failed', 'cancelled', 'closed'))
    order by changed limit :most
-- name: old.partition
select :at
-- name: old.add
insert into old_job (job_id, ended, detail, state, owner) values (:job_id, :ended, :detail, :state, :owner)
-- name: old.get
select detail from old_job where job_id = :job_id
-- name: old.states_of
select job_id, state, owner, case when state is null then detail end from old_job
    where job_id in (select value from json_each(:ids))
-- name: old.drop_log
delete from log where job_id in (select value from json_each(:ids))
-- name: old.drop_file
delete from file where job_id in (select value from json_each(:ids))
-- name: old.drop_attempt
delete from attempt where job_id in (select value from json_each(:ids))
-- name: old.drop_body
delete from body where job_id in (select value from json_each(:ids))
-- name: old.drop_parent
delete from parent where child in (select value from json_each(:ids))
-- name: old.drop_sized
delete from sized where job_id in (select value from json_each(:ids))
-- name: old.drop_job
delete from job where job_id in (select value from json_each(:ids))
-- name: event.trim
delete from event where seq in (select seq from (select seq, at from event order by seq limit :most) as oldest
    where at < :before) returning seq
-- name: request.trim
delete from request where made < :before and complete = 1

-- name: share.head
select rank from job where queue = :queue and shape_id = :shape_id and state = 'activated'
    order by priority desc, rank, job_id limit 1
-- name: share.get
select rank from share where queue = :queue and owner = :owner
-- name: share.last
select coalesce(max(rank), 0) from share where queue = :queue
-- name: share.put
insert into share (queue, owner, rank) values (:queue, :owner, :rank)
    on conflict (queue, owner) do update set rank = :rank
