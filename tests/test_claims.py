"""The claims table: every row is current and follows from its numbers, and would not if these were others."""

import copy
import importlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments import claims, complexity, price, rivals
from experiments.claims import CLAIMS, VERDICTS, Bound, Claim, Measured
from scb_nb import store
from scb_nb.store import Store, code_digest
from tests import test_stage_one

ROOT = Path(__file__).parents[1]
HOLDS, WITHIN, NOT_SEEN = VERDICTS
KEYS = {
    *("name", "title", "claim", "of", "chapter", "setting", "measured", "verdict", "range", "rule", "follows"),
    *("commands", "runs", "dates", "commits", "minutes", "current", "outdated"),
}
every_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)


NAMES = sorted({name for claim in CLAIMS for name in claim.experiments})


@pytest.fixture(scope="module")
def kept() -> claims.Kept:
    return claims.load(NAMES)


@pytest.fixture(scope="module")
def code() -> dict[str, str]:
    return claims.digests(NAMES)


@pytest.fixture(scope="module")
def table() -> list[dict[str, Any]]:
    return claims.rows()


# The rows as they are


def test_every_row_is_current_and_its_verdict_follows(table: list[dict[str, Any]]) -> None:
    assert claims.faults(table) == []
    assert [row["name"] for row in table] == [claim.name for claim in CLAIMS]


@every_claim
def test_runs_are_those_of_todays_code_and_settings(claim: Claim, kept: claims.Kept) -> None:
    for name in claim.experiments:
        module = importlib.import_module(f"experiments.{name}")
        assert {record["origin"]["code"] for record in kept[name]} == {code_digest(module.run)}
        assert [record["settings"] for record in kept[name]] == json.loads(json.dumps(list(module.settings())))


@every_claim
def test_row_leads_to_a_chapter_and_commands(claim: Claim, table: list[dict[str, Any]]) -> None:
    (row,) = (row for row in table if row["name"] == claim.name)
    assert (ROOT / "book" / f"{row['chapter']}.md").is_file()
    assert row["commands"]
    for command in row["commands"]:
        (module,) = re.fullmatch(r"python -m (experiments\.\w+) --fresh", command).groups()
        assert callable(importlib.import_module(module).run)


def test_rows_are_told_apart() -> None:
    for name in ("name", "title", "text"):
        assert len({getattr(claim, name) for claim in CLAIMS}) == len(CLAIMS)
    assert {claim.of for claim in CLAIMS} == {"the paper", "this book"}


def test_twin_is_plain_json_with_all_that_the_page_shows(table: list[dict[str, Any]]) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    twin = json.loads(claims.twin(table), parse_constant=refuse)
    assert twin == {"level": 0.9, "verdicts": list(VERDICTS), "claims": table}
    for row in twin["claims"]:
        assert set(row) == KEYS
        assert row["verdict"] in VERDICTS
        assert bool(row["range"]) == (row["verdict"] == WITHIN)
        assert all(row[name] for name in ("title", "claim", "setting", "dates", "commits", "runs"))
        assert row["measured"]
        for number in row["measured"].values():
            assert set(number) == {"what", "value", "low", "high", "words"}
            assert number["low"] is None or number["high"] is None or number["low"] <= number["value"] <= number["high"]
        assert {bound["of"] for bound in row["rule"]["bounds"]} <= set(row["measured"])
        assert again(row) == row["verdict"] == row["follows"]


def again(row: dict[str, Any]) -> str:
    """The verdict by the numbers and bounds of the twin alone."""
    missed = []
    for bound in row["rule"]["bounds"]:
        number = row["measured"][bound["of"]]
        low, high = (math.inf if number[end] is None else number[end] for end in ("low", "high"))
        if low < bound.get("at least", -math.inf) or high > bound.get("at most", math.inf):
            missed.append(bound)
    if not missed:
        return HOLDS
    core = any(bound["core"] for bound in row["rule"]["bounds"])
    return WITHIN if core and not any(bound["core"] for bound in missed) else NOT_SEEN


