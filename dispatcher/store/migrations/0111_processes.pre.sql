-- Several dispatchers on one store: who they are, and what they must know of each other's pilots.
create table process (
    number integer primary key,              -- the smallest that lives leads
    name   text    not null unique,
    beat   integer not null                  -- goes up each second; one that stands still is gone
);
alter table request add column process text not null default '';   -- who stores it now
alter table attempt add column heard real;   -- when somebody last spoke for it; kept where others ask
alter table site add column heard real;
