"""Runs the measurements, and turns them into JSON, tables and comparisons."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from inter2former_deploy.apps.bench import clicks, hrsam_clicks, images, machine, operators, sessions
from inter2former_deploy.apps.bench.workers import Timing, Workload, alternate
from inter2former_deploy.families.config import Config
from inter2former_deploy.families.hrsam.config import HRSAMConfig
from inter2former_deploy.families.inter2former.config import VIT_B, EdgeRule

Say = Callable[[str], None]
Keep = Callable[[Mapping[str, Any]], None]  # is given the whole result after each case: a run may be cut short
Row = dict[
    str, Any
]  # "what": dict, "variants": {name: Timing.to_dict()}, and for operators "flop", "nbytes", "floor_ms"

CLICKS = (1, 5, 10, 20)  # of HRSAM: the more there are, the more tokens attend to the image
SHARES = (0.03, 0.1, 0.3, 1.0)
SIZES = (1024, 2048)
CALLS = 10  # of an operator in a row: in a decoder, too, it finds its inputs in the cache
LONG_MS = 20.0  # an operator whose floor is longer is called once in a row: no cache holds what it reads


def measure_operators(
    threads: int,
    seconds: float,
    say: Say,
    keep: Keep,
    *,
    only: Sequence[str] = tuple(operators.CASES),
    sizes: Iterable[int] = SIZES,
    alone: bool = False,
) -> dict[str, Any]:
    """Each operator over tokens, edge share and area; floors from ceilings of the same run, an empty call included.

    Raises:
        ValueError: an operator of `only` is none of `operators.CASES`.
    """
    unknown = set(only) - operators.CASES.keys()
    if unknown:
        raise ValueError(
            f"unknown operator {', '.join(sorted(unknown))}; expected some of {', '.join(operators.CASES)}"
        )
    result = _header(threads, say)
    ceilings: machine.Ceilings = result.pop("_ceilings")
    for name, arguments in operators.sweep(sizes):
        if name not in only:
            continue
        case = operators.CASES[name](**arguments)
        variants = {v: operators.workload(name, v, arguments) for v in operators.VARIANTS[: 1 if alone else None]}
        floor = ceilings.call_ms + ceilings.floor_ms(case.flop, case.nbytes)
        row = _row({"case": name, **arguments}, variants, threads, seconds, CALLS if floor < LONG_MS else 1)
        row |= {"flop": case.flop, "nbytes": case.nbytes, "floor_ms": floor}
        median = row["variants"]["library"]["median"]
        row |= {"gflops": case.flop / median / 1e6, "gbytes": case.nbytes / median / 1e6}
        result["rows"].append(row)
        keep(result)
        say(f"{_words(row['what'])}: {_medians(row)}, {median / row['floor_ms']:.2f} x its floor")
    return result


def measure_experts(threads: int, seconds: float, say: Say, side: int) -> dict[str, Any]:
    """Experts of 1 to 64, all of side x side tokens routed, against PyTorch's loop over experts."""
    result = _header(threads, say)
    del result["_ceilings"]
    for experts in (1, 2, 4, 8, 16, 32, 64):
        arguments = {"side": side, "share": 1.0, "experts": experts}
        variants = {v: operators.workload("hybrid_experts", v, arguments) for v in ("library", "torch")}
        row = _row({"case": "hybrid_experts", **arguments}, variants, threads, seconds, CALLS)
        result["rows"].append(row)
        say(f"{_words(row['what'])}: {_medians(row)}")
    return result


def measure_clicks(threads: int, seconds: float, say: Say, keep: Keep, sizes: Iterable[int] = SIZES) -> dict[str, Any]:
    """First and later clicks at both sizes and rules, with a 20 GFLOP matrix product beside them."""
    result = _header(threads, say)
    del result["_ceilings"]
    side = 2154  # 2 * side**3 is 20 GFLOP
    product = Workload(
        builder="inter2former_deploy.apps.bench.machine:matmul",
        arguments=dict.fromkeys(("rows", "inner", "columns"), side),
    )
    with TemporaryDirectory() as folder:
        for size in sizes:
            for rule in get_args(EdgeRule):
                for share in SHARES:
                    if share == 1.0 and rule == "released":
                        continue  # the first click has every token unknown, under both rules
                    variants = clicks.workloads(Path(folder), size, share, rule) | {"20 GFLOP": product}
                    what = {"case": "click", "size": size, "rule": rule, "share": share}
                    row = _row(what, variants, threads, seconds)
                    row["components"] = clicks.components(Path(folder), size, share, rule, threads)
                    result["rows"].append(row)
                    keep(result)
                    say(f"{_words(row['what'])}: {_medians(row)}")
    return result


