"""Rucio as the catalogue of outputs: replicas, data sets and rules, in bulk.

All is asked for so that it may be asked for again: Rucio compares size and checksum of a file that
it knows, and what is attached, ruled or closed already stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC
from functools import cached_property, partial
from itertools import groupby, islice
from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import replace

from dispatcher.ports import (
    CatalogueUnavailable,
    Contents,
    Fault,
    KnownFile,
    NewFile,
    NotDone,
    ReplicationRule,
)
from plugins.catalogue.rucio_faults import AWAY, RucioRefused
from plugins.rucio_client import ClientOptions, client_of, counted

MOST_LISTED = 10_000_000
"""Files of a data set that is listed."""
STAGING = "ailurus: staged for a task"
"""The comment of rules that stage files in: only these are deleted."""
# Of what was made or opened before, no more than this many names are remembered.
_REMEMBERED = 10_000


class RucioOptions(ClientOptions, frozen=True, kw_only=True):
    """Rucio as it is written in the dispatcher's file."""

    keep_at: Annotated[str, Meta(max_length=1000)] = ""
    """An RSE expression: a data set is kept by one rule, on whichever of these its files are;
    blank: by a rule for each file, where it is."""
    staging_activity: Annotated[str, Meta(max_length=50)] = "Staging"
    """The activity of rules that stage files in."""


