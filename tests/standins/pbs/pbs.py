#!/usr/bin/env python3
"""A stand-in for OpenPBS: qsub, qstat, qselect, qdel, qrls, qrerun, pbsnodes and pbsdsh, by the
name it is called by; no PBS.

Jobs run at once, as processes of this machine; of its four nodes only the names differ. All it
knows lies in $PBS_STANDIN: a file `hang` there makes every command wait for its removal, a file
`down` makes it refuse. `lose NODE`, which no PBS has, kills all that runs there. Shapes and exit
codes are held to recordings of a real server by tests/plugins/test_batch_pbs.py; pbsdsh and what
its tasks see, to OpenPBS's sources.
"""

import getpass
import json
import signal
import sys
import time
from pathlib import Path

# A Python that was told to be safe (PYTHONSAFEPATH) has no script's own directory on its path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from moms import (
    HERE,
    MEMORY_GB,
    NCPUS,
    NODES,
    SERVER,
    again,
    can_never_run,
    count_of,
    fail,
    indices,
    jobs,
    kill_all,
    locked,
    lose,
    own_of,
    pbsdsh,
    run_job,
    state,
    whole,
)


def main():
    name, argv = Path(sys.argv[0]).name, sys.argv[1:]
    if name == "pbsdsh":
        pbsdsh(argv)
        return
    while (HERE / "hang").exists():
        time.sleep(0.05)
    if (HERE / "down").exists():
        text = f"cannot connect to server {SERVER} (errno=15010)"
        text = f"Couldn't connect to cluster: {SERVER}" if name == "qdel" else f"{name}: {text}"
        fail(f"Connection refused\n{text}", 255 if name == "qstat" else 162)
    with locked():
        COMMANDS[name](argv)


# commands -----------------------------------------------------------------------------------------

USAGE = "usage: qsub [-a date_time] [-A account_string] [-c interval]"
COUNTS = "Transit:0 Queued:0 Held:0 Waiting:0 Running:0 Exiting:0 Begun:0 "
QUEUE = {"queue_type": "Execution", "total_jobs": 0, "state_count": COUNTS, "enabled": "True",
         "started": "True"}  # fmt: skip
ABOUT = {"server_state": "Active", "server_host": SERVER, "default_queue": "workq"}
QUEUES = {
    "workq": QUEUE,
    "short": {**QUEUE, "resources_max": {"walltime": "00:10:00"}},
    "closed": {**QUEUE, "enabled": "False"},
}


def qsub(argv):
    takes = set("aAclNJrqPoeSvWkmpu")
    given, resources, words = {}, [], list(argv)
    while words and words[0].startswith("-") and len(words[0]) > 1:
        flag = words.pop(0)[1:]
        if flag == "h":
            given["h"] = True
        elif flag in takes:
            value = words.pop(0)
            (resources.append(value) if flag == "l" else given.update({flag: value}))
        else:
            fail(f"qsub: invalid option -- '{flag[0]}'\n{USAGE}", 2)
    array = None
    if "J" in given:
        first, _, last = given["J"].partition("-")
        if not last or int(first) >= int(last):
            fail(f"qsub: illegal -J value\n{USAGE}", 2)
        array = [int(first), int(last)]
        if given.get("r") == "n":
            fail("qsub: cannot submit non-rerunable Array Job", 1)
    queue = given.get("q", "workq")
    if queue not in QUEUES:
        fail("qsub: Unknown queue", 170)
    if queue == "closed":
        fail("qsub: Queue is not enabled", 173)
    chunk = {"chunks": 1, "ncpus": 1, "mpiprocs": 1}
    for one in resources:
        name, _, value = one.partition("=")
        if name == "select":
            count, *more = value.split(":")
            chunk["chunks"] = int(count)
            asked = dict(part.split("=", 1) for part in more)
            chunk |= {key: int(asked[key]) for key in ("ncpus", "mpiprocs") if key in asked}
        if name == "walltime" and not all(part.isdecimal() for part in value.split(":")):
            fail("qsub: Illegal attribute or resource value Resource_List.walltime", 166)
        if "nosuch" in one:
            fail("qsub: Unknown resource: nosuch", 187)
        hours = int(value.split(":")[0]) if name == "walltime" else 0
        if queue == "short" and hours:
            fail("qsub: Job violates queue and/or server resource limits", 188)
    if not words or not Path(words[0]).is_file():
        fail("qsub: script file:: No such file or directory", 1)
    (HERE / "jobs").mkdir(exist_ok=True)
    number = max((int(one.name) for one in (HERE / "jobs").iterdir()), default=53) + 1
    place = HERE / "jobs" / str(number)
    job = {"name": given.get("N", Path(words[0]).name), "array": array, "owner": getpass.getuser(),
           "queue": queue, "rerunable": given.get("r") != "n", "arguments": " ".join(argv), **chunk}  # fmt: skip
    for index in indices(job):
        own_of(place, index).mkdir(parents=True)
    (place / "script").write_text(Path(words[0]).read_text(encoding="utf-8"))
    if not given.get("h") and not can_never_run(job):
        for index in indices(job):
            run_job(place, job, index)
    (place / "job.json").write_text(json.dumps(job))
    print(f"{number}{'[]' if array else ''}.{SERVER}")


