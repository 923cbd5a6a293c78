-- How long a worker behind a relay may be silent, as its site says; null: as long as all others.
alter table worker add column outage_s real;
