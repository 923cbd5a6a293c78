pragma user_version = 2;
-- `day`: days of UTC since 1970.
create table spent (day integer primary key, node_hours real not null);
