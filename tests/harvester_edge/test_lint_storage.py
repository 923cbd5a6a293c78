"""Faults in what a site says of its storage are named with file, field and remedy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harvester_edge import lint
from tests.harvester_edge.test_site import GOOD, faults


def said(tmp_path: Path, storage: str, more: str = "") -> list[str]:
    """The faults of a site with that storage; credentials' files that are not here do not
    matter."""
    text = GOOD.replace(
        "  roots: [/data]\n", "".join(f"  {line}\n" for line in storage.split("\n"))
    )
    return [one for one in faults(tmp_path, text + more) if not one.endswith("[W010]")]


ALL = """\
rse: X
protocols: {read_lan: [root, davs], write_wan: [srm, s3]}
rucio: {config: /etc/rucio.cfg, account: pilot, timeout_s: 30, traces: false}
xrootd: {proxy: credential:grid, token_file: /x/t, ca_dir: /c, ca: /c/f, parallel: 2, stall: 60s}
gfal2: {proxy: /x/p, token_file: wlcg-discovery, stall: 90}
s3: {endpoint: "https://s3.example", region: eu, keys_file: /x/k, ca: /c/f, parallel: 8, stall: 1m}
http: {token_file: ~/t, token_for: ["https://door.example/"]}"""
CREDENTIALS = "credentials: {grid: /x/proxy}\n"


def test_all_options_of_all_plugins_are_known(tmp_path):
    assert said(tmp_path, ALL, CREDENTIALS) == []


def test_a_plugin_that_does_not_exist_is_told_once(tmp_path):
    storage = """\
