"""Completion for bash, zsh and fish, written out as text: a shell that completes starts no Python.

The commands, their options and the few values that some options have; all else is completed as a file, which is
what jobs, run directories and tables are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from crun_batch.cli.command_tree import CommandWords, Switch, by_name

PROGRAM = "crun-batch"


def completion_script(shell: str, tree: Sequence[CommandWords]) -> str:
    """The script that `shell` reads, ending in a line break."""
    return "\n".join(SHELLS[shell](tree)) + "\n"


def _bash(tree: Sequence[CommandWords]) -> Iterator[str]:
    commands = by_name(tree)
    root = _names(tree[0])
    yield f'# {PROGRAM} completion for bash: eval "$({PROGRAM} completion bash)"'
    yield "_crun_batch() {"
    yield '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '    local command="" words="" i'
    yield "    COMPREPLY=()"
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield '        if [[ "${COMP_WORDS[i]}" != -* ]]; then command="${COMP_WORDS[i]}"; break; fi'
    yield "    done"
    yield '    case "$command" in'
    yield f'    "") words="{" ".join((*commands, *root))}" ;;'
    for one in commands.values():
        yield f"    {one.name})"
        yield '        case "$previous" in'
        for switch in one.switches:
            if switch.value is not None:
                offer = f'COMPREPLY=($(compgen -W "{" ".join(switch.choices)}" -- "$current")); '
                yield f"        {'|'.join(switch.names)}) {offer if switch.choices else ''}return ;;"
        yield "        esac"
        yield f'        [[ "$current" == -* ]] && words="{" ".join(_names(one))}" ;;'
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "}"
    yield f"complete -o default -F _crun_batch {PROGRAM}"


def _zsh(tree: Sequence[CommandWords]) -> Iterator[str]:
    commands = by_name(tree)
    yield f"#compdef {PROGRAM}"
    yield f'# {PROGRAM} completion for zsh: eval "$({PROGRAM} completion zsh)"'
    yield "_crun_batch() {"
    yield "    local context state state_descr line"
    yield "    typeset -A opt_args"
    yield "    local -a commands"
    yield "    commands=("
    yield from (f"        {_quoted(f'{_zsh_name(one.name)}:{one.summary}')}" for one in commands.values())
    yield "    )"
    yield "    _arguments -C \\"
    yield from (f"        {spec} \\" for switch in tree[0].switches for spec in _zsh_specs(switch))
    yield "        '1: :->command' '*:: :->arguments' && return"
    yield "    case $state in"
    yield "    command) _describe -t commands command commands ;;"
    yield "    arguments)"
    yield "        case $words[1] in"
    for one in commands.values():
        specs = [spec for switch in one.switches for spec in _zsh_specs(switch)]
        yield f"        {one.name}) _arguments \\"
        yield from (f"            {spec} \\" for spec in specs)
        yield "            '*:file:_files' ;;"
    yield "        esac ;;"
    yield "    esac"
    yield "}"
    yield 'if [[ "$funcstack[1]" == _crun_batch || "$funcstack[1]" == "_crun-batch" ]]; then'
    yield '    _crun_batch "$@"'
    yield "else"
    yield f"    compdef _crun_batch {PROGRAM}"
    yield "fi"


def _zsh_specs(switch: Switch) -> Iterator[str]:
    words = switch.words.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    for name in switch.names:
        value = ""
        if switch.choices:
            value = f":{_zsh_name(switch.value or '')}:({' '.join(switch.choices)})"
        elif switch.value is not None:
            value = f":{_zsh_name(switch.value)}:_files"
        yield _quoted(f"*{name}[{words}]{value}")


def _zsh_name(text: str) -> str:
    return text.replace(":", "\\:").replace("[", "").replace("]", "")


def _fish(tree: Sequence[CommandWords]) -> Iterator[str]:
    commands = by_name(tree)
    yield f"# {PROGRAM} completion for fish: {PROGRAM} completion fish | source"
    yield f"complete -c {PROGRAM} -n __fish_use_subcommand -f"
    for one in commands.values():
        yield f"complete -c {PROGRAM} -n __fish_use_subcommand -a {one.name} -d {_fish_quoted(one.summary)}"
    for one in tree:
        condition = (
            _fish_quoted(f"__fish_seen_subcommand_from {one.name}") if one.name else "__fish_use_subcommand"
        )
        for switch in one.switches:
            named = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in switch.names
            )
            value = ""
            if switch.choices:
                value = f" -x -a {_fish_quoted(' '.join(switch.choices))}"
            elif switch.value is not None:
                value = " -r -F"
            yield f"complete -c {PROGRAM} -n {condition} {named}{value} -d {_fish_quoted(switch.words)}"


def _names(command: CommandWords) -> list[str]:
    return [name for switch in command.switches for name in switch.names]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


SHELLS: Mapping[str, Callable[[Sequence[CommandWords]], Iterator[str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
