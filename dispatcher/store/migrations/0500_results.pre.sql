-- The result document that an attempt left: JSON text of at most 64 KiB, or blank.
alter table attempt add column result text not null default '';
