"""A typo in a site file is found, with its line and what would help."""

from __future__ import annotations

from pathlib import Path

import pytest

from harvester_edge import lint
from harvester_edge.site import json_schema

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
    file, token = tmp_path / "site.yaml", tmp_path / "token"
    if not token.exists():
        token.write_text("t")
        token.chmod(0o600)
    file.write_text(text.replace("token_file: /t}", f"token_file: {token}}}"))
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
        ("extends: local", "extends: local\nbackend: {options: {grace_s: 0}}", "4: backend.options.grace_s: 0 is out of range; at least 1  [E020]"),
        ("work: /scratch/w", "work: scratch/w", "6: paths.work: 'scratch/w' is not an absolute path"),
        ("work: /scratch/w", "work: $NO_SUCH_VARIABLE_HERE/w", "6: paths.work: a variable of $NO_SUCH_VARIABLE_HERE/w is not set; write it out  [E021]"),
        ("  max_total: 2", "  max_total: 2\n  floor: 3", "17: scaling.floor: 3 is more than max_total, 2; at most 2  [E022]"),
        ("  max_total: 2", "  max_total: 2\n  max_queued: 0", "17: scaling.max_queued: with 0 no worker can ever start; `max_queued: 4`, or `policy"),
        ("cores: 2", "cores: 2\n    nodes: 4", "12: slots.std.nodes: an allocation of local has 1 at most; `nodes: 1`  [E022]"),
        ("cores: 2", "cores: 2\n    nodes: 4", "12: slots.std.nodes: no worker of slot std can ever start: an allocation brings 4 pilots, and max_total is 2; `max_total: 4` or fewer nodes  [E022]"),
        ("cores: 2", "cores: 2\n    pilots: head", "12: slots.std.pilots: local cannot give one pilot several nodes; `pilots: per_node`, which has a pilot on each  [E024]"),
        ("cores: 2", "cores: 2\n    pilots: heads", "12: slots.std.pilots: 'heads' is not allowed"),
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
        ("memory: 4GiB", "memory: 0GiB", "12: slots.std.memory: no pilot fits into 0 MB; `memory: 4GiB`, say  [E022]"),
        ("memory: 4GiB", "memory: 10B", "12: slots.std.memory: no pilot fits into 1 MB"),
        ("disk: 10GiB", "disk: 0G", "13: slots.std.disk: no job fits onto a disk of 0 MB"),
        ("storage:", "limits: {output: 0B}\nstorage:", "18: limits.output: with 0 no job can ever end well"),
        ("extends: local", "extends: local\nbackend: {limits: {command_timeout: 0s}}", "4: backend.limits.command_timeout: no command ends in no time; `command_timeout: 60s`  [E023]"),
        ("extends: local", "extends: local\nbackend: {limits: {poll: 0}}", "4: backend.limits.poll: the edge would look without a pause"),
        ("storage:", "policy: {start_grace: 0s}\nstorage:", "18: policy.start_grace: no pilot registers in no time"),
        ("storage:", "policy: {max_queue_age: 0s}\nstorage:", "18: policy.max_queue_age: no worker could wait to start"),
        ("storage:", "limits: {looping: 0s}\nstorage:", "18: limits.looping: each job would count"),
        ("walltime: 1h", "walltime: 99999999999999999999999999h", "14: slots.std.walltime: '999"),
        ("http://127.0.0.1:8080", "ftp://127.0.0.1", "4: dispatcher.url: ftp://127.0.0.1 is no address: ftp is not spoken; https://HOST:8443  [E010]"),
        ("http://127.0.0.1:8080", "https:///path", "4: dispatcher.url: https:///path is no address of a server alone"),
        ("http://127.0.0.1:8080", "https://h:99999", "4: dispatcher.url: https://h:99999 is no address: Port out of range"),
        ("http://127.0.0.1:8080", "https://u:secret@h:99999", "4: dispatcher.url: https://h:99999 is no address: Port out of range"),
        ("http://127.0.0.1:8080", "https://h:https", "4: dispatcher.url: https://h:https is no address: Port could not"),
        ("http://127.0.0.1:8080", "https://h:0", "4: dispatcher.url: https://h:0 is no address"),
        ("http://127.0.0.1:8080", "https://u@h", "4: dispatcher.url: https://h is no address of a server alone; https://HOST:8443, without user, query and fragment"),
        ("http://127.0.0.1:8080", "https://h/?a=b", "4: dispatcher.url: https://h/?… is no address of a server alone"),
        ("http://127.0.0.1:8080", "https://u:secret@h", "4: dispatcher.url: the password of u stands in it; leave it out, and make it another"),
        ("storage:", "relay: {token_file: /t, listen: '127.0.0.1:99999'}\nstorage:", "18: relay.listen: 127.0.0.1:99999 is no address of a machine; 0.0.0.0:8443  [E010]"),
        ("storage:", "relay: {token_file: /t, listen: '999.0.0.1:443'}\nstorage:", "18: relay.listen: 999.0.0.1:443 is no address"),
        ("storage:", "container: {default: docker}\nstorage:", "18: container.default: there is no container plugin 'docker'; known: apptainer, auto, bare, bubblewrap"),
        ("storage:", "container: {default: bare}\nstorage:", "18: container.default: no pilot would start: `bare: false` forbids"),
        ("storage:", "storage:\n  default_output: ftp://bucket/", "19: storage.default_output: there is no data plugin for ftp://; known: dav, davs, file, gsiftp"),
        ("storage:", "storage:\n  default_output: file:///data/../etc", "19: storage.default_output: file:///data/../etc is beneath none of storage.roots"),
        ("state: /var/s", "state: /scratch/x/../w/s", "6: paths.work: paths.state, /scratch/x/../w/s, is beneath it"),
        ("work: /scratch/w", "work: //var/x/..", "6: paths.work: paths.state, /var/s, is beneath it"),
        ("work: /scratch/w", "work: ", "6: paths.work: nothing is not an absolute path; $VARIABLE and ~ are expanded; `work: /var/lib/ailurus`, say"),
        ("std:", "Std_1:", "9: slots.Std_1: 'Std_1' is not a name of lower-case letters, digits and -; `here`, say  [E010]"),
        ("token_file: /t}", "token_file: /t, pin: 'AA:BB'}", "4: dispatcher.pin: 'AA:BB' is not a SHA-256: 64 digits 0-9 a-f"),
        ("storage:", "container: {default: Docker!}\nstorage:", "18: container.default: 'Docker!' is not a plugin's name: lower-case letters"),
        ("storage:", "storage:\n  http_allow: ['https://u:p@[x/?t=T']", "19: storage.http_allow[0]: 'https://[x/?…' is not a URL; write scheme://host/path; other characters as %XX  [E010]"),
        ("storage:", "storage:\n  http_proxy: http://h:99999", "19: storage.http_proxy: 'http://h:99999' is not a URL; write"),
        ("storage:", "storage:\n  default_output: data", "19: storage.default_output: 'data' is not a URL such as https://host/directory/, an absolute path, or empty"),
        ("storage:", "storage:\n  default_output: /my outputs", "19: storage.default_output: file:///my%20outputs is beneath none of storage.roots"),
        ("token_file: /t}", "token_file: /t, panda: {harvester_id: 'a b', pilot_token_file: /p}}", "4: dispatcher.panda.harvester_id: 'a b' is not a name of at most 50 letters"),
        ("token_file: /t}", "token_file: /t, panda: {harvester_id: a, pilot_token_file: /p, dialect: v2}}", "4: dispatcher.panda.dialect: 'v2' is not legacy or v1; `dialect: legacy`, say  [E010]"),
        ("token_file: /t}", "token_file: /t, panda: 5}", "4: dispatcher.panda: 5 is not a map of keys; `panda: {harvester_id: …, pilot_token_file: …}`, say"),
        ("roots: [/data]", 'roots: ["/\\ud800"]', "19: storage.roots[0]: '/?' has half a character"),
        ("roots: [/data]", 'roots: [/data]\n"\\ud800": 1', "'?' has half a character"),
        ("storage:", "confirm: [slots.stdd.cores]\nstorage:", "18: confirm: there is no slots.stdd.cores to confirm; did you mean `slots.std.cores`?  [E011]"),
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
        "12: slots.std.memory: somebody at the site must confirm this value; then take it out of `confirm`  [W001]"
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


