"""The catalogue in the operator's file: which one, and who may write where.

kind: rucio
options:                          # those of the plugin
  config: /etc/ailurus/rucio.cfg
  account: ailurus
scopes:                           # which users may have outputs in which scopes
  "user.{user}": ["*"]            # everybody in a scope of their own
  user.carol: ["iam:carol"]       # a name that no scope can hold
  mc26: [ann, bob]
staging:                          # which users' tasks may have files staged where (gate: staged)
  DISK: ["*"]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ailurus.protocol.did import Did
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import JobSpec
from ailurus.protocol.submission import explained
from ailurus.regular import NotRegular, settings_in
from dispatcher.catalogue import made
from dispatcher.refusal import Rejected

_Text = Annotated[str, Meta(min_length=1, max_length=500)]


class CatalogueSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    kind: _Text
    options: dict[str, Any] = {}
    scopes: Mapping[_Text, tuple[_Text, ...]]
    staging: Mapping[_Text, tuple[_Text, ...]] = {}

    def may_stage(self, user: str, where: str) -> bool:
        """Whether tasks of a user may have files staged at that storage."""
        users = self.staging.get(where, ())
        return "*" in users or user in users

    def may_write(self, user: str, scope: str) -> bool:
        """Whether outputs of a user may be registered in a scope. `{user}` stands for a name as it
        is: one that no scope can hold has none, lest two users share it."""
        named = re.fullmatch(r"[A-Za-z0-9_.-]+", user) is not None
        return any(
            scope == pattern.replace("{user}", user)
            and ("*" in users or user in users)
            and (named or "{user}" not in pattern)
            for pattern, users in self.scopes.items()
        )


def read(path: Path) -> CatalogueSettings:
    """The settings in a file, whose kind there is and has such options. Raises AilurusError."""
    import yaml

    try:
        settings = msgspec.convert(yaml.safe_load(settings_in(path).decode()), CatalogueSettings)
    except OSError as error:
        raise AilurusError(f"cannot read {path}: {error.strerror}") from None
    except NotRegular as error:
        raise AilurusError(
            f"cannot read the settings: {error}", remedy="write them into a file, and name that"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AilurusError(f"{path} is no YAML: {error}") from None
    except msgspec.ValidationError as error:
        raise explained(error, str(path)) from None
    made.maker(settings.kind, settings.options, str(path))
    return settings


def check(settings: CatalogueSettings | None, job: JobSpec, user: str, where: str) -> None:
    """Raise Rejected for a job whose outputs its user may not register."""
    for nr, output in enumerate(job.outputs):
        if not output.scope:
            continue
        field = f"{where}.outputs[{nr}]"
        if settings is None:
            raise Rejected(
                422,
                f"output {output.name!r} goes to Rucio, and this dispatcher has no catalogue",
                field=f"{field}.scope",
                remedy="leave the scope out, or let its operator give `dispatcher serve` a "
                "--catalogue",
            )
        named = {"scope": output.scope}
        if output.dataset:
            named["dataset"] = Did.parse(output.dataset).scope
        for word, scope in named.items():
            if not settings.may_write(user, scope):
                raise Rejected(
                    403,
                    f"{user} may not write to scope {scope!r}",
                    field=f"{field}.{word}",
                    remedy="use a scope of your own, or ask the dispatcher's operator for this one",
                )
