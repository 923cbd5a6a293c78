create table if not exists number (next integer not null);
create table if not exists intent (
    intent text primary key, label text not null, kind text not null, at real not null
) without rowid;
create table if not exists wish (
    queue text not null, label text not null, kind text not null, pilots integer not null, at real not null,
    primary key (queue, label, kind)
) without rowid;
create table if not exists condemned (
    intent text not null, "index" integer not null, at real not null, primary key (intent, "index")
) without rowid;
