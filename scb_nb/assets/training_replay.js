// Replay one run of training: pick a record, and see A beside Q, V beside P, and the errors until then and after.
function start(stage) {
  const WIDE = 400, HIGH = 190, LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 44, FLOOR = 0.01; // the chart, in its own units
  const { P, Q, mu, letters, stages, frames } = data;
  let now = data.opening, timer = null;

  const shape = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  // Four matrices, each a picture of squares: the darker, the larger; what is negative has the other colour.

  function picture(title, rows, columns, named) {
    const high = rows > 12 ? 0.6 : 1; // of one row, in widths of a column
    const squares = Array.from({ length: rows * columns }, (_, i) =>
      shape("rect", { class: "scb-square", x: 1.2 + (i % columns), y: high * Math.floor(i / columns), width: 1, height: high }));
    const label = (text, x, y) => shape("text", { x, y, "font-size": 0.55, "text-anchor": "middle" }, text);
    const svg = shape("svg", { viewBox: `0 0 ${columns + 1.3} ${high * rows + 0.9}`, "aria-hidden": "true" }, ...squares,
      shape("rect", { class: "scb-frame", x: 1.2, y: 0, width: columns, height: high * rows }),
      ...letters.map((letter, k) => label(letter, 1.7 + k, high * rows + 0.65)),
      ...named.map((name, t) => label(name, 0.6, high * (t + 0.5) + 0.2)));
    const node = element("div", { className: "scb-matrix" }, element("div", { className: "scb-title" }, title), svg);
    const highest = Math.max(...(rows === mu.length ? P : Q).flat());
    const show = (values) => values.flat().forEach((value, i) => {
      squares[i].setAttribute("class", value < 0 ? "scb-square scb-negative" : "scb-square");
      squares[i].setAttribute("fill-opacity", Math.min(1, Math.abs(value) / highest).toFixed(3));
    });
    return { node, show };
  }

  const positions = Q.map((_, t) => String(t + 1));
  const A = picture("A, learnt", Q.length, mu.length, positions), wantedA = picture("Q, true", Q.length, mu.length, positions);
  const V = picture("V, learnt", mu.length, mu.length, letters), wantedV = picture("P, true", mu.length, mu.length, letters);
  wantedA.show(Q);
  wantedV.show(P);

  // The errors, as shares of those at the start, against samples; the second axis is logarithmic.

  const across = (samples) => LEFT + (samples / frames.at(-1).samples) * (WIDE - LEFT - RIGHT);
  const level = (share) => TOP + (Math.log(Math.max(share, FLOOR)) / Math.log(FLOOR)) * (HIGH - TOP - BOTTOM);
  const line = (name, style) => shape("polyline", { class: style, points: frames.map((frame) => `${across(frame.samples).toFixed(1)},${level(frame[name]).toFixed(1)}`).join(" ") });
  const grid = [1, 0.1, 0.01].flatMap((share) => [
    shape("line", { class: "scb-grid", x1: LEFT, x2: WIDE - RIGHT, y1: level(share), y2: level(share) }),
    shape("text", { x: LEFT - 6, y: level(share) + 5, "text-anchor": "end" }, String(share))]);
  let step = 10 ** Math.floor(Math.log10(frames.at(-1).samples));
  if (frames.at(-1).samples < 4 * step) step /= 2;
  for (let samples = 0; samples <= frames.at(-1).samples; samples += step) {
    grid.push(shape("text", { x: across(samples), y: HIGH - BOTTOM + 20, "text-anchor": "middle" }, samples.toLocaleString("en")));
  }
  const borders = frames.slice(1).flatMap((frame, i) => (frame.stage === frames[i].stage ? [] : [across(frames[i].samples)]));
  const cursor = shape("line", { class: "scb-cursor", y1: TOP, y2: HIGH - BOTTOM });
  const dots = [shape("circle", { class: "scb-mark", r: 5 }), shape("rect", { class: "scb-mark", width: 9, height: 9 })];
  const chart = shape("svg", { class: "scb-errors", viewBox: `0 0 ${WIDE} ${HIGH}`, "aria-hidden": "true" }, ...grid,
    ...borders.map((x) => shape("line", { class: "scb-border", x1: x, x2: x, y1: TOP, y2: HIGH - BOTTOM })),
    line("error_V", "scb-path"), line("error_A", "scb-loss"), cursor, ...dots,
    shape("text", { x: (WIDE + LEFT) / 2, y: HIGH - 6, "text-anchor": "middle" }, "samples"));
  const legend = element("p", { className: "scb-legend" },
    element("span", {}, element("i"), " distance of V from P"),
    element("span", {}, element("i", { className: "scb-dashed" }), " distance of A from Q"),
    element("span", {}, "both as shares of those at the start; dotted: where a stage ends"));

  // Controls

  const shown = element("output");
  const slider = element("input", { type: "range", min: 0, max: frames.length - 1, step: 1, value: now });
  slider.oninput = () => { stop(); now = Number(slider.value); draw(); };
  const controls = element("div", { className: "scb-controls" }, element("label", {}, element("span", {}, "Record: ", shown), slider));
  const play = element("button", { type: "button" }, "Play");
  const summary = element("p", { "aria-live": "polite" });

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    summary.setAttribute("aria-live", "polite");
  }
  play.onclick = () => {
    if (timer) return stop();
    if (now === frames.length - 1) now = 0;
    play.textContent = "Stop";
    summary.setAttribute("aria-live", "off"); // not a sentence for every frame
    timer = setInterval(() => {
      if (!stage.isConnected) return clearInterval(timer);
      now += 1;
      draw();
      if (now === frames.length - 1) stop();
    }, 250);
  };
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) controls.append(element("div", {}, play));

  stage.append(controls, element("div", { className: "scb-matrices" }, A.node, wantedA.node, element("div", {}, V.node, wantedV.node)), chart, legend, summary);

  function draw() {
    const frame = frames[now];
    A.show(frame.A);
    V.show(frame.V);
    slider.value = now;
    shown.textContent = `${now + 1} of ${frames.length}`;
    slider.setAttribute("aria-valuetext", `${shown.textContent}, ${frame.samples.toLocaleString("en")} samples`);
    const x = across(frame.samples);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    dots[0].setAttribute("cx", x);
    dots[0].setAttribute("cy", level(frame.error_V));
    dots[1].setAttribute("x", x - 4.5);
    dots[1].setAttribute("y", level(frame.error_A) - 4.5);
    // In the words of explorables.training_replay.
    summary.textContent = `After ${frame.samples.toLocaleString("en")} samples, ${stages[frame.stage]}: the distance of V from P is ${frame.error_V.toFixed(2)} of that at the start, ` +
      `that of A from Q ${frame.error_A.toFixed(2)}, and ${Math.round(100 * right(frame.A))}% of the attention is on the right positions.`;
  }

  function right(attention) {
    return attention.reduce((sum, row, t) => sum + row.reduce((part, value, k) => part + (Q[t][k] > 0 ? mu[k] * value : 0), 0), 0);
  }
  draw();
}
