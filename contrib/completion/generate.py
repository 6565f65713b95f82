#!/usr/bin/env python3
"""Writes the shell completions from the commands and options that pfxhttpd/cli/parser.py declares.

    contrib/completion/generate.py           rewrite the two files
    contrib/completion/generate.py --check   exit with 1 if they are not up to date

`pfxhttpd.bash` is for bash, `_pfxhttpd` for zsh. The package's dependencies are not needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent
sys.path.insert(0, str(DIRECTORY.parents[1]))

from pfxhttpd.cli.parser import parser  # noqa: E402  found on the path that was set just now

FILE = "PATH"
"""The metavar of options whose value is the name of a file."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its options and its subcommands. The whole command line is the command with the empty name."""

    name: str
    help: str
    options: tuple[argparse.Action, ...]
    commands: tuple[Command, ...]


def command_of(declared: argparse.ArgumentParser, name: str = "", text: str = "") -> Command:
    """What argparse knows of a command, whose name contains that of the command that it belongs to."""
    options, commands = [], []
    for action in declared._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {each.dest: each.help or "" for each in action._choices_actions}
            for own_name, below in action.choices.items():
                commands.append(command_of(below, f"{name} {own_name}".strip(), texts.get(own_name, "")))
        elif action.option_strings:
            options.append(action)
    return Command(name, text, tuple(options), tuple(commands))


def every(command: Command) -> Iterator[Command]:
    yield command
    for below in command.commands:
        yield from every(below)


def takes_value(option: argparse.Action) -> bool:
    return option.nargs != 0


def spaced(words: Iterable[object]) -> str:
    return " ".join(map(str, words))


def own_name(command: Command) -> str:
    return command.name.rpartition(" ")[2]


# --- bash

BASH = """\
# Completion for bash, written by contrib/completion/generate.py. Install this file as
# /usr/share/bash-completion/completions/pfxhttpd, with a link of the name pfxhttp.

_pfxhttpd() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} command="" option="" word words=""
    COMPREPLY=()
    # bash makes three words of --option=value.
    if [[ $current == "=" ]]; then
        current=""
    elif [[ $previous == "=" ]]; then
        previous=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD - 1}}"; do
        if [[ $word == "=" ]]; then continue; fi
        case "$command:$option$word" in
{transitions}
        esac
    done
    case "$command:$previous" in
{values}
    esac
    case "$command" in
{words}
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -F _pfxhttpd pfxhttpd pfxhttp
"""


def bash(top: Command) -> str:
    transitions: list[str] = []
    values: dict[str, list[str]] = {}
    words = []
    for command in every(top):
        valued = [option for option in command.options if takes_value(option)]
        names = [name for option in valued for name in option.option_strings]
        if command.commands:
            # The word after such an option is its value, not a command.
            transitions += [f'"{command.name}:{name}") option={name}' for name in names]
            transitions += [f'"{command.name}:{name}"*) option=""' for name in names]
        for below in command.commands:
            transitions.append(f'"{command.name}:{own_name(below)}") command="{below.name}"')
        for option in valued:
            values.setdefault(bash_value(option), []).extend(
                f'"{command.name}:{name}"' for name in option.option_strings
            )
        offered = [own_name(below) for below in command.commands]
        offered += [name for option in command.options for name in option.option_strings if name.startswith("--")]
        words.append(f'"{command.name}") words="{spaced(offered)}"')
    joined = {value: " | ".join(names) for value, names in values.items()}
    return BASH.format(
        transitions="\n".join(f"            {line} ;;" for line in transitions),
        values="\n".join(f"        {names})\n            {value} ;;" for value, names in joined.items()),
        words="\n".join(f"        {line} ;;" for line in words),
    )


def bash_value(option: argparse.Action) -> str:
    """The commands that complete the value of an option."""
    if option.metavar == FILE:
        return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return'
    if option.choices:
        return f'mapfile -t COMPREPLY < <(compgen -W "{spaced(option.choices)}" -- "$current"); return'
    return "return"


# --- zsh

ZSH = """\
#compdef pfxhttpd pfxhttp
# Completion for zsh, written by contrib/completion/generate.py. Install this file as
# /usr/share/zsh/vendor-completions/_pfxhttpd, or elsewhere in $fpath.

{functions}
_pfxhttpd "$@"
"""


def quoted(text: str) -> str:
    """The text between single quotes; zsh's _arguments gives a meaning to colons and brackets in it."""
    for special in "\\:[]":
        text = text.replace(special, f"\\{special}")
    return text.replace("'", "'\\''")


def specification(option: argparse.Action) -> Iterator[str]:
    """An option as _arguments wants it, once for each of its names."""
    for name in option.option_strings:
        value = ""
        if takes_value(option):
            name += "=" if name.startswith("--") else "+"
            metavar = str(option.metavar or option.dest)
            if option.metavar == FILE:
                value = f":{metavar}:_files"
            elif option.choices:
                value = f":{metavar}:({spaced(option.choices)})"
            else:
                value = f":{metavar}:"
        yield f"'{name}[{quoted(option.help or '')}]{value}'"


def zsh_function(command: Command) -> str:
    name = "_".join(["_pfxhttpd", *command.name.split()])
    options = [text for option in command.options for text in specification(option)]
    if not command.commands:
        return " \\\n        ".join([f"{name}() {{\n    _arguments", *options]) + "\n}\n"
    described = [f"        '{own_name(below)}:{quoted(below.help)}'" for below in command.commands]
    calls = [f"            {own_name(below)}) {name}_{own_name(below)} ;;" for below in command.commands]
    return "\n".join(
        [
            f"{name}() {{",
            "    local state line",
            "    local -a commands",
            "    commands=(",
            *described,
            "    )",
            "    _arguments -C \\",
            *(f"        {text} \\" for text in options),
            "        '(-)1: :->command' \\",
            "        '(-)*:: :->arguments'",
            "    case $state in",
            "    command) _describe command commands ;;",
            "    arguments)",
            "        case $line[1] in",
            *calls,
            "        esac",
            "        ;;",
            "    esac",
            "}",
            "",
        ]
    )


def zsh(top: Command) -> str:
    return ZSH.format(functions="\n".join(zsh_function(command) for command in every(top)))


def generated() -> dict[Path, str]:
    """The files and their texts."""
    top = command_of(parser())
    return {DIRECTORY / "pfxhttpd.bash": bash(top), DIRECTORY / "_pfxhttpd": zsh(top)}


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        return int(any(not path.exists() or path.read_text("utf-8") != text for path, text in generated().items()))
    if arguments:
        print(__doc__, file=sys.stderr)
        return 64
    for path, text in generated().items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
