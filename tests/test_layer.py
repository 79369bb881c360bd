"""A standard transformer layer: what it computes, what is read off it, and how it is trained."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from helpers import every_sample, few_samples, small_stream
from torch import nn
from torch.nn import functional as F

from scb_nb import Batch, SCBTask, align
from scb_nb.layer import PARTS, TransformerLayer, carry, train
from scb_nb.reading import attention_map, readings, score_table, token_map
from scb_nb.training import Diverged

TASK = SCBTask.random(3, 6, 2, K_P=0.2, mu_ratio=2, seed=0)
SWITCHES = [(False, False), (True, False), (False, True), (True, True)]
each_layer = pytest.mark.parametrize(("norm", "mlp"), SWITCHES)


def layer_with(
    norm: bool = True, mlp: bool = True, seed: int = 0, width: int = 8, device: str = "cpu", spread: float = 1.0
) -> TransformerLayer:
    """A layer whose embeddings are large, so that its attention is far from even."""
    layer = TransformerLayer(3, 6, width, norm=norm, mlp=mlp, seed=seed, device=device)
    for embedding in (layer.token, layer.position):
        nn.init.normal_(embedding.weight, std=spread, generator=torch.Generator(device).manual_seed(seed))
    return layer


def flat(layer: nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in layer.parameters()])


def test_it_is_what_pytorch_calls_an_encoder_layer() -> None:
    """The standard layer, with its weights put into nn.TransformerEncoderLayer, read at the last place."""
    ours = layer_with().double()
    theirs = nn.TransformerEncoderLayer(8, 1, 32, dropout=0.0, batch_first=True, norm_first=True).double()
    attention, last = theirs.self_attn, ours.mlp
    assert last is not None
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        attention.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.randn(8), ours.value.bias]))
        for mine, its in (
            (ours.output, attention.out_proj),
            (ours.norm1, theirs.norm1),
            (ours.norm2, theirs.norm2),
            (last[0], theirs.linear1),
            (last[2], theirs.linear2),
        ):
            its.load_state_dict(mine.state_dict())
    batch = few_samples(TASK, 20, seed=1)
    h = ours.token(torch.cat([batch.tokens, batch.query[:, None]], 1)) + ours.position.weight
    torch.testing.assert_close(ours(batch), ours.readout(theirs(h)[:, -1]))
    z = theirs.norm1(h)
    torch.testing.assert_close(ours.attention(batch), attention(z, z, z)[1][:, -1])


@each_layer
def test_forward_against_the_obvious_loop(norm: bool, mlp: bool) -> None:
    """Scores, softmax, values, residuals: one sample and one place at a time."""
    layer = layer_with(norm, mlp).double()
    batch = few_samples(TASK, 5, seed=2)
    for row, (tokens, query) in enumerate(zip(batch.tokens, batch.query, strict=True)):
        h = [layer.token.weight[x] + layer.position.weight[t] for t, x in enumerate([*tokens, query])]
        z = [layer.norm1(each) for each in h]
        scores = torch.stack([layer.key(each) @ layer.query(z[-1]) / 8**0.5 for each in z])
        weights = scores.exp() / scores.exp().sum()
        out = h[-1] + layer.output(sum(w * layer.value(each) for w, each in zip(weights, z, strict=True)))
        if layer.mlp is not None:
            out = out + layer.mlp(layer.norm2(out))
        torch.testing.assert_close(layer(batch)[row], layer.readout(out))
        torch.testing.assert_close(layer.attention(batch)[row], weights)
    assert float(layer.attention(batch).detach().max()) > 1.2 / 7, "not even"


@each_layer
def test_score_table_holds_all_of_the_attention(norm: bool, mlp: bool) -> None:
    """A score depends on position, token there and query, and on nothing else."""
    layer = layer_with(norm, mlp).double()
    batch = few_samples(TASK, 30, seed=3)
    table = score_table(layer)
    assert table.shape == (6, 3, 3)
    scores = torch.stack([table[t, batch.tokens[:, t], batch.query] for t in range(6)], dim=1)
    context = layer.attention(batch)[:, :-1]
    torch.testing.assert_close(scores.softmax(1), context / context.sum(1, keepdim=True))
    # Without norms it is a sum: a table of positions and a table of tokens, for each query.
    crossed = table - table.mean(0) - table.mean(1, keepdim=True) + table.mean((0, 1))
    assert (float(crossed.abs().max()) < 1e-12) == (not norm)


def test_attention_map_is_mean_and_deviation_over_contexts(device: torch.device) -> None:
    layer = layer_with(device=str(device))
    batch = few_samples(TASK, 200, seed=4)
    tokens, query, target = (each.to(device) for each in batch)
    found = attention_map(layer, Batch(tokens, query, target, 3))
    weights = layer.attention(Batch(tokens, query, target, 3)).detach().cpu().double().numpy()
    for k in range(3):
        rows = weights[batch.query.numpy() == k]
        np.testing.assert_allclose(found.mean[:, k].cpu(), rows.mean(0)[:-1], rtol=1e-6)
        np.testing.assert_allclose(found.deviation[:, k].cpu(), rows.std(0)[:-1], rtol=1e-5, atol=1e-8)
        assert float(found.itself[k]) == pytest.approx(rows[:, -1].mean())
        assert float(found.mean[:, k].sum() + found.itself[k]) == pytest.approx(1)


@each_layer
def test_token_map_is_the_answer_to_one_token_everywhere(norm: bool, mlp: bool, device: torch.device) -> None:
    layer = layer_with(norm, mlp, device=str(device))
    found = token_map(layer)
    for n in range(3):
        answers = []
        for k in range(3):
            batch = Batch(
                torch.full((1, 6), n, device=device),
                torch.tensor([k], device=device),
                torch.tensor([0], device=device),
                3,
            )
            answers.append(layer(batch).softmax(1)[0].detach().cpu().double().numpy())
        np.testing.assert_allclose(found.mean[:, n].cpu(), np.mean(answers, 0), rtol=1e-5)
        np.testing.assert_allclose(found.deviation[:, n].cpu(), np.std(answers, 0), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.mean.sum(0).cpu(), 1, rtol=1e-6)


def test_readings_against_the_definition() -> None:
    """Nats by summing over a batch by hand; the maps as the functions say; total variation over all T + 1 places."""
    layer = layer_with()
    found = readings(TASK, samples=300, seed=5)(layer)
    batch = TASK.sample(300, 5, device="cpu")
    ours = layer(batch).double().softmax(1).detach().numpy()
    lost = []
    for row, (tokens, query) in enumerate(zip(batch.tokens.numpy(), batch.query.numpy(), strict=True)):
        best = sum(TASK.Q[t, query] * TASK.P[:, tokens[t]] for t in range(6))
        lost.append((best * np.log(best / ours[row])).sum())
    assert found["nats"] == pytest.approx(np.mean(lost), rel=1e-5)
    V, A = token_map(layer).mean, attention_map(layer, batch)
    assert (found["alpha_V"], found["alpha_A"]) == pytest.approx(align(V, A.mean, TASK)[:2])
    for name, mine, truth in (
        ("variation_P", V.numpy(), TASK.P),
        ("variation_Q", torch.cat([A.mean, A.itself[None]]).numpy(), np.vstack([TASK.Q, np.zeros(3)])),
    ):
        assert found[name] == pytest.approx(
            sum(TASK.mu[k] * np.abs(mine[:, k] - truth[:, k]).sum() / 2 for k in range(3))
        )
    assert found["deviation"] == pytest.approx(float(A.deviation[torch.tensor(TASK.support)].mean()))


class BestLayer(TransformerLayer):
    """A layer that knows the task: what is read off it has to be perfect."""

    def forward(self, batch: Batch) -> torch.Tensor:
        P, Q = torch.tensor(TASK.P), torch.tensor(TASK.Q)
        return torch.einsum("btm,bt->bm", P.T[batch.tokens], Q.T[batch.query]).log()

    def attention(self, batch: Batch) -> torch.Tensor:
        return F.pad(torch.tensor(TASK.Q).T[batch.query], (0, 1))


def test_readings_of_the_best_predictor_are_perfect() -> None:
    found = readings(TASK, 500)(BestLayer(3, 6, 4, seed=0, device="cpu"))
    assert (found["alpha_V"], found["alpha_A"]) == pytest.approx((1, 1))
    assert all(
        found[name] == pytest.approx(0, abs=1e-12) for name in ("nats", "variation_P", "variation_Q", "deviation")
    )


def test_one_token_everywhere_asks_for_a_column_of_P() -> None:
    """The best predictor's answer to a context of n only is column n of P, for every query; summed from the task."""
    task = SCBTask.random(3, 3, 2, seed=1)
    samples, weight = every_sample(task)
    for n in range(3):
        for k in range(3):
            chosen = (samples.tokens == n).all(1) & (samples.query == k)
            answers = np.zeros(3)
            np.add.at(answers, samples.target[chosen].numpy(), weight[chosen].numpy())
            np.testing.assert_allclose(answers / answers.sum(), task.P[:, n])


