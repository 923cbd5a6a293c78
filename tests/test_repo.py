"""Rules for the whole tree that no linter knows, or that a `noqa` must not switch off."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import ailurus

ROOT = Path(__file__).parents[1]


def tree(*patterns: str) -> list[Path]:
    """Every file of the project that matches, committed or about to be."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(
        [*git, "--cached", "--others", "--exclude-standard", "--", *patterns],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def texts(*patterns: str) -> Iterator[tuple[Path, str]]:
    for path in tree(*patterns):
        try:
            yield path.relative_to(ROOT), path.read_text()
        except UnicodeDecodeError:
            continue  # a picture, a font


# What a call must not be named, and what a keyword argument must not be.
CALLS = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"}
MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve"}
KEYWORDS = {
    ("shell", True),
    ("verify", False),
    ("assert_hostname", False),
    ("cert_reqs", "CERT_NONE"),
}


def dangers(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Import(names=names):
                yield from (f"{line}: {n.name}" for n in names if n.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                yield f"{line}: {module}"
            case ast.Attribute(attr="extractall" | "_create_unverified_context" as name):
                yield f"{line}: {name}"
            case ast.Call(func=func, keywords=keywords):
                if (name := ast.unparse(func)) in CALLS:
                    yield f"{line}: {name}"
                pinned = any(key.arg == "assert_fingerprint" for key in keywords)
                for key in keywords:
                    if (
                        not pinned  # then this one certificate is good, and nothing else matters
                        and isinstance(key.value, ast.Constant)
                        and (key.arg, key.value.value) in KEYWORDS
                    ):
                        yield f"{line}: {key.arg}={key.value.value}"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from marshal import loads",
        "eval(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(line, shell=True)",
        "client.get(url, verify=False)",
        "tarfile.open(name).extractall(where)",
    ],
)
def test_h5_the_rule_sees_a_danger(code):
    assert list(dangers(code))


def test_h5_no_code_is_made_from_data():
    found = {path: list(dangers(code)) for path, code in texts("*.py")}
    assert {path: what for path, what in found.items() if what} == {}


def test_h5_no_page_is_made_from_text():
    sinks = re.compile(
        r"\.(inner|outer)HTML\b|insertAdjacentHTML|dangerouslySetInnerHTML|document\.write"
        r"|\beval\(|new Function\("
    )
    ours = (item for item in texts("*.js", "*.mjs", "*.html") if "vendor" not in item[0].parts)
    assert [str(path) for path, text in ours if sinks.search(text)] == []


def test_b1_f2_no_pattern_lets_a_last_line_feed_in():
    ends = re.compile(r'pattern=r"(.*)\$"')
    found = [
        f"{path}: {one}"
        for path, text in texts("ailurus", "dispatcher", "harvester_edge", "pilot", "plugins")
        for one in ends.findall(text)
        if not one.endswith((r"(?!\n)", r"[^\x00]*"))
    ]
    assert found == []


def texts_without_encoding(tree: ast.AST) -> Iterator[int]:
    """Lines of calls that read or write text in whatever encoding the locale has."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        called = (
            call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        )
        given = {word.arg: word.value for word in call.keywords}
        if "encoding" in given or None in given:
            continue
        place = {"read_text": 0, "write_text": 1}.get(called)
        words = [word.value for word in call.args[:2] if isinstance(word, ast.Constant)]
        modes = [
            word for word in words if isinstance(word, str) and re.fullmatch("[rwxa]t?[+]?", word)
        ]
        if (
            (place is not None and len(call.args) == place)
            or (called in {"open", "fdopen", "TemporaryFile", "NamedTemporaryFile"} and modes)
            or getattr(given.get("text"), "value", "") is True
            or "universal_newlines" in given
        ):
            yield call.lineno


@pytest.mark.field("L7")
def test_l7_every_text_has_an_encoding():
    """ruff's PLW1514 sees this only where it knows that a value is a path."""
    found = [
        f"{path}:{line}"
        for path, text in texts("ailurus", "dispatcher", "harvester_edge", "pilot", "plugins")
        if path.suffix == ".py"
        for line in texts_without_encoding(ast.parse(text))
    ]
    assert found == []


