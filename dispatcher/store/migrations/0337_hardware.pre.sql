-- What kind of machine a worker has, as its pilot told when it registered: JSON; null: it did not.
alter table worker add column hardware text;