def test_a_map_where_an_option_belongs_is_one_fault(tmp_path):
    text = GOOD.replace("extends: local", "extends: local\nbackend: {options: {grace_s: {a: 1}}}")
    (found,) = faults(tmp_path, text)
    assert "4: backend.options.grace_s: {'a': 1} is not a text or a whole number or" in found


SLURM = (
    GOOD.replace("extends: local", "extends: slurm-shared\ncontacts: [me@here.example]")
    .replace("state: /var/s", "state: /var/s\n  shared: /nfs/s")
    .replace("http://127.0.0.1:8080", "https://dispatcher.example")
)
FOUR = SLURM.replace("    cores: 2", "    cores: 2\n    nodes: 4").replace(
    "max_total: 2", "max_total: 40"
)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("partition: 'a b'", "backend.options.partition: ' ' may not stand here; leave it out  [E020]"),
        ("exclusive: 5", "backend.options.exclusive: this is a whole number; true or false belongs here  [E020]"),
        ("submit: -x", "backend.options.submit: this is a text; a list belongs here  [E020]"),
        ("signal_before: 99999999999999999999", "signal_before: 99999999999999999999 is out of range"),
        ("signal_before: -1", "backend.options.signal_before: -1 is out of range; at least 0  [E020]"),
    ],
)  # fmt: skip
def test_an_option_of_the_wrong_form_is_said_in_words(tmp_path, option, said):
    text = SLURM.replace("slurm-shared", f"slurm-shared\nbackend: {{options: {{{option}}}}}")
    (found,) = faults(tmp_path, text)
    assert said in found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_total: 40", "max_total: 40\n  max_cores: 7", "max_cores: no worker of slot std can ever start: 4 nodes of it have 8 cores; at least 8  [E022]"),
        ("max_total: 40", "max_total: 40\n  max_memory: 15GiB", "max_memory: no worker of slot std can ever start: 4 nodes of it have 16384 MB; at least 16384M  [E022]"),
        ("max_total: 40", "max_total: 40\n  budget: {node_hours: 3}", "node_hours: no worker of slot std can ever start: it may take 4 node-hours of 3; a larger budget, a shorter walltime, or fewer nodes  [E022]"),
        ("nodes: 4", "nodes: 4\n    max_total: 3", "slots.std.max_total: no worker of slot std can ever start: an allocation brings 4 pilots, and 3 may exist; `max_total: 4`  [E022]"),
        ("max_total: 40", "max_total: 40\n  queued_ratio: {of_running: 9, floor: 2}", "queued_ratio.floor: no worker of slot std can ever start: an allocation brings 4 pilots, and queued_ratio lets 2 wait; `queued_ratio: {of_running: 9, floor: 4}`  [E022]"),
    ],
)  # fmt: skip
def test_a_limit_without_room_for_a_whole_allocation_is_a_fault(tmp_path, old, new, said):
    assert faults(tmp_path, FOUR) == []
    found = faults(tmp_path, FOUR.replace(old, new))
    assert any(said in one for one in found), found


