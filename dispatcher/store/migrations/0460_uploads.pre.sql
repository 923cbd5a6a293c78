-- A small file of a user that travels with jobs.
create table upload (
    upload_id integer primary key,
    owner     text    not null,
    digest    text    not null,              -- SHA-256 in hexadecimal
    size      integer not null,
    have      integer not null,              -- bytes that are here; all of them: they have the digest
    changed   real    not null,              -- when it was last asked for, or found to be needed
    unique (owner, digest, size)
);
create index upload_changed on upload (changed);
create table upload_piece (
    upload_id integer not null,
    first     integer not null,              -- byte offset
    body      blob    not null,
    primary key (upload_id, first)
);
-- The jobs of a submission that name a file: the first and the last of the submission.
create table upload_use (
    upload_id integer not null,
    first     integer not null,
    last      integer not null,
    primary key (upload_id, first)
) without rowid;
