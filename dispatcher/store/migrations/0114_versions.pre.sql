-- What takes something away from the tables waits until no process is left that does not know of it.
alter table process add column knows integer not null default 0;
