-- Where failures of a kind were, and since when. `text` of a kind with a site ends in a line feed and the site,
-- so that it stays the key that an earlier version knows.
alter table failure add column site text not null default '';
alter table failure add column first real;       -- null: of an earlier version
