"""How often the 95 % intervals of `evaluate` hold the truth: data drawn from known worlds, intervals counted.

    python benchmarks/eval_coverage.py --json benchmarks/results/2026-11-26-eval-coverage.json

Beside each the interval that one would write first, the plain percentile bootstrap. A world says how rows come about;
its truth is the mean over a million of them. `worlds` is also what the tests draw from.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from solotune import comparison
from solotune.comparison import Sample, intervals, of_differences, of_ratio, of_scores

Floats = npt.NDArray[np.float64]
Rows = tuple[Floats, Floats]
"""What is summed over rows, and what it is divided by."""
SIZES = (20, 50, 80, 200, 1000)
_TRUTH_ROWS = 1_000_000


@dataclass(frozen=True)
class World:
    """A way that rows come about."""

    name: str
    kind: str
    """`score`: a metric of one model. `difference`: of two. `loss`: a difference of losses."""
    draw: Callable[[np.random.Generator, int], Rows]

    @cached_property
    def truth(self) -> float:
        """What an interval must hold."""
        top, bottom = self.draw(np.random.default_rng(0), _TRUTH_ROWS)
        return float(top.sum() / bottom.sum())

    def sample(self, top: Floats, bottom: Floats) -> Sample:
        """As `evaluate` makes it."""
        return {"score": of_scores, "difference": of_differences}.get(self.kind, lambda x: of_ratio(x, bottom))(top)


def worlds() -> list[World]:
    """Metrics that are 0 or 1, shares, and losses of rows whose lengths are log-normal."""
    return [
        *[World(f"0 or 1, 1 in {p:.0%} of rows", "score", _zero_or_one(p)) for p in (0.5, 0.9, 0.98)],
        World("a share, mostly high", "score", _plain(lambda g, n: g.beta(6, 1.5, n))),
        World("a share, 1 in 60 % of rows", "score", _plain(lambda g, n: np.where(g.random(n) < 0.6, 1, g.random(n)))),
        *[
            World(f"0 or 1, {up:.0%} of rows better, {down:.0%} worse", "difference", _better_or_worse(up, down))
            for up, down in ((0.3, 0.1), (0.5, 0.0), (0.9, 0.0), (0.1, 0.1), (0.1, 0.0), (0.05, 0.02))
        ],
        World("a share, most rows better", "difference", _plain(lambda g, n: g.beta(6, 1.5, n) - g.beta(1.5, 4, n))),
        World("a share, small differences", "difference", _plain(lambda g, n: g.normal(0.02, 0.05, n))),
        World("a share, half of the rows differ", "difference", _half_differ),
        *[World(f"loss, lengths of sigma {s:g}, rows differ", "loss", _rows_differ(s)) for s in (0.6, 1.0)],
        *[World(f"loss, lengths of sigma {s:g}, answers begin better", "loss", _begin_better(s)) for s in (0.6, 1.0)],
        *[World(f"loss, lengths of sigma {s:g}, heavy tails", "loss", _heavy_tails(s)) for s in (0.6, 1.0)],
    ]


def simulate(world: World, rows: int, trials: int, seed: int = 1) -> dict[str, float]:
    """Draws `trials` data sets of so many rows, and counts."""
    generator, truth = np.random.default_rng([seed, rows]), world.truth
    made, plain = [], []
    for _ in range(trials):
        top, bottom = world.draw(generator, rows)
        made.append(world.sample(top, bottom))
        plain.append(Sample(top, bottom))
    found, first = intervals(made), intervals(plain)
    slack = 1e-9  # the truth of a metric may be an end of its interval
    return {
        "covered": _share(low - slack <= truth <= high + slack for low, high in found),
        "truth_below": _share(truth < low - slack for low, _ in found),
        "truth_above": _share(truth > high + slack for _, high in found),
        "width": float(np.mean([high - low for low, high in found])),
        "covered_by_plain_percentile": _share(low - slack <= truth <= high + slack for low, high in first),
    }


def main() -> None:
    """Prints a table, and writes what it saw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    found = []
    for world in worlds():
        for rows in SIZES:
            figures = {k: round(v, 4) for k, v in simulate(world, rows, arguments.trials).items()}
            found.append({"kind": world.kind, "world": world.name, "rows": rows, **figures})
            print(
                f"{world.kind:10} {world.name:45} {rows:5} rows  {figures['covered']:.1%}"
                f"  (plain percentile {figures['covered_by_plain_percentile']:.1%})",
                flush=True,
            )
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "trials": arguments.trials,
        "resamples": comparison.RESAMPLES,
        "wanted": 0.95,
        "found": found,
    }
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


def _share(held: Iterator[bool]) -> float:
    return float(np.mean(list(held)))


def _plain(values: Callable[[np.random.Generator, int], Any]) -> Callable[[np.random.Generator, int], Rows]:
    return lambda g, n: (np.asarray(values(g, n), np.float64), np.ones(n))


def _zero_or_one(p: float) -> Callable[[np.random.Generator, int], Rows]:
    return _plain(lambda g, n: g.random(n) < p)


def _better_or_worse(up: float, down: float) -> Callable[[np.random.Generator, int], Rows]:
    def values(g: np.random.Generator, n: int) -> Floats:
        u = g.random(n)
        return np.where(u < up, 1.0, np.where(u < up + down, -1.0, 0.0))

    return _plain(values)


def _half_differ(g: np.random.Generator, n: int) -> Rows:
    return np.where(g.random(n) < 0.5, 0.0, np.clip(g.normal(0.2, 0.4, n), -1, 1)), np.ones(n)


def _lengths(g: np.random.Generator, n: int, sigma: float) -> Floats:
    return np.maximum(1.0, np.round(np.exp(g.normal(3.5, sigma, n))))


def _rows_differ(sigma: float) -> Callable[[np.random.Generator, int], Rows]:
    """Each row has a difference a token of its own, and each token noise."""

    def draw(g: np.random.Generator, n: int) -> Rows:
        tokens = _lengths(g, n, sigma)
        return tokens * g.normal(-0.05, 0.2, n) + g.normal(0, 0.5, n) * np.sqrt(tokens), tokens

    return draw


def _begin_better(sigma: float) -> Callable[[np.random.Generator, int], Rows]:
    """What is learned is how answers begin: short ones gain most a token."""

    def draw(g: np.random.Generator, n: int) -> Rows:
        tokens = _lengths(g, n, sigma)
        return -g.gamma(2.0, 1.0, n) + tokens * g.normal(0, 0.05, n), tokens

    return draw


def _heavy_tails(sigma: float) -> Callable[[np.random.Generator, int], Rows]:
    """Student's t of three degrees: now and then a row that is all wrong."""

    def draw(g: np.random.Generator, n: int) -> Rows:
        tokens = _lengths(g, n, sigma)
        return tokens * (0.1 * g.standard_t(3, n) - 0.05), tokens

    return draw


if __name__ == "__main__":
    main()