@pytest.mark.parametrize(
    ("agents", "said"),
    [
        ("{beat: 10s}", "pilot.agents.beat: a lease of 4 s is over before a second beat of 10 s is answered"),
        ("{beat: 2s, lease: 3s}", "pilot.agents.lease: a lease of 3 s is over"),
        ("{beat: 0s}", "pilot.agents.beat: an agent cannot beat without a pause"),
    ],
)  # fmt: skip
def test_a_lease_that_no_agent_can_keep_is_a_fault(tmp_path, agents, said):
    (found,) = faults(tmp_path, f"{FOUR.rstrip()}\npilot: {{agents: {agents}}}\n")
    assert said in found
    assert faults(tmp_path, f"{FOUR.rstrip()}\npilot: {{agents: {{beat: 5s, lease: 1m}}}}\n") == []


def test_a_profile_is_not_blamed_for_the_nodes_of_a_site(tmp_path):
    """Whole nodes' `queued_ratio` has the floor 2."""
    (found,) = faults(tmp_path, FOUR.replace("slurm-shared", "slurm-wholenode"))
    assert "site.yaml:14: slots.std.nodes: no worker of slot std can ever start" in found
    other = "  one: {queue: demo, cores: 1, memory: 4GiB, disk: 1GiB, walltime: 1h}\nscaling:"
    (found,) = faults(
        tmp_path, FOUR.replace("slurm-shared", "slurm-wholenode").replace("scaling:", other)
    )
    assert "may wait only beside 10 active ones of other slots" in found
    assert found.endswith("[W011]")