def qstat(argv):
    if "-Q" in argv or "-B" in argv:
        show(**({"Queue": QUEUES} if "-Q" in argv else {"Server": {SERVER: ABOUT}}))
        return
    wanted = [one.split(".")[0] for one in argv if one[0].isdecimal()]
    past, subjobs = "-x" in argv, "-t" in argv
    rows, missed = {}, []
    for place, job in jobs(past=past or wanted):
        own = place.name
        names = [f"{own}[]" if job["array"] else own]
        if wanted and not any(one.partition("[")[0] == own for one in wanted):
            continue
        now = whole(place, job) if job["array"] else state(place, job, None)
        if now[0] == "F":
            (place / "over").touch()
        if now[0] == "F" and not past:
            missed += [own] if wanted else []
            continue
        if job["array"]:
            rows[f"{names[0]}.{SERVER}"] = row(place, job, None, now)
            if subjobs:
                for index in indices(job):
                    one = state(place, job, index)
                    if one[0] == "F" and not past:
                        one = ("X", *one[1:])
                    rows[f"{own}[{index}].{SERVER}"] = row(place, job, index, one)
        else:
            rows[f"{own}.{SERVER}"] = row(place, job, None, now)
    show(**({"Jobs": rows} if rows else {}))
    for own in missed:
        fail(
            f"qstat: {own}.{SERVER} Job has finished, use -x or -H to obtain historical job information",
            35,
        )
    known = {place.name for place, _ in jobs()}
    for one in wanted:
        if one.partition("[")[0] not in known:
            fail(f"qstat: Unknown Job Id {one}.{SERVER}", 153)


def row(place, job, index, now):
    letter, substate, status, comment = now
    when = "Mon Nov 23 04:55:48 2026"
    found = {"Job_Name": job["name"], "Job_Owner": f"{job['owner']}@{SERVER}", "job_state": letter,
             "queue": job["queue"], "server": SERVER, "ctime": when, "mtime": when, "qtime": when,
             "Priority": 0, "Rerunable": "True" if job["rerunable"] else "False", "substate": substate,
             "project": "_pbs_project_default", "Submit_Host": SERVER}  # fmt: skip
    if job["array"] and index is None:
        found |= {
            "array": "True",
            "array_indices_submitted": f"{job['array'][0]}-{job['array'][1]}",
        }
    elif letter in "RFXE" and (runs := count_of(own_of(place, index))):
        found["run_count"] = runs
        if index is not None:
            found |= {"array_id": f"{place.name}[].{SERVER}", "array_index": index}
    if comment:
        found["comment"] = comment
    if status is not None:
        found["Exit_status"] = status
    return found


def show(**what):
    about = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": SERVER}
    print(json.dumps({**about, **what}, indent="\t"))


def pbsnodes(argv):
    if argv != ["-a", "-F", "json"]:
        fail("usage: pbsnodes", 1)
    found = {}
    for name in NODES:
        there = not (HERE / "lost" / name).exists()
        have = {
            "arch": "linux",
            "host": name,
            "mem": f"{MEMORY_GB}gb",
            "ncpus": NCPUS,
            "vnode": name,
        }
        found[name] = {"Mom": name, "ntype": "PBS", "state": "free" if there else "down", "pcpus": 2,
                       "resources_available": have, "resources_assigned": {}, "resv_enable": "True",
                       "sharing": "default_shared", "license": "l"}  # fmt: skip
    show(nodes=found)


def qselect(argv):
    name = argv[argv.index("-N") + 1] if "-N" in argv else None
    for place, job in jobs(past="-x" in argv):
        ended = (whole(place, job) if job["array"] else state(place, job, None))[0] == "F"
        if name in (None, job["name"]) and (not ended or "-x" in argv):
            print(f"{place.name}{'[]' if job['array'] else ''}.{SERVER}")


def qdel(argv):
    code = 0
    known = {place.name: (place, job) for place, job in jobs()}
    for one in argv:
        number, _, index = one.split(".")[0].partition("[")
        if number not in known:
            sys.stderr.write(f"qdel: Unknown Job Id {one.split('.')[0]}.{SERVER}\n")
            code = 153
            continue
        place, job = known[number]
        which = [int(index.rstrip("]"))] if index not in ("", "]") else indices(job)
        for nr in which:
            if state(place, job, nr)[0] == "F":
                sys.stderr.write(f"qdel: Job has finished {one.split('.')[0]}.{SERVER}\n")
                code = 35
                continue
            own = own_of(place, nr)
            (own / "deleted").touch()
            kill_all(own, signal.SIGTERM)
    sys.exit(code)


def chosen(argv):
    """The jobs and subjobs of these ids."""
    known = {place.name: (place, job) for place, job in jobs()}
    for one in argv:
        number, _, index = one.split(".")[0].partition("[")
        place, job = known[number]
        for nr in [int(index.rstrip("]"))] if index not in ("", "]") else indices(job):
            yield place, job, nr


def qrls(argv):
    for place, job, index in chosen(argv):
        if state(place, job, index)[0] == "H":
            run_job(place, job, index)


def qrerun(argv):
    for place, job, index in chosen(argv):
        if state(place, job, index)[0] == "R":
            again(place, job, index)


COMMANDS = {one.__name__: one for one in (lose, pbsnodes, qdel, qrerun, qrls, qselect, qstat, qsub)}

if __name__ == "__main__":
    main()
