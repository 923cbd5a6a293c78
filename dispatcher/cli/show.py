"""`dispatcher show ID`: all about one job, or one of the payloads that it carries; a failure
first."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from ailurus.output import Output, clock, span
from ailurus.protocol.states import JobState
from dispatcher.cli import history, items
from dispatcher.cli.connection import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailurus.protocol.messages import Attempt, JobDetail, Staging, Usage
    from ailurus.protocol.messages.usage import NodeUsage

SHORT = 500
"""Characters of a result that are shown."""


def arguments(parser: ArgumentParser) -> None:
    from dispatcher.cli.words import item_id

    parser.add_argument(
        "id", type=item_id, metavar="ID", help="of a job, or JOB.ITEM of a payload that it carries"
    )
    parser.add_argument(
        "--items",
        nargs="?",
        const="",
        metavar="STATE",
        help="list the payloads that the job carries: all, or those in a state, failed say",
    )
    parser.add_argument(
        "--lanes", action="store_true", help="when the payloads of the job ran, on which nodes"
    )


def main(args: Namespace, out: Output) -> int:
    """Ask and show."""
    job_id, index = args.id
    client = connect(args)
    if index is not None:
        items.show(client, job_id, index, out)
        return 0
    if args.items is not None:
        items.listing(client, job_id, args.items, out)
        return 0
    if args.lanes:
        items.timeline(client, job_id, out)
        return 0
    job = client.show(job_id)
    if out.as_json:
        out.document(job)
    else:
        _show(job, out)
        history.show(client, job_id, out)
    return 0


def _show(job: JobDetail, out: Output) -> None:
    row, spec = job.row, job.spec
    last = job.attempts[-1] if job.attempts else None
    out.pairs(
        [
            ("job", f"{row.job_id} {row.name}"),
            ("state", row.state),
            (
                "what failed" if row.state != JobState.FINISHED else "note",
                f"{row.diagnosis} (code {row.code})" if row.code else row.diagnosis,
            ),
            ("remedy", last.remedy if last else ""),
            ("user", row.user),
            ("submission", job.submission or ""),
            ("queue", row.queue or "any"),
            ("created", clock(row.created)),
            ("changed", clock(row.changed)),
            ("asks for", _wants(job)),
            ("container", spec.container),
            ("command", spec.command or (spec.script and spec.script.partition("\n")[0] + " …")),
            ("payloads", items.summary(job.items) if job.items else ""),
            ("used", used(last.usage) if last and last.usage else ""),
            ("result", _short(last.result) if last else ""),
            ("files", _staging(last.staging) if last and last.staging else ""),
            ("parents", " ".join(map(str, job.parents))),
            ("children", " ".join(map(str, job.children))),
            ("retry of", f"{job.retry_of} (by {job.retry_by})" if job.retry_of else ""),
            ("retried as", job.retried_as or ""),
        ]
    )
    if last and last.stderr_tail:
        out.line("\nend of stderr:")
        out.line(last.stderr_tail.rstrip("\n"))
    if job.attempts:
        out.line()
        out.table(
            [
                "attempt",
                "state",
                "worker",
                "host",
                "leased",
                "staged in",
                "ran",
                "exit",
                "diagnosis",
            ],
            (attempt_cells(attempt) for attempt in job.attempts),
        )
    if last and last.usage:
        _nodes(last.usage, out)
    _files(job, out)


def _nodes(usage: Usage, out: Output) -> None:
    """What a payload uses on each node, where its pilot has several."""
    if usage.nodes:
        out.line()
        used_on(usage.nodes, out)


def used_on(nodes: Sequence[NodeUsage], out: Output) -> None:
    """What payloads use on each node."""
    out.table(
        ["node", "CPU", "memory", "peak memory", "processes", "read", "written", "GPU busy"],
        (
            (one.node, span(one.cpu_s), size(1024 * one.rss_kb), size(1024 * one.max_rss_kb),
             one.processes or "", size(one.read_bytes), size(one.write_bytes),
             span(one.gpu_s) if one.gpu_s else "")
            for one in nodes
        ),
    )  # fmt: skip


def _files(job: JobDetail, out: Output) -> None:
    """Its outputs, and how their registration went."""
    if not job.files:
        return
    out.line()
    out.table(
        ["file", "bytes", "adler32", "url", "catalogue"],
        ((f.name, f.size, f.adler32, f.url, f.registration) for f in job.files),
    )
    for file in job.files:
        if file.reason:
            out.line(f"  {file.name}: {file.reason}")
            if file.remedy:
                out.line(f"  → {file.remedy}")


def _short(result: str) -> str:
    return result if len(result) <= SHORT else f"{result[:SHORT]} … ({len(result)} bytes: --json)"


def _staging(now: Staging) -> str:
    """How far the files have come, how fast, and how long the rest will take."""
    text = f"{now.done} of {now.files} moved, {now.moved_bytes / 1e6:.1f}"
    if now.total_bytes is not None:
        text += f" of {now.total_bytes / 1e6:.1f}"
    text += " MB"
    rate = now.moved_bytes / now.seconds if now.seconds > 0 else 0.0
    if rate >= 1:
        text += f", {rate / 1e6:.1f} MB/s"
        if now.total_bytes is not None:
            text += f", {span((now.total_bytes - now.moved_bytes) / rate)} left"
    return text


def _wants(job: JobDetail) -> str:
    # Late: most commands do not show a job.
    from ailurus.protocol.machine import described, machine_of
    from ailurus.protocol.resources import part_of_a_gpu

    spec = job.spec
    parts = [f"{spec.cores} cores", f"{spec.memory_mb} MB", f"{spec.disk_mb} MB disk"]
    gpus = part_of_a_gpu(spec.gpu_share) if spec.gpu_share else f"{spec.gpus} GPUs"
    parts += [gpus] if spec.gpus else []
    parts += [f"{spec.nodes} nodes"] if spec.nodes > 1 else []
    parts += [described(text)] if (text := machine_of(spec.arch, spec.each_gpu)) else []
    parts += [span(spec.walltime_s)] if spec.walltime_s else []
    return ", ".join(parts)


def used(usage: Usage) -> str:
    """What a payload has used, in one line."""
    text = f"{span(usage.cpu_s)} of CPU, {size(1024 * max(usage.max_pss_kb, usage.max_rss_kb))}"
    if usage.gpu_s or usage.max_gpu_memory_mb:
        text += f", GPUs for {span(usage.gpu_s)}, {size(usage.max_gpu_memory_mb << 20)} of theirs"
    return text


def size(count: int) -> str:
    """An amount of bytes for people."""
    for factor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def attempt_cells(one: Attempt) -> tuple[object, ...]:
    staged = one.running - one.started if one.running and one.started else None
    # A job that was fetched ahead waits, staged in, for its slot.
    if staged is not None:
        staged -= min(one.timing.get("wait", 0.0), staged)
    ran_until = one.holding or one.ended
    ran = ran_until - one.running if ran_until and one.running else None
    # a job that was over before its pilot's next update
    if one.running is None:
        staged, ran = one.timing.get("stage_in"), one.timing.get("run")
    return (
        one.attempt_nr, one.state, one.worker_id, one.host or one.site, clock(one.leased),
        span(staged), span(ran), "-" if one.exit_code is None else one.exit_code, one.diagnosis,
    )  # fmt: skip
