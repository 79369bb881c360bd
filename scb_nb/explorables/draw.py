"""One draw of the task: which positions a query reads, and what follows."""

from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from scb_nb import figures, validate
from scb_nb.explorables.core import LETTERS, Explorable
from scb_nb.task import SCBTask


def contextual_bigram(task: SCBTask, *, seed: int = 0, query: int = 0) -> Explorable:
    """Return an explorable of one draw: pick the query, change the context, see what is read and what follows.

    Parameters
    ----------
    task : SCBTask
        With at most 26 tokens and 40 positions, so that it can be drawn.
    seed : int
        Draws the context that it opens with.
    query : int
        The query that it opens with, from 0 to N - 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of its type or range, or the task is too large to draw.
    """
    validate.integer("task.vocab_size", task.vocab_size, 1, len(LETTERS))
    validate.integer("task.seq_len", task.seq_len, 1, 40)
    query = validate.integer("query", query, 0, task.vocab_size - 1)
    context = task.sample(1, seed, device="cpu").tokens[0].numpy()  # (T,)
    letters = LETTERS[: task.vocab_size]
    prediction = task.P[:, context] @ task.Q[:, query]  # (N,)
    read = np.flatnonzero(task.Q[:, query])
    reads = " and ".join(f"position {t + 1} (weight {task.Q[t, query]:.2f}, token {letters[context[t]]})" for t in read)
    return Explorable(
        "contextual_bigram.js",
        {
            "P": task.P.round(6).tolist(),
            "Q": task.Q.round(6).tolist(),
            "mu": task.mu.round(6).tolist(),
            "letters": list(letters),
            "context": context.tolist(),
            "query": query,
            "group": f"query-{task.vocab_size}-{task.seq_len}-{seed}",
        },
        question="Which context tokens can you change without changing the prediction? Does that depend on the query?",
        still=_still(task, context, query, prediction),
        # In the words of contextual_bigram.js.
        alt=f"Query {letters[query]} reads {reads}. "
        f"The likeliest answer is {letters[prediction.argmax()]}, with probability {prediction.max():.2f}.",
    )


def _still(task: SCBTask, context: np.ndarray, query: int, prediction: np.ndarray) -> Figure:
    figure, (above, below) = plt.subplots(2, figsize=(7, 4), constrained_layout=True)
    above.bar(range(task.seq_len), task.Q[:, query], color=figures.COLOURS["blue"])
    above.set_xticks(range(task.seq_len), [LETTERS[token] for token in context])
    above.set(ylabel="weight", title=f"Context; the query is {LETTERS[query]}")
    below.barh(range(task.vocab_size), prediction, color=figures.COLOURS["blue"])
    below.plot(
        task.mu, range(task.vocab_size), "|", color=figures.COLOURS["vermilion"], markersize=14, markeredgewidth=3
    )
    below.set_yticks(range(task.vocab_size), list(LETTERS[: task.vocab_size]))
    below.set(xlim=(0, 1), xlabel="probability of the answer (marks: without any context)")
    below.invert_yaxis()
    return figure


def live_contextual_bigram() -> ipywidgets.Widget:
    """Return sliders for a random task and the query, above the picture of one draw; needs a running kernel."""
    # ipywidgets.interactive would put an Output widget here, and nbclient, which executes the book, can hang on these.
    ranges = {"vocab_size": (2, 8), "seq_len": (2, 24), "sparsity": (1, 6), "query": (0, 7), "seed": (0, 20)}
    start = {"vocab_size": 4, "seq_len": 12, "sparsity": 2, "query": 0, "seed": 0}
    sliders = {
        name: ipywidgets.IntSlider(start[name], *bounds, description=name, continuous_update=False)
        for name, bounds in ranges.items()
    }
    picture, words = ipywidgets.Image(format="png"), ipywidgets.Label()

    def redraw(_: Any = None) -> None:
        size, length, sparsity, query, seed = (slider.value for slider in sliders.values())
        task = SCBTask.random(size, length, min(sparsity, length), seed=seed)
        drawn = contextual_bigram(task, query=min(query, size - 1), seed=seed)
        picture.value, words.value = drawn.png, drawn.alt

    for slider in sliders.values():
        slider.observe(redraw, "value")
    redraw()
    return ipywidgets.VBox([*sliders.values(), picture, words])
