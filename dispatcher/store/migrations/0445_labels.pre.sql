-- What users write on jobs to find them by.
create table label (
    job_id integer not null,
    name   text    not null,
    value  text    not null,
    primary key (job_id, name)
) without rowid;
create index label_value on label (name, value, job_id);
