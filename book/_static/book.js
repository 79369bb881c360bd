{
  // Paper is white: print the light theme.
  const root = document.documentElement.dataset;
  let shown;
  addEventListener("beforeprint", () => { shown = root.theme; root.theme = "light"; });
  addEventListener("afterprint", () => { root.theme = shown; });

  // The theme lets the keyboard scroll wide code, but looks for it only when the window changes: let it look when something unfolds.
  for (const event of ["click", "toggle"]) addEventListener(event, () => dispatchEvent(new Event("resize")), true);
}
