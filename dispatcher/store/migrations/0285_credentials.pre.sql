-- Credentials of users for the storage that their jobs use. `sealed` is encrypted with a key that is not in
-- the store.
create table credential (
    owner   text not null,
    name    text not null,
    kind    text not null,                   -- token or proxy
    subject text not null,                   -- whom it is for, as it says
    expires real,                            -- null: it does not say
    changed real not null,
    sealed  text not null,
    primary key (owner, name)
) without rowid;
