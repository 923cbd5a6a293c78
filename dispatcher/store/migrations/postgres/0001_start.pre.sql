-- Two dispatchers may be asked at once by one pilot that asks again.
create unique index worker_instance on worker (instance) where intent = '' and instance <> '';
-- Rows that change often leave room for their next version beside them.
alter table job set (fillfactor = 70);
alter table attempt set (fillfactor = 70);
alter table worker set (fillfactor = 50);
alter table counter set (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
