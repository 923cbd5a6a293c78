"""Keys that are derived from the dispatcher's secret, so that no store holds them."""

from __future__ import annotations

import hmac

# Hexadecimal digits of a key; 24 are left of an HMAC for a seal.
KEY = 40


class Seals:
    """Derives keys and seals from one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of_attempt(self, job_id: int, attempt_nr: int, worker_id: int) -> tuple[str, str]:
        """The report key of an attempt and its seal.

        The key authorises the attempt's final report. The seal comes with the attempt and again
        with what ends it: it shows that the answer is this dispatcher's, and that its store knows
        the attempt. They are two parts of one HMAC: the key, which every report holds, says nothing
        about the seal.
        """
        made = self._derived(f"{job_id}.{attempt_nr}.{worker_id}")
        return made[:KEY], made[KEY:]

    def seal(self, job_id: int, attempt_nr: int, worker_id: int) -> str:
        """The seal alone."""
        return self.of_attempt(job_id, attempt_nr, worker_id)[1]

    def key(self, purpose: str) -> str:
        """A key for one purpose."""
        return self._derived(purpose)[:KEY]

    def _derived(self, purpose: str) -> str:
        return hmac.digest(self._secret, purpose.encode(), "sha256").hex()
