"""Which secret goes to which address, in words: names of variables and files, never what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crun_batch.console.words import one_line


def secret_phrases(secrets: Sequence[Mapping[str, str]]) -> list[str]:
    """What goes to whom, a phrase for each address: `TOK (key), TEAM (header X-Team) go to https://gate.test/v1`."""
    names: dict[str, list[str]] = {}
    for secret in secrets:
        names.setdefault(secret["base_url"], []).append(f"{secret['name']} ({secret['as']})")
    return [
        one_line(f"{', '.join(said)} {'goes' if len(said) == 1 else 'go'} to {base_url}")
        for base_url, said in names.items()
    ]
