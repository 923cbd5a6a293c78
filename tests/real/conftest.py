"""The batch systems' own tests are run when asked for, until their backends are finished."""

from __future__ import annotations

import os

# After `scripts/setup --slurm --htcondor`. docs/status.md says what they cover.
BATCH = ["test_slurm.py", "test_htcondor.py", "test_pbs.py"]
collect_ignore = [] if os.environ.get("AILURUS_TEST_BATCH") else BATCH
