"""Why a job is where it is, in one sentence with numbers. Pure: the caller gathers the facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ailurus.protocol import machine
from ailurus.protocol.hardware import Hardware
from ailurus.protocol.job import JobSpec
from ailurus.protocol.messages import FileRecord, GroupRow, JobRow, Trouble, Why
from ailurus.protocol.resources import Resources, Room, Shape, kinds_of, part_of_a_gpu
from ailurus.protocol.states import FINAL, WITH_WORKER, JobState, Outlook, RegistrationState
from dispatcher.rules import remedies
from dispatcher.rules.group_turns import Carried


class Offer(Struct, frozen=True, kw_only=True):
    """A slot that a site can provision, or a worker that lives."""

    name: str
    total: Room
    # None: a slot, no worker yet.
    free: Room | None = None
    # Of a slot.
    site: str = ""
    foreign: bool = False
    """A PanDA pilot: what others of its queue can hold, only its own site knows."""
    hardware: Hardware | None = None
    """None: of a slot, not known; a worker did not tell."""
    carries: Carried = Carried.SHARED
    """The most that a job may carry for it."""

    def lacks(self, shape: Shape) -> str:
        """The first thing that it can never give a job of this shape, as a phrase; empty if it can
        hold it, or a slot of which no machine is known might."""
        if lack := short_of(shape, self.total):
            return lack
        if not shape.machine or (self.hardware is None and self.free is None):
            return ""
        if self.hardware is None:
            return "its pilot does not tell what machine it is"
        found = machine.lacks(shape.machine, [self.hardware])
        return found[0].phrase if found else ""


def short_of(shape: Shape, room: Room) -> str:
    """The first thing of which `room` has too little, as a phrase; empty if the shape fits."""
    if shape.fits(room):
        return ""
    for kind, unit in kinds_of(shape):
        need, there = getattr(shape, kind), room.most(kind)
        if need > there:
            return f"needs {need} {unit}, has {there}"
    if lack := _short_of_share(shape, room):
        return lack
    if not room.in_time(shape):
        return f"needs {shape.walltime_s} s, has {room.seconds_left:.0f} s left"
    return f"needs {_nodes(shape, [room])}, has {room.nodes_for(shape)}"


def _short_of_share(shape: Shape, room: Room) -> str:
    """The share of a GPU that is missing, as a phrase."""
    if not shape.gpu_share or room.nodes_for(_only(shape, "gpus")):
        return ""
    wanted = f"needs {part_of_a_gpu(shape.gpu_share)}"
    if not any(group.gpu_share for group in room.groups):
        return f"{wanted}, {'lets no jobs share one' if room.most('gpus') else 'has none'}"
    return f"{wanted}, has {part_of_a_gpu(room.most_of_a_gpu())}"


def _nodes(shape: Shape, rooms: Sequence[Room], free: str = " free") -> str:
    """The nodes that a job needs and that none of `rooms` has, as a phrase: what it needs on each
    of them of that of which there is too little, or of all where only the whole is missing."""
    needed = [
        (f"{getattr(shape, kind)} {unit}", _only(shape, kind))
        for kind, unit in kinds_of(shape)
        if kind != "nodes" and getattr(shape, kind)
    ]
    if shape.gpu_share:
        needed.append((part_of_a_gpu(shape.gpu_share), _only(shape, "gpus")))
    scarce = [
        text for text, alone in needed if all(room.nodes_for(alone) < shape.nodes for room in rooms)
    ]
    each = " and ".join(scarce or [text for text, _ in needed])
    if shape.nodes == 1:
        return f"a node with {each}{free}"
    return f"{shape.nodes} nodes with {each}{free} on each"


def _only(shape: Shape, kind: str) -> Resources:
    share = shape.gpu_share if kind == "gpus" else 0
    return replace(Resources(), **{kind: getattr(shape, kind), "gpu_share": share})


def sizes(offers: Iterable[Offer]) -> list[Offer]:
    """One offer of each size: many jobs are compared with each size once."""
    return list(
        {
            (offer.total, offer.foreign, offer.hardware, offer.free is None): offer
            for offer in offers
        }.values()
    )


class Misfit(Struct, frozen=True):
    """Why no offer can ever hold a job."""

    field: str
    """Of the job, as a job file names it."""
    fault: str
    """A phrase."""


class Stuck(Struct, frozen=True):
    """A job that can never start."""

    job_id: int
    fault: str


def impossible(spec: JobSpec, shape: Shape, offers: Sequence[Offer]) -> Misfit | None:
    """Why no offer could ever hold the job; None if one could.

    Without any offer nothing is known, so nothing is impossible.
    """
    offers = [offer for offer in offers if not offer.foreign]
    if not offers or any(not offer.lacks(shape) for offer in offers):
        return None
    for kind, unit in kinds_of(shape):
        most = max(offer.total.most(kind) for offer in offers)
        if getattr(shape, kind) > most:
            # A job file writes `memory: 4GB`.
            field, wanted = kind.removesuffix("_mb"), getattr(spec, kind)
            fault = f"{wanted} {unit} are asked for, the largest slot of its queues has {most}"
            return Misfit(field, fault)
    most = max(offer.total.most_of_a_gpu() for offer in offers)
    if shape.gpu_share > most:
        there = f"a slot of its queues has {part_of_a_gpu(most)} at most"
        there = there if most else "no slot of its queues lets jobs share one"
        return Misfit("gpus", f"{part_of_a_gpu(shape.gpu_share)} is asked for, and {there}")
    if shape.nodes > 1:
        most = max(offer.total.nodes_for(shape) for offer in offers)
        if most < shape.nodes:
            wanted = _nodes(shape, [offer.total for offer in offers], free="")
            return Misfit(
                "nodes", f"{wanted} are asked for, the largest slot of its queues has {most}"
            )
    return _wrong_machine(shape, offers) or Misfit(
        "walltime", "no single slot of its queues has all that is asked for"
    )


def _wrong_machine(shape: Shape, offers: Sequence[Offer]) -> Misfit | None:
    """What no offer has of the kind of machine that a job needs, and what they have instead."""
    large = [offer for offer in offers if not short_of(shape, offer.total)]
    if not large:
        return None
    told = [offer.hardware for offer in large if offer.hardware is not None]
    if not told:
        return Misfit(
            "arch", f"it needs {machine.described(shape.machine)}, and no pilot tells what it has"
        )
    if not (lacks := machine.lacks(shape.machine, told)):
        return Misfit("arch", f"no single machine is all of {machine.described(shape.machine)}")
    words = "; ".join(f"{one.wanted} is asked for, there is {one.has}" for one in lacks)
    return Misfit(lacks[0].field, f"no machine of its queues is the right one: {words}")


def waiting(
    row: JobRow,
    spec: JobSpec,
    shape: Shape,
    offers: Sequence[Offer],
    ahead: int,
    group: GroupRow | None = None,
    troubles: Sequence[Trouble] = (),
    carried: Carried = Carried.NOTHING,
) -> Why:
    """Why an activated job has not started. `troubles`: of those that serve its queue; `carried`:
    by the job."""
    wrong = [trouble.sentence for trouble in troubles]
    helps = next((trouble.remedy for trouble in troubles if trouble.remedy), "")

    def answer(
        outlook: Outlook, sentence: str, blockers: Sequence[str] = (), remedy: str = ""
    ) -> Why:
        return Why(
            job_id=row.job_id,
            state=row.state,
            verdict=outlook,
            sentence=sentence,
            blockers=(*blockers, *wrong),
            remedy=remedy or helps,
        )

    queue = f"queue {row.queue}" if row.queue else "any queue"
    place = _place(ahead, group)
    if not offers:
        sentence = f"No pilot serves {queue} and no site offers one; {place}."
        remedy = "start a pilot or an edge for this queue, or submit to another one"
        return answer(Outlook.LATER, sentence, remedy=helps or remedy)
    if (misfit := impossible(spec, shape, offers)) is not None:
        return answer(
            Outlook.NEVER,
            f"It can never start: {misfit.fault}.",
            sorted({f"{offer.name}: {offer.lacks(shape)}" for offer in offers}),
            _remedy(misfit.field, shape),
        )
    foreign = sum(offer.foreign for offer in offers)
    if foreign == len(offers) and (what := _not_for_panda(shape, carried)):
        sentence = f"Only PanDA pilots serve {queue}, and they get no job that {what}"
        remedy = "start a pilot of ours for this queue, or submit to another one"
        return answer(Outlook.LATER, f"{sentence}; {place}.", remedy=remedy)
    if foreign == len(offers):
        sentence = f"{foreign} PanDA pilots serve {queue}, which ask when they can take a job"
        return answer(Outlook.LATER, f"{sentence}; {place}.")
    fitting = [one for one in offers if not (one.foreign or one.lacks(shape))]
    workers = [offer for offer in fitting if offer.free is not None]
    able = [offer for offer in workers if offer.carries >= carried]
    if workers and not able:
        sentence, older = _of_earlier_versions(workers, carried)
        remedy = "let the sites of this queue start pilots of this version"
        return answer(Outlook.LATER, f"{sentence}; {place}.", older, remedy)
    if not able:
        sentence = f"No pilot that could hold it is running; {_can(fitting, troubles)}; {place}."
        return answer(Outlook.LATER, sentence, _wrong_ones(shape, offers))
    outlook, sentence, busy = _busy(shape, [one.free for one in able if one.free is not None])
    return answer(outlook, f"{sentence}; {place}.", busy)


def _can(fitting: Sequence[Offer], troubles: Sequence[Trouble]) -> str:
    """Who can provision a pilot that holds a job, as a phrase."""
    held = {trouble.site for trouble in troubles if trouble.site}
    names = sorted({offer.name for offer in fitting if offer.site not in held})
    return f"{', '.join(names)} can provision one" if names else "nobody provisions one now"


def _not_for_panda(shape: Shape, carried: Carried) -> str:
    """What of a job no PanDA pilot is given, as a phrase; empty: it may have it."""
    if shape.gpu_share:
        return "needs a share of a GPU"
    if shape.machine:
        return "needs a kind of machine"
    if carried is Carried.UPLOADS:
        return "names uploaded files"
    if carried is Carried.RESULT:
        return "leaves a result"
    return "carries payloads" if carried else ""


def _of_earlier_versions(workers: Sequence[Offer], carried: Carried) -> tuple[str, list[str]]:
    """That none of these knows what a job carries, and which they are."""
    known = {
        Carried.FILES: "payloads with files of their own",
        Carried.UPLOADS: "uploaded files",
        Carried.RESULT: "results",
        Carried.SHARED: "payloads that several jobs lease",
    }
    what = known.get(carried, "payloads")
    names = sorted(offer.name for offer in workers)[:20]
    return (
        f"None of the {len(workers)} pilots that could hold it knows {what}",
        [f"{name}: its pilot is of an earlier version" for name in names],
    )


def _wrong_ones(shape: Shape, offers: Sequence[Offer]) -> list[str]:
    """Of a job that needs a kind of machine, what the pilots there are lack, one of each kind."""
    there = sizes(offer for offer in offers if offer.free is not None) if shape.machine else []
    return sorted({f"{offer.name}: {offer.lacks(shape)}" for offer in there})[:20]


def _remedy(field: str, shape: Shape) -> str:
    if field == "gpus" and shape.gpu_share:
        return "ask for a whole one, `gpus: 1`, or let a site say `pilot: {gpus: {share: 2}}`"
    if field in machine.FIELDS:
        return f"ask for another `{field}`, or let a site offer such machines"
    return f"ask for less `{field}`, or let a site offer a larger slot"


def _busy(shape: Shape, rooms: Sequence[Room]) -> tuple[Outlook, str, list[str]]:
    """Whether pilots that could hold a job have room for it now, and what each kind of them
    lacks."""
    busy = Counter(short_of(shape, room) for room in rooms)
    free = busy.pop("", 0)
    if free:
        return Outlook.NOW, f"{free} of {len(rooms)} pilots have room for it", []
    sentence = f"All {len(rooms)} pilots that could hold it are busy"
    if shape.nodes > 1:
        sentence = f"No pilot has {_nodes(shape, rooms)} now"
    lacks = [f"{n} pilots: it {reason}" for reason, n in busy.most_common()]
    return Outlook.LATER, sentence, lacks


def _place(ahead: int, group: GroupRow | None) -> str:
    """Where a job stands among those like it, and its group among the groups, as a phrase."""
    place = (
        f"of the jobs like it, {ahead} are in front of it"
        if ahead
        else "of the jobs like it, it is the first"
    )
    if group is None:
        return place
    name = f"group {group.name}" if group.name else "users without a group"
    return f"{place}; {name}, with {group.waiting} jobs waiting, gets {group.due:.0%} of the turns"


def unregistered(answer: Why, files: Sequence[FileRecord], away: Trouble | None) -> Why:
    """The same of a job some of whose outputs are not in the catalogue of data."""
    refused = [one for one in files if one.registration == RegistrationState.REFUSED]
    due = [one for one in files if one.registration == RegistrationState.DUE]
    if not refused and not due:
        return answer
    said = [f"{one.name}: {one.reason}" for one in (*refused, *due) if one.reason]
    if refused:
        sentence = f"The catalogue refused {len(refused)} of its {len(files)} outputs."
        helps = refused[0].remedy or "`dispatcher register` tries again what was refused"
    else:
        sentence = f"{len(due)} of its {len(files)} outputs are not in the catalogue yet."
        helps = next((one.remedy for one in due if one.remedy), "")
        if away is not None:
            said, helps = [away.sentence, *said], helps or away.remedy
    return replace(
        answer,
        sentence=f"{answer.sentence} {sentence}",
        blockers=(*answer.blockers, *said[:20]),
        remedy=answer.remedy or helps,
    )


def held(row: JobRow) -> Why:
    """Why a job waits that somebody holds."""
    return Why(
        job_id=row.job_id,
        state=row.state,
        verdict=Outlook.LATER,
        sentence="It is held, and waits until it is released.",
        remedy=f"dispatcher release {row.job_id}",
    )


def elsewhere(
    row: JobRow, parents: Sequence[tuple[int, str]], advice: str = "", late: bool = False
) -> Why:
    """Why a job in any other state is in it. `advice`: what helps, by the pilot of its last
    attempt; `late`: its pilot has missed a heartbeat."""
    blockers: tuple[str, ...] = ()
    outlook, remedy = Outlook.RUNS, ""
    sentence = f"It is {row.state} on worker {row.worker_id}."
    if row.state in WITH_WORKER and late:
        sentence += " That pilot has missed a heartbeat: is it lost, another one gets the job."
    if row.state is JobState.PENDING:
        left = [
            f"job {parent} is {state}" for parent, state in parents if state != JobState.FINISHED
        ]
        outlook, blockers = Outlook.LATER, tuple(left[:20])
        sentence = f"It waits for {len(left)} of the {len(parents)} jobs that it depends on."
    elif row.state in FINAL:
        outlook = Outlook.DONE
        sentence = (
            f"It is {row.state}"
            + (f" with code {row.code}: {row.diagnosis}" if row.code else "")
            + "."
        )
        if row.state is JobState.FAILED:
            remedy = remedies.after(row, parents, advice)
    elif row.state is JobState.DEFINED:
        outlook, sentence = Outlook.NOW, "Its submission is being stored."
    return Why(
        job_id=row.job_id,
        state=row.state,
        verdict=outlook,
        sentence=sentence,
        blockers=blockers,
        remedy=remedy,
    )


def hopeless(row: JobRow, above: Sequence[Stuck]) -> Why:
    """Why a job that waits for others can never start: those of them, near or far, that cannot
    either, and what is wrong with each."""
    job_id, fault = above[0].job_id, above[0].fault
    rest = f", and {len(above) - 1} more" if above[1:] else ""
    return Why(
        job_id=row.job_id,
        state=row.state,
        verdict=Outlook.NEVER,
        sentence=f"It can never start: it waits for job {job_id}{rest}, which can never start: {fault}.",
        blockers=tuple(f"job {one.job_id}: {one.fault}" for one in above[:20]),
        remedy=f"cancel job {job_id}, and submit it and what waits for it so that a site can hold it",
    )
