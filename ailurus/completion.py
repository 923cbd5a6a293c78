"""What a shell needs to complete a program's verbs and options, made from its parser."""

from __future__ import annotations

from argparse import ArgumentParser

from ailurus.protocol.errors import AilurusError

SHELLS = ("bash", "zsh", "fish")
OPTION = "--print-completion"


def completion(parser: ArgumentParser, shell: str) -> str:
    """The script for one of `SHELLS`. Raises AilurusError."""
    if shell not in SHELLS:
        raise AilurusError(
            f"no completion for {shell!r}", field=OPTION, remedy=f"name {', '.join(SHELLS)}"
        )
    try:
        import shtab
    except ImportError:
        raise AilurusError(
            "completion is made by a library that is not installed here",
            field=OPTION,
            remedy="pip install shtab",
        ) from None
    return str(shtab.complete(parser, shell)).rstrip("\n") + "\n"


def shell_of(argv: list[str]) -> str | None:
    """The shell that the only words of a command line, `--print-completion SHELL`, name."""
    if argv[:1] == [OPTION]:
        return " ".join(argv[1:])
    return None
