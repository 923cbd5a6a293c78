-- How far a step is whose items a planner says; its `listed` is 0 until the planner says no more.
alter table step add column planned integer not null default 0;         -- 1: a planner says its items
alter table step add column answers integer not null default 0;         -- answers of the planner that were taken
alter table step add column planner_job integer;                        -- the job that is planning
alter table step add column planner_tries integer not null default 0;   -- failed ones since the last answer
alter table step add column best real;                                  -- the least loss
alter table step add column best_item integer;                          -- the number of its item
alter table step add column unimproved integer not null default 0;      -- losses since then that were no less
-- The loss in the result of a point's job.
alter table unit add column loss real;
