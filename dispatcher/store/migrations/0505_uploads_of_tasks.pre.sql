-- The tasks whose jobs name a file that travels with them.
create table upload_task (
    upload_id integer not null,
    task_id   integer not null,
    primary key (upload_id, task_id)
) without rowid;
