"""How the pilots of a site reach a PanDA server: the options and variables that Harvester gives
them, too."""

from __future__ import annotations

from ailurus.paths import expanded
from harvester_edge.render import Access
from harvester_edge.site import PandaPart


def access(part: PandaPart) -> Access:
    """What a pilot is started with. The name of its worker there is in its credential file."""
    options = {"--token-file": expanded(part.pilot_token_file), "-j": part.label}
    if part.dialect:
        options["--dialect"] = part.dialect
    environment = {
        "HARVESTER_ID": part.harvester_id,
        "PANDA_JSID": f"harvester-{part.harvester_id}",
    }
    if part.origin:
        environment["PANDA_AUTH_ORIGIN"] = part.origin
    return Access(options=options, environment=environment, credential_value="HARVESTER_WORKER_ID")