@pytest.mark.field("L7")
@pytest.mark.parametrize(
    "line",
    [
        "a.b.read_text()",
        "a.write_text(text)",
        "open(name, 'w')",
        "path.open('a')",
        "os.fdopen(fd, 'w')",
        "subprocess.run(x, text=True)",
    ],
)
def test_l7_the_rule_sees_a_text_without_encoding(line):
    assert list(texts_without_encoding(ast.parse(line))) == [1]


def test_nothing_names_a_registry_or_a_developers_machine():
    # put together here, so that this file does not name them either
    hosts = ["pypi" + ".org", "python" + "hosted.org", "npmjs" + ".org", "deb.deb" + "ian.org"]
    paths = ["/ro" + "ot/", "/wo" + "rk/main", "/wo" + "rk/shared", "/wo" + "rk/.library"]
    host, path = ("|".join(map(re.escape, names)) for names in (hosts, paths))
    found = re.compile(
        rf"{host}|(?<![\w}}])(?:{path})"
    )  # the root of a process is no developer's home
    assert [str(path) for path, text in texts() if found.search(text)] == []


def test_benchmarks_stand_on_the_tests_rig_and_nothing_on_them():
    imports = re.compile(r"^\s*(?:from|import) benchmarks\b", re.MULTILINE)
    ours = ("tests", "ailurus", "dispatcher", "harvester_edge", "pilot", "plugins")
    assert [str(path) for path, text in texts(*ours) if imports.search(text)] == []
    rig = [path.name for path, text in texts("scripts/benchmarks") if "from tests.rig" in text]
    assert "__main__.py" in rig


def test_locks_name_no_index_and_hash_every_package():
    for path, text in texts("locks/*.txt"):
        entries = re.sub(r"\s*#.*", "", text).replace("\\\n", "").strip().splitlines()
        assert [line for line in entries if "://" in line or "--hash=sha256:" not in line] == [], (
            path
        )


def test_what_is_meant_to_be_run_can_be_run():
    scripts = [path for path in tree("scripts", ".ci") if not path.suffix]
    assert scripts
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []
    assert [
        path.name for path in scripts if not path.read_text().startswith("#!/usr/bin/env ")
    ] == []


def test_shell_scripts_hold_no_known_trap(need: Callable[..., str]):
    shell = [
        path for path, text in texts("scripts", ".ci") if text.startswith("#!/usr/bin/env bash")
    ]
    shell += [path for path, _ in texts("plugins/*.sh", "pilot/*-rsh")]
    told = subprocess.run(
        [need("shellcheck"), *shell], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert told.stdout == ""


def test_the_changelog_knows_the_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]  # from ailurus.__version__, the one place
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## [{ailurus.__version__}]" in changes or "## [Unreleased]" in changes


def test_every_decision_is_in_the_index_with_its_number():
    records = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
    index = (ROOT / "docs/decisions/README.md").read_text()
    listed = re.findall(r"^\| \[\d{4}\]\((.+?)\) \|", index, re.MULTILINE)
    wanted = [one.name for one in records]
    assert listed == wanted, f"docs/decisions/README.md: {sorted({*listed} ^ {*wanted})}"
    for one in records:
        assert one.read_text().startswith(f"# {one.name[:4]}"), (
            f"{one.name}: its title lacks its number"
        )


