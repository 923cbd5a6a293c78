-- What users say of Ailurus itself, for its operators.
create table feedback (
    feedback_id integer primary key,
    owner       text    not null,
    request_id  text    not null,
    at          real    not null,
    mood        integer not null,            -- 1, it does not work for me, to 5, it does
    text        text    not null,
    about       text    not null,            -- the page or command that it was said after
    version     text    not null,            -- of the dispatcher
    unique (owner, request_id)
);
create index feedback_at on feedback (at);
