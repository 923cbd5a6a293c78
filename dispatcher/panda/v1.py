"""The methods of `/api/v1/` as a table, read as strictly as PanDA reads them.

The checks come in PanDA's order, with PanDA's messages: identity, role, HTTP method, which
arguments, their types. `!` marks a required argument, `=` one whose default is not null, so that
null is refused. `any` is not looked at, as there; `number` takes a float too. Those of a GET are
cast from text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from msgspec import Struct

from ailurus.protocol.api import Scope
from ailurus.protocol.panda_acquire import ACQUIRE
from ailurus.protocol.panda_update import UPDATE
from dispatcher.panda.bodies import Upload

KINDS: dict[str, type] = {
    "any": object,
    "int": int,
    # int | float there; complex stands for both here.
    "number": complex,
    "str": str,
    "bool": bool,
    "float": float,
    "list": list,
    "dict": dict,
    "file": Upload,
}
_NUMBERS = frozenset(
    f"{kind}_{what}"
    for kinds, whats in (
        (("max", "avg"), ("rss", "vmem", "swap", "pss")),
        (("tot", "rate"), ("rchar", "wchar", "rbytes", "wbytes")),
    )
    for kind in kinds
    for what in whats
) | {"cpu_conversion_factor"}
_NEEDED = ("job_id", "job_status")
_TEXTS = ("job_output_report", "pilot_log", "meta_data", "stdout")
_UPDATE = " ".join(
    f"{name.v1}:{'number' if name.v1 in _NUMBERS else name.kind.__name__}"
    f"{'!' if name.v1 in _NEEDED else '=' if name.v1 in _TEXTS else ''}"
    for name in sorted(UPDATE, key=lambda name: name.v1 not in _NEEDED)
)


class Argument(Struct, frozen=True):
    """One argument of a method."""

    name: str
    kind: type
    required: bool
    nullable: bool


class Method(Struct, frozen=True, dict=True):
    """One method; `call` is the action that answers it."""

    path: str
    verb: str
    arguments: tuple[Argument, ...]
    # Only for clients that run pilots or Harvester.
    production: bool = False
    # For every client, without a token.
    free: bool = False
    admin: bool = False
    # What a user's token must have: such methods are of `TaskCalls`.
    scope: Scope | None = None

    @cached_property
    def call(self) -> str:
        return self.path.partition("/")[2]

    @cached_property
    def kinds(self) -> dict[str, type]:
        """The type of each argument."""
        return {argument.name: argument.kind for argument in self.arguments}

    @cached_property
    def needed(self) -> frozenset[str]:
        """The arguments that a call must have."""
        return frozenset(argument.name for argument in self.arguments if argument.required)


def _argument(text: str) -> Argument:
    name, _, kind = text.partition(":")
    bare = kind.rstrip("!=")
    return Argument(name, KINDS[bare], kind.endswith("!"), kind == bare)


def _method(verb: str, path: str, arguments: str = "", **who: Any) -> Method:
    return Method(path, verb, tuple(_argument(text) for text in arguments.split()), **who)


def _production(verb: str, path: str, arguments: str = "") -> Method:
    return _method(verb, path, arguments, production=True)


def _user(scope: Scope, verb: str, path: str, arguments: str = "") -> Method:
    return _method(verb, path, arguments, scope=scope)


G, P = "GET", "POST"
_RANGES = "job_id:int! jobset_id:int!"
METHODS = {
    method.path: method
    for method in (
        _method(G, "system/is_alive", free=True),
        _method(
            P,
            "pilot/acquire_jobs",
            " ".join(
                f"{one.v1}:{one.kind}{'!' if one.required else '' if one.nullable else '='}"
                for one in ACQUIRE
                if one.v1
            ),
        ),
        _method(G, "pilot/get_job_status", "job_ids:list! timeout:int="),
        _production(P, "pilot/update_job", f"{_UPDATE} timeout:int="),
        _production(P, "pilot/update_jobs_bulk", "job_list:list! harvester_id:str"),
        _production(
            P,
            "pilot/update_worker_status",
            "worker_id:any! harvester_id:any! status:any! timeout:any node_id:any",
        ),
        _production(
            P,
            "pilot/update_worker_node",
            "site:str! host_name:str! cpu_model:str! panda_queue:str n_logical_cpus:int "
            "n_sockets:int cores_per_socket:int threads_per_core:int cpu_architecture:str "
            "cpu_architecture_level:str clock_speed:float total_memory:int total_local_disk:int "
            "timeout:int=",
        ),
        _production(
            P,
            "pilot/update_worker_node_gpu",
            "site:str! host_name:str! vendor:str! model:str! count:int! vram:int architecture:str "
            "framework:str framework_version:str driver_version:str timeout:int=",
        ),
        _method(G, "job/get_status", "job_ids:list! timeout:int="),
        _production(P, "job/set_debug_mode", "job_id:int! mode:bool!"),
        _method(G, "metaconfig/get_resource_types"),
        _method(G, "creds/get_proxy", "role:str dn:str"),
        _method(G, "creds/get_access_token", "client_name:str! token_key:str"),
        _method(G, "creds/get_token_key", "client_name:str!"),
        _method(G, "creds/get_key_pair", "public_key_name:str! private_key_name:str!"),
        _production(
            P,
            "event/acquire_event_ranges",
            f"{_RANGES} task_id:int n_ranges:int= timeout:int= scattered:bool= segment_id:int",
        ),
        _production(P, "event/update_event_ranges", "event_ranges:str! timeout:int= version:int="),
        _production(
            P,
            "event/update_single_event_range",
            "event_range_id:str! event_range_status:str! core_count:int cpu_consumption_time:float "
            "object_store_id:int timeout:int=",
        ),
        _production(
            G, "event/get_available_event_range_count", f"{_RANGES} task_id:int! timeout:any"
        ),
        _production(P, "harvester/heartbeat", "harvester_id:str! data:dict"),
        _production(
            P, "harvester/acquire_commands", "harvester_id:str! n_commands:int! timeout:int="
        ),
        _production(P, "harvester/acknowledge_commands", "command_ids:list! timeout:int="),
        _production(P, "harvester/update_workers", "harvester_id:str! workers:list!"),
        _production(
            P,
            "harvester/report_worker_statistics",
            "harvester_id:str! panda_queue:str! statistics:str!",
        ),
        _production(G, "harvester/get_worker_statistics"),
        _production(P, "harvester/update_service_metrics", "harvester_id:str! metrics:list!"),
        _production(P, "harvester/add_dialogs", "harvester_id:str! dialogs:list!"),
        _production(G, "harvester/get_current_worker_id", "harvester_id:str!"),
        _production(
            P,
            "harvester/add_sweep_command",
            "panda_queue:str! status_list:list! ce_list:list! submission_host_list:list!",
        ),
        _production(P, "file_server/upload_jedi_log", "file:file!"),
        _production(P, "file_server/update_jedi_log", "file:file!"),
        _production(P, "file_server/upload_hpo_checkpoint", "file:file!"),
        _production(P, "file_server/delete_hpo_checkpoint", "task_id:str! sub_id:str!"),
        _method(G, "statistics/active_job_stats_by_site"),
        _method(G, "statistics/active_job_detailed_stats_by_site"),
        _user(Scope.CREATE, P, "file_server/validate_cache_file", "file_size:int! checksum:int!"),
        _user(Scope.CREATE, P, "file_server/upload_cache_file", "file:file!"),
        _user(Scope.CREATE, P, "task/submit", "task_parameters:dict! parent_tid:int"),
        _user(Scope.CANCEL, P, "task/kill", "task_id:int!"),
        _user(Scope.MODIFY, P, "task/finish", "task_id:int! soft:bool="),
        _user(Scope.MODIFY, P, "task/pause", "task_id:int!"),
        _user(Scope.MODIFY, P, "task/resume", "task_id:int!"),
        _user(Scope.MODIFY, P, "task/retry", "task_id:int! new_parameters:dict"),
        _user(Scope.READ, G, "task/get_status", "task_id:int!"),
        _user(Scope.READ, G, "task/get_detailed_info", "task_id:int!"),
        _user(
            Scope.READ,
            G,
            "task/get_tasks_detailed_info_since",
            "n_tasks:int= since:str filters:str",
        ),
        # Ours: how an operator reaches a Harvester. No PanDA client asks for it.
        _method(
            P,
            "harvester/send_command",
            "harvester_id:str! command:str! params:dict!",
            admin=True,
        ),
    )
}


class Refused(Exception):
    """A call that v1 refuses: `success` is false, and this is the message."""


def bound(method: Method, verb: str, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, checked. Raises Refused with v1's own messages."""
    if verb != method.verb:
        raise Refused(f"expecting {method.verb}, received {verb}")
    # Harvester's own criteria come under another name.
    if method.path == "pilot/acquire_jobs" and "resourceType" in given:
        given.setdefault("resource_type", given.pop("resourceType"))
    # A query is all text.
    if verb == P and _right(method, given):
        return given
    for argument in method.arguments:
        if argument.required and argument.name not in given:
            raise Refused(f"Argument error: missing a required argument: '{argument.name}'")
    for name in given:
        if name not in method.kinds:
            raise Refused(f"Argument error: got an unexpected keyword argument '{name}'")
    return {
        argument.name: _typed(argument, given[argument.name], cast=verb == G)
        for argument in method.arguments
        if argument.name in given
    }


