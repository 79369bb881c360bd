// What every explorable uses. `element("button", {onclick: f}, "text", child)` makes a node, `shape` one of a drawing.
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function shape(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// A slider over `values` in its label, which says in the words of `written` where it stands; `changed` gets value and index.
function slider(name, label, values, index, written, changed) {
  const shown = element("b"); // an output element would take the label for itself
  const input = element("input", { type: "range", name, min: 0, max: values.length - 1, step: 1, value: index });
  const show = () => {
    shown.textContent = written(values[input.value]);
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.oninput = () => { show(); changed(values[input.value], Number(input.value)); };
  show();
  return { node: element("label", {}, element("span", {}, ...label, ": ", shown), input), set: (place) => { input.value = place; show(); } };
}

// A matrix of squares as high as `high` widths: the darker, the larger, up to `highest`; what is negative has the other colour.
function heatMap(title, rows, columns, highest, high = 1) {
  const left = 0.6 + 0.3 * Math.max(...rows.map((name) => name.length)), bottom = high * rows.length, top = Math.max(0, 0.25 - high / 2);
  const squares = rows.flatMap((_, t) => columns.map((_, k) => shape("rect", { class: "scb-square", x: left + k, y: high * t, width: 1, height: high })));
  const label = (text, x, y, anchor) => shape("text", { x, y, "font-size": 0.55, "text-anchor": anchor }, text);
  const svg = shape("svg", { class: high < 0.5 ? "scb-fine" : "", viewBox: `0 ${-top} ${left + columns.length + 0.1} ${top + bottom + 0.9}`, "aria-hidden": "true" }, ...squares,
    shape("rect", { class: "scb-frame", x: left, y: 0, width: columns.length, height: bottom }),
    ...columns.map((name, k) => label(name, left + k + 0.5, bottom + 0.65, "middle")),
    ...rows.map((name, t) => label(name, left - 0.2, high * (t + 0.5) + 0.2, "end")));
  const node = element("div", { className: "scb-matrix" }, element("div", { className: "scb-title" }, title), svg);
  const show = (values) => values.flat().forEach((value, i) => {
    squares[i].setAttribute("class", value < 0 ? "scb-square scb-negative" : "scb-square");
    squares[i].setAttribute("fill-opacity", Math.min(1, Math.abs(value) / highest).toFixed(3));
  });
  return { node, show };
}

// Run `start(stage)` once in each copy of this explorable on the page, and put the stage in place of the still picture;
// not if it returns false, because the browser cannot do what it needs.
function mount(key, start) {
  for (const root of document.querySelectorAll(`[data-scb="${key}"]:not(.scb-ready)`)) {
    if (start(root.querySelector(".scb-stage")) !== false) root.classList.add("scb-ready");
  }
}
