-- name: feedback.add
-- What a user says; once for each request.
-- owner: user
-- writes: feedback
insert into feedback (owner, request_id, at, mood, text, about, version)
    values (:owner, :request_id, :now, :mood, :text, :about, :version) on conflict do nothing

-- name: feedback.said
-- Whether a user's request is here; how much that user has said, and since a time; and how much all have.
-- owner: user
-- reads: feedback
select count(case when request_id = :request_id then 1 end) as known, count(*) as own,
    count(case when at > :since then 1 end) as fresh, (select count(*) from feedback) as kept
    from feedback where owner = :owner

-- name: feedback.page
-- What users said after a point, oldest first; for administrators.
-- reads: feedback
select feedback_id, owner, at, mood, text, about, version from feedback
    where feedback_id > :after order by feedback_id limit :most

-- name: feedback.expire
-- Forget what was said before a time.
-- writes: feedback
delete from feedback where at < :before
