"""A typo in a site file is found, with its line and what would help."""

from __future__ import annotations

from pathlib import Path

import pytest

from harvester_edge import lint

GOOD = """\
schema: 1
site: demo
extends: local
dispatcher: {url: "http://127.0.0.1:8080", token_file: /t}
paths:
  work: /scratch/w
  state: /var/s
slots:
  std:
    queue: demo
    cores: 2
    memory: 4GiB
    disk: 10GiB
    walltime: 1h
scaling:
  max_total: 2
  idle_exit: 60s
storage:
  roots: [/data]
"""


def faults(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    return [str(fault).removeprefix(f"{tmp_path}/") for fault in lint.faults(file)]


def test_a_good_file_has_no_faults(tmp_path):
    assert faults(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_total", "max_totl", "16: scaling.max_totl: no such key; did you mean `max_total`?  [E012]"),
        ("max_total", "max_totl", "15: scaling.max_total: this key is missing; `max_total: 1`, say  [E013]"),
        ("scaling:", "scalling:", "15: scalling: no such key; did you mean `scaling`?  [E012]"),
        ("cores: 2", "cores: two", "11: slots.std.cores: 'two' is not a whole number; `cores: 1`, say  [E010]"),
        ("cores: 2", "cores: 0", "11: slots.std.cores: 0 is too small; at least 1  [E010]"),
        ("memory: 4GiB", "memory: 4 gigs", "12: slots.std.memory: '4 gigs' is not a size: 500M, 4GiB or MB"),
        ("walltime: 1h", "walltime: soon", "14: slots.std.walltime: 'soon' is not a duration: 90s, 15m"),
        ("walltime: 1h", "walltime: 50s", "17: scaling.idle_exit: a worker of slot std ends after 50 s"),
        ("queue: demo", "queue: false", "10: slots.std.queue: false is not a queue's name: letters, digits and _ . : + @ = -; quote it"),
        ("queue: demo", "queue: 'a b'", "10: slots.std.queue: 'a b' is not a queue's name"),
        ("schema: 1", "schema: 2", "1: schema: 2 is not allowed"),
        ("site: demo", "site: Demo Site", "2: site: 'Demo Site' is not a name of lower-case letters"),
        ("extends: local", "extends: locl", "3: extends: there is no profile 'locl'; did you mean `local`?  [E005]"),
        ("extends: local", "extends: local\nbackend: {kind: lokal}", "4: backend.kind: no batch plugin is called 'lokal'; did you mean `local`?  [E020]"),
        ("extends: local", "extends: local\nbackend: {options: {grase_s: 4}}", "4: backend.options.grase_s: local has no such option; did you mean `grace_s`?  [E020]"),
        ("extends: local", "extends: local\nbackend: {options: {grace_s: 0}}", "4: backend.options.grace_s: Expected `int` >= 1  [E020]"),
        ("work: /scratch/w", "work: scratch/w", "6: paths.work: 'scratch/w' is not an absolute path"),
        ("work: /scratch/w", "work: $NO_SUCH_VARIABLE_HERE/w", "6: paths.work: a variable of $NO_SUCH_VARIABLE_HERE/w is not set  [E021]"),
        ("  max_total: 2", "  max_total: 2\n  floor: 3", "17: scaling.floor: 3 is more than max_total, 2  [E022]"),
        ("  max_total: 2", "  max_total: 2\n  max_queued: 0", "17: scaling.max_queued: with 0 no worker can ever start  [E022]"),
        ("cores: 2", "cores: 2\n    nodes: 4", "12: slots.std.nodes: an allocation of local has 1 at most  [E022]"),
        ("cores: 2", "cores: 2\n    nodes: 4", "12: slots.std.nodes: no worker of slot std can ever start: an allocation brings 4 pilots, and max_total is 2  [E022]"),
        ("cores: 2", "cores: 2\n    pilots: head", "12: slots.std.pilots: 'head' is not allowed"),
        ("  max_total: 2", "  max_total: 2\n  max_total: 3", "17: scaling.max_total: this key stands here twice; keep one of them  [E002]"),
        ("http://", "htp:/", "4: dispatcher.url: 'htp:/127.0.0.1:8080' is not a URL"),
        ("schema: 1\n", "", "1: schema: this key is missing; `schema: 1`, say  [E013]"),
        ("    cores: 2\n", "   cores: 2\n", "not YAML"),
        ("roots: [/data]", "roots: &a [*a]", "19: storage.roots[0]: aliases are not allowed; write it out  [E003]"),
        ("roots: [/data]", "roots: !!python/name:os.system x", "19: storage.roots: the tag"),
        ("roots: [/data]", "roots: /data", "19: storage.roots: '/data' is not a list; `roots: […]`, say  [E010]"),
        ("storage:", "policy: {status: of}\nstorage:", "18: policy.status: 'of' is not allowed; known: drain, online, paused"),
        ("max_total: 2", "max_total: .nan", "16: scaling.max_total: .nan is no number to reckon with"),
        ("max_total: 2", "max_total: 2\n  attenuation: .inf", "17: scaling.attenuation: .inf is no number"),
        ("max_total: 2", "max_total: 2\n  attenuation: 1e999", "17: scaling.attenuation: 1e999 is no number"),
        ("max_total: 2", "max_total: 2\n  budget: {node_hours: .NaN}", "17: scaling.budget.node_hours: .NaN is no number"),
        ("max_total: 2", "max_total: 2\n  queued_ratio: {of_running: -.inf}", "17: scaling.queued_ratio.of_running: -.inf is no"),
        ("max_total: 2", "max_total: 2.0", "16: scaling.max_total: 2.0 is not a whole number"),
        ("cores: 2", "cores: 1:30", "11: slots.std.cores: '1:30' is not a whole number"),
        ("roots: [/data]", "roots: " + "[" * 3000 + "]" * 3000, "19: lists and maps stand 50 deep in each other"),
        ("roots: [/data]", "roots: [/data]\n? [a]\n: 1", "20: ?: a list, a map or an alias is no key"),
        ("roots: [/data]", "roots: !!set {a}", "19: storage.roots: the tag tag:yaml.org,2002:set"),
        ("roots: [/data]", "roots: [/da\x07ta]", "19: not YAML: the character U+0007; remove it  [E001]"),
        ("roots: [/data]", "roots: [/da\0ta]", "19: not YAML: the character U+0000; remove it  [E001]"),
        ("storage:", "confirm: [slots.stdd.cores]\nstorage:", "18: confirm: there is no slots.stdd.cores to confirm  [E011]"),
    ],
)  # fmt: skip
def test_a_seeded_fault_is_found_at_its_line(tmp_path, old, new, said):
    found = faults(tmp_path, GOOD.replace(old, new, 1))
    assert any(said in one and one.startswith("site.yaml:") for one in found), found
    if "confirm:" not in new:  # that one is a warning: the site can be used
        with pytest.raises(lint.SiteError):
            lint.load(tmp_path / "site.yaml")


