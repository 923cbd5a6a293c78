-- The outputs that items of a list name, each by one of them, as long as the list is kept.
create table item_output (
    list_id integer not null,
    name    text    not null,
    idx     integer not null,                -- of the item
    primary key (list_id, name)
) without rowid;
