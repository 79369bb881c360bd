// Pick the query and see which positions are read and what follows; press a context token to change it.
function start(stage) {
  const { P, Q, mu, letters, group } = data;
  const context = [...data.context];
  let query = data.query;

  const drawToken = () => {
    let u = Math.random();
    for (let n = 0; n < mu.length; n++) if ((u -= mu[n]) < 0) return n;
    return mu.length - 1;
  };

  const queries = element("fieldset", {}, element("legend", {}, "Query:"));
  letters.forEach((letter, k) => {
    const radio = element("input", { type: "radio", name: group, checked: k === query, onchange: () => { query = k; draw(); } });
    queries.append(element("label", {}, radio, ` ${letter}`));
  });
  queries.append(element("button", { type: "button", onclick: () => {
    context.forEach((_, t) => { context[t] = drawToken(); });
    draw();
  } }, "Draw a new context"));

  const row = element("div", { className: "scb-context" });
  const cells = context.map((_, t) => {
    const bar = element("div");
    const button = element("button", { type: "button", onclick: () => {
      context[t] = (context[t] + 1) % letters.length;
      draw();
    } });
    const cell = element("div", {}, element("div", { className: "scb-weight", "aria-hidden": "true" }, bar), button,
      element("small", { "aria-hidden": "true" }, String(t + 1)));
    row.append(cell);
    return { cell, bar, button };
  });

  const answer = element("div", { className: "scb-answer", "aria-hidden": "true" });
  const fills = letters.map((letter, m) => {
    const fill = element("div", { className: "scb-fill" });
    const mean = element("div", { className: "scb-mean" });
    mean.style.left = `calc(${100 * mu[m]}% - 1px)`;
    const number = element("span");
    answer.append(element("span", {}, letter), element("div", { className: "scb-track" }, fill, mean), number);
    return { fill, number };
  });
  const summary = element("p", { "aria-live": "polite" });

  stage.append(queries, element("div", {}, "Context, with the weight of each position above it (press a token to change it):"), row,
    element("div", {}, "Probability of the answer (", element("span", { className: "scb-key" }), " its frequency without any context):"),
    answer, summary);

  function draw() {
    const weights = Q.map((line) => line[query]);
    const highest = Math.max(...Q.flat());
    cells.forEach(({ cell, bar, button }, t) => {
      bar.style.height = `${(100 * weights[t]) / highest}%`;
      button.textContent = letters[context[t]];
      button.setAttribute("aria-label", `position ${t + 1}, weight ${weights[t].toFixed(2)}: token ${letters[context[t]]}`);
      cell.className = weights[t] > 0 ? "scb-read" : "";
    });
    const chances = letters.map((_, m) => weights.reduce((sum, weight, t) => sum + weight * P[m][context[t]], 0));
    chances.forEach((chance, m) => {
      fills[m].fill.style.width = `${100 * chance}%`;
      fills[m].number.textContent = chance.toFixed(2);
    });
    const best = chances.indexOf(Math.max(...chances));
    const reads = weights.flatMap((weight, t) => (weight > 0 ? [`position ${t + 1} (weight ${weight.toFixed(2)}, token ${letters[context[t]]})`] : []));
    summary.textContent = `Query ${letters[query]} reads ${reads.join(" and ")}. The likeliest answer is ${letters[best]}, with probability ${chances[best].toFixed(2)}.`;
  }
  draw();
}