def test_a_walltime_shorter_than_its_profiles_times_is_blamed_itself(tmp_path):
    text = SLURM.replace("walltime: 1h", "walltime: 60s").replace("  idle_exit: 60s\n", "")
    (found,) = faults(tmp_path, text)
    assert "site.yaml:16: slots.std.walltime: a worker of slot std ends after 60 s" in found
    assert "is not waited for 600 s (policy.start_grace)" in found
    assert "; more than 600s, or a shorter idle_exit and start_grace and signal_before" in found
    assert faults(tmp_path, text.replace("walltime: 60s", "walltime: 601s")) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  shared: /nfs/s\n", "", "paths.shared: the spool would be in /var/s, which is to be on a local disk; `shared:` a directory"),
        ("shared: /nfs/s", "shared: /tmp/s", "paths.shared: /tmp/s on a node is the node's own"),
        ("shared: /nfs/s", "shared: /dev/shm/../shm/s", "on a node is the node's own"),
    ],
)  # fmt: skip
def test_a_spool_that_nodes_do_not_see_is_a_warning(tmp_path, old, new, said):
    (tmp_path / "relay").write_text("r")
    (tmp_path / "relay").chmod(0o600)
    text = f"{SLURM}network: spool\nrelay: {{token_file: {tmp_path}/relay}}\n"
    assert faults(tmp_path, text) == []
    (found,) = faults(tmp_path, text.replace(old, new))
    assert said in found
    assert found.endswith("[W012]")
    lint.load(tmp_path / "site.yaml")


def test_a_file_that_is_missing_or_everybodys_is_a_warning(tmp_path):
    """Lint may run on another machine than the edge, which refuses to start with such a file."""

    token = tmp_path / "token"
    text = GOOD.replace("/t}", f"{token}, ca: {tmp_path}/ca}}")
    text += f"pilot: {{file: {tmp_path}/pilot}}\n"

    def said() -> str:
        return "\n".join(faults(tmp_path, text))

    assert f"dispatcher.ca: cannot find {tmp_path}/ca on this machine: No such file" in said()
    assert f"pilot.file: cannot find {tmp_path}/pilot on this machine" in said()
    (tmp_path / "ca").mkdir()
    (tmp_path / "pilot").write_text("")
    assert f"dispatcher.ca: {tmp_path}/ca is no file; name a file in PEM  [W010]" in said()
    assert f"{tmp_path}/pilot is empty; `scripts/build-pilot` makes it" in said()
    token.chmod(0o644)
    assert f"others can use {token}; chmod 600 {token}  [W010]" in said()
    token.rename(tmp_path / "real")
    token.symlink_to(tmp_path / "real")
    assert f"{token} is a symbolic link" in said()
    lint.load(tmp_path / "site.yaml")


def test_a_file_that_somebody_has_still_to_confirm_is_not_looked_for(tmp_path):
    file = tmp_path / "site.yaml"
    file.write_text(GOOD + "confirm: [dispatcher.token_file]\n")
    assert [one.rule for one in lint.faults(file)] == ["W001"]
    file.write_text(GOOD)
    assert [one.rule for one in lint.faults(file)] == ["W010"]


def test_a_plugin_that_another_installation_of_the_pilot_may_have_is_a_warning(tmp_path):
    text = GOOD + "container: {default: docker}\npilot: {program: /bin/true}\n"
    (found,) = faults(tmp_path, text)
    assert "container.default: there is no container plugin 'docker'" in found
    assert found.endswith("[W009]")
    lint.load(tmp_path / "site.yaml")


def test_each_form_that_the_schema_asks_for_is_said_in_words():
    def forms(schema):
        if isinstance(schema, dict):
            if "pattern" in schema:
                yield schema
            for one in schema.values():
                yield from forms(one)
        elif isinstance(schema, list):
            for one in schema:
                yield from forms(one)

    assert [one for one in forms(json_schema()) if not one.get("description")] == []


def test_a_relay_with_the_edges_token_is_a_warning(tmp_path):
    text = SLURM.replace("/t}", f"{tmp_path}/token}}")
    text += f"network: spool\nrelay: {{token_file: {tmp_path}/token}}\n"
    (found,) = faults(tmp_path, text)
    assert "relay.token_file: it is the edge's own" in found
    assert found.endswith("[W008]")
