"""Each explorable against Python: what it shows is what the package, NumPy or SciPy computes for the same settings."""

import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, expect
from scipy import integrate

from scb_nb import theory
from tests.browser.pages import explorable_and_data, pages, tab_to


@pages("book/sparse_contextual_bigrams")
def test_contextual_bigram_by_keyboard(visit):
    page = visit.page
    explorable, data = explorable_and_data(page, "contextual_bigram")
    state = right_state(explorable, data)
    assert outcome(state["summary"]) == outcome(explorable.locator(".scb-still").get_attribute("alt"))

    tab_to(page, ".scb-explorable input[type=radio]")
    queries = [state["query"]]
    for _ in data["letters"]:
        page.keyboard.press("ArrowRight")
        queries.append(right_state(explorable, data)["query"])
    assert sorted(queries[1:]) == data["letters"]
    assert queries[-1] == queries[0]

    tab_to(page, ".scb-explorable fieldset button")
    page.keyboard.press("Enter")
    drawn = right_state(explorable, data)
    assert drawn["context"] != state["context"]

    for position, token in enumerate(drawn["context"]):
        tab_to(page, ".scb-context button")
        page.keyboard.press("Space")
        following = data["letters"][(data["letters"].index(token) + 1) % len(data["letters"])]
        assert right_state(explorable, data)["context"][position] == following
    assert visit.errors == []


