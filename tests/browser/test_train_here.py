"""Train it here against Python: the sampler, gradients and every step of training, and what the page says of them."""

import json
import re
import time
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Locator, Page, expect
from scipy import stats

from scb_nb import Batch, SCBTask, batch_gradients, screening
from scb_nb.explorables.train import SEEDS, STEPS, stretched
from scb_nb.stages import Descent, SmallSteps, Stage
from scb_nb.state import State
from tests.browser.pages import explorable_and_data, pages

here = pages("book/train_here")
# Several questions to one worker, made as the page makes it; `until` asks again until training is over.
ASK = """async ([source, questions]) => {  // JSON on both ways, since Playwright takes long over large arrays
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" }))), answers = [];
    const plain = (_, value) => (ArrayBuffer.isView(value) ? [...value] : value);
    const put = (question) => new Promise((resolve, reject) => {
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = ({ message }) => reject(message);
        worker.postMessage(question);
    });
    for (const { until, ...question } of JSON.parse(questions)) {
        let answer;
        do answer = await put(question); while (until && !answer.outcome);
        answers.push(answer);
    }
    worker.terminate();
    return JSON.stringify(answers, plain);
}"""
TASK = SCBTask.random(3, 24, 2, K_P=0.4, q_floor=0.5, mu_ratio=2, seed=5)


def ask(page: Page, *questions: dict[str, Any]) -> list[dict[str, Any]]:
    """What the worker of the page answers."""
    _, data = explorable_and_data(page, "train_here")
    return json.loads(page.evaluate(ASK, [data["worker"], json.dumps(questions)]))


def begin(task: SCBTask, seed: int = 0, **settings: Any) -> dict[str, Any]:
    settings = {"method": "stages", "batch": 64, "rate": 0.3, "l1": 0.3, "steps": [300, 12], "visible": 0.6} | settings
    settings["critical"] = screening.critical_value(task.Q.size, 0.01)
    truth = {name: getattr(task, name).tolist() for name in ("P", "Q", "mu")}
    return {"ask": "begin", "task": truth, "seed": seed, "settings": settings}


def as_given(batch: Batch) -> dict[str, list[int]]:
    return {name: getattr(batch, name).flatten().tolist() for name in ("tokens", "query", "target")}


