-- How far the files of an attempt are, as the dispatcher that its pilot talks to knows it: written when another
-- dispatcher asks.
alter table attempt add column staging text;
