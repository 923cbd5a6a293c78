"""Whole directories, globs and archives of jobs, in a real Rucio and at a real XRootD."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import pytest

from ailurus.protocol.api import LogQuery
from ailurus.protocol.job import InputFile, JobSpec, OutputFile
from plugins.data.moving import system_module
from tests.real.test_rucio import Experiment, did_of, slowly
from tests.rig import rucio as at
from tests.rig.programs import Rig, null_job
from tests.rig.services import Service
from tests.rig.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(110)]

TREE = {"a.txt": b"one\n", "sub/b.txt": b"two\n" * 9, "sub/deep/c.txt": b""}
MAKE_TREE = """
mkdir -p hits/sub/deep
printf 'one\\n' > hits/a.txt
for nr in 1 2 3 4 5 6 7 8 9; do printf 'two\\n'; done > hits/sub/b.txt
: > hits/sub/deep/c.txt
"""


@pytest.mark.parametrize("rse", ["POSIX", "ROOT"])
def test_a_tree_is_a_closed_data_set_of_rucio_that_the_next_job_reads(rucio, tmp_path, rse):
    mark = tmp_path.name.replace("_", "-")
    dataset = f"user.alice:tree.{mark}"
    tree = {"name": "hits/", "tree": "dataset", "scope": "user.alice", "dataset": dataset}
    with Experiment(rucio, tmp_path, rse) as here:
        job_id = here.submit(command=MAKE_TREE, outputs=[tree])
        job = here.finished(job_id)
        closed = slowly(
            lambda: (found := at.known(rucio, dataset)) and not found["open"] and found,
            "the data set is closed",
        )
        files = until(
            lambda: (
                [f for f in here.client.show(job_id).files if f.registration == "done"][2:]
                and here.client.show(job_id).files
            ),
            40,
            "all files are registered",
        )
        assert job.row.diagnosis == ""
        again = here.submit(
            command="find . -type f -name '*.txt' | sort && cat read/*hits/sub/b.txt | wc -l",
            inputs=[{"name": "read", "url": f"rucio://{dataset}"}],
        )
        here.finished(again)
        said = here.cli("logs", again)
    by_name = {file.name: file for file in files}
    assert set(by_name) == {f"hits/{name}" for name in TREE}
    expected = []
    for name, content in TREE.items():
        file = by_name[f"hits/{name}"]
        assert did_of(file).endswith(f".{job_id}.1.hits/{name}")
        expected.append([did_of(file), len(content), f"{zlib.adler32(content):08x}"])
    assert sorted(closed["files"]) == sorted(expected)
    assert all(rse in closed["replicas"][did] for did, *_ in expected)
    assert [line.rpartition("hits/")[2] for line in said.splitlines()[:3]] == sorted(TREE)
    assert said.split()[-1] == "9"


class Storage:
    """A directory of XRootD's, with some files, and a site whose pilot uses it."""

    def __init__(self, xrootd: Service, name: str, scheme: str, mover: str) -> None:
        facts = xrootd.facts
        self.url = f"{facts[scheme]}/{name}"
        self.path = Path(facts["store"], name)
        (self.path / "in" / "sub").mkdir(parents=True)
        for file in ("x.root", "y.root", "z.txt", "sub/w.root"):
            (self.path / "in" / file).write_text(file)
        for path in (self.path, *self.path.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o644)
        self.site = {
            "allow": [f"{self.url}/"],
            "default_output": f"{self.url}/out/",
            "plugins": {"davs": mover if scheme == "davs" else "http"},
            "xrootd": {"ca_dir": facts["ca_dir"], "ca": facts["ca_file"]},
            "gfal2": {"ca_dir": facts["ca_dir"], "ca": facts["ca_file"]},
        }
        if mover == "http":
            self.site["http_allow"] = [f"{self.url}/"]

    def jobs(self) -> list[JobSpec]:
        """One that lists and leaves trees, one that reads these, one whose input is not there."""
        look = "find all some -type f | sort && mkdir p && echo 1 > p/1.png && echo 2 > p/2.png"
        maker = null_job(
            name="maker",
            command=f"{look}\n{MAKE_TREE}",
            inputs=[
                InputFile(name="all", url=f"{self.url}/in/"),
                InputFile(name="some", url=f"{self.url}/in/*.root"),
            ],
            outputs=[OutputFile(name="hits/", tree="archive"), OutputFile(name="p/*.png")],
        )
        reader = null_job(
            name="reader",
            command="find hits p -type f | sort && cat hits/sub/b.txt | wc -l",
            depends_on=["maker"],
            inputs=[InputFile(name="hits.tar.gz", unpack=True), InputFile(name="p/*.png")],
        )
        none = InputFile(name="none", url=f"{self.url}/in/*.nothing")
        return [maker, reader, null_job(name="empty", inputs=[none], max_attempts=1)]


