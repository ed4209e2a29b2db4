"""YAML 1.2 to plain values with the line of every key.

ruamel.yaml composes the nodes; the values are made here: plain Python, floats as `Decimal` of their literal text,
keys always text, duplicate keys refused, aliases followed up to a limit, no tags, no directives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from crun_batch.errors import InputError, Mistake
from crun_batch.load.job.places import MAX_DEPTH, KeyPath, Place, Reading, dotted, syntax_error

MAX_NODES = 100_000
_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"

_YAML_PARSER_ERRORS = (YAMLError, AssertionError, ValueError, IndexError, KeyError, AttributeError, RecursionError)
"""What ruamel.yaml lets out on malformed text."""

_WHAT_TO_WRITE = (
    ("found character '\\t'", "indent with blanks, not with tabs"),
    ("that cannot start any token", "put a text that begins with it in quotes"),
    ("mapping values are not allowed", "put a text that holds a colon and a blank in quotes"),
    ("but found '<scalar>'", "a text ended at a quote or bracket; put all of it in quotes that it does not hold"),
    ("but found '<block mapping start>'", "indent it like the keys that it stands beside"),
    ("found unexpected end of stream", "close the quotes that open in line {opened}"),
    ("expected ',' or", "close the bracket that opens in line {opened}, or put the text in quotes"),
    ("found unknown escape character", "write '...' in the place of \"...\", or two backslashes"),
)
"""Words of ruamel.yaml's complaints -> what the user may do."""


def read_yaml(text: str, source: str) -> Reading:
    """Parse one YAML document. Raises InputError where the text cannot be parsed at all."""
    parser = YAML(typ="safe", pure=True)
    parser.max_depth = MAX_DEPTH
    parser.composer.warn_double_anchors = False
    if _has_directive(text):
        raise syntax_error(source, "directives (%YAML, %TAG) are not used here; job files are YAML 1.2", 1)
    try:
        node = parser.compose(StringIO(text))
    except MaxDepthExceededError as error:
        raise syntax_error(source, _TOO_DEEP, error.problem_mark.line + 1) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise syntax_error(source, _problem(error), mark.line + 1 if mark else None) from None
    except _YAML_PARSER_ERRORS:
        raise syntax_error(source, "broken YAML, or a character that no text may hold", None) from None
    reader = _YamlReader(source)
    tree = reader.value(node, ()) if node is not None else None
    return Reading(tree, reader.places, tuple(reader.mistakes))


def _problem(error: MarkedYAMLError) -> str:
    """What the parser says, and what to write instead, where that is known."""
    problem = error.problem or error.context or "broken YAML"
    advice = next((advice for words, advice in _WHAT_TO_WRITE if words in problem), None)
    opened = error.context_mark or error.problem_mark
    return problem if advice is None else f"{problem}; {advice.format(opened=opened.line + 1 if opened else 1)}"


def _has_directive(text: str) -> bool:
    lines = (line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return next(lines, "").startswith("%")


def _whole_number(text: str) -> int:
    digits = text.replace("_", "")
    return int(digits, 0) if digits.lstrip("+-")[:2] in ("0x", "0o", "0b") else int(digits)


def _decimal(text: str) -> Decimal:
    special = text.lower().lstrip("+-") in (".inf", ".nan")
    return Decimal(text.replace(".", "") if special else text.replace("_", ""))


_YAML_SCALARS: Mapping[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _whole_number,
    "float": _decimal,
    "str": str,
    "timestamp": str,
    "value": str,
}


class _YamlReader:
    """Turns composed nodes into plain values; aliases are followed, but only up to `MAX_NODES` in all."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[KeyPath, Place] = {}
        self.mistakes: list[Mistake] = []
        self.nodes = 0

    def value(self, node: Node, path: KeyPath) -> Any:
        self.nodes += 1
        line = node.start_mark.line + 1
        if self.nodes > MAX_NODES:
            problem = f"holds more than {MAX_NODES:,} values, aliases (*name) expanded"
            raise InputError(Mistake(problem, file=self.source, line=line))
        if len(path) > MAX_DEPTH:
            raise syntax_error(self.source, _TOO_DEEP, line)
        tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if isinstance(node, MappingNode) and tag == "map":
            return self.mapping(node, path)
        if isinstance(node, SequenceNode) and tag == "seq":
            return [self.item(child, (*path, index)) for index, child in enumerate(node.value)]
        if isinstance(node, ScalarNode) and tag in _YAML_SCALARS:
            return self.scalar(node, tag, path)
        return self.wrong(node, path, "tags (!name) are not used here")

    def wrong(self, node: Node, path: KeyPath, message: str) -> None:
        line = node.start_mark.line + 1
        self.mistakes.append(Mistake(message, file=self.source, line=line, key=dotted(path) or None))

    def item(self, node: Node, path: KeyPath) -> Any:
        self.places[path] = Place(self.source, node.start_mark.line + 1)
        return self.value(node, path)

    def scalar(self, node: ScalarNode, tag: str, path: KeyPath) -> Any:
        try:
            return _YAML_SCALARS[tag](node.value)
        except (ValueError, InvalidOperation):
            return self.wrong(node, path, "must be a number of ordinary length")

    def mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        pairs = [(key, value) for key, value in node.value if not str(key.tag).endswith(":merge")]
        tree = self.merged([value for key, value in node.value if str(key.tag).endswith(":merge")], path)
        lines: dict[str, int] = {}
        for key_node, value_node in pairs:
            if not isinstance(key_node, ScalarNode):
                self.wrong(key_node, path, 'a key must be a text; a template stands in quotes: "{{ name }}"')
                continue
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in lines:
                self.wrong(key_node, (*path, key), f"written twice, first in line {lines[key]}; keep one")
                continue
            lines[key] = line
            self.places[(*path, key)] = Place(self.source, line)
            tree[key] = self.value(value_node, (*path, key))
        return tree

    def merged(self, nodes: list[Node], path: KeyPath) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for node in nodes:
            for source in node.value if isinstance(node, SequenceNode) else [node]:
                if not isinstance(source, MappingNode):
                    self.wrong(source, path, "<< takes a mapping or a list of mappings")
                    continue
                tree = self.value(source, path) | tree
        return tree


def override_value(text: str) -> Any:
    """What `--set key=text` means: a YAML scalar; a list, mapping or quoted text where it starts like one.

    `{{` starts a template, not a mapping. Raises InputError where a quote or bracket stays open.
    """
    if text[:1] in ("[", "{", "'", '"') and not text.startswith("{{"):
        reading = read_yaml(text, "--set")
        if reading.mistakes:
            raise InputError(reading.mistakes)
        return reading.tree
    resolver = YAML(typ="safe", pure=True).resolver
    tag = str(resolver.resolve(ScalarNode, text, (True, False))).removeprefix("tag:yaml.org,2002:")
    try:
        return _YAML_SCALARS.get(tag, str)(text)
    except (ValueError, InvalidOperation):
        return text
