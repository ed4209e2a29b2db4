"""Each refusal x each command that may meet it: its exit code, its cause in words, nothing left, the way on."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fault_server import FaultServer, refusing_url
from msgspec import Struct
from run_kit import ENVIRON, PRICES, simulator, texts

import crun_batch
from crun_batch.cli.commands import main
from crun_batch.errors import CrunBatchError
from crun_batch.simulator.process import SimulatorProcess

ROWS = 4
STARTS = ("run", "pilot", "python run", "map")
ESTIMATES = ("estimate", "python estimate")
CHECKS = ("check", "python check")
LOOKS = ("models", "credits")
GROUPS = {"start": STARTS, "estimate": ESTIMATES, "check": CHECKS, "look": LOOKS}


pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with simulator(seed=3) as process:
        yield process


@pytest.fixture(scope="module")
def faulty() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


class Refusal(Struct, frozen=True):
    """What is wrong, and for each group of commands: exit code, and words of the cause (None: it is not met)."""

    start: tuple[int, str]
    estimate: tuple[int, str | None]
    check: tuple[int, str | None]
    look: tuple[int, str | None]
    keys: Mapping[str, Any] = {}
    """Laid over the job's sections."""
    environ: Mapping[str, str] | None = None
    """Set beside those of the machine; None: the key that is right."""
    table: pl.DataFrame | None = texts(ROWS)
    begins: bool = False
    """Whether it shows only at the first request, so that a run is there, all of its rows open."""
    address: str | None = None
    """Where the gateway is: "tls", "nothing listens", or a base URL; None: where it should be."""


CERTIFICATE = "the certificate of 127.0.0.1 is not trusted"
REFUSALS: dict[str, Refusal] = {
    "no key": Refusal(
        start=(2, "SIM_KEY is not set"),
        estimate=(0, "SIM_KEY is not set: the gateway was not asked"),
        check=(0, "SIM_KEY is not set"),
        look=(2, "SIM_KEY is not set"),
        environ={},
    ),
    "key refused": Refusal(
        start=(5, "does not accept the key in the variable SIM_KEY"),
        estimate=(0, "does not accept the key in the variable SIM_KEY"),
        check=(0, None),
        look=(5, "key"),
        environ={"SIM_KEY": "ak_wrong"},
    ),
    "unlisted model": Refusal(
        start=(5, "does not list the model 'gpt-5.4-nonsense'"),
        estimate=(0, "does not list the model 'gpt-5.4-nonsense'"),
        check=(0, "gpt-5.4-nonsense"),
        look=(0, None),
        keys={"model": "gpt-5.4-nonsense"},
    ),
    "table missing": Refusal(
        start=(2, "rows.jsonl"),
        estimate=(2, "rows.jsonl"),
        check=(2, "rows.jsonl"),
        look=(0, None),
        table=None,
    ),
    "template": Refusal(
        start=(2, "prompt.user"),
        estimate=(2, "prompt.user"),
        check=(2, "prompt.user"),
        look=(0, None),
        keys={"prompt": {"user": "{{ text "}},
    ),
    "duplicate ids": Refusal(
        start=(2, "'r1'"),
        estimate=(2, "'r1'"),
        check=(2, "'r1'"),
        look=(0, None),
        table=texts(ROWS).with_columns(id=pl.Series(["r0", "r1", "r1", "r3"])),
    ),
    "cap without a price": Refusal(
        start=(3, "price"),
        estimate=(0, "price"),
        check=(0, "prices.models has no 'gpt-5.4'"),
        look=(0, None),
        keys={"prices": {"models": {}}, "budget": {"max_cost_credits": "5"}},
    ),
    "balance too low": Refusal(
        start=(3, "balance"),
        estimate=(0, "balance"),
        check=(0, None),
        look=(0, None),
        keys={"budget": {"credits": "require", "keep_credits": 10**9}},
    ),
    "private CA": Refusal(
        start=(3, CERTIFICATE),
        estimate=(0, CERTIFICATE),
        check=(0, None),
        look=(5, CERTIFICATE),
        address="tls",
    ),
    "private CA, no look at credits": Refusal(
        start=(5, CERTIFICATE),
        estimate=(0, CERTIFICATE),
        check=(0, None),
        look=(5, CERTIFICATE),
        address="tls",
        keys={"budget": {"credits": "off"}},
        begins=True,
    ),
    "no such SSL_CERT_FILE": Refusal(
        start=(2, "SSL_CERT_FILE"),
        estimate=(2, "SSL_CERT_FILE"),
        check=(0, None),
        look=(2, "SSL_CERT_FILE"),
        environ={**ENVIRON, "SSL_CERT_FILE": "/nowhere/ca.pem"},
        address="tls",
    ),
    "SOCKS proxy that is not there": Refusal(
        start=(3, "ALL_PROXY"),
        estimate=(0, "ALL_PROXY"),
        check=(0, None),
        look=(5, "ALL_PROXY"),
        environ={**ENVIRON, "ALL_PROXY": "socks5://127.0.0.1:9"},
        address="http://gateway.invalid/v1",
    ),
    "SOCKS proxy that is not there, no look at credits": Refusal(
        start=(5, "ALL_PROXY"),
        estimate=(0, "ALL_PROXY"),
        check=(0, None),
        look=(5, "ALL_PROXY"),
        environ={**ENVIRON, "ALL_PROXY": "socks5://127.0.0.1:9"},
        address="http://gateway.invalid/v1",
        keys={"budget": {"credits": "off"}},
        begins=True,
    ),
    "proxy of no kind": Refusal(
        start=(2, "ALL_PROXY"),
        estimate=(2, "ALL_PROXY"),
        check=(0, None),
        look=(2, "ALL_PROXY"),
        environ={**ENVIRON, "ALL_PROXY": "socks9://127.0.0.1:9"},
        address="http://gateway.invalid/v1",
    ),
    "nothing listens": Refusal(
        start=(3, "Connection refused"),
        estimate=(0, "Connection refused"),
        check=(0, None),
        look=(5, "Connection refused"),
        address="nothing listens",
    ),
    "nothing listens, no look at credits": Refusal(
        start=(5, "Connection refused"),
        estimate=(0, "Connection refused"),
        check=(0, None),
        look=(5, "Connection refused"),
        address="nothing listens",
        keys={"budget": {"credits": "off"}},
        begins=True,
    ),
}
RIGHT = Refusal(start=(0, ""), estimate=(0, None), check=(0, None), look=(0, None))


