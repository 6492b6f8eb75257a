addEventListener("load", () => {
  // What scrolls sideways is reached by the Tab key, and a screen reader says what it is.
  const watch = new ResizeObserver(entries => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) {
        target.tabIndex = 0;
        target.role = "group";
        target.ariaLabel = target.matches("code") ? "Code, scrolls sideways" : "Table, scrolls sideways";
      } else {
        ["tabindex", "role", "aria-label"].forEach(name => target.removeAttribute(name));
      }
    }
  });
  document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap").forEach(each => watch.observe(each));

  // The theme's buttons of a narrow screen are labels, which no key reaches.
  const names = { "__drawer": "Menu", "__search": "Search", "__toc": "On this page" };
  for (const label of document.querySelectorAll("label.md-header__button, label.md-sidebar-button")) {
    if (!(label.htmlFor in names)) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = label.className;
    button.ariaLabel = names[label.htmlFor];
    button.setAttribute("for", label.htmlFor);
    button.append(...label.childNodes);
    button.addEventListener("click", () => document.getElementById(label.htmlFor).click());
    label.replaceWith(button);
  }
  addEventListener("keydown", event => {
    if (event.key !== "Escape") return;
    for (const box of document.querySelectorAll("#__drawer:checked, #__toc:checked")) box.click();
  });
});
