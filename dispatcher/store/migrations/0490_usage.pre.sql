-- What attempts took, summed up in the commit that ends each: by hour, later by day and by month. Sums are whole
-- numbers in `real`, which do not overflow, and are exact below 2^53.
create table usage (
    part      text    not null,              -- blank: by user, queue and site; of days and months also 'all', 'user',
                                             -- 'site', 'queue': the same by nothing else, which is fewer rows
    label     text    not null,              -- blank: of all attempts; else of those whose jobs have this label
    span      text    not null,              -- 'hour', 'day' or 'month'
    at        real    not null,              -- where it begins (UTC)
    owner     text    not null,
    queue     text    not null,
    site      text    not null,
    value     text    not null,              -- of the label
    outcome   text    not null,              -- `UsageOutcome` in ailurus/protocol/accounting.py
    n         real    not null,              -- attempts
    wall_ms   real    not null,
    core_ms   real    not null,              -- cores that they had asked for × time
    cpu_ms    real    not null,
    memory    real    not null,              -- MB that they had asked for × ms
    peak      real    not null,              -- MB that they took at most × ms
    gpu       real    not null,              -- hundredths of GPUs that they had asked for × ms
    gpu_ms    real    not null,              -- for which GPUs were busy
    primary key (part, label, span, at, owner, queue, site, value, outcome)
) without rowid;
create index usage_of_span on usage (span, at);
create index usage_of_owner on usage (owner, part, label, span, at);
-- What was added to `usage` for an attempt that was lost: taken off again if it comes back. JSON.
alter table attempt add column booked text;
-- Core-seconds of pilots, as they tell them: `busy`, or why they were idle.
create table pilot_time (
    at        real    not null,
    span      text    not null,
    site      text    not null,
    queue     text    not null,
    reason    text    not null,
    core_ms   real    not null,
    primary key (at, span, site, queue, reason)
) without rowid;
create index pilot_time_of_span on pilot_time (span, at);
