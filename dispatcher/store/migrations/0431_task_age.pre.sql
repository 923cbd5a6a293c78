-- Tasks at their end, by age.
create index task_ended on task (changed) where active = 0;
-- Jobs of a task that are not final.
create index unit_open on unit (task_id, job_id) where state = 'open';