def measure_hrsam_clicks(
    config: HRSAMConfig, threads: int, seconds: float, say: Say, keep: Keep, sizes: Iterable[int] = SIZES
) -> dict[str, Any]:
    """A click of HRSAM after some others, beside the decoder as SAM exports it."""
    result = _header(threads, say)
    del result["_ceilings"]
    with TemporaryDirectory() as folder:
        for size in sizes:
            for count in CLICKS:
                variants = hrsam_clicks.workloads(Path(folder), size, count, config)
                row = _row(
                    {"case": "click", "model": config.name, "size": size, "clicks": count}, variants, threads, seconds
                )
                result["rows"].append(row)
                keep(result)
                say(f"{_words(row['what'])}: {_medians(row)}")
    return result


def measure_encoding(
    threads: int, seconds: float, say: Say, keep: Keep, sizes: Iterable[int] = SIZES, config: Config = VIT_B
) -> dict[str, Any]:
    """Opening a photograph: preprocessing, encoder and what the decoder prepares."""
    result = _header(threads, say)
    ceilings: machine.Ceilings = result.pop("_ceilings")
    with TemporaryDirectory() as folder:
        for size in sizes:
            what = {"case": "encode", "size": size} | ({} if config == VIT_B else {"model": config.name})
            row = _row(what, images.workloads(Path(folder), size, config), threads, seconds)
            flop = images.opening_flop(size, config)
            row |= {"flop": flop, "floor_ms": ceilings.floor_ms(flop)}
            result["rows"].append(row)
            keep(result)
            floors = row["variants"]["library"]["median"] / row["floor_ms"]
            say(f"{_words(row['what'])}: {_medians(row)}, {floors:.2f} x its floor")
    return result


def measure_session(
    bundle: Path, decoder: str | None, checkpoint: Path | None, threads: int, seconds: float, say: Say
) -> dict[str, Any]:
    """20 clicks on a photograph with a bundle, and in PyTorch."""
    result = _header(threads, say)
    del result["_ceilings"]
    timings = alternate(sessions.workloads(bundle, decoder, checkpoint), threads=threads, seconds=seconds, least=2)
    result["rows"].append({"what": {"case": "session"}, "variants": {n: t.to_dict() for n, t in timings.items()}})
    result["seconds_per_click"] = sessions.seconds_per_click(timings)
    for variant, values in result["seconds_per_click"].items():
        say(f"{variant}: " + ", ".join(f"{name} {value:.4f} s" for name, value in values.items()))
    return result


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """A table of the rows that two results share: medians before and after, and their ratio."""

    def key(row: Row) -> str:
        return json.dumps(row["what"], sort_keys=True)

    old = {key(row): row for row in before["rows"]}
    lines = []
    for row in after["rows"]:
        for variant, timing in row["variants"].items():
            previous = old.get(key(row), {"variants": {}})["variants"].get(variant)
            if previous:
                a, b = previous["median"], timing["median"]
                lines.append(f"{_words(row['what']):<60} {variant:<8} {a:9.2f} -> {b:9.2f} ms  {b / a:5.2f} x")
    if not lines:
        raise ValueError("the two results have no row in common")
    return "\n".join(lines)


def read(path: Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ValueError: it is none.
    """
    try:
        result = json.loads(path.read_text())
        result["rows"][0]["variants"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} is no result of i2f bench") from error
    return dict(result)


def _header(threads: int, say: Say) -> dict[str, Any]:
    ceilings = machine.measure(threads)
    say(f"ceilings: {ceilings.gflops:.0f} GFLOP/s, {ceilings.gbytes:.0f} GB/s, {threads} threads")
    return {"machine": machine.describe(threads), "ceilings": ceilings.to_dict(), "_ceilings": ceilings, "rows": []}


def _row(
    what: Mapping[str, Any], variants: Mapping[str, Workload], threads: int, seconds: float, calls: int = 1
) -> Row:
    timings: dict[str, Timing] = alternate(variants, threads=threads, seconds=seconds, calls=calls)
    return {"what": dict(what), "variants": {name: timing.to_dict() for name, timing in timings.items()}}


def _words(what: Mapping[str, Any]) -> str:
    return f"{what['case']} " + ", ".join(f"{k} {v}" for k, v in what.items() if k != "case")


def _medians(row: Row) -> str:
    return ", ".join(
        f"{name} {t['median']:.2f} ms ({t['low']:.2f}-{t['high']:.2f})" for name, t in row["variants"].items()
    )