def tree(base_url: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    fresh, cached, output = PRICES["gpt-5.4"]
    price = {
        "currency": "credits",
        "input_per_mtok": fresh,
        "cached_input_per_mtok": cached,
        "output_per_mtok": output,
        "minimum_per_request": "0.01",
    }
    return {
        "name": "law",
        "input": {"table": "rows.jsonl", "id": "id"},
        "endpoint": {"base_url": base_url, "api_key_env": "SIM_KEY"},
        "model": "gpt-5.4",
        "prompt": {"user": "{{ text }}"},
        "params": {"max_output_tokens": 300},
        "limits": {"max_attempts": 1},
        "prices": {"models": {"gpt-5.4": price}},
        **keys,
    }


def on_the_command_line(*arguments: str) -> Callable[[dict[str, Any]], int]:
    return lambda written: main(list(arguments))


def in_python(call: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], int]:
    """Its exit code; what it returns or raises is printed, as the words are that a person gets."""

    def act(written: dict[str, Any]) -> int:
        try:
            found = call(written)
        except CrunBatchError as error:
            print(error)
            return error.exit_code
        if isinstance(found, crun_batch.Run):
            print(found.stop_reason)
            return found.exit_code or 0
        print(found if isinstance(found, pl.DataFrame) else json.dumps(found))
        return 2 if isinstance(found, dict) and found.get("mistakes") else 0

    return act


def mapped(written: dict[str, Any]) -> pl.DataFrame:
    """The same job as a `map`: its table and its keys as arguments. What it warns of is printed."""
    keys = {name: part for name, part in written.items() if name not in ("name", "input", "prompt", "model")}
    asked = {"prompt": written["prompt"]["user"], "model": written["model"], "input": {"id": "id"}, **keys}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answered: pl.DataFrame = crun_batch.map(pl.read_ndjson("rows.jsonl"), **asked)
    print(*(warning.message for warning in caught))
    return answered


COMMANDS: dict[str, Callable[[dict[str, Any]], int]] = {
    "run": on_the_command_line("run", "job.json", "--yes"),
    "pilot": on_the_command_line("run", "job.json", "--yes", "--pilot", "2"),
    "estimate": on_the_command_line("estimate", "job.json"),
    "check": on_the_command_line("check", "job.json"),
    "models": on_the_command_line("models", "job.json"),
    "credits": on_the_command_line("credits", "job.json"),
    "python run": in_python(lambda written: crun_batch.run("job.json", handle_signals=False)),
    "python estimate": in_python(lambda written: crun_batch.estimate("job.json")),
    "python check": in_python(lambda written: crun_batch.check("job.json")),
    "map": in_python(mapped),
}


def act(
    command: str, refusal: Refusal, base_url: str, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Its exit code and all that it said, on one line."""
    written = tree(base_url, refusal.keys)
    Path("job.json").write_text(json.dumps(written))
    Path("rows.jsonl").unlink(missing_ok=True)
    if refusal.table is not None:
        refusal.table.write_ndjson("rows.jsonl")
    capsys.readouterr()
    with patch.context() as environ:
        for name, value in (ENVIRON if refusal.environ is None else refusal.environ).items():
            environ.setenv(name, value)
        exit_code = COMMANDS[command](written)
    captured = capsys.readouterr()
    return exit_code, re.sub(r"\s+", " ", captured.out + captured.err)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (name, command)
        for name, refusal in REFUSALS.items()
        for command in COMMANDS
        if refusal.table is not None or command != "map"  # which is given a frame
    ],
)
def test_a_refusal_names_its_cause_leaves_nothing_and_lets_the_corrected_command_through(
    name: str,
    command: str,
    gateway: SimulatorProcess,
    faulty: FaultServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one and the same folder: what was refused is as if it had never been asked for."""
    refusal = REFUSALS[name]
    group = next(group for group, commands in GROUPS.items() if command in commands)
    exit_code, cause = getattr(refusal, group)
    if (command, exit_code) == ("map", 5):  # no exit code: it raises, or warns of a run that has begun
        exit_code = 0 if refusal.begins else crun_batch.RefusedToStart.exit_code
    with refusing_url() as refusing:
        addresses = {"tls": faulty.url("chat", "https").removesuffix("/chat"), "nothing listens": refusing}
        address = refusal.address or gateway.base_url
        found, words = act(command, refusal, addresses.get(address, address), monkeypatch, capsys)
    assert exit_code == found, words
    assert cause is None or cause in words
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} - {"job.json", "rows.jsonl"}
    assert not left or (refusal.begins and "start" == group)
    found, words = act(command, RIGHT, gateway.base_url, monkeypatch, capsys)
    assert 0 == found, words
