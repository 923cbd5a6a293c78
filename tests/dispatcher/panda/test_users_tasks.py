"""What users' panda-clients send, as recorded from the real one, and what comes of it."""

from __future__ import annotations

import pytest

from ailurus.protocol.api import Scope
from ailurus.protocol.errors import AilurusError
from dispatcher.panda import task_parameters
from dispatcher.panda.task_parameters import Sandbox

ARCHIVE = "jobO.6a97e0dd.tar.gz"
USER = (Scope.READ, Scope.CREATE, Scope.MODIFY, Scope.CANCEL)


def parameters(command: str = "echo%20hi", **more: object) -> dict[str, object]:
    words = [
        {"type": "constant", "value": '-j "" --sourceURL ${SURL}'},
        {"type": "constant", "value": "-r ."},
        {"type": "constant", "value": "__delimiter__", "hidden": True},
        {"type": "constant", "value": f"-a {ARCHIVE}"},
        {"type": "constant", "value": f'-p "{command}"'},
    ]
    given = {"taskName": "user.ada.t1/", "jobParameters": words, "noInput": True, "nEvents": 3}
    return given | more


def user(dispatcher, name: str = "ada") -> str:
    return dispatcher.token(*USER, subject=name)


def upload(dispatcher, token: str) -> dict[str, object]:
    part = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{ARCHIVE}"\r\n\r\n'
    body = part.encode() + b"\x1f\x8bno archive" + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x", "accept": "application/json"}
    path = "/api/v1/file_server/upload_cache_file"
    return dispatcher.raw("POST", path, body, headers, token=token).json


def submitted(dispatcher, token: str, **more: object) -> dict[str, object]:
    return dispatcher.v1("task/submit", {"task_parameters": parameters(**more)}, token=token)


def test_a_task_has_a_number_that_the_client_takes_for_one(dispatcher):
    token = user(dispatcher)
    assert upload(dispatcher, token)["success"]
    done = submitted(dispatcher, token)
    assert done["success"], done
    assert done["data"] > 10_000_000
    assert f"jediTaskID={done['data']}" in done["message"]
    again = submitted(dispatcher, token)
    assert (again["success"], again["data"]) == (False, 1)


def test_a_file_and_a_task_of_another_do_not_exist(dispatcher):
    ada, eve = user(dispatcher), user(dispatcher, "eve")
    upload(dispatcher, ada)
    assert "no such file" in submitted(dispatcher, eve)["message"]
    number = submitted(dispatcher, ada)["data"]
    assert dispatcher.v1("task/kill", {"task_id": number}, token=eve)["data"] == 2
    assert dispatcher.v1("task/get_status", {"task_id": number}, how="get", token=ada)["data"] == (
        "running"
    )


def test_a_filter_is_never_passed_over(dispatcher):
    token = user(dispatcher)
    upload(dispatcher, token)
    number = submitted(dispatcher, token)["data"]

    def shown(filters: str) -> dict[str, object]:
        path = "task/get_tasks_detailed_info_since"
        return dispatcher.v1(path, {"filters": filters}, how="get", token=token)

    assert [one["jediTaskID"] for one in shown(f'{{"reqID": "{number}"}}')["data"]] == [number]
    assert shown('{"reqID": "1001"}')["data"] == []
    assert not shown('{"nonsense": "1"}')["success"]


@pytest.mark.parametrize("verb", ["pause", "resume", "finish", "kill"])
def test_a_verb_of_pbook_reaches_the_task(dispatcher, verb):
    token = user(dispatcher)
    upload(dispatcher, token)
    number = submitted(dispatcher, token)["data"]
    assert dispatcher.v1(f"task/{verb}", {"task_id": number}, token=token)["data"] == 0


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"dsForIN": "data26:x"}, "dsForIN"),
        ({"noInput": False}, "noInput"),
        ({"nEvents": 10**6}, "nEvents"),
        ({"command": "${IN/T}"}, "jobParameters"),
        ({"taskName": "a b"}, "taskName"),
        ({"multiStepExec": {"preprocess": {"command": "rm"}}}, "multiStepExec"),
    ],
)
def test_what_is_not_carried_is_refused_by_name(given, field):
    with pytest.raises(AilurusError) as refused:
        task_parameters.task_of(
            parameters(**given), Sandbox(ARCHIVE, "upload://file/" + "0" * 64, 1)
        )
    assert refused.value.field == field


@pytest.mark.parametrize("text", ["{'a': 'b'", "{'/etc/x': 'b'}", "{'../x': 'b'}", "(" * 50_000])
def test_outputs_are_names_in_the_jobs_directory(text):
    words = [*parameters()["jobParameters"], {"type": "constant", "value": f'-o "{text}"'}]
    with pytest.raises(AilurusError):
        task_parameters.archive(parameters(jobParameters=words))


def test_what_a_user_quoted_is_no_place_and_no_word_of_the_shell():
    given = parameters("a%20%24%7BSN%7D%3B%20%27q%27%20${SN}")
    step = task_parameters.task_of(given, None).steps[0]
    assert "sh -c 'a ${SN}; '\"'\"'q'\"'\"' '\"$PRUN_PADDED\"\n" in step.job["script"]
