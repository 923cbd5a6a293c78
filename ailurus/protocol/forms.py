"""What the texts of fields have to be like, for people. Pure."""

from __future__ import annotations

from typing import get_args

from msgspec import Meta

from ailurus.protocol.did import DidText, Scope
from ailurus.protocol.fields import (
    Adler32,
    FileName,
    Key,
    LabelName,
    LabelValue,
    Md5,
    Name,
    QueueName,
    Text,
    Variable,
)
from ailurus.protocol.job import Tree
from ailurus.protocol.launchers import Controller, Flavour
from ailurus.protocol.machine import Architecture, Cuda, Model, Vendor
from ailurus.protocol.payloads import Goal
from ailurus.protocol.url import FileUrl

_ALLOWED = {
    meta.pattern: meta.description
    for kind in (
        Name,
        FileName,
        LabelName,
        LabelValue,
        QueueName,
        Text,
        Variable,
        FileUrl,
        Adler32,
        Md5,
        Key,
        Scope,
        DidText,
        Tree,
        Flavour,
        Controller,
        Goal,
        Architecture,
        Cuda,
        Model,
        Vendor,
    )
    for meta in get_args(kind)
    if isinstance(meta, Meta)
}


def form(shown: str) -> str:
    """What a text has to be like, by its pattern as msgspec shows it: with each backslash twice."""
    pattern = shown.replace("\\\\", "\\")
    return _ALLOWED.get(pattern) or "it must match " + pattern.replace(r"(?!\n)$", "$")
