#!/usr/bin/env python3
"""A stand-in for OpenPBS: qsub, qstat, qselect and qdel, by the name it is called by; no PBS.

Jobs run at once, as processes of this machine. All it knows lies in $PBS_STANDIN: a file `hang` there
makes every command wait for its removal, a file `down` makes it refuse. Its shapes and exit codes are held
to recordings of a real server by tests/plugins/test_batch_pbs.py.
"""

import fcntl
import getpass
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ["PBS_STANDIN"])
SERVER = "pbshost"


def main():
    name, argv = Path(sys.argv[0]).name, sys.argv[1:]
    while (HERE / "hang").exists():
        time.sleep(0.05)
    if (HERE / "down").exists():
        text = f"cannot connect to server {SERVER} (errno=15010)"
        text = f"Couldn't connect to cluster: {SERVER}" if name == "qdel" else f"{name}: {text}"
        fail(f"Connection refused\n{text}", 255 if name == "qstat" else 162)
    with (HERE / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        globals()[name](argv)


def fail(text, code):
    sys.stderr.write(text + "\n")
    sys.exit(code)


# jobs ------------------------------------------------------------------------------------------------


def jobs():
    for path in sorted((HERE / "jobs").glob("*/job.json"), key=lambda one: int(one.parent.name)):
        yield path.parent, json.loads(path.read_text())


def indices(job):
    return [None] if job["array"] is None else list(range(job["array"][0], job["array"][1] + 1))


def state(place, job, index):
    """(state, substate, exit status, comment) of a job or subjob."""
    own = place / ("0" if index is None else str(index))
    began = "Job run at Mon Nov 23 at 04:55 on (pbshost:ncpus=1)"
    if (own / "exit").exists():
        status = int((own / "exit").read_text())
        if (own / "deleted").exists():
            return "F", 91, status, f"{began} and terminated by {job['owner']}@{SERVER}"
        return (
            ("F", 93, status, f"{began} and failed")
            if status
            else ("F", 92, 0, f"{began} and finished")
        )
    if (own / "pid").exists():
        return "R", 42, None, began
    if (own / "deleted").exists():
        return "F", 91, None, None
    return "H", 20, None, None


def whole(place, job):
    """The state of an array as a whole."""
    states = [state(place, job, index)[0] for index in indices(job)]
    if all(one == "F" for one in states):
        deleted = any((place / str(index) / "deleted").exists() for index in indices(job))
        return ("F", 91, 1, "and terminated") if deleted else ("F", 92, 0, "and finished")
    return ("H", 20, None, None) if "R" not in states else ("B", 70, None, "Job Array Began at")


def run_job(place, job, index):
    """A process that runs one job to its end, and leaves its exit status."""
    own = place / ("0" if index is None else str(index))
    if os.fork():
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, 256)
    env = {"HOME": str(Path.home()), "PATH": "/usr/bin:/bin", "PBS_JOBID": place.name}
    if index is not None:
        env["PBS_ARRAY_INDEX"] = str(index)
    shell = ["/bin/sh", str(place / "script")]
    child = subprocess.Popen(shell, env=env, start_new_session=True, cwd=Path.home())
    (own / "pid.new").write_text(str(child.pid))
    (own / "pid.new").rename(own / "pid")
    code = child.wait()
    (own / "exit.new").write_text(str(128 - code if code < 0 else code))
    (own / "exit.new").rename(own / "exit")
    os._exit(0)


# commands --------------------------------------------------------------------------------------------

USAGE = "usage: qsub [-a date_time] [-A account_string] [-c interval]"
QUEUES = ("workq", "short", "closed")


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
    for one in resources:
        name, _, value = one.partition("=")
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
           "queue": queue, "arguments": " ".join(argv)}  # fmt: skip
    for index in indices(job):
        (place / ("0" if index is None else str(index))).mkdir(parents=True)
    (place / "script").write_text(Path(words[0]).read_text())
    if not given.get("h"):
        for index in indices(job):
            run_job(place, job, index)
            until((place / ("0" if index is None else str(index)) / "pid").exists)
    (place / "job.json").write_text(json.dumps(job))
    print(f"{number}{'[]' if array else ''}.{SERVER}")


def until(what):
    while not what():
        time.sleep(0.002)


def qstat(argv):
    wanted = [one.split(".")[0] for one in argv if one[0].isdecimal()]
    past, subjobs = "-x" in argv, "-t" in argv
    rows, missed = {}, []
    for place, job in jobs():
        own = place.name
        names = [f"{own}[]" if job["array"] else own]
        if wanted and not any(one.partition("[")[0] == own for one in wanted):
            continue
        now = whole(place, job) if job["array"] else state(place, job, None)
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
    print(json.dumps({"timestamp": int(time.time()), "pbs_version": "23.06.06",
                      "pbs_server": SERVER, **({"Jobs": rows} if rows else {})}, indent="\t"))  # fmt: skip
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
             "Priority": 0, "Rerunable": "True", "substate": substate,
             "project": "_pbs_project_default", "Submit_Host": SERVER}  # fmt: skip
    if job["array"] and index is None:
        found |= {
            "array": "True",
            "array_indices_submitted": f"{job['array'][0]}-{job['array'][1]}",
        }
    elif index is not None and letter in "RFXE":
        found |= {"array_id": f"{place.name}[].{SERVER}", "array_index": index, "run_count": 1}
    if comment:
        found["comment"] = comment
    if status is not None:
        found["Exit_status"] = status
    return found


def qselect(argv):
    name = argv[argv.index("-N") + 1] if "-N" in argv else None
    for place, job in jobs():
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
            own = place / ("0" if nr is None else str(nr))
            (own / "deleted").touch()
            if (own / "pid").exists():
                os.killpg(int((own / "pid").read_text()), signal.SIGTERM)
    sys.exit(code)


if __name__ == "__main__":
    main()
