"""The door: HTTP, its routes and answers, browsers' sessions, the access log. It knows no rule and
no transaction."""
