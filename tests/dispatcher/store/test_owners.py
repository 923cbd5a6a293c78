"""What a caller names is found together with its owner: others' jobs, workers and sites do not
exist for it."""

from __future__ import annotations

import asyncio
from hashlib import sha256

import pytest

from ailurus.envelope import Reader
from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.accounting import UsageQuery
from ailurus.protocol.api import ROUTES, Scope
from ailurus.protocol.api_submissions import SubmissionQuery, SubmissionsQuery
from ailurus.protocol.item import ItemOutcome, ItemSpec
from ailurus.protocol.job import CredentialUse, InputFile
from ailurus.protocol.payloads import Payloads
from ailurus.protocol.states import JobState
from ailurus.protocol.task import Verb
from ailurus.protocol.task_file import task_from
from ailurus.protocol.uploads import Upload
from ailurus.protocol.worker import Ending, Phase
from dispatcher.auth.caller import Caller
from dispatcher.console.live import Live
from dispatcher.refusal import Rejected
from tests.dispatcher.helpers import ALICE, BIG, BOB, EDGE, Worker, bench, job, token

pytestmark = pytest.mark.field("A4")


ADMIN = Caller(subject="boss", scopes=frozenset({Scope.ADMIN}))
PILOT = Caller(subject="ops", scopes=frozenset({Scope.PILOT}))
THEIR_EDGE = Caller(subject="e2", scopes=frozenset({Scope.EDGE}), site="there")
THEIR_RELAY = Caller(subject="r2", scopes=frozenset({Scope.RELAY}), site="there")
FILE = Upload(sha256(b"mine").hexdigest())
INTENT = {"queue": "q", "count": 1, "deadline": 4e9}


