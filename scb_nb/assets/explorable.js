// What every explorable uses. `element("button", {onclick: f}, "text", child)` makes a node.
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Run `start(stage)` once in each copy of this explorable on the page, and put the stage in place of the still picture.
function mount(key, start) {
  for (const root of document.querySelectorAll(`[data-scb="${key}"]:not(.scb-ready)`)) {
    start(root.querySelector(".scb-stage"));
    root.classList.add("scb-ready");
  }
}
