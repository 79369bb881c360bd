"""Explorables as cells show them: self-contained, with a still, and true to the package."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from scb_nb import SCBTask, batch_gradients, distances, explorables, fit, geometry, screening
from scb_nb.explorables.train import stretched
from scb_nb.stages import Descent
from scb_nb.state import State


def replay(task: SCBTask, **options: Any) -> explorables.Explorable:
    return explorables.training_replay(task, {"first": Descent(steps=30, batch_size=16, step_size=0.1)}, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: explorables.contextual_bigram(SCBTask.random(4, 12, 2, seed=0), query=1),
        explorables.phase_portrait,
        lambda: explorables.phase_portrait(K_P=0.37, K_Q=0.2, seq_len=77, ratio=0.3, start=(0.5, -0.25)),
        lambda: replay(SCBTask.random(3, 10, 2, K_P=0.3, seed=0)),
        lambda: explorables.correlation_dial(SCBTask.random(3, 11, 2, K_P=0.2, seed=0)),
        lambda: explorables.train_here(SCBTask.random(4, 20, 3, K_P=0.2, mu_ratio=2, seed=0), steps=5),
    ],
    ids=[
        "contextual_bigram",
        "phase_portrait",
        "phase_portrait elsewhere",
        "training_replay",
        "correlation_dial",
        "train_here",
    ],
)
def test_explorable_is_self_contained_and_carries_a_still(make: Callable[[], explorables.Explorable]) -> None:
    bundle = make()._repr_mimebundle_()
    page = bundle["text/html"]
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert len(bundle["text/plain"].split()) > 10
    assert not re.search(r"(src|href)=[\"']?https?:", page)
    assert 'class="scb-still"' in page
    assert page.count("<script>") == page.count("</script>") == 1
    outside_script = re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"<(button|input|select)", outside_script), (
        "controls are made by the script, or they would be dead"
    )
    assert page == make()._repr_html_(), "same arguments, same page"


def test_phase_portrait_tells_where_training_lands() -> None:
    told = explorables.phase_portrait(K_P=0.1, K_Q=0.4, seq_len=1_000).alt
    assert "lands near (1.41, 0.70)" in told
    assert "Then it creeps" in told
    assert "already within 0.05" in explorables.phase_portrait(K_P=0.1, K_Q=0.4, ratio=4.0).alt
    assert "wrong branch" in explorables.phase_portrait(start=(-0.5, 0.0)).alt
    for wrong in ({"K_P": 0}, {"K_Q": 2}, {"seq_len": 0}, {"ratio": 100}, {"start": (3, 0)}, {"start": (0, 0, 0)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            explorables.phase_portrait(**wrong)


def test_training_replay_shows_a_run_as_it_was() -> None:
    task = SCBTask.random(3, 10, 2, K_P=0.3, mu_ratio=2, seed=0)
    source = task.stream(3, device="cpu", share_mu=True)
    result = fit(source, (Descent(steps=30, batch_size=16, step_size=0.1),), observers=[distances(task)])
    page = replay(task, seed=3)._repr_html_()
    data, _ = json.JSONDecoder().raw_decode(page.split("const data = ", 1)[1])
    assert [frame["samples"] for frame in data["frames"]] == result.history["samples"].tolist() == [0, 160, 320, 480]
    np.testing.assert_allclose(data["frames"][-1]["A"], result.A, atol=6e-4)
    np.testing.assert_allclose(data["frames"][-1]["V"], result.V, atol=6e-4)
    for name in ("error_V", "error_A"):
        shares = result.history[name] / result.history[name][0]
        np.testing.assert_allclose([frame[name] for frame in data["frames"]], shares, atol=6e-4)
    assert replay(task, opening=1.0).alt.startswith("After 0 samples, first: the distance of V from P is 1.00 of ")
    assert "After 480 samples" in replay(task, opening=0.0).alt
    for wrong in (SCBTask.random(7, 10, 2, seed=0), SCBTask.random(3, 41, 2, seed=0)):
        with pytest.raises(ValueError, match="task"):
            replay(wrong)
    with pytest.raises(ValueError, match="K_P"):
        replay(SCBTask.random(3, 10, 2, K_P=0, seed=0))


def test_correlation_dial_shows_the_first_look() -> None:
    """Heights from its data are those of a batch at that V; what is told is what they show."""
    task = SCBTask.random(3, 21, 2, K_P=0.2, q_floor=0.5, seed=1)
    P, _, mu = (tensor.double() for tensor in task.tensors(like=torch.empty((), dtype=torch.float64)))
    explorable = explorables.correlation_dial(task, seed=3, correlation=-0.6, samples=4_000)
    data, _ = json.JSONDecoder().raw_decode(explorable._repr_html_().split("const data = ", 1)[1])
    place, along = data["opening"]["samples"], P - mu[:, None]
    assert data["samples"][place] == 4_000
    assert data["correlations"][data["opening"]["correlation"]] == -0.6
    batch = task.sample(32_000, 3, device="cpu")[:4_000]
    start = State.uniform(mu, 21)
    pull = -batch_gradients(start.V + along / geometry.norm(along, mu), start.A, batch).A / mu
    np.testing.assert_allclose(np.reshape(data["heard"][place][0], (21, 3)), pull, rtol=1e-4)
    assert np.reshape(data["read"], (21, 3)).tolist() == task.support.tolist()
    told = [int(n) for n in re.findall(r"(\d+) stand out upwards and (\d+) downwards", explorable.alt)[0]]
    assert told == [0, 6]
    assert "Correlation \u22120.60, 4,000 samples" in explorable.alt
    # The other direction knows nothing of P.
    assert re.search(r"0 stand out upwards and 0 .* no number", explorables.correlation_dial(task, correlation=0).alt)
    needed = (data["critical"] / (0.6 * data["signal"])) ** 2
    assert f"about {float(f'{needed:.2g}'):,.0f} samples" in explorable.alt
    for wrong in ({"correlation": 0.51}, {"correlation": 2}, {"samples": 300}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            explorables.correlation_dial(task, **wrong)
    for sizes in ({"vocab_size": 2}, {"seq_len": 300}, {"mu_ratio": 2}, {"K_P": 0}):
        refused = SCBTask.random(**{"vocab_size": 3, "seq_len": 9, "sparsity": 2, "seed": 0, **sizes})
        with pytest.raises(ValueError, match="task"):
            explorables.correlation_dial(refused)


def test_train_here_opens_with_a_run_of_the_package() -> None:
    task = SCBTask.random(3, 20, 2, K_P=0.3, q_floor=0.5, seed=0)
    page = explorables.train_here(task, steps=9, seed=4)
    data, _ = json.JSONDecoder().raw_decode(page._repr_html_().split("const data = ", 1)[1])
    longer = stretched(task, 4)
    assert longer.Q[2::4].tolist() == task.Q.tolist()
    assert longer.Q.sum() == pytest.approx(task.Q.sum())
    source = longer.stream(4, device="cpu", share_mu=True)
    stage = Descent(steps=9, batch_size=64, step_size=0.1)
    result = fit(source, [stage], observers=[distances(longer)], record_every=4, dtype=torch.float64)
    opening = data["opening"]
    assert [point["samples"] for point in opening["points"]] == result.history["samples"].tolist()
    np.testing.assert_allclose(opening["state"]["V"], result.V.flatten(), rtol=1e-12)
    np.testing.assert_allclose(opening["state"]["A"], result.A.T.flatten(), rtol=1e-12)
    for name in "VA":
        shares = result.history[f"error_{name}"] / result.history[f"error_{name}"][0]
        np.testing.assert_allclose([point[name] for point in opening["points"]], shares, atol=6e-5)
    choices = data["choices"]
    assert all(opening["setting"][name] in values for name, values in choices.items())
    assert task.seq_len * max(choices["stretch"]) == 400
    found = screening.outstanding(result.A, result.state.mu, 0.01).numpy()
    told = re.search(r"After 576 samples, stage 1, step 9: (\d+) of 6 .* stand out, and (\d+) others?\.", page.alt)
    assert told
    assert [int(n) for n in told.groups()] == [(found & longer.support).sum(), (found & ~longer.support).sum()]
    for wrong in ({"steps": 0}, {"steps": 2_000}, {"steps": 1_000}, {"steps": 1.5}, {"seed": -1}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            explorables.train_here(task, **wrong)
    for sizes in ({"vocab_size": 7}, {"vocab_size": 1}, {"seq_len": 19}, {"seq_len": 51}, {"K_P": 0}):
        refused = SCBTask.random(**{"vocab_size": 3, "seq_len": 20, "sparsity": 2, "seed": 0, **sizes})
        with pytest.raises(ValueError, match="task"):
            explorables.train_here(refused)


def test_live_explorable_redraws_when_a_slider_moves() -> None:
    *sliders, picture, words = explorables.live_contextual_bigram().children
    for slider in sliders:
        before = picture.value, words.value
        slider.value += 1
        assert (picture.value, words.value) != before, slider.description
    for slider in sliders:  # corners at which the query or the sparsity does not fit the size
        slider.value = slider.max
    for slider in sliders:
        slider.value = slider.min
    assert bytes(picture.value).startswith(b"\x89PNG")
