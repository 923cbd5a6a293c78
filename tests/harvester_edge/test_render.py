"""B1: values with shell and batch metacharacters reach the pilot as they are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvester_edge import lint
from harvester_edge.batch import batch_class
from harvester_edge.panda.pilots import access
from harvester_edge.render import Launch, script
from harvester_edge.site import PandaPart

HOSTILE = [
    "$(touch /tmp/pwned)",
    "`id`",
    "a b",
    "a'b",
    'a"b',
    "a\nb",
    "a\n#SBATCH --account=root",
    ";reboot",
    "-rf",
    "a\\b",
    "$HOME",
    "*",
    "~",
    "a|b",
    "a&b",
    "é\u202e",
    "#PBS -l",
    "!!",
    "",
]


def ran(tmp_path: Path, value: str) -> tuple[list[str], str]:
    """What a program started by the script is given, when every value is `value`."""
    program = tmp_path / "pilot"
    if not program.exists():
        program.write_text(
            '#!/bin/sh\nprintf "%s\\0" "$@" > "$(dirname "$0")/argv"\n'
            'printf %s "$AILURUS_BOOTSTRAP_FILE" > "$(dirname "$0")/env"\n'
        )
        program.chmod(0o755)
    text = script(
        Launch(
            program=str(program),
            url=value,
            queue=value,
            slot=value,
            site_file=Path("/s" + value),
            work=value,
            directory=Path("/p" + value),
            lifetime_s=60,
            idle_exit_s=5,
        ),
        '"$AILURUS_INDEX"',
    )
    directives = [
        line for line in text.split("\nset -u\n")[0].splitlines()[1:] if line.startswith("#")
    ]
    assert directives == []
    subprocess.run(
        ["sh", "-c", text],
        check=True,
        env={"AILURUS_INDEX": "3", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
    )
    return (tmp_path / "argv").read_bytes().decode().split("\0")[:-1], (
        tmp_path / "env"
    ).read_bytes().decode()


@pytest.mark.parametrize("value", HOSTILE)
def test_b1_a_value_is_one_argument_whatever_is_in_it(tmp_path, value):
    argv, bootstrap = ran(tmp_path, value)
    assert argv[1:14:2] == [value, value, f"/s{value}", value, value, f"{value}/spool", "60"]
    assert bootstrap == f"/p{value}/3/bootstrap"


@settings(max_examples=40)
@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_b1_any_text(tmp_path_factory, value):
    argv, _ = ran(tmp_path_factory.getbasetemp(), value)
    assert argv[1] == value


@pytest.mark.parametrize("value", [one for one in HOSTILE if one])
def test_b1_lint_refuses_such_a_queue_or_slot(tmp_path, value):
    import msgspec

    for field in ("queue", "slot", "site"):
        tree = {
            "schema": 1,
            "site": value if field == "site" else "x",
            "extends": "local",
            "dispatcher": {"url": "http://h", "token_file": "/t"},
            "paths": {"work": "/w", "state": "/s"},
            "slots": {
                value if field == "slot" else "std": {
                    "queue": value if field == "queue" else "q",
                    "cores": 1,
                    "memory": "1G",
                    "disk": "1G",
                    "walltime": "1h",
                }
            },
            "scaling": {"max_total": 1},
        }
        file = tmp_path / "site.yaml"
        file.write_bytes(msgspec.json.encode(tree))
        assert lint.faults(file), field


def test_a_pilot_of_a_panda_server_gets_its_number_and_harvesters_variables(tmp_path):
    part = PandaPart(
        harvester_id="h", pilot_token_file="/t", origin="atlas:pilot", dialect="v1", label="user"
    )
    given = access(part)
    assert given.options == {"--token-file": "/t", "-j": "user", "--dialect": "v1"}
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "bootstrap").write_text("4711")
    program = tmp_path / "pilot"
    program.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\n")
    program.chmod(0o755)
    text = script(
        Launch(
            program=str(program),
            url="u",
            queue="q",
            slot="s",
            site_file=Path("/s"),
            work="/w",
            directory=tmp_path,
            lifetime_s=60,
            idle_exit_s=5,
            access=given,
        ),
        "3",
    )
    subprocess.run(["sh", "-c", text], check=True, env={"PATH": "/usr/bin:/bin"})
    env = (tmp_path / "env").read_text().splitlines()
    assert {
        "HARVESTER_ID=h",
        "PANDA_JSID=harvester-h",
        "PANDA_AUTH_ORIGIN=atlas:pilot",
        "HARVESTER_WORKER_ID=4711",
        f"AILURUS_LEFT_FILE={tmp_path}/3/left",
    } <= set(env)
    assert not any(line.startswith("AILURUS_BOOTSTRAP_FILE") for line in env)


@pytest.mark.parametrize(
    ("kind", "variables", "batch_id"),
    [
        ("htcondor", {"AILURUS_INDEX": "3", "AILURUS_CLUSTER": "17"}, ["AILURUS_BATCH_ID=17.3"]),
        # The pilot knows their own variables.
        ("slurm", {"SLURM_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}, []),
        ("pbs", {"PBS_JOBID": "17.pbs"}, []),
    ],
)
def test_the_script_gives_a_pilot_its_batch_id_where_the_plugin_says_it(
    tmp_path, kind, variables, batch_id
):
    batch = batch_class(kind)
    program = tmp_path / "pilot"
    program.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\n")
    program.chmod(0o755)
    text = script(
        Launch(
            program=str(program),
            url="u",
            queue="q",
            slot="s",
            site_file=Path("/s"),
            work="/w",
            directory=tmp_path,
            lifetime_s=60,
            idle_exit_s=5,
        ),
        batch.index,
        batch.batch_id,
    )
    subprocess.run(["sh", "-c", text], check=True, env={"PATH": "/usr/bin:/bin", **variables})
    env = (tmp_path / "env").read_text().splitlines()
    assert [line for line in env if line.startswith("AILURUS_BATCH_ID=")] == batch_id