http_allow: ['https://h/x/']
default_output: davs://h/x/
plugins: {davs: gfal}
protocols: {read_lan: [davs], write_lan: [davs]}"""
    [fault] = said(tmp_path, storage)
    assert "storage.plugins.davs: there is no data plugin 'gfal'; did you mean `gfal2`?" in fault


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("account:", "acount:", "storage.rucio.acount: rucio has no such option; did you mean `account`?  [E020]"),
        ("timeout_s: 30", "timeout_s: soon", "storage.rucio.timeout_s: this is a text; a number belongs here  [E020]"),
        ("timeout_s: 30", "timeout_s: 0", "storage.rucio.timeout_s: 0 is out of range; more than 0"),
        ("config: /etc/rucio.cfg, ", "", "storage.rucio.config: where Rucio is, and who the pilot is there, is not said"),
        ("proxy: credential:grid", "proxy: credential:gird", "storage.xrootd.proxy: the site has no credential 'gird'; did you mean `grid`?"),
        ("proxy: credential:grid", "x509: /p", "storage.xrootd.x509: xrootd has no such option; known: token_file, proxy, ca_dir"),
        ("proxy: credential:grid", "proxy: p", "storage.xrootd.proxy: this is no absolute path; name the file, from / on  [E021]"),
        ("token_file: ~/t", 'token_file: "/x/t\\0"', "storage.http.token_file: it has a character that no path and no URL has"),
        ("token_file: ~/t", "token_file: wlcg", "storage.http.token_file: this is no absolute path; name the file, from / on, or `wlcg-discovery`"),
        ("keys_file: /x/k", "keys_file: wlcg-discovery", "storage.s3.keys_file: this is no absolute path; name the file, from / on  [E021]"),
        ("https://s3.example", "s3.example", "storage.s3.endpoint: "),
        ("https://s3.example", "ftp://s3.example", "storage.s3.endpoint: ftp://s3.example is not the address of a server alone"),
        ("https://s3.example", "https://s3.example/bucket", "storage.s3.endpoint: https://s3.example/bucket is not the address of a server alone"),
        ("rse: X", 'rse: "X Y/../Z"', "storage.rse: 'X Y/../Z' is no name of an RSE; letters, digits, _ and -  [E020]"),
        ("parallel: 2", "parallel: two", "storage.xrootd.parallel: this is a text; a whole number belongs here"),
        ("parallel: 2", "parallel: 0", "storage.xrootd.parallel: 0 is out of range; at least 1"),
        ("parallel: 8", "parallel: 1000", "storage.s3.parallel: 1000 is out of range; at most 64"),
        ("stall: 90", "stall: -1", "storage.gfal2.stall: -1 is out of range; at least 1"),
        ("stall: 60s", "stall: soon", "storage.xrootd.stall: "),
        ("stall: 90", "stall: true", "storage.gfal2.stall: this is true or false; a whole number or a number or a text"),
        ("keys_file", "keys", "storage.s3.keys: s3 has no such option; did you mean `keys_file`?"),
        ('["https://door.example/"]', "x", "storage.http.token_for: this is a text; a list belongs here"),
        ("token_file: ~/t", "token: abc", "storage.http.token: http has no such option; did you mean `token_f"),
        ("http:", "options: {nothing: {a: 1}}\nhttp:", "storage.options.nothing: there is no data plugin 'nothing'"),
        ("[srm, s3]", "[srm, gopher]", "storage.protocols.write_wan[1]: there is no data plugin for gopher://"),
    ],
)  # fmt: skip
def test_a_seeded_fault_is_named_with_its_field_and_remedy(tmp_path, old, new, fault):
    assert old in ALL
    found = said(tmp_path, ALL.replace(old, new, 1), CREDENTIALS)
    assert any(fault in one for one in found), found
    with pytest.raises(lint.SiteError):
        lint.load(tmp_path / "site.yaml")


@pytest.mark.parametrize(
    ("place", "more"),
    [
        ("http: {token_file: eyJSECRET}", ""),
        ("s3: {keys_file: SECRET}", ""),
        ("direct_read: true", "credentials: {grid: SECRET}\n"),
        ("direct_read: true", "credentials: {grid: 'https://user:SECRET@host/'}\n"),
        ("http_allow: 'https://user:SECRET@host/'", ""),
    ],
)
def test_what_stands_in_place_of_a_path_is_not_shown(tmp_path, place, more):
    found = said(tmp_path, place, more)
    assert found
    assert not any("SECRET" in one for one in found)


def test_the_storage_of_the_documentation_is_good(tmp_path):
    page = (Path(__file__).parents[2] / "docs/storage.md").read_text("utf-8")
    example = page.split("```yaml\n", 1)[1].split("```", 1)[0]
    text = GOOD.replace("storage:\n  roots: [/data]\n", example)
    assert "EXAMPLE_DATADISK" in text
    assert [one for one in faults(tmp_path, text) if not one.endswith("[W010]")] == []


@pytest.mark.parametrize(
    ("storage", "fault"),
    [
        ('allow: ["root://h//s/"]\ndefault_output: root://h//s/out/', ""),
        ('allow: ["root://h//s/"]\ndefault_output: root://h//other/', "is not allowed by storage.allow"),
        ('allow: ["root://u@h//s/"]', "storage.allow[0]: root://h//s/ has a user"),
        ('http_allow: ["https://h/a/%2e%2e/"]', "storage.http_allow[0]: "),
        ('http_allow: ["https://h/"]\ndefault_output: davs://h/out/', ""),
        ('allow: ["davs://h/"]\ndefault_output: davs://h/out/', "is not allowed by storage.http_allow"),
        ('allow: ["davs://h/"]\nplugins: {davs: gfal2}\ndefault_output: davs://h/out/', ""),
        ("default_output: rucio://user.ann:x", "is an identifier, and no directory"),
        ("alternative_output: https://h/x/", "is not allowed by storage.http_allow"),
    ],
)  # fmt: skip
def test_outputs_go_where_the_pilot_lets_them(tmp_path, storage, fault):
    found = said(tmp_path, storage)
    assert any(fault in one for one in found) if fault else not found, found


def test_a_file_of_settings_without_an_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        (found,) = files(tmp_path, f"rucio: {{config: {path}}}")
        assert f"{path} is no file" in found


def test_a_plugin_that_the_site_puts_in_rucios_place_needs_no_rucio(tmp_path):
    assert said(tmp_path, "rse: X\nplugins: {rucio: xrootd}") == []


def files(tmp_path: Path, storage: str, more: str = "") -> list[str]:
    text = GOOD.replace("  roots: [/data]\n", f"  {storage}\n") + more
    return [one for one in faults(tmp_path, text) if one.endswith("[W010]")]


def test_files_of_credentials_are_there_and_nobody_elses(tmp_path):
    (secret := tmp_path / "secret").write_text("s")
    secret.chmod(0o640)
    for storage in (f"xrootd: {{proxy: {secret}}}", f"s3: {{keys_file: {secret}}}"):
        (found,) = files(tmp_path, storage)
        assert f"others can use {secret}; chmod 600 {secret}" in found
    (found,) = files(tmp_path, "gfal2: {token_file: /no/such}")
    assert "storage.gfal2.token_file: cannot find /no/such on this machine" in found
    (found,) = files(tmp_path, "direct_read: true", f"credentials: {{grid: {secret}}}\n")
    assert f"credentials.grid: others can use {secret}" in found
    secret.chmod(0o600)
    assert files(tmp_path, f"xrootd: {{proxy: {secret}}}") == []


def test_a_rucio_cfg_is_public_unless_it_holds_a_password(tmp_path):
    (config := tmp_path / "rucio.cfg").write_text("[client]\nauth_type = x509_proxy\n")
    config.chmod(0o644)
    assert files(tmp_path, f"rucio: {{config: {config}}}") == []
    config.write_text("[client]\npassword = secret\n")
    (found,) = files(tmp_path, f"rucio: {{config: {config}}}")
    assert f"storage.rucio.config: others can use {config}" in found
    assert "secret" not in found


def test_jobs_may_read_no_credential_but_a_rucio_cfg_for_all(tmp_path):
    def overlaps(text: str) -> list[str]:
        return [one for one in faults(tmp_path, text) if "[E027]" in one]

    roots = "  roots: [/data]\n"
    for option in ("xrootd: {proxy: /data/p}", "http: {token_file: /data/t}"):
        assert overlaps(GOOD.replace(roots, f"{roots}  {option}\n"))
    sought = "  http: {token_file: wlcg-discovery}\n"
    found = overlaps(GOOD.replace(roots, f"  roots: [/tmp]\n{sought}"))
    assert any("storage.http.token_file may be /tmp/bt_u" in one for one in found)
    assert not overlaps(GOOD.replace(roots, f"{roots}{sought}"))
    assert not overlaps(GOOD.replace(roots, f"{roots}  rucio: {{config: /data/rucio.cfg}}\n"))
    (found,) = overlaps(GOOD + "credentials: {grid: /data/p}\n")
    assert "credentials.grid, /data/p, is beneath it" in found
