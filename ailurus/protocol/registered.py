"""What must hold of outputs that are registered in Rucio, before their job begins. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ailurus.protocol.did import SCHEME, Did, physical, store_mark
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.job import OutputFile
from ailurus.protocol.trees import DATASET, sample

# The largest job id and attempt: the name of an output carries both, and the mark of a store.
_LONGEST_ID = 2**63 - 1, 100
_A_MARK = store_mark("")


def check_registered(outputs: Sequence[OutputFile], where: str) -> None:
    """Raise AilurusError for an output whose registration could not be meant."""
    for nr, file in enumerate(outputs):
        field = f"{where}[{nr}]"
        if file.scope:
            _check_scoped(file, field)
            continue
        if file.url.startswith(f"{SCHEME}:"):
            # It would lie among the files of a scope whose user was not asked.
            raise AilurusError(
                f"output {file.name!r} goes to {file.url.partition('?')[0]}, which is no directory",
                field=f"{field}.url",
                remedy="write scope: and dataset: instead, and Rucio hears of it",
            )
        for name, given in (("dataset", file.dataset), ("lifetime", file.lifetime_s)):
            if given:
                raise AilurusError(
                    f"output {file.name!r} has a {name} and no scope, so Rucio never hears of it",
                    field=f"{field}.{name}",
                    remedy="give it the scope of Rucio into which it goes, or leave it out",
                )


def _check_scoped(file: OutputFile, field: str) -> None:
    if file.url:
        raise AilurusError(
            f"output {file.name!r} has a url and a scope",
            field=f"{field}.url",
            remedy="the site's storage in Rucio takes what has a scope: leave the url out",
        )
    try:
        Did.parse(str(physical(file.scope, *_LONGEST_ID, sample(file), _A_MARK)))
    except AilurusError as error:
        raise AilurusError(
            f"{file.name!r} cannot be a name in Rucio", field=f"{field}.name", remedy=error.remedy
        ) from None
    if file.tree == DATASET and not file.dataset:
        raise AilurusError(
            f"the tree {file.name!r} goes to Rucio as a data set, and none is named",
            field=f"{field}.dataset",
            remedy="write dataset: scope:name, or tree: archive",
        )
    if file.dataset:
        try:
            Did.parse(file.dataset)
        except AilurusError as error:
            raise AilurusError(
                error.message, field=f"{field}.dataset", remedy=error.remedy
            ) from None
