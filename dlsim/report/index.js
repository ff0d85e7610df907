"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll(".card")];
  const search = byId("search"), verdict = byId("verdict"), kind = byId("kind");
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const fits = words.every((word) => card.dataset.text.includes(word))
        && (!verdict.value || card.dataset.verdicts.split("|").includes(verdict.value))
        && (!kind.value || card.dataset.kind === kind.value);
      card.hidden = !fits;
      shown += fits ? 1 : 0;
    }
    byId("count").textContent = `${shown} shown`;
    byId("nothing").hidden = shown > 0;
  };
  search.addEventListener("input", apply);
  for (const control of [verdict, kind]) control.addEventListener("change", apply);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  apply();  // A browser that goes back keeps what was typed.
})();
