-- What is not PanDA's leaves the table of what PanDA's clients say. The version before reads and writes it
-- there: the files of this name for each database keep both places alike, until a `post` step ends that.
create table tail (                          -- the end of a running job's file, for which a user asked
    job_id integer primary key,
    at     real not null,
    text   text not null
);
create table excluded_node (                 -- gets no jobs for a while
    site   text not null,
    host   text not null,
    until  real not null,
    reason text not null,
    primary key (site, host)
) without rowid;
create table about (                         -- what is true of the store as a whole: its name
    name  text primary key,
    value text not null
) without rowid;
