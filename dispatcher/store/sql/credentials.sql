-- name: credential.keep
-- Keep a credential of a user, in place of one of that name.
-- owner: user
-- writes: credential
insert into credential (owner, name, kind, subject, expires, changed, sealed)
    values (:owner, :name, :kind, :subject, :expires, :now, :sealed)
    on conflict (owner, name) do update set kind = :kind, subject = :subject, expires = :expires,
    changed = :now, sealed = :sealed

-- name: credential.all
-- What a user's credentials are, without the secrets.
-- owner: user
-- reads: credential
select name, kind, expires, subject, changed from credential where owner = :owner order by name

-- name: credential.get
-- A credential of a user, sealed.
-- owner: user
-- reads: credential
select kind, expires, sealed from credential where owner = :owner and name = :name

-- name: credential.forget
-- Forget a credential of a user.
-- owner: user
-- writes: credential
delete from credential where owner = :owner and name = :name
