"""A pilot's calls to a PanDA server, with the names, requests and answers of `Client.call`.

A PanDA server has no registration, long poll, release and report keys. This module supplies them,
so that the pilot sees no difference. It sends nothing but what PanDA's own pilots send.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast
from urllib.parse import urlencode

import msgspec

from ailurus import __version__
from ailurus.protocol import messages as m
from ailurus.protocol import panda
from ailurus.protocol.errors import AilurusError, Code
from ailurus.protocol.job import LOG, JobSpec
from ailurus.protocol.panda_acquire import JobRequest, acquire_arguments
from ailurus.protocol.panda_job import PandaAttempt, read_attempt
from ailurus.protocol.panda_update import JobUpdate, outputs_of, update_fields
from ailurus.protocol.states import JobState, ReportOutcome
from ailurus.wire.authority import PANDA
from ailurus.wire.client import STRANGER, Client, Nonsense, Refused, Unreachable
from ailurus.wire.credentials import Trust
from ailurus.wire.dialect import Dialect
from ailurus.wire.panda_token import PandaToken, key_file
from ailurus.wire.retry import Patience

A = TypeVar("A", bound=msgspec.Struct)
# What a PanDA server expects; it gives up a job after four of them.
HEARTBEAT_S = 1800.0
DEBUG_S = 60.0
# Between two requests for a job when there was none.
ASK_S = 30.0
# Characters that a server keeps of it.
STDOUT = 2048
_OK = ("0", 0)


class PandaClient:
    """A PanDA server at `url`, for one pilot. Threads may share it."""

    # Each is an option of its own, and named at the call.
    def __init__(  # noqa: PLR0913
        self,
        url: str,
        token: Callable[..., str] | None,
        dialect: Dialect,
        registration: m.Register,
        *,
        label: str = "",
        heartbeat_s: float | None = None,
        trust: Trust | None = None,
        environment: Mapping[str, str] = os.environ,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        origin = environment.get("PANDA_AUTH_ORIGIN") or environment.get("OIDC_AUTH_ORIGIN")
        headers = {"Origin": origin} if origin else {}
        self._token = None if token is None else PandaToken(token, key_file(environment))
        # PanDA says 403 to a token that has expired
        self._client = Client(url, self._token, trust=trust, headers=headers, stale=(401, 403))
        self._v1 = dialect == "v1"
        self._registration = registration
        self._label = label or "managed"
        self._heartbeat_s = heartbeat_s or HEARTBEAT_S
        self._sleep = sleep
        self._harvester = environment.get("HARVESTER_ID", "")
        self._worker = panda.number(environment.get("HARVESTER_WORKER_ID")) or 0
        self._scheduler = environment.get("PANDA_JSID") or self._harvester or "unknown"
        self._jobs: dict[tuple[int, int], PandaAttempt] = {}
        self._began: dict[tuple[int, int], float] = {}
        self._lock = threading.Lock()

    def call(
        self,
        name: str,
        ask: msgspec.Struct | None = None,
        *,
        answer: type[A],
        wait_s: float = 0.0,
        patience: Patience | None = None,
        **path: object,
    ) -> A:
        """As `Client.call`, for the routes that a pilot uses."""
        once = Patience(total_s=0.0)
        return cast(A, getattr(self, f"_{name}")(ask, wait_s, patience or once))

    # --- the routes -------------------------------------------------------------------------------

    def _register(self, ask: m.Register, wait_s: float, patience: Patience) -> m.Registered:
        self._notify("system/is_alive", "isAlive", {}, patience, method="GET")
        self._renew()
        self._worker_status("started", patience)
        return m.Registered(
            worker_id=0,
            token="",
            heartbeat_s=self._heartbeat_s,
            lease_s=2 * self._heartbeat_s,
            giver=PANDA,
        )

    def _bye(self, ask: m.Bye, wait_s: float, patience: Patience) -> m.Done:
        self._worker_status("finished", patience)
        return m.Done()

    def _log_pieces(self, ask: m.LogPieces, wait_s: float, patience: Patience) -> m.Done:
        # PanDA has no live log.
        return m.Done()

    def _acquire(self, ask: m.Acquire, wait_s: float, patience: Patience) -> m.Acquired:
        self._renew()
        job = self._next(ask, patience)
        if job is None:
            # A PanDA server does not hold a request until there is a job.
            self._sleep(min(wait_s, ASK_S))
            return m.Acquired(jobs=())
        try:
            got = read_attempt(job, self._registration.total, self._fetched)
        except ValueError as error:
            update = self._job_update(
                panda.number(job.get("PandaID")) or 0,
                panda.number(job.get("attemptNr")) or 0,
                state="failed",
                code=int(Code.NOT_IMPLEMENTED),
                diagnosis=f"this pilot cannot read the job: {error}"[:500],
            )
            self._update(update, patience)
            return m.Acquired(jobs=())
        with self._lock:
            self._jobs[got.id] = got
        one = m.Assignment(
            job_id=got.id[0],
            attempt_nr=got.id[1],
            report_key=got.key,
            spec=got.spec,
            keep_log=bool(got.log),
            mark=got.mark,
        )
        return m.Acquired(jobs=(one,))

    def _next(self, ask: m.Acquire, patience: Patience) -> dict[str, Any] | None:
        """Ask for one job: how many would fit is known only when they are here."""
        left = ask.room.seconds_left
        request = JobRequest(
            site=self._registration.queue,
            label=self._label,
            node=self._registration.host,
            computing_element=self._registration.queue,
            memory_mb=ask.room.memory_mb,
            disk_mb=ask.room.disk_mb,
            seconds_left=None if left is None else int(left),
            # To one that says how many, legacy answers in another shape.
            count=1 if self._v1 else None,
            scheduler_id=self._scheduler,
            harvester_id=self._harvester,
            worker_id=self._worker or None,
        )
        arguments = acquire_arguments(request, "v1" if self._v1 else "legacy")
        if self._v1:
            answer = self._v1_answer("pilot/acquire_jobs", arguments, patience)
            if not answer["success"]:
                _no_job(str(answer.get("message")))
                return None
            jobs = answer["data"]["jobs"]
            return cast(dict[str, Any], jobs[0]) if jobs else None
        answer = self._legacy_answer("getJob", arguments, patience)
        if answer.get("StatusCode") in _OK:
            return answer
        if str(answer.get("StatusCode")) == "20":
            return None
        raise _wrong(str(answer.get("StatusCode")), str(answer.get("errorDialog", "")))

    def _beat(self, ask: m.Beat, wait_s: float, patience: Patience) -> m.BeatAnswer:
        self._renew()
        commands: list[m.Command] = []
        heartbeat_s = self._heartbeat_s
        for running in ask.jobs:
            key = (running.job_id, running.attempt_nr)
            if running.state is JobState.RUNNING:
                self._began.setdefault(key, running.since)
            if running.state is JobState.SENT:
                continue
            update = self._job_update(
                *key,
                # a pilot's `holding` means there that it left a job to be recovered
                state="starting" if running.state is JobState.STARTING else "running",
                usage=running.usage,
                stdout=(running.tail or "")[-STDOUT:],
            )
            words = self._update(update, patience)
            if "debug" in words:
                heartbeat_s = min(heartbeat_s, DEBUG_S)
            commands += _commands(*key, words, answered=running.tail is not None)
        return m.BeatAnswer(heartbeat_s=heartbeat_s, commands=tuple(commands))

    def _report(self, ask: m.Reports, wait_s: float, patience: Patience) -> m.ReportVerdicts:
        verdicts = []
        for report in ask.reports:
            self._final(report, patience)
            # `alreadydone` and `tobekilled` may answer our own report, come a second time
            verdicts.append(
                m.ReportVerdict(
                    job_id=report.job_id,
                    attempt_nr=report.attempt_nr,
                    verdict=ReportOutcome.ACCEPTED,
                )
            )
        return m.ReportVerdicts(verdicts=tuple(verdicts))

    def _final(self, report: m.Report, patience: Patience) -> None:
        key = (report.job_id, report.attempt_nr)
        job = self._jobs.get(key) or PandaAttempt.of_key(key, report.report_key)
        listed, kept = outputs_of(
            report.files if report.finished else [f for f in report.files if f.name == LOG],
            job,
        )
        phases = ("", "stage_in", "run", "stage_out", "", "")
        update = self._job_update(
            *key,
            state="finished" if report.finished else "failed",
            usage=report.usage,
            code=report.code,
            diagnosis=report.diagnosis[:500],
            exit_code=report.exit_code,
            started=self._began.get(key),
            ended=report.ended or None,
            timing="|".join(str(round(report.timing.get(phase, 0))) for phase in phases),
            log="" if report.finished else report.stderr_tail[-1024:],
            outputs=json.dumps(listed) if listed else "",
            job_report=json.dumps({"ailurus": kept}) if kept else "",
        )
        self._update(update, patience)
        with self._lock:
            self._jobs.pop(key, None)
            self._began.pop(key, None)

    def _release(self, ask: m.Release, wait_s: float, patience: Patience) -> m.Done:
        for job in ask.jobs:
            words = "the pilot ended before it began this job"
            update = self._job_update(
                job.job_id,
                job.attempt_nr,
                state="failed",
                code=int(Code.SIGTERM),
                diagnosis=words,
            )
            self._update(update, patience)
        return m.Done()

    # --- how it is sent ---------------------------------------------------------------------------

    def _job_update(
        self, job_id: int, attempt_nr: int, *, usage: m.Usage | None = None, **more: Any
    ) -> JobUpdate:
        used = usage or m.Usage()
        job = self._jobs.get((job_id, attempt_nr))
        return JobUpdate(
            job_id=job_id,
            attempt_nr=attempt_nr,
            site=self._registration.queue,
            node=self._registration.host,
            scheduler_id=self._scheduler,
            pilot_id=f"unknown|ailurus|{__version__}",
            batch_id=self._registration.batch_id[:80],
            cores=job.spec.cores if job is not None else None,
            cpu_s=int(used.cpu_s) or None,
            avg_rss_kb=used.rss_kb or None,
            max_rss_kb=used.max_rss_kb or None,
            max_pss_kb=used.max_pss_kb or None,
            read_bytes=used.read_bytes or None,
            write_bytes=used.write_bytes or None,
            **more,
        )

    def _update(self, update: JobUpdate, patience: Patience) -> str:
        """Send an update; returns the command in the answer, blank for none."""
        if self._v1:
            answer = self._v1_answer("pilot/update_job", update_fields(update, "v1"), patience)
            if not answer["success"]:
                raise _refused(str(answer.get("message")))
            data = answer.get("data") or {}
        else:
            data = self._legacy_answer("updateJob", update_fields(update, "legacy"), patience)
        # Even where v1 calls it a success.
        if data.get("StatusCode") not in _OK:
            raise _wrong(str(data.get("StatusCode")), str(data.get("errorDialog", "")))
        return panda.text(data.get("command"))

    def _renew(self) -> None:
        if self._token is not None:
            self._token.renew(self._next_token)

    def _next_token(self, query: Mapping[str, str]) -> dict[str, Any]:
        path = "/api/v1/creds/get_access_token" if self._v1 else "/server/panda/get_access_token"
        body = self._send("GET", f"{path}?{urlencode(query)}", {}, Patience(total_s=0.0))
        return self._object(body, "success" if self._v1 else "StatusCode")

    def _worker_status(self, status: str, patience: Patience) -> None:
        if not (self._harvester and self._worker):
            return
        v1 = {"worker_id": self._worker, "harvester_id": self._harvester, "status": status}
        legacy = {
            "workerID": self._worker,
            "harvesterID": self._harvester,
            "status": status,
            "site": self._registration.queue,
        }
        node = {"node_id": self._registration.host}
        self._notify(
            "pilot/update_worker_status",
            "updateWorkerPilotStatus",
            v1 | node,
            patience,
            legacy | node,
        )

    def _notify(
        self,
        path: str,
        name: str,
        v1: Mapping[str, object],
        patience: Patience,
        legacy: Mapping[str, object] | None = None,
        method: str = "POST",
    ) -> None:
        if self._v1:
            self._send(method, f"/api/v1/{path}", v1, patience)
        else:
            self._send("POST", f"/server/panda/{name}", legacy or {}, patience)

    def _v1_answer(
        self, path: str, given: Mapping[str, object], patience: Patience
    ) -> dict[str, Any]:
        return self._object(self._send("POST", f"/api/v1/{path}", given, patience), "success")

    def _legacy_answer(
        self, name: str, given: Mapping[str, object], patience: Patience
    ) -> dict[str, Any]:
        body = self._send("POST", f"/server/panda/{name}", given, patience)
        return self._object(body, "StatusCode")

    def _object(self, body: bytes, key: str) -> dict[str, Any]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or key not in answer:
            raise Nonsense(
                f"{self._client.url} answered with something else than PanDA's",
                remedy="is this address a PanDA server, and is --dialect right?",
            )
        return answer

    def _send(
        self, method: str, path: str, given: Mapping[str, object], patience: Patience
    ) -> bytes:
        body, kind = None, ""
        if method == "POST" and self._v1:
            body, kind = json.dumps(given).encode(), "application/json"
        elif method == "POST":
            body, kind = urlencode(given).encode(), "application/x-www-form-urlencoded"
        status, answer = self._client.request(method, path, body, kind=kind, patience=patience)
        if status != 200:
            # A proxy's as well: PanDA's own refusals come as JSON with 200.
            problem = m.Problem(
                title=f"HTTP {status}",
                status=status,
                detail=answer[:300].decode("utf-8", "replace"),
                giver=STRANGER,
            )
            raise Refused(problem)
        return answer

    def _fetched(self, url: str) -> tuple[JobSpec, panda.Extra]:
        """A specification that is too long for a command line. Raises ValueError."""
        prefix = self._client.url + "/"
        if not url.startswith(prefix):
            raise ValueError(f"its specification is not at {self._client.url}")
        status, body = self._client.request("GET", url[len(prefix) - 1 :])
        if status != 200:
            raise ValueError(f"its specification is gone: HTTP {status}")
        try:
            return panda.read_body(msgspec.json.decode(body, type=dict[str, Any]))
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from None


def _commands(job_id: int, attempt_nr: int, words: str, *, answered: bool) -> Iterable[m.Command]:
    """What the back channel says. A debug command stands until the operator takes it back, so it is
    heeded once a heartbeat: not in the answer to what it asked for."""

    def command(action: m.Action, argument: str = "") -> m.Command:
        return m.Command(job_id=job_id, attempt_nr=attempt_nr, action=action, argument=argument)

    if any(word in words for word in ("tobekilled", "alreadydone", "badattemptnr")):
        yield command(m.Action.KILL)
    elif "softkill" in words:
        yield command(m.Action.SOFT_KILL)
    elif not answered and words.startswith("tail "):
        name = words.rsplit(maxsplit=1)[-1]
        streams = {"payload.stdout": "stdout", "payload.stderr": "stderr"}
        yield command(m.Action.TAIL, streams.get(name, name))
    elif not answered and words.startswith("debug"):
        yield command(m.Action.TAIL, "stdout")


def _no_job(message: str) -> None:
    """Why v1 gave no job. Raises unless there is just none."""
    if message == "Timed out":
        raise Unreachable("the PanDA server's database does not answer", remedy="later it may")
    if message != "No jobs in PanDA":
        raise _refused(message)


def _refused(message: str) -> Refused:
    problem = m.Problem(title="the PanDA server refused", status=422, detail=message, giver=PANDA)
    return Refused(problem)


def _wrong(code: str, words: str) -> AilurusError:
    """What a status code means that is none of success."""
    if code in ("10", "30"):
        return Unreachable(
            f"the PanDA server cannot now: {words or f'StatusCode {code}'}", remedy="later it may"
        )
    status = 403 if code in ("60", "70") else 422
    problem = m.Problem(
        title=f"PanDA's StatusCode {code}", status=status, detail=words, giver=PANDA
    )
    return Refused(problem)
