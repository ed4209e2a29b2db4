"""`endpoint` as a list: several keys or gateways for one model, each a job of its own that is checked like any.

Owns what is taken where an endpoint says nothing, its name, what a list must be, and where its keys stand in the
job file. A job with a list is read as the job with its first endpoint, and knows itself at each of them: whoever
needs a key, an address or a price asks the job at that endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import structs

from crun_batch.errors import Mistake
from crun_batch.load.job.endpoint_sections import DEFAULT_BASE_URL
from crun_batch.load.job.lanes import batch_name, goes_in_batches
from crun_batch.load.job.places import Document, KeyPath, Place

DEFAULT_KEY_VARIABLE = "CRUN_API_KEY"
BASE_URL_VARIABLE = "CRUN_BASE_URL"
LONGEST_NAME_CHARACTERS = 60
SHARED: Mapping[str, Any] = {"protocol": "chat", "stream": False}
"""Keys that say how a row is asked, with their defaults: a row may go to any of a list, so all have the same."""


def with_endpoint_defaults(document: Document) -> Document:
    """The document with what is taken where its one endpoint does not say it."""
    endpoint = document.tree.get("endpoint") or {}
    if not isinstance(endpoint, Mapping):
        return document
    default_url = document.default_base_url or DEFAULT_BASE_URL
    written = endpoint.get("base_url")
    is_default = written is None or str(written).rstrip("/") in (DEFAULT_BASE_URL, default_url.rstrip("/"))
    named = endpoint.get("api_key_env") or endpoint.get("api_key_file")
    if is_default and not named and endpoint.get("auth") != "none":
        endpoint = {**endpoint, "api_key_env": DEFAULT_KEY_VARIABLE}
        named = DEFAULT_KEY_VARIABLE
    auth = endpoint.get("auth") or ("bearer" if named else "none")
    endpoint = {**endpoint, "base_url": default_url if written is None else written, "auth": auth}
    if document.tree.get("lane") == "batch":
        endpoint["name"] = batch_name(endpoint.get("name"))
    places = dict(document.places)
    if written is None and document.default_base_url:
        places["endpoint", "base_url"] = Place(f"the variable {BASE_URL_VARIABLE}")
    return structs.replace(document, tree={**document.tree, "endpoint": endpoint}, places=places)


def at_each_endpoint(document: Document) -> tuple[list[Document], list[Mistake]]:
    """The document at each endpoint of its list, with that one alone, named; and what is wrong with the list.

    No documents where `endpoint` is no list.
    """
    written = document.tree.get("endpoint")
    if not isinstance(written, list):
        return [], []
    if not written:
        return [], [document.mistake(("endpoint",), "is an empty list: name at least one endpoint")]
    wrong = [
        document.mistake(("endpoint", index), "must be a mapping of keys to values")
        for index, item in enumerate(written)
        if not isinstance(item, Mapping)
    ]
    if wrong:
        return [], wrong
    found = _named([with_endpoint_defaults(_alone(document, index)) for index in range(len(written))])
    return found, _list_mistakes(document, [one.tree["endpoint"] for one in found])


def has_own_terms(document: Document) -> bool:
    """Whether a job is another one at its only endpoint, which has limits or prices of its own."""
    endpoint = document.tree.get("endpoint")
    if document.endpoint_key is not None or not isinstance(endpoint, Mapping):
        return False
    return bool(endpoint.get("limits") or endpoint.get("prices"))


def with_own_terms(document: Document) -> Document:
    """The document at one endpoint, whose own limits and prices stand in the place of the job's."""
    tree = dict(document.tree)
    own, limits, prices = tree.get("endpoint"), tree.get("limits") or {}, tree.get("prices") or {}
    if not isinstance(own, Mapping):
        return document
    if isinstance(own.get("limits"), Mapping) and isinstance(limits, Mapping):
        written = {key: value for key, value in own["limits"].items() if value is not None}
        tree["limits"] = {**limits, **written}
    if isinstance(own.get("prices"), Mapping) and isinstance(prices, Mapping):
        models = prices.get("models") or {}
        tree["prices"] = {
            **prices,
            "models": {**models, **own["prices"]} if isinstance(models, Mapping) else models,
        }
    return structs.replace(document, tree=tree, endpoint_key=document.endpoint_key or "endpoint")