@pages("book/population_picture")
def test_phase_portrait_by_keyboard_and_pointer(visit):
    page = visit.page
    explorable, data = explorable_and_data(page, "phase_portrait")
    state = right_flow(explorable, data)
    assert state["setting"] == data["opening"]
    assert state["summary"] == explorable.locator(".scb-still").get_attribute("alt")

    for name in data["opening"]:
        tab_to(page, f".scb-explorable input[name={name}]")
        page.keyboard.press("ArrowRight")
        after = right_flow(explorable, data)
        assert [key for key in data["opening"] if after["setting"][key] != state["setting"][key]] == [name]
        assert after["summary"] != state["summary"]
        assert after["path"] != state["path"]
        state = after

    tab_to(page, ".scb-explorable .scb-start")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    moved = right_flow(explorable, data)
    assert moved["start"] == [-0.5, -0.1]
    assert "wrong branch" in moved["summary"]

    handle = explorable.locator(".scb-start")
    handle.scroll_into_view_if_needed()
    box, plane = handle.bounding_box(), explorable.locator(".scb-plane svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(plane["x"] + 0.9 * plane["width"], plane["y"] + 0.1 * plane["height"], steps=3)
    page.mouse.up()
    dragged = right_flow(explorable, data)
    assert min(dragged["start"]) > 1.5
    box = handle.bounding_box()
    assert box["x"] + box["width"] / 2 == pytest.approx(plane["x"] + 0.9 * plane["width"], abs=3)
    assert visit.errors == []


def right_flow(explorable: Locator, data: dict[str, Any]) -> dict[str, Any]:
    """What the explorable shows, once found to agree with the flow of the package, integrated by SciPy, to 1 %."""
    state = explorable.evaluate("""(root) => ({
        chosen: Object.fromEntries([...root.querySelectorAll("input")].map(({ name, value }) => [name, Number(value)])),
        start: root.querySelector(".scb-start").getAttribute("aria-label").match(/-?\\d+\\.\\d+/g).map(Number),
        path: root.querySelector(".scb-plane .scb-path").getAttribute("points"),
        summary: root.querySelector("[aria-live]").textContent,
    })""")
    state["setting"] = {name: data["choices"][name][index] for name, index in state["chosen"].items()}
    K_P, K_Q, T = (state["setting"][name] for name in ("K_P", "K_Q", "seq_len"))
    rates = np.array([1, state["setting"]["ratio"]])
    events = [
        lambda _, point: point[0] * point[1] - 0.5,
        lambda _, point: 0.01 - abs(1 - point[0] * point[1]),
        lambda _, point: 0.05 - np.abs(1 - np.array(point)).max(),
    ]
    found = integrate.solve_ivp(
        lambda _, point: rates * theory.flow(*point, K_P, K_Q, T),
        (0, 20 * T * (1 + K_Q / (rates[1] * K_P)) + 1_000),
        state["start"],
        method="Radau",
        rtol=1e-9,
        atol=1e-12,
        events=events,
    )
    half, landed, near = (times[0] if len(times) else None for times in found.t_events)
    told = [float(number.replace(",", "")) for number in re.findall(r"t = ([\d,]+(?:\.\d+)?)", state["summary"])]
    landing = re.search(r"lands near \((-?[\d.]+), (-?[\d.]+)\)", state["summary"]).groups()
    expected = [landed]
    if "one half" in state["summary"]:
        expected.insert(0, half)
    if "creeps" in state["summary"]:
        expected.append(near)
    assert told == pytest.approx(expected, rel=0.01, abs=0.06)
    np.testing.assert_allclose([float(number) for number in landing], found.y_events[1][0], rtol=0.01, atol=0.006)
    assert ("wrong branch" in state["summary"]) == (found.y_events[1][0][0] < 0)
    return state


@pages("book/transfer")
def test_correlation_dial_by_keyboard(visit):
    page = visit.page
    explorable, data = explorable_and_data(page, "correlation_dial")
    state = right_look(explorable, data)
    assert state["chosen"] == data["opening"]
    assert state["summary"] == explorable.locator(".scb-still").get_attribute("alt")

    tab_to(page, ".scb-explorable input[name=correlation]")
    page.keyboard.press("ArrowRight")
    after = right_look(explorable, data)
    assert after["chosen"]["correlation"] == state["chosen"]["correlation"] + 1
    assert after["summary"] != state["summary"]
    assert after["levels"] != state["levels"]
    page.keyboard.press("Home")
    assert " 0 stand out upwards" in right_look(explorable, data)["summary"]
    tab_to(page, ".scb-explorable input[name=samples]")
    page.keyboard.press("End")
    least = right_look(explorable, data)
    assert " 0 stand out upwards and 6 downwards" in least["summary"]
    assert "32,000 samples" in least["summary"]
    assert visit.errors == []


def right_look(explorable: Locator, data: dict[str, Any]) -> dict[str, Any]:
    """What the explorable shows, once found to agree with heights computed here from its data."""
    state = explorable.evaluate("""(root) => ({
        chosen: Object.fromEntries([...root.querySelectorAll("input")].map(({ name, value }) => [name, Number(value)])),
        levels: [...root.querySelectorAll(".scb-heights .scb-diamond")].map((dot) => dot.getAttribute("transform")),
        summary: root.querySelector("[aria-live]").textContent,
    })""")
    c, n = data["correlations"][state["chosen"]["correlation"]], data["samples"][state["chosen"]["samples"]]
    along, across = (np.reshape(each, (-1, data["tokens"])) for each in data["heard"][state["chosen"]["samples"]])
    pull = c * along + np.sqrt(1 - c**2) * across
    pull -= np.sort(pull, axis=0)[(len(pull) - 1) // 2]  # the lower median, as in PyTorch
    height = pull / (1.4826 * np.sort(np.abs(pull).ravel())[(pull.size - 1) // 2])
    read = np.reshape(data["read"], pull.shape)
    up, down = (height > data["critical"]), (height < -data["critical"])
    counts = (read & up).sum(), (read & down).sum(), (~read & (up | down)).sum()
    pattern = r"Correlation (.*), ([\d,]+) samples: of (\d+) .* read, (\d+) stand .* and (\d+) down.*, and (\d+) of the"
    told = re.search(pattern, state["summary"]).groups()
    assert told[0].replace("\u2212", "-") == f"{c:.2f}"
    assert told[1] == f"{n:,}"
    assert tuple(int(each) for each in told[2:]) == (read.sum(), *counts)
    assert ("no number of samples" in state["summary"]) == (c == 0)
    return state


@pages("book/stage_two")
def test_training_replay_by_keyboard(visit):
    page = visit.page
    explorable, data = explorable_and_data(page, "training_replay")
    state = right_record(explorable, data)
    assert state["record"] == data["opening"]
    assert state["summary"] == explorable.locator(".scb-still").get_attribute("alt")

    tab_to(page, ".scb-explorable:has(.scb-matrices) input[type=range]")
    page.keyboard.press("ArrowRight")
    after = right_record(explorable, data)
    assert after["record"] == state["record"] + 1
    assert after["summary"] != state["summary"]
    assert after["squares"] != state["squares"]
    assert after["cursor"] > state["cursor"]
    for key, record in (("Home", 0), ("End", len(data["frames"]) - 1)):
        page.keyboard.press(key)
        assert right_record(explorable, data)["record"] == record
    expect(explorable.locator("button")).to_have_count(0)  # this reader asks for less motion
    assert visit.errors == []


@pages("book/stage_two")
def test_training_replay_plays_where_motion_is_welcome(visit):
    page = visit.page
    page.emulate_media(reduced_motion="no-preference")
    page.reload(wait_until="networkidle")
    explorable, _ = explorable_and_data(page, "training_replay")
    slider, button = explorable.locator("input[type=range]"), explorable.locator("button")
    opening = slider.input_value()
    button.click()
    expect(button).to_have_text("Stop")
    expect(slider).not_to_have_value(opening)
    button.click()
    expect(button).to_have_text("Play")
    slider.press("Home")
    expect(slider).to_have_value("0")
    page.emulate_media(reduced_motion="reduce")
    assert visit.errors == []


def right_record(explorable: Locator, data: dict[str, Any]) -> dict[str, Any]:
    """What the explorable shows, once found to be what was recorded."""
    state = explorable.evaluate("""(root) => ({
        record: Number(root.querySelector("input[type=range]").value),
        told: root.querySelector("input[type=range]").getAttribute("aria-valuetext"),
        squares: [...root.querySelectorAll(".scb-matrix")].map((matrix) => [...matrix.querySelectorAll(".scb-square")]
            .map((square) => Number(square.getAttribute("fill-opacity")) * (square.matches(".scb-negative") ? -1 : 1))),
        cursor: Number(root.querySelector(".scb-cursor").getAttribute("x1")),
        summary: root.querySelector("[aria-live]").textContent,
    })""")
    frame, Q, P = data["frames"][state["record"]], np.array(data["Q"]), np.array(data["P"])
    wanted = (frame["A"], Q.max()), (Q, Q.max()), (frame["V"], P.max()), (P, P.max())
    for shown, (values, highest) in zip(state["squares"], wanted, strict=True):
        np.testing.assert_allclose(shown, np.clip(np.ravel(values) / highest, -1, 1), atol=0.0006)
    pattern = r"After ([\d,]+) samples, (.+): the .* is (\d\.\d\d) of that .* from Q (\d\.\d\d), and (\d+)% of"
    samples, stage, error_V, error_A, percent = re.search(pattern, state["summary"]).groups()
    assert (samples, stage) == (f"{frame['samples']:,}", data["stages"][frame["stage"]])
    assert float(error_V) == pytest.approx(frame["error_V"], abs=0.0051)
    assert float(error_A) == pytest.approx(frame["error_A"], abs=0.0051)
    assert float(percent) == pytest.approx(100 * (np.array(frame["A"]) * (Q > 0)).sum(axis=0) @ data["mu"], abs=0.51)
    assert state["told"] == f"{state['record'] + 1} of {len(data['frames'])}, {frame['samples']:,} samples"
    return state


def right_state(explorable: Locator, data: dict[str, Any]) -> dict[str, Any]:
    """What the explorable shows, once found to be what NumPy computes for the query and context that it shows."""
    state = explorable.evaluate("""(root) => {
        const each = (selector, read) => [...root.querySelectorAll(selector)].map(read);
        const box = (element) => element.getBoundingClientRect();
        return {
            query: root.querySelector("input:checked").parentElement.textContent.trim(),
            context: each(".scb-context button", (button) => button.textContent),
            heights: each(".scb-weight > div", (bar) => box(bar).height / bar.parentElement.clientHeight),
            widths: each(".scb-fill", (fill) => box(fill).width / fill.parentElement.clientWidth),
            numbers: each(".scb-track + span", (number) => Number(number.textContent)),
            summary: root.querySelector("[aria-live]").textContent,
        };
    }""")
    P, Q, letters = np.array(data["P"]), np.array(data["Q"]), data["letters"]
    weights = Q[:, letters.index(state["query"])]
    chances = P[:, [letters.index(token) for token in state["context"]]] @ weights
    np.testing.assert_allclose(state["heights"], weights / Q.max(), atol=0.02)
    np.testing.assert_allclose(state["widths"], chances, atol=0.01)
    np.testing.assert_allclose(state["numbers"], chances, atol=0.0051)
    read = [int(position) for position in re.findall(r"position (\d+)", state["summary"])]
    assert read == [t + 1 for t in np.flatnonzero(weights)]
    assert state["summary"].startswith(f"Query {state['query']} reads ")
    letter, chance = outcome(state["summary"])
    assert letter == letters[chances.argmax()]
    assert chance == pytest.approx(chances.max(), abs=0.0051)
    return state


def outcome(sentence: str) -> tuple[str, float]:
    """The likeliest answer and its probability."""
    letter, chance = re.search(r"likeliest answer is (\w), with probability (\d\.\d+)", sentence).groups()
    return letter, float(chance)
