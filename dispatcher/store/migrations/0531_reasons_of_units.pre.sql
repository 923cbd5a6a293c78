-- Items of which no job could be made, among a million that failed otherwise.
create index unit_reason on unit (task_id, state, step, first) where reason <> '';
