"""The pilot as a file: unpacked once, run in place, on a machine without Python."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ailurus.protocol import messages as m
from ailurus.protocol.job import CredentialUse
from ailurus.protocol.states import JobState
from plugins.container.bubblewrap import candidates
from scripts.bundle.entry import give_back
from tests.dispatcher.helpers import token
from tests.real.test_head_pilot import Queue
from tests.real.test_relay import Relayed
from tests.rig import proc
from tests.rig.programs import Rig, null_job
from tests.rig.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.real, pytest.mark.timeout(120)]
OLD_DEBIAN = Path(__file__).parents[2] / "scripts/fixtures/old-debian"
PLAIN = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where it is unpacked."""
    tmp_path.chmod(0o755)
    yield tmp_path / "work"
    shutil.rmtree(tmp_path, ignore_errors=True)


def version(program: Path, place: Path, *wrap: object, **more: str) -> tuple[int, str]:
    done = subprocess.run(
        [*map(str, wrap), program, "-a", place, "--version"],
        check=False, capture_output=True, text=True, timeout=60, env={**PLAIN, **more},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def homes(place: Path) -> list[Path]:
    return list(place.glob("ailurus-pilot-*"))


def builds(place: Path) -> list[str]:
    return sorted(one.name for home in homes(place) for one in home.iterdir() if one.is_dir())


def test_it_says_which_systems_it_runs_on(frozen, place):
    code, said = version(frozen, place)
    assert code == 0
    assert "glibc 2." in said
    assert f"build {builds(place)[0]}" in said


def test_it_needs_no_python_and_no_privilege(frozen):
    """A whole job, as an ordinary user, where neither a Python nor its libraries can be seen."""
    hidden = ["/usr/lib/python3", "/usr/lib/python3.11", "/root", "/usr/local", str(Path.home())]
    wrap = [next(candidates()), "--dev-bind", "/", "/"]
    for path in filter(os.path.isdir, dict.fromkeys(hidden)):
        wrap += ["--tmpfs", path]
    for path in (*Path("/usr/bin").glob("python*"), *Path("/usr/lib").rglob("libpython*")):
        if not path.is_symlink():
            wrap += ["--ro-bind", "/dev/null", str(path)]
    with Rig() as rig:
        user = ["--uid", "65534", "--gid", "65534"] if os.getuid() == 0 else []
        if user:
            (rig.directory / "work").chmod(0o777)
            rig.pilot_token.chmod(0o644)
        words = [*wrap, "--unshare-user", *user, frozen, "--url", rig.url, "--queue", "bench"]
        words += ["--token-file", rig.pilot_token, "--site", rig.site_file, "--max-jobs", "1"]
        pilot = rig.start([*words, "-a", rig.directory / "work"], "frozen")
        (job,) = rig.client.submit([null_job(command="! command -v python3; id -u")]).job_ids
        states = rig.client.wait([job], timeout_s=40).states
        assert states == {job: JobState.FINISHED}, pilot.log.read_text()
        assert rig.client.log(job).text.strip() == str(os.getuid() or 65534)
        assert pilot.process.wait(20) == 0


def test_it_runs_on_a_system_with_an_older_glibc(frozen, need):
    """A whole job on Debian 11, in its sandbox, by a dispatcher's name."""
    need("mmdebstrap", option="--old-debian")
    with Rig(container={"default": "bubblewrap"}) as rig:
        program = rig.directory / "pilot"
        shutil.copy(frozen, program)
        url = rig.url.replace("127.0.0.1", "localhost")
        words = [program, "--url", url, "--queue", "bench", "--token-file", rig.pilot_token]
        words += ["--site", rig.site_file, "--max-jobs", "1", "-a", rig.directory / "work"]
        words += ["--spool", rig.directory / "spool"]
        pilot = rig.start([OLD_DEBIAN, "run", rig.directory, *words], "frozen")
        until(
            lambda: Path(f"/proc/{pilot.pid}/comm").read_text(encoding="utf-8") == "pilot\n",
            20,
            "it has its name",
        )
        (job,) = rig.client.submit([null_job(command="ldd --version | head -n 1")]).job_ids
        assert rig.client.wait([job], timeout_s=40).states == {job: JobState.FINISHED}, (
            pilot.log.read_text()
        )
        assert "2.31" in rig.client.log(job).text
        assert pilot.process.wait(20) == 0


@pytest.mark.field("L7")
@pytest.mark.parametrize("locale", ["C", "de_DE.ISO-8859-1"])
def test_a_job_is_run_as_it_was_written_in_any_locale(frozen, tmp_path, need, locale):
    where = ["-f", "ISO-8859-1", "-i", "de_DE", tmp_path / "de_DE.iso88591"]
    subprocess.run([need("localedef"), *where], check=False, capture_output=True)
    if not where[-1].exists():
        pytest.skip("there are no sources of locales on this system")
    with Rig() as rig:
        words = [frozen, "--url", rig.url, "--queue", "bench", "--token-file", rig.pilot_token]
        words += ["--site", rig.site_file, "--max-jobs", "1", "-a", rig.directory / "work"]
        latin = {
            "LOCPATH": str(tmp_path),
            "LC_ALL": locale,
            "PYTHONUTF8": "",
            "PYTHONIOENCODING": "",
        }
        pilot = rig.start(words, "frozen", **latin)
        script = "#!/bin/sh\nprintf 'é%s' \"$WORD\" | od -An -tx1\n"
        job = null_job(command="", script=script, environment={"WORD": "é"})
        (job_id,) = rig.client.submit([job]).job_ids
        states = rig.client.wait([job_id], timeout_s=40).states
        assert states == {job_id: JobState.FINISHED}, pilot.log.read_text()
        assert rig.client.log(job_id).text.split() == ["c3", "a9"] * 2
        assert pilot.process.wait(20) == 0


def test_it_finds_a_nodes_authorities_where_its_own_python_would_not(frozen):
    """It was built where they are kept elsewhere, and no variable tells."""
    with Rig(tls=True) as rig:
        assert rig.trust is not None
        wrap = [next(candidates()), "--dev-bind", "/", "/", "--tmpfs", "/usr/lib/ssl"]
        wrap += ["--tmpfs", "/etc/ssl", "--ro-bind", rig.trust.ca, "/etc/ssl/ca-bundle.pem"]
        wrap += [
            "--unsetenv",
            "SSL_CERT_FILE",
            "--unsetenv",
            "SSL_CERT_DIR",
            "--unsetenv",
            "AILURUS_CA",
        ]
        words = [*wrap, frozen, "--url", rig.url, "--queue", "bench", "--max-jobs", "1"]
        words += ["--token-file", rig.pilot_token, "--site", rig.site_file, "--patience", "5"]
        pilot = rig.start([*words, "-a", rig.directory / "work"], "frozen")
        (job,) = rig.client.submit([null_job()]).job_ids
        states = rig.client.wait([job], timeout_s=40).states
        assert states == {job: JobState.FINISHED}, pilot.log.read_text()


def test_pilots_that_start_together_unpack_it_once(frozen, place):
    begun = [
        subprocess.Popen([frozen, "-a", place, "--version"], env=PLAIN, stdout=subprocess.DEVNULL)
        for _ in range(8)
    ]
    assert [one.wait(60) for one in begun] == [0] * 8
    assert len(builds(place)) == 1


def test_where_there_are_no_locks_they_start_together_too(frozen, place, tmp_path):
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "flock").write_text("#!/bin/sh\nexit 1\n")
    (broken / "flock").chmod(0o755)
    begun = [
        subprocess.Popen(
            [frozen, "-a", place, "--version"], env={"PATH": f"{broken}:/usr/bin:/bin"},
            stdout=subprocess.DEVNULL,
        )
        for _ in range(4)
    ]  # fmt: skip
    assert [one.wait(60) for one in begun] == [0] * 4
    assert len(builds(place)) == 1


