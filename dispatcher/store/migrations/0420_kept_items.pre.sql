-- Items that finished under a mark up to this one left outputs that are in storage: they stay so.
alter table cluster add column kept integer not null default 0;
-- How many inputs the items of a list name.
alter table item_list add column inputs integer not null default 0;