def test_training_is_adam_on_the_cross_entropy() -> None:
    """Against a loop in plain PyTorch, with the step size shrinking over the second half."""
    layer, other = layer_with(spread=0.1), layer_with(spread=0.1)
    source = small_stream(TASK, 3)
    source.position = 17
    history = train(layer, source, steps=6, batch_size=5, step_size=0.01, decay=True, record_every=4)
    stream = small_stream(TASK, 3)
    stream.position = 17
    optimizer = torch.optim.Adam(other.parameters(), lr=0.01)
    losses = []
    for rate in (0.01, 0.01, 0.01, 0.01, 0.01 * 2 / 3, 0.01 / 3):
        optimizer.param_groups[0]["lr"] = rate
        batch = stream.draw(5)
        loss = -other(batch).log_softmax(1)[torch.arange(5), batch.target].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(flat(layer), flat(other), rtol=1e-4, atol=1e-6)
    assert history["samples"].tolist() == [0, 20, 30]
    assert np.isnan(history["loss"][0])
    np.testing.assert_allclose(history["loss"][1:], [losses[3], losses[5]], rtol=1e-5)


def test_training_is_watched_without_being_changed_and_stops_when_told() -> None:
    seen: list[float] = []

    def stop(row: Mapping[str, float]) -> bool:
        seen.append(row["nats"])
        return len(seen) == 3

    layers = [layer_with() for _ in range(2)]
    watched = train(
        layers[0],
        small_stream(TASK, 1),
        steps=10,
        batch_size=4,
        observers=[readings(TASK, 100)],
        record_every=2,
        stop=stop,
    )
    train(layers[1], small_stream(TASK, 1), steps=4, batch_size=4)
    assert torch.equal(flat(layers[0]), flat(layers[1]))
    assert watched["samples"].tolist() == [0, 8, 16]
    assert watched["nats"].tolist() == seen