class Given:
    """A source that hands out these batches, one for each step."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = iter(batches)

    def chunks(self, size: int) -> list[Batch]:
        batch = next(self.batches)
        assert len(batch) == size
        return [batch]


# The same numbers as Python


@here
def test_gradients_are_those_of_python(visit):
    rng = np.random.default_rng(0)
    V, A = torch.tensor(rng.standard_normal((3, 3))), torch.tensor(rng.standard_normal((24, 3)))
    batch = TASK.sample(50, seed=1, device="cpu")
    [found] = ask(
        visit.page,
        {"ask": "gradients", "V": V.flatten().tolist(), "A": A.T.flatten().tolist(), "batch": as_given(batch)},
    )
    expected = batch_gradients(V, A, batch)
    np.testing.assert_allclose(found["loss"], expected.loss, rtol=1e-12)
    np.testing.assert_allclose(found["V"], expected.V.flatten(), rtol=1e-10)
    np.testing.assert_allclose(found["A"], expected.A.T.flatten(), rtol=1e-10, atol=1e-15)


@here
@pytest.mark.parametrize("l1", [0.0, 0.3, 3.0])
def test_both_stages_are_those_of_python_step_by_step(visit, l1):
    first = SmallSteps(steps=300, batch_size=64, step_size=0.3)
    second = Descent(steps=12, batch_size=64, step_size=0.3, sparsity="l1", l1=l1, average=True)
    seen = compare(visit.page, [first, second], l1=l1)
    assert seen[-1] == (1, "finished")
    assert {0, 1} == {stage for stage, _ in seen}


@here
def test_plain_sgd_is_that_of_python_step_by_step(visit):
    stage = Descent(steps=20, batch_size=64, step_size=0.3, precondition=False, project=False)
    assert compare(visit.page, [stage], method="sgd", steps=[15, 5])[-1] == (0, "finished")


def compare(page: Page, stages: list[Stage], **settings: Any) -> list[tuple[int, str]]:
    """Train in both on the same tokens, and return the stage and the outcome after each step; V and A must agree."""
    batches = [TASK.sample(64, seed=seed, device="cpu") for seed in range(150)]
    steps = [{"ask": "step", "steps": 1, "batches": [as_given(batch)]} for batch in batches]
    _, *found = ask(page, begin(TASK, **settings), *steps)
    source, state, done = Given(batches), State.uniform(torch.tensor(TASK.mu), TASK.seq_len), 0
    for number, stage in enumerate(stages):
        state.stage, state.step, state.memory, over = number, 0, {}, False
        while not over:
            over = stage.step(state, source)
            state.step += 1
            there = found[done]
            np.testing.assert_allclose(there["V"], state.V.flatten(), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(there["A"], state.A.T.flatten(), rtol=1e-9, atol=1e-12)
            assert there["loss"] == pytest.approx(state.loss, rel=1e-9)
            assert there["samples"] == 64 * (done + 1)
            if number == 1:
                assert (state.support.numpy() == np.array(there["support"]).T).all()
            done += 1
    assert not state.failure
    seen = [(answer["stage"], answer["outcome"]) for answer in found]
    assert seen[done - 1 :] == [seen[-1]] * (len(seen) - done + 1), "it stops where Python does"
    return seen


@here
def test_it_gives_up_where_python_does(visit):
    last = ask(visit.page, begin(TASK, rate=0.001, steps=[7, 3]), {"ask": "step", "steps": 50})[-1]
    assert (last["stage"], last["step"], last["outcome"]) == (0, 7, "gave up")


# The sampler


@here
def test_samples_are_those_of_the_task(visit):
    task = SCBTask.random(3, 6, 2, K_P=0.2, q_floor=0.5, mu_ratio=2, seed=1)
    drawn, more, again, other = (
        ask(visit.page, begin(task, seed=seed), {"ask": "draw", "count": count})[1]
        for seed, count in ((7, 60_000), (8, 100), (7, 100), (9, 100))
    )
    assert again["tokens"] == drawn["tokens"][:600]
    assert more["tokens"] != again["tokens"] != other["tokens"]
    tokens, query, target = np.reshape(drawn["tokens"], (-1, 6)), np.array(drawn["query"]), np.array(drawn["target"])
    for column in (*tokens.T, query):
        assert likely(np.bincount(column, minlength=3), task.mu * len(column))
    pairs = np.bincount((3 * tokens[:, :-1] + tokens[:, 1:]).ravel(), minlength=9)
    assert likely(pairs, np.outer(task.mu, task.mu).ravel() * pairs.sum())
    # The answers, by query and the two tokens that it reads: what is expected follows from P and Q.
    chances = np.einsum("ybt,tb->by", task.P[:, tokens], task.Q[:, query])  # (B, N)
    read = np.array([np.flatnonzero(column) for column in task.Q.T])  # (N, 2)
    case = 9 * query + tokens[np.arange(len(query)), read[query, 0]] * 3 + tokens[np.arange(len(query)), read[query, 1]]
    expected = np.array([chances[case == each].sum(0) for each in range(27)])
    observed = np.array([np.bincount(target[case == each], minlength=3) for each in range(27)])
    assert likely(observed.ravel(), expected.ravel(), fewer=27)


def likely(observed: np.ndarray, expected: np.ndarray, fewer: int = 1) -> bool:
    """Whether Pearson's statistic is no larger than chance exceeds in one of 10,000 cases."""
    assert expected.min() > 5
    return bool(((observed - expected) ** 2 / expected).sum() < stats.chi2.isf(1e-4, observed.size - fewer))


# The page


def words(root: Locator) -> str:
    return root.locator("p[aria-live]").text_content() or ""


def counts(sentence: str) -> tuple[int, int, int]:
    """Samples, positions found that are read, and others."""
    found = re.search(r"fter ([\d,]+) samples, .*: (\d+) of 6 positions .*, and (\d+) others?\.", sentence)
    assert found, sentence
    return int(found[1].replace(",", "")), int(found[2]), int(found[3])


@here
def test_opening_is_a_run_of_the_package(visit):
    root, data = explorable_and_data(visit.page, "train_here")
    assert counts(words(root)) == (6_400, 6, 0), "positions stand out ..."
    last = data["opening"]["points"][-1]
    assert last["V"] > 0.5, "... while V is still far from P"
    task = stretched(SCBTask.random(3, 50, 2, K_P=0.3, q_floor=0.5, seed=2), 4)
    np.testing.assert_allclose(data["P"], task.P)
    V = np.reshape(data["opening"]["state"]["V"], (3, 3))
    share = ((V - task.P) ** 2 @ task.mu).sum() / ((task.mu[:, None] - task.P) ** 2 @ task.mu).sum()
    assert last["V"] == pytest.approx(share**0.5, abs=1e-4)


@here
def test_a_thousand_positions_are_learned_within_seconds(visit, tell):
    page = visit.page
    root, _ = explorable_and_data(page, "train_here")
    root.locator("input[name=stretch]").press("End")
    expect(root.locator("p[aria-live]")).to_contain_text("After 0 samples")
    assert "context length T: 1,000" in root.locator(".scb-controls").text_content()
    began = time.perf_counter()
    root.get_by_role("button", name="Start").click()
    expect(root.locator("p[aria-live]")).to_contain_text("Finished", timeout=120_000)
    tell(f"train it here: T = 1,000, both stages, in {time.perf_counter() - began:.1f} s")
    samples, hits, others = counts(words(root))
    assert (hits, others) == (6, 0)
    assert samples > 64 * STEPS[1]
    assert root.locator(".scb-border").get_attribute("visibility") == "visible"
    shown = root.evaluate("""(root) => [...root.querySelectorAll(".scb-matrix")].slice(0, 2).map((matrix) =>
        [...matrix.querySelectorAll(".scb-square")].map((square) => Number(square.getAttribute("fill-opacity"))))""")
    np.testing.assert_allclose(*shown, atol=0.1)
    assert visit.errors == []