def in_each_lane(document: Document) -> list[Document]:
    """The document in batches, then live; none where its lane is one."""
    if document.tree.get("lane") != "batch-then-live":
        return []
    return [structs.replace(document, tree={**document.tree, "lane": lane}) for lane in ("batch", "live")]


def listed_mistake(mistake: Mistake, document: Document) -> Mistake:
    """A mistake in the job at one endpoint as one in the job file."""
    key, place = mistake.key or "", document.endpoint_key
    if place is None or (key != "endpoint" and not key.startswith("endpoint.")):
        return mistake
    return structs.replace(mistake, key=place + key.removeprefix("endpoint"))


def _alone(document: Document, index: int) -> Document:
    places: dict[KeyPath, Place] = {}
    for path, place in document.places.items():
        if path[:2] == ("endpoint", index):
            places["endpoint", *path[2:]] = place
        elif path[:1] != ("endpoint",) or len(path) < 2 or not isinstance(path[1], int):
            places.setdefault(path, place)
    tree = {**document.tree, "endpoint": document.tree["endpoint"][index]}
    return structs.replace(document, tree=tree, places=places, endpoint_key=f"endpoint[{index}]")


def _named(documents: Sequence[Document]) -> list[Document]:
    """Each endpoint with its name: as written, else its host, and a number where that is taken."""
    taken = {name for one in documents if isinstance(name := one.tree["endpoint"].get("name"), str)}
    found = []
    for one in documents:
        endpoint = one.tree["endpoint"]
        if endpoint.get("name") is None:
            host, number = _host(endpoint["base_url"]), 1
            name = host
            while name in taken:
                number += 1
                name = f"{host}-{number}"
            taken.add(name)
            endpoint = {**endpoint, "name": name}
        found.append(structs.replace(one, tree={**one.tree, "endpoint": endpoint}))
    return found


def _host(base_url: Any) -> str:
    """The host, with its port where one is written, in the letters that a name may have."""
    try:
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        host += f"-{parts.port}" if parts.port else ""
    except (ValueError, AttributeError, TypeError):  # told where the address is checked
        host = ""
    name = "".join(letter if letter.isalnum() or letter in "_.-" else "-" for letter in host).strip("-.")
    return name[: LONGEST_NAME_CHARACTERS - 5] or "endpoint"


def _list_mistakes(document: Document, endpoints: Sequence[Mapping[str, Any]]) -> list[Mistake]:
    mistakes = []
    prompt = document.tree.get("prompt")
    if len(endpoints) > 1 and isinstance(prompt, Mapping) and prompt.get("stateful") is True:
        says = "needs one endpoint: the answers so far are kept where they were given, and a list may go elsewhere"
        mistakes.append(document.mistake(("prompt", "stateful"), says))
    if goes_in_batches(lane := document.tree.get("lane")):
        says = f"must be one endpoint with lane: {lane}: a batch is found again where it was submitted"
        mistakes.append(document.mistake(("endpoint",), says))
    names = [endpoint.get("name") for endpoint in endpoints]
    for index, endpoint in enumerate(endpoints):
        if names[index] in names[:index]:
            says = f"another endpoint is called '{names[index]}' too"
            mistakes.append(document.mistake(("endpoint", index, "name"), says))
        for key, default in SHARED.items():
            if (endpoint.get(key) or default) != (endpoints[0].get(key) or default):
                says = "must be the same for all endpoints of a list, as a row may go to any of them"
                mistakes.append(document.mistake(("endpoint", index, key), says))
    return mistakes
