drop index job_at_rest;
create index job_at_rest on job (state, job_id)
    where state <> 'sent' and state <> 'starting' and state <> 'running' and state <> 'holding';
drop index job_ended;
create index job_ended on job (changed)
    where state = 'finished' or state = 'failed' or state = 'cancelled' or state = 'closed';