class World:
    """Alice's job in the hands of a worker that the edge of `here` planned, and others who know its
    names."""

    async def make(self, b) -> World:
        self.b, self.service = b, b.service
        self.epoch = await self.hello("here", EDGE)
        ask = m.NewIntent(site="here", epoch=self.epoch, intent="i1", **INTENT)
        await b.service.edges.intent(ask, EDGE)
        boot = Caller(
            subject="b", scopes=frozenset({Scope.BOOTSTRAP}), intent="i1", site="here", queue="q",
            epoch=self.epoch,
        )  # fmt: skip
        ask = m.Register(instance="p1", queue="q", total=BIG)
        self.worker = Worker(b.service, await b.service.registration.register(ask, boot), "q")
        ask = m.NewCredential(name="proxy", secret=token())
        await b.service.delegation.keep_credential(ask, ALICE)
        ask = m.AddItems(list="items", first=0, items=(ItemSpec(),))
        await b.service.items.add_items(ask, ALICE)
        payloads = Payloads(list="items", count=1)
        use = (CredentialUse(name="proxy"),)
        ask = m.AddUpload(digest=FILE.digest, size=4, piece=b"mine")
        await b.service.uploads.add_upload(ask, ALICE)
        inputs = (InputFile(name="x", url=FILE.url, size=4),)
        mine = job("mine", credentials=use, payloads=payloads, inputs=inputs)
        (self.job,) = await b.submit(mine)
        (self.got,) = await self.worker.acquire()
        await self.worker.exchange(self.got, 1)
        await self.worker.beat(self.got)
        (self.parent,) = await b.submit(job("parent", queue="elsewhere"))
        self.task_id = (await b.service.tasks.submit_task(self.a_task(), ALICE)).task_id
        while (await b.service.tasks.advance(self.task_id)).more:
            pass
        ask = m.GiveFeedback(request_id="said", mood=5)
        await self.service.feedback.give_feedback(ask, ALICE)
        self.their_epoch = await self.hello("there", THEIR_EDGE)
        self.stranger = await b.worker("q2", site="there")
        self.held = m.AttemptKey(job_id=self.job, attempt_nr=1)
        return self

    async def hello(self, site: str, edge: Caller) -> int:
        slot = m.SlotShape(name="s", queue="q", room=BIG)
        ask = m.Hello(site=site, instance=f"edge-of-{site}", slots=(slot,))
        return (await self.service.edges.hello(ask, edge)).epoch

    async def state(self) -> object:
        """All that others must not move."""

        def rows(tx):
            tables = {
                "job": "select * from job order by job_id",
                "attempt": "select job_id, attempt_nr, worker_id, state, ended from attempt order by 1, 2",
                "worker": "select worker_id, site, phase, ending, draining, batch_id, diagnosis, outage_s"
                " from worker where site = 'here'",
                "planned": "select count(*) from worker where intent = 'i1'",
                "items": "select * from item",
                "cluster": "select * from cluster",
                "list": "select * from item_list where owner = 'alice'",
                "log": "select count(*) from log",
                "credential": "select * from credential where owner = 'alice'",
                "upload": "select upload_id, have from upload where owner = 'alice'",
                "site": "select site, instance, epoch, online from site",
                "task": "select * from task where owner = 'alice'",
                "feedback": "select * from feedback where owner = 'alice'",
            }
            return {name: tx.connection.execute(text).fetchall() for name, text in tables.items()}

        lease = self.service.state.leases.of(self.job)
        stored = await self.service.store.read(rows)
        return stored, lease and (lease.worker_id, lease.soft_kill, lease.tail_wanted, lease.until)

    # --- what others try, a method a route ---

    async def show(self):
        await self.service.users.show(api.NoQuery(), BOB, job_id=self.job)

    async def why(self):
        await self.service.users.why(api.NoQuery(), BOB, job_id=self.job)

    async def log(self):
        await self.service.users.log(api.LogQuery(), BOB, job_id=self.job)

    async def log_file(self):
        await self.service.downloads.log_file(api.LogFileQuery(), BOB, job_id=self.job)

    async def file(self):
        await self.service.downloads.file(api.FileQuery(name="x"), BOB, job_id=self.job)

    async def items(self):
        await self.service.items.items(api.ItemsQuery(), BOB, job_id=self.job)

    async def item(self):
        await self.service.items.item(api.ItemQuery(index=0), BOB, job_id=self.job)

    async def add_items(self):
        """A list of the same name is another."""
        ask = m.AddItems(list="items", first=0, items=(ItemSpec(), ItemSpec()))
        assert (await self.service.items.add_items(ask, BOB)).count == 2

    async def exchange_items(self):
        end = m.ItemEnd(index=0, attempt=1, outcome=ItemOutcome.FINISHED)
        assert not (await self.stranger.exchange(self.got, 1, ended=(end,))).items

    async def usage(self):
        seen = await self.service.accounting.usage(UsageQuery(by="user"), BOB)
        assert not seen.rows
        await self.service.accounting.usage(UsageQuery(user="alice"), BOB)

    async def samples(self):
        await self.service.users.samples(api.SamplesQuery(), BOB, job_id=self.job)

    async def tail(self):
        await self.service.users.tail(api.TailQuery(file="stdout", wait_s=0), BOB, job_id=self.job)

    async def wait(self):
        await self.service.users.wait(m.WaitJobs(job_ids=(self.job,), timeout_s=0), BOB)

    async def cancel(self):
        await self.service.users.cancel(m.Cancel(job_ids=(self.job,)), BOB)

    async def retry(self):
        await self.service.intake.retry(m.Retry(job_ids=(self.job,)), BOB)

    async def cancel_many(self):
        ask = m.CancelMany(request_id="many", job_ids=(self.job,))
        await self.service.actions.cancel_many(ask, BOB)

    async def retry_many(self):
        ask = m.RetryMany(request_id="many", job_ids=(self.job,))
        await self.service.actions.retry_many(ask, BOB)

    async def change_many(self):
        ask = m.ChangeMany(request_id="many", job_ids=(self.job,), verb="hold")
        await self.service.actions.change_many(ask, BOB)

    async def undo(self):
        ask = m.CancelMany(request_id="theirs", query="name:nothing")
        done = await self.service.actions.cancel_many(ask, ALICE)
        await self.service.actions.undo(m.Undo(action=done.action), BOB)

    async def submissions(self):
        page = await self.service.submissions.submissions(SubmissionsQuery(), BOB)
        assert page.submissions == ()
        page = await self.service.submissions.submissions(SubmissionsQuery(user="alice"), BOB)
        assert page.submissions == ()

    async def submission(self):
        await self.service.submissions.submission(SubmissionQuery(submission=self.job), BOB)

    async def retry_submission(self):
        ask = m.RetrySubmission(submission=self.job, request_id="mine", whole=True)
        await self.service.intake.retry_submission(ask, BOB)

    async def reregister(self):
        await self.service.registrar.reregister(m.Reregister(job_ids=(self.job,)), BOB)

    async def submit(self):
        await self.b.submit(job("child", depends_on=(self.parent,)), caller=BOB)

    def a_task(self) -> m.SubmitTask:
        """A task that waits at its gate for a job that nobody runs."""
        first, then = ({"queue": "elsewhere", "command": "true"},) * 2
        steps = [
            {"name": "one", "over": {"list": [1]}, "job": first},
            {"name": "two", "over": {"outputs": "one"}, "job": then},
        ]
        return m.SubmitTask(request_id="t", task=task_from({"task": "mine", "steps": steps}))

    async def submit_task(self):
        """A request of the same name is another."""
        theirs = await self.service.tasks.submit_task(self.a_task(), BOB)
        assert not theirs.repeated
        assert theirs.task_id != self.task_id

    async def tasks(self):
        assert not (await self.service.tasks.tasks(api.TasksQuery(), BOB)).tasks
        assert not (await self.service.tasks.tasks(api.TasksQuery(user="alice"), BOB)).tasks

    async def task(self):
        await self.service.tasks.task(api.TaskQuery(task_id=self.task_id), BOB)

    async def task_items(self):
        ask = api.TaskItemsQuery(task_id=self.task_id, step="one")
        await self.service.tasks.task_items(ask, BOB)

    async def points(self):
        await self.service.tasks.points(api.PointsQuery(task_id=self.task_id, step="one"), BOB)

    async def add_points(self):
        ask = m.AddPoints(task_id=self.task_id, step="one", points=({"x": 1},))
        await self.service.tasks.add_points(ask, BOB)

    async def steer_task(self):
        ask = m.SteerTask(task_id=self.task_id, verb=Verb.PAUSE)
        await self.service.tasks.steer_task(ask, BOB)

    async def cancel_task(self):
        await self.service.tasks.cancel_task(m.CancelTask(task_id=self.task_id), BOB)

    async def events(self):
        await self.service.users.events(api.EventsQuery(job_id=self.job), BOB)

    async def stream(self):
        await anext(Live(self.service).stream(api.StreamQuery(topics=f"job:{self.job}"), BOB))

    async def credentials(self):
        rows = (await self.service.delegation.credentials(api.NoQuery(), BOB)).credentials
        assert not rows

    async def keep_credential(self):
        ask = m.NewCredential(name="proxy", secret=token(sub="bob"))
        await self.service.delegation.keep_credential(ask, BOB)

    async def forget_credentials(self):
        await self.service.delegation.forget_credentials(m.ForgetCredentials(names=("proxy",)), BOB)

    async def job_credentials(self):
        ask = m.CredentialsRequest(job_id=self.job, attempt_nr=1)
        await self.service.delegation.job_credentials(ask, self.stranger.caller)

    async def add_upload(self):
        """A file with the same contents is another's own."""
        half = m.AddUpload(digest=FILE.digest, size=4)
        assert (await self.service.uploads.add_upload(half, BOB)).have == 0

    async def job_upload(self):
        ask = m.UploadRequest(job_id=self.job, attempt_nr=1, digest=FILE.digest)
        await self.service.uploads.job_upload(ask, self.stranger.caller)

    async def relay_upload(self):
        ask = m.UploadRequest(job_id=self.job, attempt_nr=1, digest=FILE.digest)
        whole = m.RelayUpload(site="there", worker_id=self.worker.id, ask=ask)
        await self.service.relays.relay_upload(whole, THEIR_RELAY)

    async def give_feedback(self):
        """With a request id of another's it is another's own."""
        ask = m.GiveFeedback(request_id="said", mood=1, text="of bob")
        await self.service.feedback.give_feedback(ask, BOB)
        page = await self.service.feedback.feedback(m.FeedbackQuery(), ADMIN)
        assert [row.user for row in page.feedback] == ["alice", "bob"]

    async def jobs(self):
        page = await self.service.users.jobs(api.JobsQuery(user="alice"), BOB)
        assert not page.jobs

    async def count(self):
        assert not (await self.service.users.count(api.Filter(query="user:alice"), BOB)).jobs

    async def failures(self):
        assert not (await self.service.figures.failures(api.FailuresQuery(), BOB)).kinds

    async def workers(self):
        rows = (await self.service.figures.workers(api.WorkersQuery(), BOB)).workers
        assert {row.intent for row in rows} == {""}
        feed = Live(self.service).stream(api.StreamQuery(topics="workers"), ADMIN)
        assert b"i1" not in await anext(feed)
        rows = (await self.service.figures.workers(api.WorkersQuery(), ADMIN)).workers
        assert "i1" in {row.intent for row in rows}

    async def worker_timeline(self):
        ask = api.WorkerTimelineQuery(worker_id=self.worker.id)
        seen = await self.service.timelines.worker_timeline(ask, BOB)
        assert {(bar.job_id, bar.name) for node in seen.nodes for bar in node.bars} <= {(0, "")}
        assert seen.worker.intent == ""

    async def job_timeline(self):
        await self.service.timelines.job_timeline(api.TimelineQuery(), BOB, job_id=self.job)

    async def register(self):
        """Another's planned worker, and another's pilot of which only the name is known."""
        ask = m.Register(instance="p9", queue="q", total=BIG)
        boot = Caller(subject="b", scopes=frozenset({Scope.BOOTSTRAP}), intent="i1", site="there")
        with pytest.raises(Rejected):
            await self.service.registration.register(ask, boot)
        theirs = await self.service.registration.register(ask, PILOT)
        other = Caller(subject="mallory", scopes=frozenset({Scope.PILOT}))
        assert (await self.service.registration.register(ask, PILOT)).worker_id == theirs.worker_id
        assert (await self.service.registration.register(ask, other)).worker_id != theirs.worker_id

    async def acquire(self):
        assert not await self.stranger.acquire()

    async def beat(self):
        beaten = await self.stranger.beat(self.got, state=JobState.HOLDING)
        assert [one.action for one in beaten.commands] == [m.Action.KILL]

    async def report(self):
        assert await self.stranger.report(self.got, key="guessed") == "badkey"

    async def release(self):
        await self.service.workers.release(m.Release(jobs=(self.held,)), self.stranger.caller)

    async def log_pieces(self):
        piece = m.LogPiece(job_id=self.job, attempt_nr=1, stream="stdout", offset=0, text="x")
        await self.service.workers.log_pieces(m.LogPieces(pieces=(piece,)), self.stranger.caller)

    async def relay_tell(self):
        bye = m.RelayedBye(worker_id=self.worker.id, bye=m.Bye(ending=Ending.DONE))
        back = m.RelayedRelease(worker_id=self.worker.id, release=m.Release(jobs=(self.held,)))
        beat = m.RelayedBeat(worker_id=self.worker.id, beat=m.Beat(room=BIG, draining=True))
        ask = m.RelayBeat(
            site="there", beats=(beat,), releases=(back,), byes=(bye,), lost=(self.held,)
        )
        told = await self.service.relays.relay_tell(ask, THEIR_RELAY)
        assert [one.told for one in told.workers] == [None]

    async def relay_items(self):
        end = m.ItemEnd(index=0, attempt=1, outcome=ItemOutcome.FINISHED)
        ask = m.ItemsRequest(request_id="r", job_id=self.job, attempt_nr=1, ended=(end,))
        whole = m.RelayItems(site="there", worker_id=self.worker.id, ask=ask)
        await self.service.relays.relay_items(whole, THEIR_RELAY)

    async def relay_credentials(self):
        ask = m.CredentialsRequest(job_id=self.job, attempt_nr=1, sealed_to=Reader().public)
        whole = m.RelayCredentials(site="there", worker_id=self.worker.id, ask=ask)
        await self.service.relays.relay_credentials(whole, THEIR_RELAY)

    async def relay_acquire(self):
        ask = m.Acquire(request_id="r", room=BIG)
        one = m.RelayedAcquire(worker_id=self.worker.id, ask=ask)
        answer = await self.service.relays.relay_acquire(
            m.RelayAcquire(site="there", asks=(one,)), THEIR_RELAY
        )
        assert [one.got for one in answer.workers] == [None]

    async def bye(self):
        pass  # names nothing: the token is the worker

    async def hello_of_another(self):
        await self.hello("here", THEIR_EDGE)

    async def demand(self):
        await self.service.edges.demand(m.DemandRequest(site="here", epoch=self.epoch), THEIR_EDGE)

    async def intent(self):
        ask = m.NewIntent(site="there", epoch=self.their_epoch, intent="i1", outage_s=9, **INTENT)
        await self.service.edges.intent(ask, THEIR_EDGE)

    async def workers_news(self):
        news = m.WorkerObservation(
            intent="i1", index=0, phase=Phase.ENDED, ending=Ending.CANCELLED, batch_id="b9"
        )
        ask = m.WorkerObservations(site="there", epoch=self.their_epoch, workers=(news,))
        await self.service.edges.workers_news(ask, THEIR_EDGE)

    async def edge_trace(self):
        ask = m.TraceRequest(site="there", job_id=self.job, worker_ids=(self.worker.id,))
        assert not (await self.service.edges.edge_trace(ask, THEIR_EDGE)).attempts

    async def drain(self):
        ask = m.DrainWorkers(site="there", epoch=self.their_epoch, worker_ids=(self.worker.id,))
        before = len(await self.b.told())
        await self.service.edges.drain(ask, THEIR_EDGE)
        assert len(await self.b.told()) == before  # other dispatchers follow the events
        assert not self.service.state.live[self.worker.id].draining


