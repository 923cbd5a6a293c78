-- How many outputs the items of a list name, and its size; whether a job has named it.
alter table item_list add column outputs integer not null default 0;
alter table item_list add column bytes integer not null default 0;
alter table item_list add column used integer not null default 0;
update item_list set used = 1 where exists
    (select 1 from cluster where cluster.list_id = item_list.list_id);
create index item_list_unused on item_list (owner) where used = 0;
-- Which item of the job left it; null: the job.
alter table file add column item integer;