# Rows that are too old, and verdicts that do not follow


def test_changed_code_makes_every_row_out_of_date(kept: claims.Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "code_digest", lambda run: "0" * 16)
    table = [claims.row(claim, kept, claims.digests(NAMES)) for claim in CLAIMS]
    assert not any(row["current"] for row in table)
    told = claims.faults(table)
    for row in table:
        assert any(fault.startswith(f"{row['name']}: ") and "older than the code" in fault for fault in told)


@pytest.mark.parametrize("name", ["bar", "rivals_tuning"])
def test_one_old_run_makes_its_rows_out_of_date(name: str, kept: claims.Kept, code: dict[str, str]) -> None:
    record = copy.deepcopy(kept[name][7])
    record["origin"]["code"] = "0" * 16
    changed = {**kept, name: [*kept[name][:7], record, *kept[name][8:]]}
    for claim in CLAIMS:
        row = claims.row(claim, changed, code)
        assert row["current"] == (name.removesuffix("_tuning") not in claim.experiments)
        told = [f"{name}: 1 of {len(kept[name])} runs are older than the code"]
        assert row["outdated"] == ([] if row["current"] else told)


def scale(records: list[dict[str, Any]], factor: float, **settings: Any) -> None:
    """Multiply every error in the records with these settings."""

    def grow(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: larger(node[name]) if name.startswith("error") else grow(node[name]) for name in node}
        return [grow(each) for each in node] if isinstance(node, list) else node

    def larger(node: Any) -> Any:
        return [larger(each) for each in node] if isinstance(node, list) else None if node is None else factor * node

    for record in claims.select(records, **settings):
        record["result"] = grow(record["result"])


def same_at_every_length(kept: claims.Kept) -> None:
    """Let stage 1 take at every length what it takes at the second."""
    for record in claims.select(kept["stage_one"], vocab_size=3):
        wanted = {**record["settings"], "seq_len": 200}
        del wanted["stream"]
        record["result"] = claims.select(kept["stage_one"], **wanted)[0]["result"]


def plain_as_default(kept: claims.Kept) -> None:
    """Let plain SGD do as well as the default recipe."""
    good = claims.default(kept)
    for V, A in rivals.LARGE_AND_SMALL:
        for record in claims.select(kept["rivals"], method="sgd", step_size=V, step_size_A=A, decay=False):
            record["result"] = good


def unlike(kept: claims.Kept) -> None:
    """Let the models have nothing in common."""
    for record in claims.select(kept["links"], kind="alike"):
        for rows in record["result"].values():
            for row in rows:
                row |= {"cosine_V": 0.0, "cosine_A": 0.0}


def attending_elsewhere(kept: claims.Kept) -> None:
    """Let the layer's attention have nothing in common with Q."""
    for record in claims.select(kept["layer"], kind="learn"):
        record["result"]["variation_Q"] = [1.0 for _ in record["result"]["variation_Q"]]


def listening_like_walking(kept: claims.Kept) -> None:
    """Let listening take as many samples as small steps do."""
    for record in claims.select(kept["transfer"], method="listen", correlation=0.5):
        wanted = {"method": "walk, small", "correlation": 0.5, "seq_len": record["settings"]["seq_len"]}
        record["result"] = claims.select(kept["transfer"], **wanted)[0]["result"]


def as_if_short(kept: claims.Kept) -> None:
    """Let every trial, and every second stage, go at any length as at the shortest."""
    for record in claims.select(kept["complexity"], what="support", seq_len=10_000):
        del (wanted := {**record["settings"], "seq_len": 100})["first"]
        short = claims.select(kept["complexity"], **wanted)[0]
        for other in complexity.LENGTHS:
            for each in claims.select(kept["complexity"], **wanted | {"seq_len": other}):
                each["result"] = short["result"]


def one_ends_elsewhere(kept: claims.Kept) -> None:
    """Let descent with the smallest step size learn nothing."""
    for record in claims.select(kept["complexity"], what="rates", step_size=0.025):
        record["result"]["alpha_V"] = [0.0 for _ in record["result"]["alpha_V"]]


