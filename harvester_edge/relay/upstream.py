"""The way to the dispatcher, and whether there is one now."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import msgspec

from ailurus.logs import Log
from ailurus.wire import authority
from ailurus.wire.client import Client, Nonsense, Refused, Unreachable
from ailurus.wire.credentials import fixed_token
from ailurus.wire.retry import Patience

A = TypeVar("A", bound=msgspec.Struct)
ONCE = Patience(total_s=0.0)
# Beyond what it was asked to wait: a dispatcher that needs longer is none.
ANSWER_S = 10.0
THREADS = 16
# Routes that a dispatcher of the version before has not.
NEWER = frozenset({"relay_credentials", "relay_upload"})


class Holder(Protocol):
    """What is here, and the name of the dispatcher that gave it."""

    giver: str

    @property
    def empty(self) -> bool: ...

    async def meet(self, giver: str) -> None: ...


class RelayUpstream:
    """Calls the dispatcher from threads. What was given up may still arrive: all of it may be
    repeated.

    While something is here, only the dispatcher that gave it is one: whoever else answers at its
    address is as good as nobody.
    """

    def __init__(
        self, client: Client, holder: Holder, log: Log, answer_s: float = ANSWER_S
    ) -> None:
        self._client, self._holder, self._log = client, holder, log
        self._answer_s = answer_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="upstream")
        self.up = True

    async def call(
        self,
        name: str,
        ask: msgspec.Struct,
        answer: type[A],
        *,
        wait_s: float = 0.0,
        token: str | None = None,
    ) -> A:
        """Raises Unreachable, or Refused, which is an answer of the dispatcher too."""
        client = self._client if token is None else self._client.as_holder(fixed_token(token))
        call = partial(client.call, name, ask, answer=answer, wait_s=wait_s, patience=ONCE)
        running = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            got = await asyncio.wait_for(asyncio.shield(running), wait_s + self._answer_s)
        except TimeoutError:
            running.add_done_callback(lambda late: late.exception())
            self._is(up=False, why=f"no answer within {self._answer_s:.0f} s")
            raise Unreachable("the dispatcher does not answer") from None
        except Refused as error:
            giver = error.giver if self._holder.empty else self._holder.giver or error.giver
            if not authority.known(error, giver):
                # An older dispatcher lacks a route that this relay knows.
                if name in NEWER and giver and (error.giver, error.status) == (giver, 404):
                    raise
                raise self._stranger(error.message) from None
            self._is(up=True)
            raise
        except (Unreachable, Nonsense) as error:
            self._is(up=False, why=str(error))
            raise Unreachable(str(error)) from None
        await self._meet(getattr(got, "giver", ""))
        self._is(up=True)
        return got

    async def _meet(self, giver: str) -> None:
        """Note the name of the dispatcher that answers. One from before names gives none, and took
        our token."""
        if giver in ("", self._holder.giver):
            return
        if self._holder.giver and not self._holder.empty:
            raise self._stranger(
                "another dispatcher, or another store, than what is here came from"
            )
        await self._holder.meet(giver)

    def _stranger(self, why: str) -> Unreachable:
        self._is(up=False, why=f"{authority.UNKNOWN}: {why}")
        return Unreachable(why)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _is(self, *, up: bool, why: str = "") -> None:
        if up != self.up:
            self._log.info("dispatcher_heard") if up else self._log.warning(
                "dispatcher_lost", why=why
            )
        self.up = up