NAMES_NOTHING = {
    "overview", "me", "feedback", "queues", "token", "revoke", "sign_in", "sign_out", "bye",
}  # fmt: skip
NOT_THERE = {
    "show", "why", "log", "samples", "tail", "wait", "cancel", "retry", "file", "log_file",
    "reregister", "task", "task_items", "points", "add_points", "steer_task", "cancel_task", "cancel_many",
    "retry_many", "change_many", "undo", "submission", "retry_submission", "events", "stream", "items", "item",
    "job_timeline",
}  # fmt: skip
REFUSED = {
    **dict.fromkeys(NOT_THERE, 404),
    **dict.fromkeys(("hello", "demand", "job_credentials", "job_upload"), 403),
    "usage": 403,
    "submit": 422,
    "intent": 409,
    **dict.fromkeys(("relay_items", "relay_credentials", "relay_upload"), 410),
}
"""By what status: what is not theirs is not there, for users."""


@pytest.mark.parametrize("name", [r.name for r in ROUTES if r.name not in NAMES_NOTHING])
def test_nobody_sees_or_moves_what_is_not_theirs(tmp_path, name):
    async def main() -> None:
        async with bench(tmp_path) as b:
            world = await World().make(b)
            before = await world.state()
            call = world.hello_of_another if name == "hello" else getattr(world, name)
            if name in REFUSED:
                with pytest.raises(Rejected) as refused:
                    await asyncio.wait_for(call(), 10)
                assert refused.value.status == REFUSED[name]
            else:
                await asyncio.wait_for(call(), 10)
            assert await world.state() == before

    asyncio.run(main())


def test_an_edge_takes_no_name_of_a_harvesters(tmp_path):
    async def main() -> None:
        async with bench(tmp_path) as b:
            world = await World().make(b)
            ask = m.NewIntent(site="here", epoch=world.epoch, intent="harvester:h1", **INTENT)
            with pytest.raises(Rejected):
                await b.service.edges.intent(ask, EDGE)

    asyncio.run(main())