@pytest.mark.parametrize(
    ("scheme", "mover"), [("root", "xrootd"), ("davs", "http"), ("davs", "gfal2")]
)
def test_trees_go_to_storage_and_come_back_listed_matched_and_unpacked(
    xrootd, tmp_path, scheme, mover
):
    held = Storage(xrootd, tmp_path.name, scheme, mover)
    with Rig(heartbeat_s=0.5, storage=held.site) as rig:
        rig.pilot("--ca", xrootd.facts["ca_file"])
        first, second, third = rig.client.submit(held.jobs()).job_ids
        states = rig.client.wait([first, second, third], 60).states
        told = {one: rig.client.show(one).row.diagnosis for one in states}
        assert states == {first: "finished", second: "finished", third: "failed"}, told
        out = LogQuery(stream="stdout")
        logs = [rig.client.log(one, out).text.split() for one in (first, second)]
        files = {file.name: file for file in rig.client.show(first).files}
    everything = [f"all/{name}" for name in ("sub/w.root", "x.root", "y.root", "z.txt")]
    assert logs[0] == [*everything, "some/x.root", "some/y.root"]
    assert logs[1] == [*(f"hits/{name}" for name in sorted(TREE)), "p/1.png", "p/2.png", "9"]
    assert "names no file" in told[third]
    assert set(files) == {"hits.tar.gz", "p/1.png", "p/2.png"}
    stored = held.path / "out" / f"{first}.1.hits.tar.gz"
    with tarfile.open(stored) as tar:
        found = {one.name: tar.extractfile(one).read() for one in tar if one.isfile()}
    assert found == TREE
    assert (held.path / "out" / f"{first}.1.p" / "1.png").read_bytes() == b"1\n"
    archive, content = files["hits.tar.gz"], stored.read_bytes()
    measured = (archive.size, archive.adler32)
    assert measured == (len(content), f"{zlib.adler32(content):08x}")


def test_objects_are_listed_and_matched_as_files_of_directories(ceph, tmp_path):
    system_module("botocore")
    facts = ceph.facts
    there = f"s3://{facts['bucket']}/{tmp_path.name}"
    keys = tmp_path / "keys"
    keys.touch(0o600)
    keys.write_text(
        f"[default]\naws_access_key_id={facts['access_key']}\n"
        f"aws_secret_access_key={facts['secret_key']}\n"
    )
    site = {
        "allow": [f"{there}/"],
        "default_output": f"{there}/out/",
        "s3": {"endpoint": facts["url"], "keys_file": str(keys)},
    }
    made = "mkdir -p p/more && for n in 1 2 10; do echo $n > p/$n.png; done; echo x > p/more/3.png"
    outputs = [OutputFile(name="p/*.png"), OutputFile(name="p/more/*")]
    with Rig(heartbeat_s=0.5, storage=site) as rig:
        rig.pilot()
        (first,) = rig.client.submit([null_job(name="w", command=made, outputs=outputs)]).job_ids
        assert rig.client.wait([first], 60).states == {first: "finished"}
        at = f"{there}/out/{first}.1.p"
        read = {
            "all": (f"{at}/", ["1.png", "10.png", "2.png", "more/3.png"]),
            "some": (f"{at}/1*.png", ["1.png", "10.png"]),
            "below": (f"{at}/more/*", ["3.png"]),
            "none": (f"{at}/*.root", None),
            "start": (f"{there}/out/{first}.1.*", None),
        }
        ids = rig.client.submit(
            [
                null_job(
                    name=name,
                    command="cd got && find . -type f | sort && cat $(find . -type f) | wc -l",
                    inputs=[InputFile(name="got", url=url)],
                    max_attempts=1,
                )
                for name, (url, _) in read.items()
            ]
        ).job_ids
        rig.client.wait(ids, 60)
        shown = [rig.client.show(one).row for one in ids]
        said = [rig.client.log(one, LogQuery(stream="stdout")).text.split() for one in ids]
    for row, (name, (_, files)), words in zip(shown, read.items(), said, strict=True):
        if files is None:
            assert row.state == "failed", name
            assert "names no file" in row.diagnosis
        else:
            assert row.state == "finished", row.diagnosis
            assert words == [*(f"./{file}" for file in files), str(len(files))]
