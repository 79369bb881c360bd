// Turn the correlation of a pretrained V and the number of samples, and see what stands out at the first look.
function start(stage) {
  const WIDE = 400, HIGH = 240, LEFT = 40, RIGHT = 6, TOP = 8, BOTTOM = 30; // the chart, in its own units
  const { correlations, samples, heard, read, tokens, critical, signal } = data;
  const size = read.length, length = size / tokens; // entry (t, k) is at t * tokens + k
  const now = { ...data.opening };

  const sorted = (values) => [...values].sort((a, b) => a - b);
  const median = (values) => sorted(values)[(values.length - 1) >> 1]; // the lower one of two, as in PyTorch

  // Heights in units of noise: what is heard is linear in V - mu 1^T.
  function heights() {
    const c = correlations[now.correlation], [along, across] = heard[now.samples];
    const pull = along.map((value, i) => c * value + Math.sqrt(1 - c * c) * across[i]);
    const middle = Array.from({ length: tokens }, (_, k) => median(pull.filter((_, i) => i % tokens === k)));
    const centred = pull.map((value, i) => value - middle[i % tokens]);
    const noise = 1.4826 * median(centred.map(Math.abs));
    return centred.map((value) => value / noise);
  }

  // Roots tame the scale: a height of 64 is drawn eight times as far out as one of 1.
  const MOST = 81, FAR = Math.sqrt(MOST);
  const level = (height) => TOP + (HIGH - TOP - BOTTOM) * (0.5 - (Math.sign(height) * Math.sqrt(Math.min(MOST, Math.abs(height)))) / (2 * FAR));
  const across = (i) => LEFT + 4 + ((i % tokens) * length + Math.floor(i / tokens)) * ((WIDE - LEFT - RIGHT - 8) / (size - 1));
  const grid = [-64, -16, 0, 16, 64].flatMap((height) => [
    shape("line", { class: "scb-grid", x1: LEFT, x2: WIDE - RIGHT, y1: level(height), y2: level(height) }),
    shape("text", { x: LEFT - 5, y: level(height) + 5, "text-anchor": "end" }, String(height).replace("-", "\u2212"))]);
  const limits = [critical, -critical].map((height) =>
    shape("line", { class: "scb-border", x1: LEFT, x2: WIDE - RIGHT, y1: level(height), y2: level(height) }));
  const order = read.map((_, i) => i).sort((a, b) => read[a] - read[b]); // what is read, in front
  const dots = new Map(order.map((i) => [i, read[i]
    ? shape("path", { class: "scb-diamond", d: "M0,-7 L7,0 L0,7 L-7,0 Z" })
    : shape("circle", { class: "scb-dot", r: 2.2 })]));
  const chart = shape("svg", { class: "scb-errors scb-heights", viewBox: `0 0 ${WIDE} ${HIGH}`, "aria-hidden": "true" },
    ...grid, ...limits, ...dots.values(),
    shape("text", { x: (WIDE + LEFT) / 2, y: HIGH - 8, "text-anchor": "middle" }, "entries of A, query by query"));
  const diamond = shape("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, shape("path", { class: "scb-diamond", d: "M0,-7 L7,0 L0,7 L-7,0 Z" }));
  const legend = element("p", { className: "scb-legend" },
    element("span", {}, diamond, " positions that are read"),
    element("span", {}, "up: height in units of noise (on a scale of roots); dotted: what noise alone exceeds nowhere"));

  // Controls

  const words = { correlation: (value) => value.toFixed(2).replace("-", "\u2212"), samples: (value) => value.toLocaleString("en") };
  const dial = (name, label, values) => slider(name, [label], values, now[name], words[name], (_, index) => { now[name] = index; draw(); }).node;
  const controls = element("div", { className: "scb-controls" },
    dial("correlation", "Correlation of V with P", correlations), dial("samples", "Samples", samples));
  const summary = element("p", { "aria-live": "polite" });
  stage.append(controls, chart, legend, summary);

  function draw() {
    const found = heights();
    for (const [i, dot] of dots) dot.setAttribute("transform", `translate(${across(i).toFixed(1)} ${level(found[i]).toFixed(1)})`);
    const count = (test) => found.filter((height, i) => test(height, read[i])).length;
    const up = count((height, is) => is && height > critical), down = count((height, is) => is && height < -critical);
    const others = count((height, is) => !is && Math.abs(height) > critical);
    const c = correlations[now.correlation];
    const needed = Math.abs(c) < 0.001 ? "no number of samples is enough"
      : `about ${Number(((critical / (c * signal)) ** 2).toPrecision(2)).toLocaleString("en")} samples should do`;
    // In the words of explorables.correlation_dial.
    summary.textContent = `Correlation ${words.correlation(c)}, ${words.samples(samples[now.samples])} samples: of ${read.filter(Boolean).length} positions that are read, ` +
      `${up} stand out upwards and ${down} downwards, and ${others} of the others. By the formula, ${needed}.`;
  }
  draw();
}