def test_defaults_are_those_that_are_documented() -> None:
    layer, before = (TransformerLayer(3, 6, seed=0, device="cpu") for _ in range(2))
    assert layer.width == 32
    assert layer.mlp is not None
    assert isinstance(layer.norm1, nn.LayerNorm)
    assert isinstance(layer.norm2, nn.LayerNorm)
    train(layer, small_stream(TASK, 1), steps=1)
    assert float((flat(layer) - flat(before)).abs().max()) == pytest.approx(1e-3, rel=1e-3), "the first step of Adam"
    assert train(layer, small_stream(TASK, 1), steps=21)["samples"].tolist() == [0, 1280, 2560, 2688]


def test_a_loss_that_is_not_finite_stops_it() -> None:
    for start in (float("nan"), float("inf")):
        layer = layer_with()
        with torch.no_grad():
            layer.readout.bias[0] = start
        with pytest.raises(Diverged, match=r"not finite at step 2, with a step size of 0\.01"):
            train(layer, small_stream(TASK, 1), steps=5, batch_size=4, step_size=0.01, record_every=2)


@pytest.mark.parametrize("progress", [True, False])
def test_progress_is_shown_when_asked_for(progress: bool, capsys: pytest.CaptureFixture[str]) -> None:
    train(layer_with(), small_stream(TASK, 1), steps=3, batch_size=4, progress=progress)
    assert ("3/3" in capsys.readouterr().err) == progress


def test_seed_is_all_that_the_start_depends_on() -> None:
    torch.manual_seed(5)
    first = TransformerLayer(3, 6, 8, seed=1, device="cpu")
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), expected), "the global generator is left alone"
    assert torch.equal(flat(first), flat(TransformerLayer(3, 6, 8, seed=1, device="cpu")))
    assert not torch.equal(flat(first), flat(TransformerLayer(3, 6, 8, seed=2, device="cpu")))
    batch = few_samples(TASK, 50, seed=0)
    bare = TransformerLayer(3, 6, 8, norm=False, seed=1, device="cpu")
    assert float((bare.attention(batch).detach() - 1 / 7).abs().max()) < 0.02, (
        "without norms it begins by looking evenly"
    )


@each_layer
def test_parts_are_all_there_is_and_are_carried(norm: bool, mlp: bool) -> None:
    old, new = layer_with(norm, mlp, seed=1), layer_with(norm, mlp, seed=2)
    names = {name.split(".")[0] for name in old.state_dict()}
    assert names <= set(PARTS["what"]) | set(PARTS["where"])
    assert not set(PARTS["what"]) & set(PARTS["where"])
    before = {name: each.clone() for name, each in new.state_dict().items()}
    assert carry(["where"], old, new) is new
    for name, each in new.state_dict().items():
        expected = old.state_dict()[name] if name.split(".")[0] in PARTS["where"] else before[name]
        assert torch.equal(each, expected), name
    carry(PARTS, old, new)
    assert torch.equal(flat(old), flat(new))
    with torch.no_grad():
        new.readout.bias += 1
    assert not torch.equal(flat(old), flat(new)), "a copy, not the same tensors"


def test_where_is_what_the_attention_depends_on_besides_the_tokens() -> None:
    layer = layer_with()
    layer.attention(few_samples(TASK, 20, seed=1))[:, 0].sum().backward()
    used = {name.split(".")[0] for name, each in layer.named_parameters() if each.grad is not None}
    assert used == {*PARTS["where"], "token", "norm1"}


def test_it_learns_the_task() -> None:
    task = SCBTask.random(2, 4, 1, K_P=0.3, seed=0)
    layer = TransformerLayer(2, 4, 8, seed=0, device="cpu")
    read = readings(task, 500)
    history = train(
        layer,
        small_stream(task, 1),
        steps=300,
        batch_size=64,
        step_size=0.01,
        decay=True,
        observers=[read],
        record_every=300,
    )
    assert history["nats"][0] > 0.1
    assert history["nats"][-1] < 0.005
    assert history["variation_Q"][-1] < 0.2 < history["variation_Q"][0]
