-- name: fact.put
-- The last that a PanDA client said of something.
-- writes: panda_fact
insert into panda_fact (kind, owner, name, at, data) values (:kind, :owner, :name, :at, :data)
    on conflict (kind, owner, name) do update set at = :at, data = :data

-- name: fact.get
-- When something was said last, and what.
-- reads: panda_fact
select at, data from panda_fact where kind = :kind and owner = :owner and name = :name

-- name: fact.drop
-- Forget what was said of something.
-- writes: panda_fact
delete from panda_fact where kind = :kind and owner = :owner and name = :name

-- name: fact.sweep
-- Forget what was said of attempts that have ended.
-- reads: attempt
-- writes: panda_fact
delete from panda_fact where kind in ('attempt', 'storage of', 'worker said')
    and name not in (select job_id || '.' || attempt_nr from attempt where ended is null)

-- name: fact.expire
-- Forget what was said of one kind of thing before a time.
-- writes: panda_fact
delete from panda_fact where kind = :kind and at < :before

-- name: fact.all
-- Everything of one kind.
-- reads: panda_fact
select name, data from panda_fact where kind = :kind

-- name: fact.since
-- What was said since a time, of everything of one kind.
-- reads: panda_fact
select owner, name, data from panda_fact where kind = :kind and at >= :since
    order by owner, name limit 10000

-- name: fact.names
-- Of what things something was said since a time.
-- reads: panda_fact
select name from panda_fact where kind = :kind and owner = :owner and at >= :since limit 1000

-- name: command.put
-- A command for a Harvester; it replaces the last one of its kind.
-- owner: harvester
-- writes: panda_command
insert into panda_command (harvester, command, params, state, ack, made)
    values (:harvester, :command, :params, 'new', :ack, :now)
    on conflict (harvester, command) do update set params = :params, state = 'new', ack = :ack,
    made = :now

-- name: command.get
-- Whether a command for a Harvester is done, and when it was made.
-- owner: harvester
-- reads: panda_command
select state, made from panda_command where harvester = :harvester and command = :command

-- name: command.new
-- Commands that a Harvester has not fetched.
-- owner: harvester
-- reads: panda_command
select command_id, command, params, ack, made from panda_command
    where harvester = :harvester and state = 'new' order by made, command_id limit :most

-- name: command.move
-- How far a command has come.
-- owner: checked by acknowledge, change
-- writes: panda_command
update panda_command set state = :state where command_id = :command_id
