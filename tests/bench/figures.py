"""What every benchmark does with its figures: percentiles, a table, JSON."""

import argparse
import json
from collections.abc import Sequence

Figures = dict[str, float]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share (0 to 1) of some values lie. They need no order."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def spread(name: str, values: Sequence[float]) -> Figures:
    """Return p50, p99 and the largest of some values."""
    return {
        f"{name}_p50": percentile(values, 0.5),
        f"{name}_p99": percentile(values, 0.99),
        f"{name}_max": max(values),
    }


def parser(module_doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that every benchmark's options are added to."""
    made = argparse.ArgumentParser(description=module_doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


def show(figures: Figures, as_json: bool) -> None:
    """Print figures."""
    rounded = {name: round(value, 3) for name, value in figures.items()}
    if as_json:
        print(json.dumps(rounded))
        return
    width = max(map(len, rounded))
    for name, value in rounded.items():
        print(f"{name:<{width}} {value:>12,.10g}")