@here
def test_pause_step_and_reset(visit):
    page = visit.page
    page.emulate_media(reduced_motion="no-preference")
    page.reload(wait_until="networkidle")
    root, _ = explorable_and_data(page, "train_here")
    go, step, reset = (root.get_by_role("button").nth(number) for number in range(3))
    expect(go).to_have_text("Start")
    go.press("Enter")
    expect(root.locator("p[aria-live]")).not_to_contain_text("After 6,400 ")
    expect(go).to_have_text("Pause")
    expect(root.locator("p[aria-live]")).to_have_attribute("aria-live", "off")
    go.press("Enter")
    expect(go).to_have_text("Start")
    expect(root.locator("p[aria-live]")).to_have_attribute("aria-live", "polite")
    paused, _, _ = counts(words(root))
    page.wait_for_timeout(200)
    assert counts(words(root))[0] == paused > 6_400
    step.press("Enter")
    expect(root.locator("p[aria-live]")).to_contain_text(f"After {paused + 64:,} samples")
    reset.press("Enter")
    expect(root.locator("p[aria-live]")).to_contain_text("After 0 samples, stage 1, step 0: 0 of 6")
    assert root.locator(".scb-earlier").get_attribute("points").count(",") > 10, "the run before stays"
    page.emulate_media(reduced_motion="reduce")
    assert visit.errors == []


@here
def test_less_motion_means_fewer_pictures(visit):
    page = visit.page
    page.reload(wait_until="networkidle")
    root, _ = explorable_and_data(page, "train_here")
    root.evaluate("""(root) => {
        window.drawn = 0;
        const count = new MutationObserver(() => { window.drawn += 1; });
        count.observe(root.querySelector(".scb-path"), { attributes: true });
    }""")
    began = time.perf_counter()
    root.get_by_role("button", name="Start").click()
    expect(root.locator("p[aria-live]")).to_contain_text("Finished", timeout=60_000)
    assert page.evaluate("window.drawn") <= 4 + (time.perf_counter() - began)


@here
def test_a_browser_without_workers_keeps_the_still_and_says_so(visit, book):
    with book.open(visit.name) as plain:
        plain.page.add_init_script("delete window.Worker")
        plain.page.goto(visit.page.url)
        root, _ = explorable_and_data(plain.page, "train_here")
        expect(root.locator(".scb-still")).to_be_visible()
        expect(root).to_contain_text("does not let a page compute")
        expect(root.locator("button")).to_have_count(0)
        assert plain.errors == []


# What the page tells to try


@here
def test_what_you_should_see_is_seen(visit):
    task = SCBTask.random(3, 50, 2, K_P=0.3, q_floor=0.5, seed=2)

    def runs(stretch: int, **settings: Any) -> list[tuple[str, int, int, int]]:
        """Outcome, samples, positions found that are read and others, for each seed."""
        truth = stretched(task, stretch)
        train = {"ask": "step", "steps": 10_000, "until": True}
        starts = [begin(truth, seed, **{"rate": 0.1, "steps": STEPS, **settings}) for seed in SEEDS[:2]]
        answers = ask(visit.page, *[question for start in starts for question in (start, train)])[1::2]
        support = [np.array(answer["support"]).T != 0 for answer in answers]
        return [
            (
                answer["outcome"],
                answer["samples"],
                int((found & truth.support).sum()),
                int((found & ~truth.support).sum()),
            )
            for answer, found in zip(answers, support, strict=True)
        ]

    assert {outcome for outcome, *_ in runs(20, rate=2.0)} == {"diverged"}
    assert min(hits for _, _, hits, _ in runs(4, rate=0.5)) < 6
    assert {(each[0], each[2]) for each in runs(4, rate=0.5, batch=256)} == {("finished", 6)}
    assert {each[0] for batch in (64, 1_024) for each in runs(4, method="sgd", batch=batch)} == {"diverged"}
    assert {each[0] for each in runs(2, method="sgd")} == {"finished"}
    assert min(others for *_, others in runs(4, l1=0.0)) > 500
    assert min(others for *_, others in runs(4, l1=0.1)) > 100
    assert max(others for *_, others in runs(4, l1=0.1, batch=256)) < 20
    assert max(hits for _, _, hits, _ in runs(4, l1=5.0)) < 6
    usual = {stretch: runs(stretch) for stretch in (2, 4, 8)}
    assert {each[2:] for each in usual[4]} == {(6, 0)}
    first = [np.mean([samples for _, samples, *_ in each]) - 64 * STEPS[1] for each in usual.values()]
    assert 0 < first[1] - first[0] < 2_500
    assert 0 < first[2] - first[1] < 2_500
