"""Lists of items: uploaded in slices before the job that names them, and forgotten after the last
of them. Functions of a transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from ailurus.protocol import messages as m
from ailurus.protocol import trees
from ailurus.protocol.errors import AilurusError
from ailurus.protocol.file_rules import check_inputs, check_outputs
from ailurus.protocol.item import ItemSpec
from ailurus.protocol.job import JobSpec
from ailurus.protocol.payloads import MOST_ITEMS, Payloads, needed
from ailurus.protocol.program import LONGEST_CHARACTER, LONGEST_IN_ALL
from ailurus.protocol.uploads import has_uploads, is_upload
from dispatcher.ports import Tx
from dispatcher.refusal import Rejected
from dispatcher.rules import item_pools, item_records, item_views, records
from dispatcher.rules.group_turns import Carried
from dispatcher.rules.item_records import ListRecord, Redo
from dispatcher.rules.item_slices import Slice, grow

MOST_UNUSED = 100
"""Lists of one owner that no job has named yet."""
MOST_UNUSED_BYTES = 4 << 30
"""Of these all together."""
MOST_JOBS = 1000
"""Jobs of one submission that carry items."""
UNUSED_S = 86_400.0
"""After which a list is forgotten that no job needs."""
ROWS = 2000
SLICES = 20
"""What is deleted in one commit."""
_encode = msgspec.json.Encoder().encode


def prepare(ask: m.AddItems) -> Slice:
    """Check and encode a slice. Raises Rejected with the field."""
    named = check(ask.items, ask.first)
    body = _encode(ask.items)
    return Slice(
        first=ask.first,
        items=len(ask.items),
        bare=sum(not item.command for item in ask.items),
        cores=max(item.cores for item in ask.items),
        memory_mb=max(item.memory_mb or 0 for item in ask.items),
        gpus=max(item.gpus for item in ask.items),
        outputs=sum(len(item.outputs) for item in ask.items),
        inputs=sum(len(item.inputs) for item in ask.items),
        named=named,
        body=body,
        digest=hashlib.sha256(body).hexdigest(),
    )


def check(items: Sequence[ItemSpec], first: int) -> Mapping[str, int]:
    """What must hold in items, wherever they are; the outputs that they name, and which does.
    Raises Rejected with the field."""
    for nr, item in enumerate(items):
        if item.command and item.arguments:
            raise Rejected(
                422,
                f"payload {first + nr} has a command and arguments",
                field=f"items[{nr}].arguments",
                remedy="`arguments` are for the job's program; put them into the command",
            )
        if (size := _length(item)) > LONGEST_IN_ALL:
            raise Rejected(
                422,
                f"payload {first + nr} has {size} bytes, and Linux hands no program more than "
                f"{LONGEST_IN_ALL}",
                field=f"items[{nr}]",
                remedy="put the longest into input files",
            )
        for place, file in enumerate(item.inputs):
            if not file.url:
                raise Rejected(
                    422,
                    f"input {file.name!r} of payload {first + nr} has no url",
                    field=f"items[{nr}].inputs[{place}].url",
                    remedy="what other jobs make is an input of the job",
                )
        if item.inputs or item.outputs:
            _check_files(item, first + nr, f"items[{nr}]")
    return _check_apart(items, first)


def _check_apart(items: Sequence[ItemSpec], first: int) -> Mapping[str, int]:
    """Refuse files of one name that cannot be beside each other in the directory of their job:
    outputs, which only the first of these items could leave, and inputs that are not the same.
    Outputs of other slices are compared when the slice is stored; for inputs the pilot waits.
    Returns whose outputs are."""
    outputs: dict[str, int] = {}
    inputs: dict[str, tuple[int, object]] = {}
    for nr, item in enumerate(items):
        for place, file in enumerate(item.outputs):
            name = trees.effective(file)
            if not trees.is_many(name):
                other = outputs.setdefault(name, first + nr)
                if other != first + nr:
                    where = f"items[{nr}].outputs[{place}].name"
                    raise _twice("the same output", name, (other, first + nr), where)
        for place, input_ in enumerate(item.inputs):
            name = trees.place(input_)
            other, there = inputs.setdefault(name, (nr, input_))
            if there != input_:
                where = f"items[{nr}].inputs[{place}].name"
                raise _twice("other inputs called", name, (first + other, first + nr), where)
    return outputs


def _twice(what: str, name: str, both: tuple[int, int], where: str) -> Rejected:
    return Rejected(
        422,
        f"payloads {both[0]} and {both[1]} have {what} {name!r}, and all of a job share its "
        "directory",
        field=where,
        remedy="give each its own names: data_{item}.root",
    )


def _check_files(item: ItemSpec, number: int, where: str) -> None:
    for nr, file in enumerate(item.outputs):
        if file.scope or file.dataset or file.lifetime_s is not None:
            raise Rejected(
                422,
                f"output {file.name!r} of payload {number} belongs to a catalogue of data",
                field=f"{where}.outputs[{nr}].scope",
                remedy="let it be an output of the job, which may name many: hist_*.root",
            )
    for nr, input_ in enumerate(item.inputs):
        if is_upload(input_.url):
            raise Rejected(
                422,
                f"input {input_.name!r} of payload {number} is an uploaded file",
                field=f"{where}.inputs[{nr}].url",
                remedy="let it be an input of the job: all payloads find it in their directory",
            )
        if input_.unpack:
            raise Rejected(
                422,
                f"input {input_.name!r} of payload {number} is an archive to be unpacked",
                field=f"{where}.inputs[{nr}].unpack",
                remedy="let it be an input of the job, or the payload unpack it",
            )
    try:
        check_inputs(item.inputs, f"{where}.inputs")
        check_outputs(item.outputs, f"{where}.outputs")
    except AilurusError as error:
        raise Rejected(422, error.message, field=error.field, remedy=error.remedy) from None


def _length(item: ItemSpec) -> int:
    """Bytes of the texts that its program gets, at most."""
    texts = (item.command, *item.arguments, *item.environment, *item.environment.values())
    characters = sum(map(len, texts))
    if LONGEST_CHARACTER * characters <= LONGEST_IN_ALL:
        return characters
    return sum(len(text.encode()) for text in texts)


def add(tx: Tx, owner: str, name: str, part: Slice, *, now: float) -> int:
    """Store a slice of an owner's list, once. Returns how many items the list has. Raises Rejected
    for one out of order."""
    found = item_records.find_list(tx, owner, name) or _begin(tx, owner, name, now)
    if part.first < found.items:
        row = tx.one("slice.digest", list_id=found.list_id, first=part.first)
        if row != (part.items, part.digest):
            raise Rejected(
                409,
                f"list {name!r} has other items from {part.first} on",
                field="first",
                remedy="a list is uploaded once: give another one its own name",
            )
        return found.items
    if part.first > found.items:
        raise Rejected(
            409,
            f"list {name!r} has {found.items} items by now",
            field="first",
            remedy=f"go on with item {found.items}",
        )
    _, held = tx.one("list.unused", owner=owner) or (0, 0)
    if held + len(part.body) > MOST_UNUSED_BYTES:
        raise Rejected(
            429,
            f"your lists of payloads that no job has named have {held >> 20} MB",
            field="list",
            remedy="submit their jobs first; a list that no job names is forgotten after a day",
        )
    items = found.items + part.items
    if items > MOST_ITEMS:
        raise Rejected(
            422, f"a list has at most {MOST_ITEMS} items", field="items", remedy="make several jobs"
        )
    _add_outputs(tx, found, part)
    grow(tx, found, part, now=now)
    return items


def _add_outputs(tx: Tx, found: ListRecord, part: Slice) -> None:
    """Note which outputs a slice names. Raises Rejected for more than any job leaves, and for one
    that an item of another slice names."""
    if not part.outputs:
        return
    _bound_outputs(found.outputs + part.outputs)
    list_id = found.list_id
    known: dict[str, int] = {}
    if found.outputs and part.named:
        known = dict(tx.all("item_output.all", list_id=list_id))
    for name, index in part.named.items():
        if (other := known.get(name)) is not None:
            where = f"items[{index - part.first}].outputs"
            raise _twice("the same output", name, (other, index), where)
    tx.many(
        "item_output.add",
        ({"list_id": list_id, "name": name, "idx": idx} for name, idx in part.named.items()),
    )


def _bound_outputs(named: int, field: str = "items") -> None:
    if named >= trees.MOST_FILES:
        raise Rejected(
            422,
            f"the payloads name {named} outputs, and a job leaves fewer than {trees.MOST_FILES} "
            "files",
            field=field,
            remedy="make several jobs, or one output of the job from a directory: `tree: archive`",
        )


def _begin(tx: Tx, owner: str, name: str, now: float) -> ListRecord:
    if records.value(tx.one("list.unused", owner=owner), 0) >= MOST_UNUSED:
        raise Rejected(
            429,
            f"you have {MOST_UNUSED} lists of payloads that no job has named",
            field="list",
            remedy="submit their jobs first; a list that no job names is forgotten after a day",
        )
    tx.one("list.add", owner=owner, name=name, now=now)
    found = item_records.find_list(tx, owner, name)
    assert found is not None  # noqa: S101 -- it was just begun
    return found


def fits(tx: Tx, owner: str, job: JobSpec) -> None:
    """Raise Rejected, with the field of the job, for one that cannot carry the list that it
    names."""
    payloads = _payloads(job)
    if payloads.shared:
        raise Rejected(
            422,
            "only jobs that a task makes lease items together",
            field="payloads.shared",
            remedy="leave it out, or submit a task with `pull`",
        )
    found = item_records.find_list(tx, owner, payloads.list)
    if found is None or found.items != payloads.count:
        has = "is not here" if found is None else f"has {found.items} items"
        raise Rejected(
            422,
            f"list {payloads.list!r} {has}",
            field="payloads",
            remedy="upload all its slices first: POST /items",
        )
    if found.bare and not (job.command or job.script):
        raise Rejected(
            422,
            f"{found.bare} payloads have no command, and the job has none for them",
            field="payloads",
            remedy="give the job a `command` or `script`, or each payload its own",
        )
    if found.outputs:
        _bound_outputs(found.outputs + len(job.outputs), "payloads")
    for field, asked, offered in (
        ("cores", found.cores, job.cores),
        ("memory_mb", found.memory_mb, job.memory_mb),
        ("gpus", found.gpus, job.gpus),
    ):
        if asked > offered:
            raise Rejected(
                422,
                f"a payload asks for {field} {asked}, and the job for {offered} on each node",
                field=field,
                remedy="payloads share what their job takes: let it ask for more",
            )


def carried(tx: Tx, owner: str, job: JobSpec) -> Carried:
    """What a job carries."""
    if job.payloads is not None and job.payloads.shared:
        return Carried.SHARED
    if job.result:
        return Carried.RESULT
    if has_uploads(job):
        return Carried.UPLOADS
    if job.payloads is None:
        return Carried.NOTHING
    found = item_records.find_list(tx, owner, job.payloads.list)
    files = found is not None and (found.inputs or found.outputs)
    return Carried.FILES if files else Carried.ITEMS


def carry(tx: Tx, job_id: int, job: JobSpec, owner: str, retry_of: int | None) -> None:
    """Give a new job its items: those of its list, or those that the job which it retries left
    undone, all of them if it left none. Raises Rejected if they are gone."""
    payloads = _payloads(job)
    if payloads.shared:
        item_pools.carry(tx, job_id, payloads)
        return
    if retry_of is not None and _carry_on(tx, retry_of, job_id):
        return
    found = item_records.find_list(tx, owner, payloads.list)
    if found is None:
        raise Rejected(
            409,
            f"the payloads of job {retry_of} are no longer kept",
            field="job_ids",
            remedy="submit it anew",
        )
    tx.run(
        "cluster.add",
        job_id=job_id,
        list_id=found.list_id,
        items=payloads.count,
        needed=needed(job.goal, payloads.count),
        tries=job.item_attempts,
        redo=_redo(job, found),
    )
    tx.run("list.use", list_id=found.list_id)
    tx.run("cluster.add_job", job_id=job_id, cluster_id=job_id)


def _redo(job: JobSpec, found: ListRecord) -> Redo:
    if job.outputs:
        return Redo.ALL
    return Redo.APART if found.outputs else Redo.NOTHING


def _payloads(job: JobSpec) -> Payloads:
    assert job.payloads is not None  # noqa: S101 -- callers ask only for jobs that carry items
    return job.payloads


def _carry_on(tx: Tx, job_id: int, new_id: int) -> bool:
    """Let a new job go on with what a job that ended left undone. Whether there is anything."""
    before, cluster = records.find_job(tx, job_id), item_records.find_cluster(tx, job_id)
    if before is None or cluster is None or cluster.job_id != job_id:
        return False
    if cluster.finished == cluster.items:
        return False
    past = _encode(item_views.counts(tx, before, cluster)).decode()
    tx.run("cluster.remember", job_id=job_id, past=past)
    base = cluster.base + before.attempt_nr + 1
    tx.run("cluster.move", cluster_id=cluster.cluster_id, job_id=new_id, base=base)
    tx.run("cluster.add_job", job_id=new_id, cluster_id=cluster.cluster_id)
    if cluster.kept:
        tx.run("file.inherit", job_id=new_id, of_job=job_id)
    return True


def leave(tx: Tx, job_id: int) -> None:
    """Let go of the items of a job that is moved away: `trim` deletes them."""
    tx.run("cluster.leave", job_id=job_id)
    tx.run("cluster.drop_job", job_id=job_id)


def trim(tx: Tx, *, now: float) -> bool:
    """Delete some items that no job has, and some of a list that none needs. Whether there may be
    more."""
    row = tx.one("cluster.left")
    if row is not None:
        (cluster_id,) = row
        for statement in ("item_log.trim", "item.trim"):
            if tx.all(statement, cluster_id=cluster_id, most=ROWS):
                return True
        tx.run("lessee.trim", cluster_id=cluster_id)
        tx.run("cluster.drop", cluster_id=cluster_id)
        return True
    row = tx.one("list.old", before=now - UNUSED_S)
    if row is None:
        return False
    (list_id,) = row
    if not tx.all("slice.trim", list_id=list_id, most=SLICES):
        tx.run("item_output.drop", list_id=list_id)
        tx.run("list.drop", list_id=list_id)
    return True
