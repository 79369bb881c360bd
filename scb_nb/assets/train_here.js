// Train on fresh samples, here in the page: train_worker.js computes, this file holds the controls and the pictures.
function start(stage) {
  const WIDE = 400, HIGH = 190, LEFT = 46, RIGHT = 24, TOP = 8, BOTTOM = 44, FLOOR = 0.01, CEILING = 3; // the chart, in its own units
  const { P, Q, mu, letters, choices, opening } = data;
  const N = mu.length, setting = { ...opening.setting };
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  let worker;
  try {
    worker = new Worker(URL.createObjectURL(new Blob([data.worker], { type: "text/javascript" })));
  } catch {
    stage.after(element("p", {}, "This browser does not let a page compute in the background, so the picture stays as it is."));
    return false;
  }
  const waiting = [];
  worker.onmessage = ({ data: answer }) => waiting.shift()(answer);
  worker.onerror = ({ message }) => { running = false; summary.textContent = `The script has stopped: ${message}`; };
  const ask = (question) => new Promise((resolve) => { waiting.push(resolve); worker.postMessage(question); });

  // The run. Whatever begins, begins a new `attempt`; what an earlier one still answers is passed over.

  let wanted, state, points = [], before = [], attempt = 0, running = false;

  function begin(from) {
    const { stretch } = setting, none = mu.map(() => 0);
    wanted = Q.flatMap((row) => Array.from({ length: stretch }, (_, t) => (t === Math.floor(stretch / 2) ? row : none)));
    const settings = { ...setting, steps: data.steps, visible: data.visible, critical: data.critical[choices.stretch.indexOf(stretch)] };
    return ask({ ask: "begin", task: { P, Q: wanted, mu }, seed: setting.seed, state: from, settings });
  }

  async function reset(goOn = false) {
    const mine = ++attempt;
    running = false;
    const fresh = await begin();
    if (mine !== attempt) return;
    if (points.length > 1) before = points;
    points = [];
    keep(fresh);
    frame();
    draw(true);
    if (goOn) train();
  }

  async function advance(steps, mine) {
    const next = await ask({ ask: "step", steps });
    if (mine === attempt) keep(next);
    return mine === attempt;
  }

  async function train() {
    if (state.outcome) return reset(true);
    const mine = ++attempt;
    let drawn = performance.now();
    running = true;
    draw(true);
    while (running && !state.outcome) {
      const earlier = state.stage;
      if (!(await advance(calm ? 1000 : setting.method === "sgd" ? 12 : 4, mine))) return;
      if (!calm || state.stage !== earlier || performance.now() > drawn + 1000) {
        draw(state.stage !== earlier);
        drawn = performance.now();
      }
      await new Promise(requestAnimationFrame);
    }
    if (mine !== attempt) return;
    running = false;
    draw(true);
  }

  async function one() {
    running = false;
    if (!state.outcome && await advance(1, ++attempt)) draw(true);
  }

  // Errors are in the mu-weighted norm, as shares of those at the start. Of a run that diverged the last finite state stays.
  function keep(next) {
    if (next.outcome === "diverged") return Object.assign(state, { outcome: next.outcome, broken: next.step });
    const T = wanted.length, share = (found, truth, first, rows) => {
      let [off, whole] = [0, 0];
      for (let n = 0; n < N; n++) for (let i = 0; i < rows; i++) {
        off += mu[n] * (found(i, n) - truth[i][n]) ** 2;
        whole += mu[n] * (first(i) - truth[i][n]) ** 2;
      }
      return Math.sqrt(off / whole);
    };
    state = next;
    points.push({ samples: state.samples, stage: state.stage,
      V: share((m, n) => state.V[m * N + n], P, (m) => mu[m], N), A: share((t, n) => state.A[n * T + t], wanted, () => 1 / T, T) });
  }

  // Controls

  const methods = element("fieldset", {}, element("legend", {}, "Training:"));
  const group = `scb-method-${Math.random().toString(36).slice(2)}`;
  for (const [method, words] of [["stages", "two stages"], ["sgd", "plain SGD"]]) {
    const radio = element("input", { type: "radio", name: group, value: method, checked: method === setting.method,
      onchange: () => { setting.method = method; reset(running); } });
    methods.append(element("label", {}, radio, ` ${words}`));
  }
  const labels = { stretch: "context length T", batch: "batch", rate: "rate η", l1: "threshold λ, in stage 2", seed: "seed of the samples" };
  const written = (name) => (value) => (name === "stretch" ? value * Q.length : value).toLocaleString("en");
  const sliders = Object.entries(choices).map(([name, values]) => slider(name, [labels[name]], values, values.indexOf(setting[name]), written(name),
    (value) => { setting[name] = value; reset(running); }).node);
  const go = element("button", { type: "button", onclick: () => { if (running) running = false; else train(); } });
  const buttons = element("div", { className: "scb-buttons" }, go,
    element("button", { type: "button", onclick: one }, "One step"), element("button", { type: "button", onclick: () => reset() }, "Reset"));

  // Pictures

  const highest = (matrix) => Math.max(...matrix.flat());
  const matrices = element("div", { className: "scb-matrices" });
  let A, V;
  function frame() { // what changes with T only
    const { stretch } = setting, high = 8 / Q.length;
    const rows = Q.map((_, t) => (t % 10 ? "" : (t * stretch + 1).toLocaleString("en")));
    const [learned, truth] = ["A, learned", "Q, true"].map((title) => heatMap(title, rows, letters, highest(Q), high));
    const [values, chain] = ["V, learned", "P, true"].map((title) => heatMap(title, letters, letters, highest(P)));
    truth.show(Q);
    chain.show(P);
    [A, V] = [learned, values];
    matrices.replaceChildren(learned.node, truth.node, element("div", {}, values.node, chain.node));
    each.textContent = stretch === 1 ? "" : `each row of A and Q is ${stretch} positions; it shows the largest`;
  }

  const curve = (name) => shape("polyline", { class: name });
  const lines = { earlier: curve("scb-earlier"), V: curve("scb-path"), A: curve("scb-loss"), border: shape("line", { class: "scb-border", y1: TOP, y2: HIGH - BOTTOM }) };
  const level = (share) => TOP + (Math.log(CEILING / Math.min(CEILING, Math.max(share, FLOOR))) / Math.log(CEILING / FLOOR)) * (HIGH - TOP - BOTTOM);
  const numbers = [0, 1, 2].map(() => shape("text", { y: HIGH - BOTTOM + 20, "text-anchor": "middle" }));
  const chart = shape("svg", { class: "scb-errors", viewBox: `0 0 ${WIDE} ${HIGH}`, "aria-hidden": "true" },
    ...[1, 0.1, 0.01].flatMap((share) => [shape("line", { class: "scb-grid", x1: LEFT, x2: WIDE - RIGHT, y1: level(share), y2: level(share) }),
      shape("text", { x: LEFT - 6, y: level(share) + 5, "text-anchor": "end" }, String(share))]),
    ...Object.values(lines), ...numbers, shape("text", { x: (WIDE + LEFT) / 2, y: HIGH - 6, "text-anchor": "middle" }, "samples"));
  const each = element("span");
  const legend = element("p", { className: "scb-legend" },
    element("span", {}, element("i"), " distance of V from P"), element("span", {}, element("i", { className: "scb-dashed" }), " distance of A from Q"),
    element("span", {}, "both as shares of those at the start; thin: A in the run before; dotted: where stage 2 began"), each);
  const summary = element("p", { "aria-live": "polite" });
  stage.append(methods, element("div", { className: "scb-controls" }, ...sliders), buttons, matrices, chart, legend, summary);

  function draw(say) {
    const { stretch } = setting, T = wanted.length, { samples } = points.at(-1);
    A.show(Q.map((_, row) => letters.map((_, k) => {
      const some = Array.from({ length: stretch }, (_, t) => state.A[k * T + row * stretch + t]);
      return some.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most));
    })));
    V.show([...state.V]);

    const most = Math.max(8000, samples, before.at(-1)?.samples ?? 0), unit = 10 ** Math.floor(Math.log10(most));
    const end = [1, 2, 4, 6, 8, 10].map((times) => times * unit).find((edge) => edge >= most);
    const across = (value) => LEFT + (value / end) * (WIDE - LEFT - RIGHT);
    const outline = (run, name) => run.map((point) => `${across(point.samples).toFixed(1)},${level(point[name]).toFixed(1)}`).join(" ");
    for (const name of ["V", "A"]) lines[name].setAttribute("points", outline(points, name));
    lines.earlier.setAttribute("points", outline(before, "A"));
    const second = points.find((point) => point.stage === 1);
    for (const x of ["x1", "x2"]) lines.border.setAttribute(x, across(second?.samples ?? 0));
    lines.border.setAttribute("visibility", second ? "visible" : "hidden");
    numbers.forEach((number, i) => {
      number.setAttribute("x", across((i * end) / 2));
      number.textContent = ((i * end) / 2).toLocaleString("en");
    });
    go.textContent = running ? "Pause" : "Start";
    summary.setAttribute("aria-live", say ? "polite" : "off"); // not a sentence for every frame
    summary.textContent = words();
  }

  const brief = (share) => (share < 100 ? share.toFixed(2) : share.toPrecision(2));
  // In the words of explorables.train_here.
  function words() {
    const { samples, V, A } = points.at(-1);
    const count = (read) => state.support.reduce((sum, column, k) => sum + column.reduce((part, is, t) => part + (is && wanted[t][k] > 0 === read ? 1 : 0), 0), 0);
    const hits = count(true), others = count(false), read = wanted.flat().filter((weight) => weight > 0).length;
    const place = `${setting.method === "sgd" ? "plain SGD" : `stage ${state.stage + 1}`}, step ${state.step}`;
    const end = { diverged: `Diverged at step ${state.broken}: V or A is no longer finite. Shortly before: `, "gave up": "Stage 1 has given up. ", finished: "Finished. " }[state.outcome] ?? "";
    return `${end}${end.endsWith(": ") ? "after" : "After"} ${samples.toLocaleString("en")} samples, ${place}: ${hits} of ${read} positions that are read ${state.stage ? "are found" : "stand out"}, ` +
      `and ${others} ${others === 1 ? "other" : "others"}. The distance of V from P is ${brief(V)} of that at the start, that of A from Q ${brief(A)}.`;
  }

  begin(opening.state);
  state = opening.state;
  points = opening.points;
  frame();
  draw(true);
}
