"""Searches of a user, and a worker that evaluates their points."""

from __future__ import annotations

import json

from ailurus.protocol import api
from ailurus.protocol import messages as m
from ailurus.protocol.task import Task
from ailurus.protocol.task_file import task_from
from dispatcher.rules import uploads
from tests.dispatcher.helpers import ALICE
from tests.dispatcher.tasks.test_tasks import Tasks, step

SPACE = {"x": {"method": "uniform", "dimension": {"low": -1, "high": 1}}}


def search(name: str = "s", job: dict | None = None, **ask: object) -> dict:
    over = {"ask": {"by": "client", "max": 20, "space": SPACE, **ask}}
    return step(name, over, "try {item}", job={"outputs": [], "result": "out.json", **(job or {})})


class Searches(Tasks):
    """Searches of Alice, and a worker that evaluates points."""

    def loss(self, point: dict) -> str:
        return json.dumps({"status": 0, "loss": (point["x"] - 0.25) ** 2})

    def answer(self, document: dict) -> str:
        """What a job that plans answers."""
        done = len(document["points"])
        return json.dumps([{"x": done + at} for at in range(3)])

    async def turn(self, task_id: int) -> None:
        """Ask the planner of the first step, if it is to be asked."""
        await self.settled(task_id)
        await self.tasks.plans.turn(task_id, 0)
        await self.settled(task_id)

    async def work(self, task_id: int) -> list[dict]:
        """Run all jobs that are ready; the points that were evaluated."""
        await self.settled(task_id)
        self.worker = self.worker or await self.b.worker()
        found = []
        while got := await self.worker.acquire(100):
            for one in got:
                await self.worker.report(one, result=await self.run(one.job_id, found))
        await self.settled(task_id)
        return found

    async def run(self, job_id: int, found: list[dict]) -> str:
        spec = (await self.b.service.users.show(None, ALICE, job_id=job_id)).spec
        if not spec.command.startswith("plan"):
            point = json.loads(spec.command.removeprefix("try ").strip("'"))
            found.append(point)
            return self.loss(point)
        (given,) = [one for one in spec.inputs if one.name == "points.json"]
        kept = await self.b.service.store.read(
            lambda tx: uploads.piece_at(
                tx,
                uploads.find(tx, "alice", given.url.rpartition("/")[2], given.size).upload_id,
                0,
            )
        )
        return self.answer(json.loads(kept))

    async def add(self, task_id: int, *values: float, end: bool = False, by=ALICE):
        points = tuple({"x": one} for one in values)
        ask = m.AddPoints(task_id=task_id, step="s", points=points, end=end)
        return await self.tasks.add_points(ask, by)

    async def items(self, task_id: int, **ask: int) -> m.Points:
        query = api.PointsQuery(task_id=task_id, step="s", **ask)
        return await self.tasks.points(query, ALICE)


def planned(**ask: object) -> dict:
    """A search by a job."""
    one = search(**{"by": "job", "batch": 3, "max": 8, **ask})
    one["over"]["ask"]["job"] = {
        "command": "plan %IN %OUT %NUM_POINTS %MAX_POINTS",
        "queue": "q",
    }
    return one


def optuna(**ask: object) -> dict:
    return search(**{"by": "optuna", "batch": 4, "max": 24, **ask})


def task_of(spec: dict) -> Task:
    return task_from({"task": "t", "steps": [spec]})
