-- Jobs of one shape and one group of users: its number stands wherever a shape's does.
create table lane (
    shape_id   integer primary key,          -- from 10^9 on, so that it is no shape's own number
    of_shape   integer not null,
    user_group text    not null,
    unique (user_group, of_shape)
);
