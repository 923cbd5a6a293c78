"""What the stand-in's moms do: run jobs, end them, lose nodes, and pbsdsh."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SERVER = "pbshost"
NODES = (SERVER, "pbs2", "pbs3", "pbs4")
NCPUS, MEMORY_GB = 32, 32
ENDED_BY_A_LOST_MOM = -20


# A job does not know it.
HERE = Path(os.environ.get("PBS_STANDIN", "/nowhere"))


@contextlib.contextmanager
def locked():
    with (HERE / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fail(text, code):
    sys.stderr.write(text + "\n")
    sys.exit(code)


def until(what):
    while not what():
        time.sleep(0.002)


# jobs ---------------------------------------------------------------------------------------------


def jobs(*, past=True):
    """What has ended is marked so, since nobody has the time to look at thousands of those."""
    for path in sorted((HERE / "jobs").glob("*/job.json"), key=lambda one: int(one.parent.name)):
        if past or not (path.parent / "over").exists():
            yield path.parent, json.loads(path.read_text())


def indices(job):
    return [None] if job["array"] is None else list(range(job["array"][0], job["array"][1] + 1))


def own_of(place, index):
    """Where the files of a job or subjob are."""
    return place / ("0" if index is None else str(index))


def hosts_of(job, index):
    """A host for each chunk: scattered, over those that are there."""
    there = [one for one in NODES if not (HERE / "lost" / one).exists()]
    return [there[((index or 0) + chunk) % len(there)] for chunk in range(job["chunks"])]


def vnodes(job, own):
    """As exec_vnode has it."""
    return "+".join(
        f"({host}:ncpus={job['ncpus']})" for host in (own / "hosts").read_text().split()
    )


def state(place, job, index):
    """(state, substate, exit status, comment) of a job or subjob."""
    own = own_of(place, index)
    began = (
        f"Job run at Mon Nov 23 at 04:55 on {vnodes(job, own)}"
        if (own / "hosts").exists()
        else None
    )
    if (own / "exit").exists():
        status = int((own / "exit").read_text())
        if (own / "deleted").exists():
            return "F", 91, status, f"{began} and terminated by {job['owner']}@{SERVER}"
        if status == ENDED_BY_A_LOST_MOM:
            return "F", 93, status, began
        return (
            ("F", 93, status, f"{began} and failed")
            if status
            else ("F", 92, 0, f"{began} and finished")
        )
    if (own / "pid").exists():
        return "R", 42, None, began
    if (own / "deleted").exists():
        return "F", 91, None, None
    if why := can_never_run(job):
        return "Q", 10, None, f"Can Never Run: Insufficient amount of resource: {why}"
    return "H", 20, None, None


def can_never_run(job):
    asked, most = job["ncpus"], NCPUS
    return f"ncpus (R: {asked} A: {most} T: {most})" if asked > most else ""


def whole(place, job):
    """The state of an array as a whole."""
    states = [state(place, job, index) for index in indices(job)]
    letters = [one[0] for one in states]
    if all(one == "F" for one in letters):
        deleted = any((place / str(index) / "deleted").exists() for index in indices(job))
        return ("F", 91, 1, "and terminated") if deleted else ("F", 92, 0, "and finished")
    if "R" in letters:
        return "B", 70, None, "Job Array Began at"
    return next(one for one in states if one[0] != "F")


def run_job(place, job, index):
    """A process that runs one job to its end, and leaves its exit status."""
    own = own_of(place, index)
    run = count_of(own) + 1
    (own / "runs").write_text(str(run))
    (own / "hosts").write_text(" ".join(hosts_of(job, index)))
    env = environment(place, job, index, run)
    if os.fork():
        until((own / "pid").exists)
        return
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, 256)
    shell = ["/bin/sh", str(place / "script")]
    child = subprocess.Popen(shell, env=env, start_new_session=True, cwd=Path.home())
    (own / "pid.new").write_text(str(child.pid))
    (own / "pid.new").rename(own / "pid")
    code = child.wait()
    with locked():
        if count_of(own) == run:  # else it was ended to run again
            ends(own, 128 - code if code < 0 else code)
    os._exit(0)


def count_of(own):
    return int((own / "runs").read_text()) if (own / "runs").exists() else 0


def ends(own, status):
    (own / "exit.new").write_text(str(status))
    (own / "exit.new").rename(own / "exit")


def environment(place, job, index, run):
    """What a mom gives the shell of a job (start_exec.c, finish_exec)."""
    own = own_of(place, index)
    batch_id = f"{place.name}.{SERVER}" if index is None else f"{place.name}[{index}].{SERVER}"
    nodefile = HERE / "aux" / batch_id
    nodefile.parent.mkdir(exist_ok=True)
    lines = [host for host in (own / "hosts").read_text().split() for _ in range(job["mpiprocs"])]
    nodefile.write_text("".join(f"{host}\n" for host in lines))
    owner = job["owner"]
    env = {
        "HOME": str(Path.home()), "LOGNAME": owner, "USER": owner, "SHELL": "/bin/sh",
        # by its own profile
        "PATH": f"{Path(__file__).parent}:/usr/bin:/bin",
        "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBID": batch_id, "PBS_JOBNAME": job["name"],
        "PBS_QUEUE": job["queue"], "PBS_JOBCOOKIE": f"{place.name}-{index}-{run}", "PBS_NODENUM": "0",
        "PBS_TASKNUM": "1", "PBS_MOMPORT": "15003", "PBS_NODEFILE": str(nodefile),
        "NCPUS": str(job["ncpus"]), "OMP_NUM_THREADS": str(job["ncpus"]),
        "PBS_JOBDIR": str(Path.home()), "PBS_O_HOST": SERVER, "PBS_O_QUEUE": job["queue"],
    }  # fmt: skip
    if index is not None:
        env |= {"PBS_ARRAY_INDEX": str(index), "PBS_ARRAY_ID": f"{place.name}[].{SERVER}"}
    return env


def kill_all(own, number):
    """The shell of a job and the tasks of its pbsdsh, as moms do."""
    for record in (own / "pid", *own.glob("task.*")):
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.killpg(int(record.read_text()), number)


def again(place, job, index):
    """Ended, and begun anew."""
    own = own_of(place, index)
    (own / "runs").write_text(
        str(count_of(own) + 1)
    )  # what its old run still says is of no interest
    kill_all(own, signal.SIGKILL)
    for record in (own / "pid", *own.glob("task.*")):
        record.unlink(missing_ok=True)
    (own / "runs").write_text(str(count_of(own) - 1))
    run_job(place, job, index)


def lose(argv):
    """The nodes of these names are gone. The server notices at once; a real one takes seconds, and
    minutes for what it may run again (node_fail_requeue)."""
    for name in argv:
        (HERE / "lost" / name).mkdir(parents=True)
    for place, job in jobs(past=False):
        for index in indices(job):
            own = own_of(place, index)
            if state(place, job, index)[0] != "R" or not set(argv) & set(
                (own / "hosts").read_text().split()
            ):
                continue
            if job["rerunable"]:
                again(place, job, index)
            else:
                ends(own, ENDED_BY_A_LOST_MOM)
                (own / "runs").write_text(str(count_of(own) + 1))
                kill_all(own, signal.SIGKILL)


# within a job -------------------------------------------------------------------------------------


def pbsdsh(argv):
    """A task on each logical node, which is a line of PBS_NODEFILE. It says of those that failed
    how, and is content itself."""
    copies, only, words = None, None, list(argv)
    while words and words[0].startswith("-"):
        flag = words.pop(0)
        if flag == "--":
            break
        if flag in ("-c", "-n") and words:
            copies, only = (
                (int(words.pop(0)), only) if flag == "-c" else (copies, int(words.pop(0)))
            )
        elif flag not in ("-s", "-v", "-o"):
            words = []
    if not words or (copies is not None and only is not None):
        fail("Usage: pbsdsh [-c copies][-s][-v][-o] -- program [args...]", 1)
    if "PBS_ENVIRONMENT" not in os.environ:
        fail("pbsdsh: not executing under PBS", 1)
    lines = Path(os.environ["PBS_NODEFILE"]).read_text(encoding="utf-8").split()
    hosts = list(dict.fromkeys(lines))
    which = [only] if only is not None else range(copies if copies is not None else len(lines))
    tasks = [_spawn(words, nr, lines[nr % len(lines)], hosts) for nr in which]

    def bail_out(number, _):
        for task in tasks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.pid, number)
        os._exit(1)

    signal.signal(signal.SIGTERM, bail_out)
    for nr, task in enumerate(tasks):
        code = task.wait()
        if code:
            code = 256 - code if code < 0 else code
            print(f"pbsdsh: task 0x{nr:08X} exit status {code}", flush=True)


def _spawn(words, nr, host, hosts):
    """What a mom gives a task (start_exec.c, start_process): less than the shell of the job has."""
    kept = ("HOME", "PBS_ENVIRONMENT", "PBS_JOBID", "PBS_JOBNAME", "PBS_QUEUE", "PBS_JOBCOOKIE",
            "PBS_MOMPORT", "NCPUS", "OMP_NUM_THREADS", "PBS_JOBDIR", "PBS_O_HOST", "PBS_O_QUEUE")  # fmt: skip
    env = {name: os.environ[name] for name in kept}
    env |= {
        "PBS_NODENUM": str(hosts.index(host)),
        "PBS_TASKNUM": f"{nr + 2:08X}",
        "PATH": "/usr/bin:/bin",
    }
    named = ["unshare", "--uts", "sh", "-c", 'hostname "$1"; shift; exec "$@"', "-", host]
    child = subprocess.Popen(
        [*(named if os.getuid() == 0 else []), *words], env=env, start_new_session=True,
        cwd=Path.home(), stdin=subprocess.DEVNULL, umask=0o077,
    )  # fmt: skip
    here = Path(os.environ["PBS_NODEFILE"]).parents[1]
    number, _, index = os.environ["PBS_JOBID"].split(".")[0].partition("[")
    record = here / "jobs" / number / (index.rstrip("]") or "0") / f"task.{nr}"
    record.write_text(str(child.pid))
    return child
