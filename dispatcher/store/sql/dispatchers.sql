-- name: process.beat
-- A dispatcher on this store lives; `knows`: the last migration it has.
-- writes: process
insert into process (name, beat, knows) values (:name, 1, :knows)
    on conflict (name) do update set beat = process.beat + 1

-- name: process.all
-- The dispatchers on this store with their counts of beats.
-- reads: process
select number, name, beat, knows from process order by number

-- name: process.drop
-- Forget a dispatcher that has ended.
-- writes: process
delete from process where name = :name

-- name: about.first
-- Note what is true of the store as a whole, unless another dispatcher has.
-- writes: about
insert into about (name, value) values (:name, :value) on conflict do nothing

-- name: about.get
-- What is true of the store as a whole: under `name`, the name by which relays know it.
-- reads: about
select value from about where name = :name
