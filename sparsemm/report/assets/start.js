// Starting: everything is defined by now.

/** Bring a section into view. */
function go(section) {
  const target = element(section);
  if (target) target.scrollIntoView({ block: "start" });
}

/** A served page asks whether there is a newer one, and loads it at the same place. */
function follow() {
  const banner = element("live");
  banner.hidden = false;
  banner.textContent = "Served live.";
  const ask = async () => {
    try {
      const answer = await fetch("version", { cache: "no-store" });
      const news = await answer.json();
      banner.textContent = news.status;
      if (news.version !== report.live) {
        try {
          sessionStorage.setItem("sparsemm-scroll", String(scrollY));
        } catch {
          // Then the page begins at its top.
        }
        location.reload();
        return;
      }
    } catch {
      banner.textContent = "The server has ended: this page stays as it is.";
    }
    setTimeout(ask, 2000);
  };
  setTimeout(ask, 500);
}

readAddress();
setTheme(remember("sparsemm-theme"));
paintSwatches();
document.querySelectorAll("table.sortable").forEach(sortable);
drawShown();
drawWhenSeen();
startExplorer();
element("theme").addEventListener("click", nextTheme);
prefersDark.addEventListener("change", recolour);
element("prompt").addEventListener("change", (event) => {
  choose({ prompt: event.target.value || null });
  drawShown();
});
element("means-only")?.addEventListener("change", filterTables);
for (const link of document.querySelectorAll("[data-go]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    choose({ at: link.dataset.go });
    go(link.dataset.go);
  });
}
addEventListener("hashchange", () => {
  readAddress();
  drawShown();
  applyExplorer();
  if (state.at) go(state.at);
});
{
  let place = null;
  try {
    place = sessionStorage.getItem("sparsemm-scroll");
    sessionStorage.removeItem("sparsemm-scroll");
  } catch {
    // Nothing was kept.
  }
  if (place !== null) scrollTo(0, Number(place));
  else if (state.at ?? (state.doc === null ? null : "explorer")) go(state.at ?? "explorer");
}
if (report.live !== null) follow();
document.documentElement.dataset.ready = Math.round(performance.now()); // milliseconds until it can be used
requestAnimationFrame(() => setTimeout(loadPlotly));
