create table refused (                       -- tokens that are not good any more, until they expire
    what        text primary key,            -- id:JTI, or sub:NAME for all that NAME has had so far
    made_before real not null,               -- only those are meant: a name gets new ones
    until       real not null
);