class Rucio:
    """The port `Catalogue` on a server of Rucio."""

    Options = RucioOptions

    def __init__(self, options: RucioOptions) -> None:
        self._options = options
        self._ready: set[str] = set()
        self._listed: tuple[str, Contents] | None = None

    def register(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        faults = []
        for rse, some in _groups(files, lambda file: file.rse):
            faults += self._in_parts(some, partial(self._add, rse))
        refused = {fault.key for fault in faults}
        return faults + self._other([file for file in files if file.key not in refused])

    def attach(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        faults = []
        for dataset, some in _groups(files, lambda file: file.dataset):
            if dataset:
                faults += self._in_parts(some, partial(self._attach, dataset))
        return faults

    def keep(self, files: Sequence[NewFile]) -> Sequence[Fault]:
        faults = []
        # A rule at one storage would have what lies at others copied there.
        for _, some in _groups(files, _kept_together):
            faults += self._in_parts(some, self._rule)
        return faults

    def close(self, datasets: Sequence[str]) -> Sequence[Fault]:
        faults = []
        for key, dataset in enumerate(datasets):
            scope, _, name = dataset.partition(":")
            try:
                # Rucio says of a file neither.
                if self._asked(partial(self._client.get_did, scope, name)).get("open"):
                    self._asked(partial(self._client.close, scope, name))
                self._ready.discard(dataset)
            except RucioRefused as refused:
                # Nothing was ever put into it.
                if refused.kind != "DataIdentifierNotFound":
                    faults.append(refused.fault(key))
        return faults

    def resolve(self, did: str, most: int) -> Contents | None:
        scope, _, name = did.partition(":")
        more = 0
        try:
            known = self._asked(partial(self._client.get_did, scope, name))
            files = self._asked(partial(self._first, scope, name, most + 1))
            if len(files) > most:
                # Counted by Rucio's database, which is asked only where there are so many.
                whole = self._asked(
                    partial(self._client.get_did, scope, name, dynamic_depth="FILE")
                )
                more = max((counted(whole["length"]) or 0) - most, 1)
        except RucioRefused as refused:
            if refused.kind == "DataIdentifierNotFound":
                return None
            raise NotDone(refused.fault()) from None
        return Contents(
            kind=str(known["type"]).lower(),
            # Rucio says None of a file.
            open=bool(known.get("open")),
            files=tuple(map(_known, files[:most])),
            more=more,
        )

    def _first(self, scope: str, name: str, most: int) -> list[Mapping[str, Any]]:
        """So many files of an identifier. Raises what Rucio raises."""
        # Its `list_files` reads all of the answer first, which may name millions.
        found = self._client.bulk_list_files([{"scope": scope, "name": name}])
        return list(islice(found, most))

    def replicas(self, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        asked = list(map(_parts, files))
        found = self._done(lambda: list(self._client.list_replicas(asked)))
        return {
            _name(file): sorted(
                rse for rse, state in file["states"].items() if state == "AVAILABLE"
            )
            for file in found
        }

    def listing(self, did: str, after: str, most: int) -> Contents | None:
        # Rucio has no pages: all is read at the first of ours, and kept for the others.
        if not after or self._listed is None or self._listed[0] != did:
            found = self.resolve(did, MOST_LISTED)
            if found is None:
                return None
            files = {one.name: one for one in found.files}
            self._listed = did, replace(found, files=tuple(files[one] for one in sorted(files)))
        return self._listed[1].page(after, most)

    def stage(self, files: Sequence[str], where: str) -> Sequence[Fault]:
        faults = []
        for key, file in enumerate(files):
            try:
                self._asked(partial(self._stage, _parts(file), where))
            except RucioRefused as refused:
                faults.append(refused.fault(key))
        return faults

    def _stage(self, did: dict[str, str], where: str) -> None:
        """Raises what Rucio raises."""
        from rucio.common import exception

        try:
            self._client.add_replication_rule(
                [did], 1, where, comment=STAGING, activity=self._options.staging_activity
            )
        except exception.DuplicateRule:
            # One that we have let go of may wait for Rucio's cleaner.
            for rule in self._staging(did, where):
                if rule["expires_at"] is not None:
                    self._client.update_replication_rule(rule["id"], {"lifetime": None})

    def staged(self, files: Sequence[str], where: str) -> Mapping[str, str]:
        asked = list(map(_parts, files))
        found = self._done(
            lambda: list(self._client.list_replicas(asked, rse_expression=where, all_states=True))
        )
        return {
            _name(file): ""
            for file in found
            if any(file["states"].get(rse) == "AVAILABLE" for rse in self._rses(where))
        }

    def _rses(self, where: str) -> Collection[str]:
        found = self._done(lambda: list(self._client.list_rses(where)))
        return {one["rse"] for one in found}

    def let_go(self, files: Sequence[str], where: str) -> Sequence[Fault]:
        faults = []
        for key, file in enumerate(files):
            try:
                self._asked(partial(self._end_staging, _parts(file), where))
            except RucioRefused as refused:
                if refused.kind not in ("DataIdentifierNotFound", "RuleNotFound"):
                    faults.append(refused.fault(key))
        return faults

    def _end_staging(self, did: dict[str, str], where: str) -> None:
        """Raises what Rucio raises."""
        for rule in self._staging(did, where):
            # `delete_replication_rule` keeps it for an hour, which a cap of files could not bear.
            self._client.update_replication_rule(rule["id"], {"lifetime": 0})

    def _staging(self, did: dict[str, str], where: str) -> list[Mapping[str, Any]]:
        """Our rules of `stage`: whatever else keeps the file there, an output's rule say, is not
        ours to end. Raises what Rucio raises."""
        return [
            rule
            for rule in self._client.list_did_rules(**did)
            if rule["rse_expression"] == where and rule.get("comments") == STAGING
        ]

    def add_rule(self, did: str, where: str, lifetime_s: int | None) -> str:
        from rucio.common import exception

        scope, _, name = did.partition(":")

        def added() -> str:
            try:
                made = self._client.add_replication_rule(
                    [{"scope": scope, "name": name}], 1, where, lifetime=lifetime_s
                )
            except exception.DuplicateRule:
                # One of ours, since a rule of another account would be no duplicate.
                mine = self._client.list_replication_rules(
                    {"scope": scope, "name": name, "rse_expression": where,
                     "account": self._client.account}
                )  # fmt: skip
                made = [next(iter(mine))["id"]]
            return str(made[0])

        return str(self._done(added))

    def rules_on(self, did: str) -> Sequence[ReplicationRule]:
        scope, _, name = did.partition(":")
        found = self._done(lambda: list(self._client.list_did_rules(scope, name)))
        return [_followed(one) for one in found]

    def _add(self, rse: str, files: Collection[NewFile]) -> None:
        """Raises what Rucio raises."""
        self._client.add_replicas(rse=rse, files=[_replica(file) for file in files])

    def _attach(self, dataset: str, files: Collection[NewFile]) -> None:
        """Raises what Rucio raises."""
        scope, _, name = dataset.partition(":")
        attachment = {"scope": scope, "name": name, "dids": [_did(file) for file in files]}
        if dataset not in self._ready:
            self._make(scope, name)
            if len(self._ready) >= _REMEMBERED:
                self._ready.clear()
            self._ready.add(dataset)
        try:
            self._client.attach_dids_to_dids([attachment], ignore_duplicate=True)
        except Exception:
            # It may have been closed, or deleted, since: the next try looks.
            self._ready.discard(dataset)
            raise

    def _make(self, scope: str, name: str) -> None:
        """Have a data set that is open. Raises what Rucio raises."""
        from rucio.common import exception

        try:
            known = self._client.get_did(scope, name)
            if known["type"] != "DATASET":
                kind = str(known["type"]).lower()
                raise exception.UnsupportedOperation(f"{scope}:{name} is a {kind}, no data set")
            if not known["open"]:
                # A retried job writes to it again.
                self._client.set_status(scope, name, open=True)
        except exception.DataIdentifierNotFound:
            with suppress(exception.DataIdentifierAlreadyExists):
                self._client.add_dataset(scope, name)

    def _rule(self, files: Sequence[NewFile]) -> None:
        """Keep files where they are, or the one data set that they are of in the storages that the
        operator names. Raises what Rucio raises."""
        first = files[0]
        if first.dataset and self._options.keep_at:
            scope, _, name = first.dataset.partition(":")
            self._add_rules([{"scope": scope, "name": name}], self._options.keep_at, first)
        else:
            self._add_rules(list(map(_did, files)), first.rse, first)

    def _add_rules(self, dids: Sequence[dict[str, str]], where: str, first: NewFile) -> None:
        from rucio.common import exception

        try:
            self._client.add_replication_rule(
                list(dids), 1, where, grouping="NONE", lifetime=first.lifetime_s
            )
        except exception.DuplicateRule:
            # One of them has it: which, Rucio does not say.
            for did in dids if len(dids) > 1 else ():
                self._add_rules([did], where, first)

    def _in_parts(
        self, files: Sequence[NewFile], what: Callable[[Sequence[NewFile]], object]
    ) -> list[Fault]:
        """Do something for all files at once; if that is refused for half of them, and so on, so
        that a file for which it cannot be done spoils no other."""
        try:
            self._asked(partial(what, files))
        except RucioRefused as refused:
            if len(files) == 1:
                return [self._explained(refused, files[0]).fault(files[0].key)]
            half = len(files) // 2
            return self._in_parts(files[:half], what) + self._in_parts(files[half:], what)
        return []

    def _other(self, files: Sequence[NewFile]) -> list[Fault]:
        """Those that Rucio knew before with other contents: it takes them without a word."""
        known: dict[tuple[str, str], tuple[int, str]] = {}

        def look(some: Sequence[NewFile]) -> None:
            for one in self._client.get_metadata_bulk(list(map(_did, some))):
                known[one["scope"], one["name"]] = one["bytes"], one["adler32"]

        faults = self._in_parts(files, look) if files else []
        unknown = {fault.key for fault in faults}
        return faults + [
            Fault(
                key=file.key,
                reason="Rucio knows a file of that name with other contents",
                remedy="submit the job anew, or remove that file from Rucio",
            )
            for file in files
            if file.key not in unknown
            and known.get((file.scope, file.name)) != (file.size, file.adler32)
        ]

    def _explained(self, refused: RucioRefused, file: NewFile) -> RucioRefused:
        """What a fault of Rucio's database, which has no name, is about."""
        from rucio.common import exception

        if refused.kind == "DatabaseException":
            with suppress(RucioRefused):
                if file.scope not in self._asked(self._client.list_scopes):
                    return RucioRefused(exception.ScopeNotFound(f"there is no scope {file.scope}"))
        return refused

    def _done(self, what: Callable[[], Any]) -> Any:
        """What Rucio answers. Raises CatalogueUnavailable, or NotDone."""
        try:
            return self._asked(what)
        except RucioRefused as refused:
            raise NotDone(refused.fault()) from None

    def _asked(self, what: Callable[[], Any]) -> Any:
        """What Rucio answers. Raises CatalogueUnavailable, or RucioRefused."""
        import requests
        from rucio.common import exception

        try:
            return what()
        except requests.RequestException as error:
            raise CatalogueUnavailable(
                f"Rucio cannot be reached: {type(error).__name__}",
                "look at its server and the way to it",
            ) from None
        except exception.RucioException as error:
            refused = RucioRefused(error)
            if refused.kind in AWAY:
                raise CatalogueUnavailable(refused.reason, refused.remedy) from None
            raise refused from None
        # The client reads an answer that it does not expect, or this a file's of a kind unthought
        # of: it shall not stand in the way of all others.
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise RucioRefused(error) from error

    @cached_property
    def _client(self) -> Any:
        return client_of(self._options)


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['scope']}:{one['name']}"


def _parts(did: str) -> dict[str, str]:
    scope, _, name = did.partition(":")
    return {"scope": scope, "name": name}


def _followed(rule: Mapping[str, Any]) -> ReplicationRule:
    expires = rule["expires_at"]
    return ReplicationRule(
        rule_id=rule["id"],
        where=rule["rse_expression"],
        state=rule["state"],
        done=counted(rule["locks_ok_cnt"]) or 0,
        moving=counted(rule["locks_replicating_cnt"]) or 0,
        stuck=counted(rule["locks_stuck_cnt"]) or 0,
        # Rucio's client gives a time in UTC without saying so.
        expires=None if expires is None else expires.replace(tzinfo=UTC).timestamp(),
        problem=rule["error"] or "",
    )


def _known(file: Mapping[str, Any]) -> KnownFile:
    return KnownFile(
        name=_name(file),
        size=counted(file["bytes"]),
        adler32=str(file["adler32"] or ""),
        guid=str(file.get("guid") or "").replace("-", ""),
        events=counted(file.get("events")),
    )


def _did(file: NewFile) -> dict[str, str]:
    return {"scope": file.scope, "name": file.name}


def _replica(file: NewFile) -> dict[str, Any]:
    return {
        **_did(file),
        "bytes": file.size,
        "adler32": file.adler32,
        "meta": {"guid": file.guid},
    }


def _kept_together(file: NewFile) -> tuple[str, str, int]:
    """Files with one rule: those of a data set at an RSE."""
    return file.dataset, file.rse, file.lifetime_s or 0


def _groups(
    files: Sequence[NewFile], key: Callable[[NewFile], Any]
) -> list[tuple[Any, list[NewFile]]]:
    return [(of, list(some)) for of, some in groupby(sorted(files, key=key), key)]
