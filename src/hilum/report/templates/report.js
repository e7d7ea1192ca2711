document.querySelectorAll("[data-tabs]").forEach(function (box) {
  var panels = Array.from(box.querySelectorAll(":scope > [data-panel]"));
  if (panels.length < 2) return;
  var list = document.createElement("div");
  list.className = "tablist";
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", box.dataset.tabs);
  var tabs = panels.map(function (panel, i) {
    var tab = document.createElement("button");
    tab.type = "button";
    tab.id = panel.id + "-tab";
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    tab.textContent = panel.dataset.panel;
    tab.addEventListener("click", function () { show(i); });
    tab.addEventListener("keydown", function (event) {
      var step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show((i + step + tabs.length) % tabs.length);
      list.querySelector("[aria-selected=true]").focus();
    });
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    list.appendChild(tab);
    return tab;
  });
  function show(chosen) {
    tabs.forEach(function (tab, i) {
      tab.setAttribute("aria-selected", String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1;
      panels[i].classList.toggle("closed", i !== chosen);
    });
  }
  box.insertBefore(list, panels[0]);
  box.classList.add("tabbed");
  show(0);
});