def test_a_kill_while_it_unpacks_leaves_nothing_that_grows(frozen, place):
    for wait in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        one = subprocess.Popen(
            [frozen, "-a", place, "--version"], env=PLAIN, start_new_session=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(wait)
        os.killpg(one.pid, signal.SIGKILL)
        one.wait()
        assert len(builds(place)) <= 1
    assert version(frozen, place)[0] == 0
    assert len(builds(place)) == 1


def test_a_killed_pilot_leaves_no_process_and_the_next_one_clears_up(frozen):
    with Rig(container={"default": "bubblewrap", "bare": False}) as rig:
        pilot = rig.pilot(program=frozen)
        rig.warm()
        family = {*proc.marked(rig.mark)} - {rig.dispatcher.pid}
        assert len(family) == 2  # the pilot and its guardian: no shell, no loader above them
        (job,) = rig.client.submit([null_job(command="sleep 100")]).job_ids
        until(lambda: rig.client.show(job).row.state is JobState.RUNNING, 20, "it runs")
        pilot.kill()
        until(lambda: not {*proc.marked(rig.mark)} - {rig.dispatcher.pid}, 10, "all gone")
        second = rig.pilot("--max-jobs", "1", program=frozen)
        assert rig.client.wait([job], timeout_s=1).states
        until(lambda: rig.client.show(job).row.attempt_nr == 2, 20, "its end is reported")
        second.signal(signal.SIGTERM)
        second.process.wait(30)
        left = {one.name.rpartition("-")[0] for one in (rig.directory / "work").iterdir()}
        assert left == {"ailurus-pilot", "ailurus-spool"}


def test_a_signal_to_the_started_process_reaches_the_pilot(frozen):
    with Rig() as rig:
        pilot = rig.pilot(program=frozen)
        rig.warm()
        pilot.signal(signal.SIGTERM)
        assert pilot.process.wait(20) == 128 + signal.SIGTERM


def test_a_damaged_file_is_refused(frozen, place, tmp_path):
    whole = frozen.read_bytes()
    for name, text in (("cut", whole[:-1000]), ("bent", whole[:-1000] + bytes(1000))):
        broken = tmp_path / name
        broken.write_bytes(text)
        broken.chmod(0o755)
        code, said = version(broken, place)
        assert (code, builds(place)) == (65, [])
        assert "damaged" in said


def test_a_place_of_somebody_else_is_refused(frozen, tmp_path):
    trap = tmp_path / f"ailurus-pilot-{os.getuid()}"
    trap.symlink_to("/etc")
    code, said = version(frozen, tmp_path)
    assert code == 65
    assert "link" in said
    trap.unlink()
    if os.getuid() == 0:
        trap.mkdir()
        os.chown(trap, 65534, 65534)
        assert version(frozen, tmp_path)[0] == 65


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize(
    ("options", "says"),
    [("noexec", "noexec"), ("size=3m", "cannot unpack"), ("ro", "cannot be made")],
)
def test_a_place_that_will_not_do_is_said(frozen, place, options, says):
    place.mkdir()
    wrap = [
        "unshare",
        "-m",
        "sh",
        "-c",
        f'mount -t tmpfs -o {options} none {place} && exec "$@"',
        "-",
    ]
    code, said = version(frozen, place, *wrap)
    assert code == 65
    assert says in said
    assert "AILURUS_PILOT_DIR" in said
    elsewhere = place.parent / "elsewhere"
    assert version(frozen, place, *wrap, AILURUS_PILOT_DIR=str(elsewhere))[0] == 0


def test_old_builds_go_when_nobody_runs_them(frozen, place):
    version(frozen, place)
    (home,) = homes(place)
    (build,) = builds(place)
    week = time.time() - 8 * 86400
    for name in ("000000000000", "111111111111", "222222222222"):
        (home / name).mkdir()
        (home / name / "used").touch()
        if name != "111111111111":
            os.utime(home / name / "used", (week, week))
    shutil.rmtree(home / build)
    with (home / "222222222222/used").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as a pilot does
        assert version(frozen, place)[0] == 0
    assert builds(place) == sorted(["111111111111", "222222222222", build])


def test_what_is_unpacked_is_for_its_user_only(frozen, place):
    version(frozen, place)
    assert stat.S_IMODE(homes(place)[0].stat().st_mode) == 0o700


def test_host_tools_get_their_callers_libraries():
    ours = {
        "LD_LIBRARY_PATH": "/bundle:/caller",
        "LD_LIBRARY_PATH_ORIG": "/caller",
        "_PYI_X": "1",
        "A": "1",
    }
    give_back(ours)
    assert ours == {"LD_LIBRARY_PATH": "/caller", "A": "1"}
    none = {"LD_LIBRARY_PATH": "/bundle"}
    give_back(none)
    assert none == {}


def test_an_edge_runs_two_hundred_jobs_through_files_it_hands_out(frozen):
    """And to nobody when there is nothing to do."""
    scaling = {"max_total": 3, "max_queued": 3, "per_cycle": 3, "idle_exit": "3s"}
    with Rig(pilot={"file": str(frozen)}, scaling=scaling) as rig:
        rig.start_edge()
        ids = rig.client.submit([null_job(nr, command="sleep 0.05") for nr in range(200)]).job_ids
        states = rig.client.wait(ids, timeout_s=60).states
        assert set(states.values()) == {JobState.FINISHED}
        assert len({rig.client.show(one).attempts[0].worker_id for one in ids}) > 1
        (copy,) = (rig.directory / "state/pilots").glob("*/pilot")
        assert copy.read_bytes() == frozen.read_bytes()
        until(lambda: not rig.pilots(), 30, "they leave")


def test_it_opens_credentials_that_a_relay_passes_on_sealed(frozen):
    """By a library in C, which is in the file."""
    with Relayed(pilot={"file": str(frozen)}) as rig:
        rig.relay()
        rig.start_edge()
        secret = token(time.time() + 3600)
        ask = m.NewCredential(name="t", secret=secret)
        rig.client.call("keep_credential", ask, answer=m.CredentialRow)
        uses = (CredentialUse(name="t", payload=True),)
        job = null_job(command="sha256sum < $BEARER_TOKEN_FILE", credentials=uses)
        (job_id,) = rig.client.submit([job]).job_ids
        states = rig.client.wait([job_id], timeout_s=40).states
        assert states == {job_id: JobState.FINISHED}
        until(lambda: rig.client.log(job_id).text, 10, "the relay passes logs on")
        digest = hashlib.sha256(secret.encode()).hexdigest()
        assert rig.client.log(job_id).text.split()[0] == digest


def test_one_file_is_the_pilot_of_three_nodes_and_the_agents_of_the_others(
    frozen, nodes, slurm_nodes
):
    """What it has unpacked where all see it serves all of them; nothing else is left."""
    program = nodes.directory / "pilot"
    shutil.copy(frozen, program)
    queue = Queue(nodes, slurm_nodes)
    try:
        jobs = queue.submit(24, "sleep 0.2")
        reach = 'for node in $(cat "$AILURUS_NODES"); do pilot-rsh "$node" true || exit; done'
        wide = queue.submit(1, reach, nodes=3, launcher="script")
        queue.start(program)
        states = queue.final(jobs + wide)
        assert set(states.values()) == {JobState.FINISHED}
        ran = queue.where()
        assert all(len(hosts) == 1 for hosts in ran.values())
        assert {host for hosts in ran.values() for host in hosts} == {"n1", "n2", "n3"}
        with nodes.network():
            queue.slurm.run("scancel", "--user=root")
        for name in nodes.names:
            until(lambda name=name: not queue.left(name), 10, f"all is gone on {name}")
            assert queue.scratch(name) == ""
        work = queue.directory / "work"
        assert not list(work.glob("ailurus-[0-9a-f]*"))
        assert len(builds(work)) == 1
    finally:
        queue.dispatcher.kill()
