"""`rucio:` URLs: the catalogue says where files are, and the site's other plugins move them.

One look-up a batch; the site's own replica comes first, then the better protocol; when one fails,
the next is tried. What is uploaded is not registered here: the dispatcher does that once the job's
report counts. Traces tell Rucio of each transfer.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ailurus import __version__
from ailurus.logs import Log
from ailurus.protocol.did import Did, rse_of
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.url import Url
from pilot.ports import Found, JobError, Moved, Mover, NotMoved, Tell, ToGet, ToPut
from plugins.data.moving import drop, few, not_moved, padded
from plugins.data.rucio_errors import missing, nowhere, rucio_errors_on
from plugins.data.rucio_examined import examined
from plugins.data.rucio_plugins import Plugin, Plugins, Replica, local_url
from plugins.rucio_client import ClientOptions, RseProtocols, client_of, counted

MOST_LFNS = 100
"""Names in one request that says where files go: they stand in its URL."""
MOST_TRACES = 100
"""In one request: a request each keeps the server from the next look-up."""
TRACE_S = 5.0
_log = Log("pilot.rucio")


class _Wanted(Struct):
    """A file on its way here: the places that are left to try, the best first."""

    file: ToGet
    did: Did
    places: list[Replica]
    size: int | None
    adler32: str | None
    known: bool = True
    """To the catalogue."""
    began: float = 0.0
    failed: NotMoved | None = None


class Rucio(Mover):
    """Moves files by identifiers of Rucio."""

    class Options(ClientOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
        """The server, and how the site reaches storage."""

        rse: str = ""
        """The site's own storage: where outputs go, and what is read first."""
        protocols: RseProtocols = RseProtocols()
        plugins: dict[str, str] = {}  # noqa: RUF012 -- msgspec copies it
        """By scheme, where it is not the usual plugin."""
        options: dict[str, dict[str, Any]] = {}  # noqa: RUF012
        """Of these plugins, by name."""
        roots: tuple[str, ...] = ()
        """Directories beneath which storage of this node's file system lies."""
        http_allow: tuple[str, ...] = ()
        """More prefixes to which redirects may lead; where Rucio says that files are is allowed."""
        http_proxy: str = ""
        ca: str = ""
        """A file of authorities for https; empty: the system's."""
        traces: bool = True
        credentials: dict[str, str] = {}  # noqa: RUF012
        """A user's, for the plugins; Rucio is asked as the site."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._plugins = Plugins(options)
        self._tracing = ThreadPoolExecutor(1, "traces")

    def get(self, files: Sequence[ToGet], tell: Tell) -> None:
        wanted = self._located(files, tell)
        traces = []
        while wanted:
            wanted, told = self._round(wanted, tell)
            traces += told
        self._trace(traces)

    def put(self, files: Sequence[ToPut], tell: Tell) -> None:
        began = time.time()
        places = self._targets([file.url for file in files])
        outer = {file.key: file for file in files}
        traces = []

        def told(news: Any) -> None:
            if isinstance(news, Moved):
                file = outer[news.key]
                news = replace(news, url="")
                traces.append(
                    self._traced("upload", Url.parse(file.url), places[file.url], news.size, began)
                )
            tell(news)

        by_plugin: dict[Plugin, list[ToPut]] = {}
        for file in files:
            place = places[file.url]
            by_plugin.setdefault(self._plugins.of(place), []).append(replace(file, url=place.url))
        for plugin, some in by_plugin.items():
            with _told_of_each(some, told):
                self._put_by(plugin, some, told)
        self._trace(traces)

    def delete(self, urls: Sequence[str]) -> Mapping[str, str]:
        left: dict[str, str] = {}
        for url, place in self._targets(urls).items():
            by = self._plugins.of(place)
            try:
                plugin = self._plugins.made(by)
                if by.moves:
                    for why in plugin.delete([place.url]).values():
                        left[url] = why
                else:
                    plugin.delete(local_url(place.url))
            except AilurusError as error:
                left[url] = str(error)
        return left

    def expand(self, url: str) -> Sequence[Found]:
        named = Url.parse(url)
        did, known = Did.of_url(named), None
        with rucio_errors_on(f"{did}", missing_is_fine=bool(rse_of(named))):
            known = self._client.get_did(did.scope, did.name)
        if known is None:
            # A parent's output that the catalogue does not know yet.
            return [Found(name=named.name, url=url)]
        if known["type"] == "FILE":
            return [_found(did, named.name, known)]
        with rucio_errors_on(f"{did}"):
            # `list_files` would read all of the answer first, however long.
            files = few(self._client.bulk_list_files([{"scope": did.scope, "name": did.name}]), did)
        names: dict[str, Found] = {}
        for one in files:
            inner = Did(one["scope"], one["name"])
            name = inner.name.lstrip("/")
            # Names are unique in a scope alone.
            name = f"{inner.scope}/{name}" if name in names else name
            names[name] = _found(inner, name, one)
        return list(names.values())

    def examine(self) -> Sequence[str]:
        return examined(self._client, self._options.rse)

    def close(self) -> None:
        """Send the last traces."""
        self._tracing.shutdown()

    # -- where files are ---------------------------------------------------------------------------

    def _located(self, files: Sequence[ToGet], tell: Tell) -> list[_Wanted]:
        """The files that are somewhere, with the places to try; the others are told of."""
        dids: dict[int, Did] = {}
        for file in files:
            try:
                dids[file.key] = Did.of_url(Url.parse(file.url))
            except AilurusError as error:
                bad = JobError(Code.BAD_FILE_NAME, error.message, remedy=error.remedy)
                tell(not_moved(file.key, bad))
        known = self._replicas(set(dids.values()))
        ranked = {did: _ranked(entry, self._options) for did, entry in known.items()}
        # Parents' outputs that the catalogue does not know yet.
        unknown = [
            file.url
            for file in files
            if file.key in dids and not ranked.get(dids[file.key]) and rse_of(Url.parse(file.url))
        ]
        expected = self._targets(unknown, read=True)
        wanted = []
        for file in files:
            if file.key not in dids:
                continue
            did = dids[file.key]
            entry = known.get(did)
            places = [expected[file.url]] if file.url in expected else [*ranked.get(did, ())]
            if not places:
                tell(
                    not_moved(
                        file.key, nowhere(did, self._options.protocols, known=entry is not None)
                    )
                )
                continue
            size = file.size if entry is None else counted(entry["bytes"])
            adler32 = file.adler32 if entry is None or not entry["adler32"] else entry["adler32"]
            wanted.append(_Wanted(file, did, places, size, adler32, entry is not None))
        return wanted

    def _replicas(self, dids: Collection[Did]) -> dict[Did, Mapping[str, Any]]:
        """What the catalogue says of those files that it knows. Raises JobError."""
        if not dids:
            return {}
        named = [{"scope": did.scope, "name": did.name} for did in dids]
        schemes = sorted({*self._options.protocols.own, *self._options.protocols.other})
        found: dict[Did, Mapping[str, Any]] = {}
        with rucio_errors_on(f"{len(dids)} files", missing_is_fine=True):
            for one in self._client.list_replicas(named, schemes=schemes, domain="all"):
                # Of a data set, or by its archives, a server names more than it was asked for.
                if (did := Did(one["scope"], one["name"])) in dids:
                    found[did] = one
        return found

    def _targets(self, urls: Sequence[str], *, read: bool = False) -> dict[str, Replica]:
        """Where files go, or are if nobody has registered them. Raises JobError."""
        by_rse: dict[str, dict[str, list[str]]] = {}
        for text in urls:
            url = Url.parse(text)
            rse = rse_of(url) or self._options.rse
            if not rse:
                raise JobError(
                    Code.STAGE_OUT_FAILED,
                    f"{url} names no storage, and the site has none in Rucio",
                    remedy="name it in the site file: storage.rse",
                )
            by_rse.setdefault(rse, {}).setdefault(str(Did.of_url(url)), []).append(text)
        found: dict[str, Replica] = {}
        for rse, lfns in by_rse.items():
            names = list(lfns)
            for at in range(0, len(names), MOST_LFNS):
                for lfn, pfn in self._pfns(rse, names[at : at + MOST_LFNS], read=read).items():
                    found |= dict.fromkeys(lfns[lfn], Replica(rse, pfn))
        return found

    def _pfns(self, rse: str, lfns: Sequence[str], *, read: bool) -> Mapping[str, str]:
        from rucio.common import exception

        protocols = self._options.protocols
        operation = "read" if read else "write"
        schemes = protocols.own if read else protocols.outputs
        with rucio_errors_on(
            f"storage {rse}", code=Code.STAGE_IN_FAILED if read else Code.STAGE_OUT_FAILED
        ):
            for scheme in schemes:
                try:
                    pfns: Mapping[str, str] = self._client.lfns2pfns(
                        rse, list(lfns), operation=operation, scheme=scheme
                    )
                except exception.RSEProtocolNotSupported:
                    continue
                return pfns
        raise JobError(
            Code.NO_PROTOCOL,
            f"storage {rse} has none of the protocols {', '.join(schemes)}",
            remedy="add one to `storage.protocols` of the site file",
        )

    # -- moving ------------------------------------------------------------------------------------

    def _round(
        self, wanted: list[_Wanted], tell: Tell
    ) -> tuple[list[_Wanted], list[dict[str, Any]]]:
        """Try the best place of each file. What is left to try, and traces."""
        by_key = {one.file.key: one for one in wanted}
        again: list[_Wanted] = []
        traces = []

        def told(news: Any) -> None:
            if isinstance(news, Moved):
                news = _checked(news, by_key[news.key])
            if isinstance(news, NotMoved):
                one = by_key[news.key]
                traces.append(self._failed(one, news))
                drop(one.file.path)
                if len(one.places) > 1:
                    one.places.pop(0)
                    again.append(one)
                    return
                news = missing(news) if one.known else news
            elif isinstance(news, Moved):
                one = by_key[news.key]
                at = one.places[0]
                news = replace(news, url=at.url)
                url = Url.parse(one.file.url)
                traces.append(self._traced("download", url, at, news.size, one.began))
            tell(news)

        by_plugin: dict[Plugin, list[ToGet]] = {}
        for one in wanted:
            one.began = time.time()
            place = one.places[0]
            file = replace(one.file, url=place.url, size=one.size, adler32=one.adler32)
            by_plugin.setdefault(self._plugins.of(place), []).append(file)
        for plugin, some in by_plugin.items():
            with _told_of_each(some, told):
                self._get_by(plugin, some, told)
        return again, traces

    def _get_by(self, by: Plugin, files: Sequence[ToGet], tell: Tell) -> None:
        plugin = self._plugins.made(by)
        if by.moves:
            plugin.get(files, tell)
            return
        for file in files:
            into = os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                md5 = file.md5 is not None
                copied = plugin.get(local_url(file.url), into, lambda: None, md5=md5)
            except JobError as error:
                tell(not_moved(file.key, error))
            else:
                tell(Moved(key=file.key, size=copied.size, adler32=copied.adler32, md5=copied.md5))
            finally:
                os.close(into)

    def _put_by(self, by: Plugin, files: Sequence[ToPut], tell: Tell) -> None:
        plugin = self._plugins.made(by)
        if by.moves:
            plugin.put(files, tell)
            return
        for file in files:
            source = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                copied = plugin.put(source, local_url(file.url), lambda: None)
            except JobError as error:
                tell(not_moved(file.key, error))
            else:
                tell(Moved(key=file.key, size=copied.size, adler32=copied.adler32))
            finally:
                os.close(source)

    # -- traces ------------------------------------------------------------------------------------

    def _failed(self, one: _Wanted, news: NotMoved) -> dict[str, Any]:
        trace = self._traced("download", Url.parse(one.file.url), one.places[0], 0, one.began)
        return {**trace, "clientState": "FAILED", "stateReason": news.message[:400]}

    def _traced(
        self, what: str, url: Url, place: Replica, size: int, began: float
    ) -> dict[str, Any]:
        did = Did.of_url(url)
        return {
            "eventType": what,
            "eventVersion": f"ailurus-{__version__}",
            "hostname": socket.gethostname(),
            "account": self._client.account,
            "uuid": uuid.uuid4().hex,
            "scope": did.scope,
            "filename": did.name,
            "datasetScope": None,
            "dataset": None,
            "filesize": size,
            "localSite": self._options.rse,
            "remoteSite": place.rse,
            "protocol": place.url.partition(":")[0],
            "transferStart": began,
            "transferEnd": time.time(),
            "clientState": "DONE",
            "stateReason": "OK",
        }

    def _trace(self, traces: Sequence[Mapping[str, Any]]) -> None:
        """Send traces beside the next batch: none waits for them."""
        if traces and self._options.traces:
            self._tracing.submit(self._send, list(traces))

    def _send(self, traces: Sequence[Mapping[str, Any]]) -> None:
        import requests

        with requests.Session() as session:
            for at in range(0, len(traces), MOST_TRACES):
                try:
                    session.post(
                        f"{self._client.trace_host}/traces/",
                        data=msgspec.json.encode(traces[at : at + MOST_TRACES]),
                        headers={"Content-Type": "application/json"},
                        timeout=TRACE_S,
                        verify=self._client.ca_cert or True,
                    )
                except requests.RequestException as error:
                    _log.debug("traces_not_sent", reason=type(error).__name__)
                    return

    @cached_property
    def _client(self) -> Any:
        with rucio_errors_on("Rucio"):
            return client_of(self._options)


def _ranked(entry: Mapping[str, Any], options: Rucio.Options) -> list[Replica]:
    """The replicas of a file by schemes of the site, the best first."""
    found = []
    for pfn, about in entry["pfns"].items():
        own = about["rse"] == options.rse
        schemes = options.protocols.own if own else options.protocols.other
        scheme = pfn.partition(":")[0]
        if scheme in schemes:
            lan = about["domain"] == ("lan" if own else "wan")
            rank = (not own, schemes.index(scheme), not lan, about["priority"], about["rse"])
            found.append((rank, Replica(about["rse"], pfn)))
    return [place for _, place in sorted(found, key=lambda one: one[0])]


def _checked(news: Moved, one: _Wanted) -> Moved | NotMoved:
    """What arrived, held against the catalogue."""
    place = one.places[0]
    if one.adler32 is not None and padded(one.adler32) != news.adler32:
        what = f"adler32 {news.adler32}, the catalogue says {one.adler32}"
    elif one.size is not None and one.size != news.size:
        what = f"{news.size} bytes, the catalogue says {one.size}"
    else:
        return news
    return NotMoved(
        key=news.key,
        code=Code.GET_ADLER_MISMATCH,
        message=f"{one.did} at {place.rse} has {what}",
        remedy="declare that replica bad in Rucio",
        transient=False,
    )


@contextmanager
def _told_of_each(files: Sequence[ToGet] | Sequence[ToPut], tell: Tell) -> Iterator[None]:
    """Tell of each file what a plugin raised for all of them."""
    try:
        yield
    except AilurusError as error:
        failed = Code.STAGE_OUT_FAILED if isinstance(files[0], ToPut) else Code.STAGE_IN_FAILED
        if not isinstance(error, JobError):
            error = JobError(failed, error.message, remedy=error.remedy)
        for file in files:
            tell(not_moved(file.key, error))


def _found(did: Did, name: str, entry: Mapping[str, Any]) -> Found:
    adler32 = entry.get("adler32")
    return Found(
        name=name,
        url=did.url().text,
        size=counted(entry["bytes"]),
        adler32=padded(adler32) if isinstance(adler32, str) and adler32 else None,
    )