SPOILERS: dict[str, Callable[[claims.Kept], None]] = {
    "recovery": lambda kept: scale(kept["bar"], 10),
    "first-stage": same_at_every_length,
    "second-stage": lambda kept: scale(kept["bar"], 10, seq_len=5_000),
    "small-batches": lambda kept: scale(kept["ablation"], 10, recipe="small steps", variant="whole"),
    "large-rate": plain_as_default,
    "small-rate": plain_as_default,
    "rivals": lambda kept: [scale(kept["rivals"], 0.02, method=method) for method in rivals.STEP_SIZES],
    "price": lambda kept: scale(kept["price"], 10, method="screen and EM"),
    "links": unlike,
    "real-layer": attending_elsewhere,
    "probes": lambda kept: scale(kept["probes"], 10, what="once"),
    "transfer": listening_like_walking,
    "powers": as_if_short,
    "second-powers": lambda kept: scale(kept["complexity"], 4, what="second stage", seq_len=10_000),
    "odds": as_if_short,
    "one-dial": one_ends_elsewhere,
}


@every_claim
def test_other_numbers_give_another_verdict(claim: Claim, kept: claims.Kept, code: dict[str, str]) -> None:
    changed = {name: json.loads(json.dumps(records)) for name, records in kept.items()}
    SPOILERS[claim.name](changed)
    row = claims.row(claim, changed, code)
    assert row["follows"] != claim.verdict
    assert [fault for fault in claims.faults([row]) if "what follows from the numbers is" in fault]


@every_claim
def test_no_bound_is_idle(claim: Claim, kept: claims.Kept) -> None:
    numbers = claim.measure(kept)
    assert {bound.name for bound in claim.bounds} <= set(numbers)
    good = {}
    for name, number in numbers.items():
        ends = [end for bound in claim.bounds if bound.name == name for end in (bound.least, bound.most)]
        value = next((end for end in ends if math.isfinite(end)), 1.0)
        good[name] = number._replace(value=value, low=value, high=value)
    assert claim.follows(good) == HOLDS
    core = [bound for bound in claim.bounds if bound.core]
    assert (len(core) > 0) or claim.verdict != WITHIN
    for bound in claim.bounds:
        for end, side, beyond in ((bound.least, "low", -0.01), (bound.most, "high", 0.01)):
            if math.isfinite(end):
                bad = {**good, bound.name: good[bound.name]._replace(**{side: end + beyond})}
                assert claim.follows(bad) == (NOT_SEEN if bound.core or not core else WITHIN)


def test_the_whole_interval_counts() -> None:
    numbers = {"x": Measured("x", value=2.0, low=0.9, high=3.0)}
    assert not Bound("x", least=1).met(numbers)
    assert Bound("x", least=0.5).met(numbers)
    assert not Bound("x", most=2.5).met(numbers)
    assert Bound("x", most=3.0).met(numbers)
    assert not Bound("x", least=1).met({"x": Measured("x", math.nan, math.nan, math.nan)})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"verdict": "proved"},
            "verdict must be one of holds, holds within a stated range, not seen here, got 'proved'",
        ),
        ({"verdict": WITHIN}, "range must be stated"),
        ({"range": "here and there"}, "range must be stated"),
        ({"bounds": ()}, "bounds must have at least one entry"),
    ],
    ids=["verdict", "no range", "range", "no bounds"],
)
def test_claims_refuse_what_would_say_nothing(change: dict[str, Any], match: str) -> None:
    known = vars(next(claim for claim in CLAIMS if claim.verdict == HOLDS))
    with pytest.raises(ValueError, match=re.escape(match)):
        Claim(**{**known, **change})


# The command