def test_the_status_page_knows_which_numbered_tests_exist():
    page = (ROOT / "docs/status.md").read_text()
    page = page[page.index("## The numbered attack and failure tests") :]
    said = dict(re.findall(r"^\| ([A-Z]\d+) \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE))
    named = {
        number.upper()
        for _, text in texts("tests")
        for numbers in re.findall(r"^def test_((?:[tpfhbr]\d+_)+)", text, re.MULTILINE)
        for number in numbers.strip("_").split("_")
    }
    assert named - set(said) == set()
    assert {number for number, state in said.items() if state == "tested"} - named == set()
    assert {number for number in named if said[number].startswith("nothing")} == set()


# Threads and tasks that end by themselves, and what waits for each. Endless ones are begun by
# `Loops.thread` and `Tasks.task`, whose one place is allowed as well.
BEGUN = {
    "ailurus/loops.py": {"thread": 1},
    "ailurus/server.py": {"_accept": 1},  # a handshake, which has its time
    "ailurus/tasks.py": {"_started": 1},
    "dispatcher/catalogue/child.py": {"main": 1},  # its end ends the process
    "dispatcher/door/app.py": {"_held": 2, "_until_gone": 2},  # a request's own: it waits for them
    "dispatcher/door/readiness.py": {"check": 1},  # whoever asks waits for it
    "dispatcher/console/live.py": {"_take": 1},  # the page that joins waits for it
    "dispatcher/auth/oidc.py": {"refresh": 1},  # the request whose key is new waits for it
    "dispatcher/service/workers.py": {
        "_awaited": 1
    },  # the request waits for it, or its lease is kept
    "dispatcher/service/relays.py": {"relay_acquire": 1},  # the request waits for them
    "pilot/elastic.py": {"following": 1},  # whatever it raises stops the attempt
    "pilot/files/at_once.py": {"at_once": 1},  # the caller waits for them, and raises what they do
    "pilot/node/gpu_loads.py": {"of": 1},  # ends with its answer; a driver may hang it
    "pilot/serve.py": {"take": 1},  # a job's thread: whatever it raises drains the pilot
    "pilot/probe.py": {"_attempt": 1, "probe": 1},  # one try's time; the end of the probe is theirs
    "pilot/items/coming.py": {"begin": 1},  # one node's; whatever it raises is noted
    "pilot/items/exchange.py": {"__init__": 1},  # what it raises comes to the job's thread
    "pilot/run.py": {"_renewing": 1},  # without it items go on with what they have
    "pilot/process/spawner.py": {"enter": 1},  # whatever it raises, the room counts as lost
    "pilot/start.py": {"_listen": 1},  # whatever it raises, the guardian counts as lost
    "plugins/container/mounts.py": {"looked_at": 1},  # a timer, which the look cancels
}
BEGINNING = re.compile(
    r"(create_task|ensure_future|run_coroutine_threadsafe|Thread|Timer|start_new_thread)\Z"
)


def begun(code: str) -> Iterator[str]:
    """The functions in which a thread or a task begins, once for each."""

    def walk(node: ast.AST, name: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = child.name
            if isinstance(child, ast.Call) and BEGINNING.search(ast.unparse(child.func)):
                yield name
            yield from walk(child, inner)

    return walk(ast.parse(code), "")


@pytest.mark.parametrize(
    "code",
    [
        "def f(): asyncio.create_task(g())",
        "def f(): asyncio.ensure_future(g())",
        "def f(): loop.create_task(g())",
        "def f(): threading.Thread(target=g).start()",
        "def f(): Timer(1, g).start()",
    ],
)
def test_k1_the_rule_sees_a_thread_and_a_task(code):
    assert list(begun(code)) == ["f"]


@pytest.mark.field("K1")
def test_k1_every_endless_thread_and_task_is_begun_by_the_supervisor():
    found = {
        str(path): dict(Counter(begun(text)))
        for path, text in texts(
            "ailurus/*.py", "dispatcher/*.py", "harvester_edge/*.py", "pilot/*.py", "plugins/*.py"
        )
    }
    assert {path: where for path, where in found.items() if where} == BEGUN


def test_the_status_page_counts_what_the_field_broke():
    page = (ROOT / "docs/status.md").read_text()
    page = page[page.index("## What the field broke") : page.index("## The numbered attack")]
    said = dict(re.findall(r"^\| ([A-Z]\d+) \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE))
    marked = {
        number
        for _, text in texts("tests/*.py")
        for ids in re.findall(r"mark\.field\(([^)]*)\)", text)
        for number in re.findall(r'"([A-Z]\d+)"', ids)
    }
    held = {number for number, state in said.items() if state.startswith("tested")}
    assert marked == held
    assert f"{len(held)} of {len(said)} are held" in page


# How long a thing may be, so that a reader has it before the eyes, and what is longer today. The
# lists only shrink: whoever makes one of these short takes its line out.
FILE_LINES, FUNCTION_LINES, LINE_LENGTH = 450, 60, 100
CODE = ("*.py", "*.js", "*.mjs", "*.css", "*.html", "*.sql", "*.sh", "scripts", ".ci")
LONG_FILES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()
PRAGMA = re.compile(r"  # (noqa|type: ignore).*")


def functions(code: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def wide_lines(code: str) -> Iterator[int]:
    """Lines that are too long, but for those of a table or of a text that is data. What a line says
    to a tool does not count, as for ruff; a sentence for people stays whole, to be found."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = list(ast.walk(ast.parse(code)))
    docstrings = {
        node.body[0].value
        for node in nodes
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    free: set[int] = set()
    for node in nodes:
        table = isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict)
        data = isinstance(node, ast.Constant | ast.JoinedStr) and node not in docstrings
        if data and node.end_lineno == node.lineno and node.end_col_offset - node.col_offset > 60:
            free.add(node.lineno)
        if (table or data) and node.end_lineno != node.lineno:
            free.update(range(node.lineno, (node.end_lineno or 0) + 1))
    for number, line in enumerate(code.splitlines(), 1):
        if len(PRAGMA.sub("", line)) > LINE_LENGTH and number not in free:
            yield number


def test_no_file_is_too_long_to_read():
    long = {
        str(path)
        for path, text in texts(*CODE)
        if len(text.splitlines()) > FILE_LINES
        and "vendor" not in path.parts
        and not (ROOT / path).is_symlink()
    }
    assert long - LONG_FILES == set()


def test_no_function_is_too_long_to_read():
    long = {
        f"{path}: {function.name}"
        for path, text in texts("*.py")
        for function in functions(text)
        if lines_of(function) > FUNCTION_LINES
    }
    assert long - LONG_FUNCTIONS == set()


def test_many_parameters_have_a_reason_above_them():
    """ruff counts them: PLR0913 in pyproject.toml."""
    silent = [
        f"{path}:{number}"
        for path, text in texts("*.py")
        for number, (above, line) in enumerate(pairwise(["", *text.splitlines()]), 1)
        if re.search(r"#\s*noqa:[\w, ]*PLR0913", line) and not above.strip().startswith("# ")
    ]
    assert silent == []


def test_no_line_is_too_long_to_read():
    found = Counter(path.parts[0] for path, text in texts("*.py") for _ in wide_lines(text))
    assert +found == Counter()


def test_the_rules_of_length_see_what_is_too_long():
    wide = "x" * LINE_LENGTH
    assert list(wide_lines(f'def f():\n    """{wide}"""\n')) == [2]
    assert list(wide_lines(f"a = 1\nb = 2  # {wide}\n")) == [2]
    assert list(wide_lines(f'TABLE = (\n    ("{wide}", 1),\n)\n')) == []
    (function,) = functions("def f():\n" + "    pass\n" * FUNCTION_LINES)
    assert lines_of(function) == FUNCTION_LINES + 1


PLUGINS_OF = {
    "ailurus": (),
    "dispatcher": ("catalogue",),
    "harvester_edge": ("batch",),
    "pilot": ("container", "data"),
}


@pytest.mark.parametrize("program", PLUGINS_OF)
def test_a_public_class_has_its_name_alone_in_a_program_and_its_plugins(program: str) -> None:
    rooms = [program, *(f"plugins/{kind}" for kind in PLUGINS_OF[program])]
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    # What several kinds of plugins share.
    files += (ROOT / "plugins").glob("*.py") if PLUGINS_OF[program] else []
    places: dict[str, list[str]] = {}
    for path in files:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert places
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
