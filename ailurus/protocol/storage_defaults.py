"""What a site file's `storage` means where it says nothing: the edge tells it, the pilot goes by
it."""

from typing import Final

LOGS: Final = "failed"
PARALLEL = 4
MIN_SPEED = "500K"
MIN_TIME = "5m"
OUTAGE_TOLERANCE = "15m"