def test_command_prints_the_table_and_writes_the_twin(
    table: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert claims.main(["--json", str(tmp_path / "claims.json")]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for row in table:
        assert f"{row['name']} ({row['of']}): {row['verdict']}\n" in said.out
        assert all(number["words"] in said.out for number in row["measured"].values())
    assert json.loads((tmp_path / "claims.json").read_text(encoding="utf-8"))["claims"] == table


def test_command_tells_what_is_out_of_date(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(claims, "CLAIMS", CLAIMS[:1])
    monkeypatch.setattr(claims.rows, "__defaults__", (CLAIMS[:1],))
    monkeypatch.setattr(store, "code_digest", lambda run: "0" * 16)
    assert claims.main([]) == 1
    assert capsys.readouterr().err == "claims: recovery: bar: 200 of 200 runs are older than the code\n"


def test_missing_results_are_told_with_the_command_that_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(store, "FOLDER", tmp_path)
    assert claims.main([]) == 1
    said = capsys.readouterr()
    assert said.err == "claims: ablation: all runs are missing; python -m experiments.ablation does them\n"
    assert said.out == ""
    lines = (ROOT / "scb_nb/results/bar.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "bar.jsonl").write_text("\n".join(lines[:-3]) + "\n", encoding="utf-8")
    with pytest.raises(
        FileNotFoundError, match=r"bar: 3 of 200 runs are missing; python -m experiments\.bar does them"
    ):
        claims.load(["bar"])


def test_results_of_other_settings_do_not_count(
    kept: claims.Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a store still holds of settings that are no longer asked for stays out of the numbers."""
    odd = copy.deepcopy(kept["bar"][0])
    odd["settings"]["seed"] = 1
    (tmp_path / "bar.jsonl").write_bytes(b"".join(map(store._line, [*kept["bar"], odd])))
    monkeypatch.setattr(store, "FOLDER", tmp_path)
    assert len(Store(tmp_path / "bar.jsonl").records()) == len(kept["bar"]) + 1
    assert claims.load(["bar"]) == {"bar": kept["bar"]}


# Numbers and intervals


def test_shares_have_wilsons_interval() -> None:
    for successes, n in ((0, 20), (13, 20), (200, 200)):
        share = claims.share_of("x", [True] * successes + [False] * (n - successes))
        expected = stats.binomtest(successes, n).proportion_ci(0.9, method="wilson")
        assert (share.low, share.high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.01)
        assert share.value == pytest.approx(100 * successes / n)


def test_slopes_are_those_of_chapter_5() -> None:
    values = np.random.default_rng(0).lognormal(8, 0.5, (4, 24)) * np.array([[1.0], [2.0], [3.0], [5.0]])
    lengths = [100, 200, 500, 1_000]
    number = claims.slope_of("x", lengths, values)
    assert (number.value, number.low, number.high) == pytest.approx(test_stage_one.chapter()["slope"](lengths, values))


def test_bootstrap_draws_tasks_together_or_apart() -> None:
    rng = np.random.default_rng(0)
    below = rng.lognormal(0, 2, 60)
    paired = claims.bootstrap("x", lambda a, b: np.median(a / b), 3 * below, below)
    assert (paired.value, paired.low, paired.high) == pytest.approx((3, 3, 3))
    apart = claims.bootstrap(
        "x", lambda a, b: np.median(a) / np.median(b), rng.lognormal(1, 0.5, 40), below, paired=False
    )
    assert apart.low < apart.value < apart.high
    single = claims.median_of("x", below)
    assert single.low < np.median(below) < single.high
    assert claims.median_of("x", [1.0, np.inf, np.inf]).high == np.inf


def test_second_stage_is_counted_without_the_first(kept: claims.Kept) -> None:
    for T in price.LENGTHS:
        for steps, (samples, _) in zip(
            price.PASSES, claims.after_first(kept["price"], "large steps, once", T), strict=True
        ):
            found = np.isfinite(samples)
            assert found.any()
            assert np.ptp(samples[found]) == 0
            assert samples[found][0] >= steps * 64


def test_the_support_is_named_sooner_with_transfer(kept: claims.Kept) -> None:
    numbers = claims.transferred(kept)
    assert numbers["named_one"].value > numbers["named_half"].value > 1