def _right(method: Method, given: Mapping[str, Any]) -> bool:
    """Whether a call is plainly as it should be, as nearly all are."""
    for name, value in given.items():
        kind = method.kinds.get(name)
        if type(value) is not kind and (kind is not complex or type(value) not in (int, float)):
            return False
        if kind in (int, complex) and abs(value) >= 2**63:
            return False
    return method.needed <= given.keys()


def _typed(argument: Argument, value: Any, *, cast: bool) -> Any:
    kind = argument.kind
    if kind is object or (value is None and argument.nullable and not argument.required):
        return value
    if cast:
        value = _cast(argument, value)
        if value is None:
            return None
    right = isinstance(value, (int, float) if kind is complex else kind)
    # No database takes it.
    if right and kind in (int, complex) and abs(value) >= 2**63:
        raise Refused(f"Type error: '{argument.name}' is too large.")
    if not right:
        shown = {complex: "int", Upload: "FileStorage"}.get(kind, kind.__name__)
        raise Refused(
            f"Type error: '{argument.name}' must be of type {shown}, got {type(value).__name__}."
        )
    return value


def _cast(argument: Argument, value: Any) -> Any:
    """Text from a query as the type that is annotated."""
    kind = argument.kind
    if value == "None" and argument.nullable and not argument.required:
        return None
    if kind is list and isinstance(value, str):
        value = [value]
    try:
        if kind is list:
            return [_whole(one) for one in value]
        if isinstance(value, list):
            raise ValueError("given twice")  # noqa: TRY004 -- one error for what cannot be cast
        return _whole(value) if kind is int else value
    except (ValueError, OverflowError):
        shown = "List" if kind is list else kind.__name__
        raise Refused(
            f"Type error: '{argument.name}' with value '{value}' could not be casted to type "
            f"{shown} from {type(value).__name__}."
        ) from None


def _whole(text: str) -> int:
    """A whole number; long ones keep their last digits. Raises ValueError, also for endless
    ones."""
    if len(text) > 40:
        raise ValueError("no number is so long")
    try:
        return int(text)
    except ValueError:
        return int(float(text))


def success(data: object, message: str = "") -> dict[str, Any]:
    """v1's answer to a call that it did."""
    return {"success": True, "message": message, "data": data}


def failure(message: str, data: object = None) -> dict[str, Any]:
    """v1's answer to a call that it did not do."""
    return {"success": False, "message": message, "data": data}