def test_several_faults_come_at_once(tmp_path):
    text = GOOD.replace("cores: 2", "cores: two").replace("idle_exit", "idle_exti")
    assert len(faults(tmp_path, text)) == 2


def test_a_fault_in_a_profile_names_the_profile(tmp_path):
    (tmp_path / "base.yaml").write_text("policy: {start_grace: never}\n")
    (found,) = faults(
        tmp_path, GOOD.replace("extends: local", "extends: base\nbackend: {kind: local}")
    )
    assert found.startswith("base.yaml:1: policy.start_grace")


def test_profiles_that_extend_each_other_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    found = faults(tmp_path, GOOD.replace("extends: local", "extends: a"))
    assert any("extends itself" in one for one in found)


def test_a_missing_file_and_binary_data_are_said(tmp_path):
    with pytest.raises(lint.SiteError, match="cannot be read: No such file"):
        lint.load(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert lint.faults(tmp_path / "x.yaml")[0].rule == "E004"
    (tmp_path / "x.yaml").write_bytes(b"schema: 1\nsite: caf\xe9\n")
    assert "x.yaml:2: is not UTF-8 text; save it as UTF-8" in str(
        lint.faults(tmp_path / "x.yaml")[0]
    )
    assert faults(tmp_path, "")
    assert faults(tmp_path, "- 1\n")
    assert faults(tmp_path, "just text")


def test_values_to_confirm_are_warnings(tmp_path):
    (found,) = faults(tmp_path, GOOD + "confirm: [slots.std.memory]\n")
    assert found.endswith(
        "12: slots.std.memory: somebody at the site must confirm this value  [W001]"
    )
    lint.load(tmp_path / "site.yaml")


def test_sizes_and_times_are_read_as_written(tmp_path):
    (tmp_path / "site.yaml").write_text(GOOD.replace("walltime: 1h", "walltime: 12:00:00"))
    room = lint.load(tmp_path / "site.yaml").slots["std"].room()
    assert (room.memory_mb, room.disk_mb, room.seconds_left) == (4096, 10_240, 12 * 3600 - 60)


@pytest.mark.parametrize(("written", "read"), [("010", 10), ("0o10", 8), ("0x10", 16), ("+3", 3)])
def test_numbers_are_read_as_yaml_1_2_has_them(tmp_path, written, read):
    (tmp_path / "site.yaml").write_text(GOOD.replace("cores: 2", f"cores: {written}"))
    assert lint.load(tmp_path / "site.yaml").slots["std"].cores == read


def test_words_that_yaml_1_1_took_for_something_else_are_texts(tmp_path):
    (tmp_path / "site.yaml").write_text(GOOD.replace("queue: demo", "queue: no"))
    assert lint.load(tmp_path / "site.yaml").slots["std"].queue == "no"
    (found,) = faults(tmp_path, GOOD + "container: {bare: yes}\n")
    assert "'yes' is not true or false; `bare: true`, say" in found
