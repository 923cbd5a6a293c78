drop table old_job;
create table old_job (
    job_id bigint not null,
    ended  double precision not null,
    detail bytea  not null,
    primary key (job_id, ended)
) partition by range (ended);
-- The partition of a month, made when its first job comes.
create function old_job_partition(at double precision) returns void language plpgsql as $$
declare
    month timestamp := date_trunc('month', to_timestamp(at) at time zone 'UTC');
    name text := 'old_job_' || to_char(month, 'YYYY_MM');
begin
    if to_regclass(name) is null then
        execute format('create table %I partition of old_job for values from (%L) to (%L)', name,
            extract(epoch from month), extract(epoch from month + interval '1 month'));
    end if;
end $$;
