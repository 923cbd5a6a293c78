"""A pilot that was started by hand is none of PanDA's."""

from __future__ import annotations

import asyncio

from ailurus.protocol import messages as m
from ailurus.protocol.panda_acquire import JobRequest
from ailurus.protocol.resources import Room
from dispatcher.service.panda import acquire as panda
from tests.dispatcher.helpers import bench, job
from tests.dispatcher.store.test_owners import PILOT


def test_a_pilot_started_by_hand_is_no_panda_client(tmp_path):
    """Whoever knows how PanDA's pilots are named gets no token of theirs."""

    async def main() -> None:
        async with bench(tmp_path) as b:
            await b.submit(job())
            (sent,) = await panda.acquire(
                b.service, panda.Acquisition(request=JobRequest(site="q", node="n1"))
            )
            holder = b.service.state.leases.of(int(sent["PandaID"])).worker_id
            ask = m.Register(instance="panda:q@n1", queue="q", total=Room(cores=1))
            assert (await b.service.registration.register(ask, PILOT)).worker_id != holder

    asyncio.run(main())
