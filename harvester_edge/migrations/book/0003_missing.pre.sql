-- Since when the batch system has not listed a worker that it should list.
alter table worker add column missing real;
