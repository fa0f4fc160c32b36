// Searches and pages through the classes. Without this script the page shows the first ones.
"use strict";
(() => {
  const section = document.getElementById("first-images");
  const cards = [...section.querySelectorAll("article")];
  const names = cards.map((card) => folded(card.querySelector("h3 bdi").textContent));
  const perPage = Number(section.dataset.perPage);
  const search = section.querySelector("input");
  const tools = [...section.querySelectorAll(".tools")];
  const steps = [...section.querySelectorAll("button")];
  let found = cards;
  let page = 0;

  // Accents, capitals, marks of direction and the kind of a gap between words make no difference.
  function folded(text) {
    const letters = text.normalize("NFKD").replace(/[\p{M}\p{Cf}]/gu, "");
    return letters.toUpperCase().toLowerCase().replace(/[\s_-]+/g, " ").trim();
  }

  function last() {
    return Math.max(0, Math.ceil(found.length / perPage) - 1);
  }

  function show() {
    const shown = new Set(found.slice(page * perPage, (page + 1) * perPage));
    for (const card of cards) {
      card.hidden = !shown.has(card);
    }
    const first = page * perPage + 1;
    const place = `Classes ${first} to ${first + shown.size - 1} of ${found.length}`;
    for (const status of section.querySelectorAll(".place")) {
      status.textContent = shown.size ? place : "No class has such a name.";
    }
    for (const button of steps) {
      const next = page + Number(button.dataset.step);
      // Not `disabled`: the button would lose the focus of the keyboard.
      button.setAttribute("aria-disabled", String(next < 0 || next > last()));
    }
  }

  search.addEventListener("input", () => {
    const words = folded(search.value).split(" ");
    found = cards.filter((_, index) => words.every((word) => names[index].includes(word)));
    page = 0;
    show();
  });
  for (const button of steps) {
    button.addEventListener("click", () => {
      if (button.getAttribute("aria-disabled") === "true") {
        return;
      }
      page += Number(button.dataset.step);
      show();
      if (tools[0].getBoundingClientRect().top < 0) {
        tools[0].scrollIntoView();
      }
    });
  }
  // The errors of images do not bubble.
  const gone = section.querySelector(".gone");
  if (gone) {
    section.addEventListener("error", () => {
      gone.hidden = false;
    }, true);
  }
  for (const tool of tools) {
    tool.hidden = false;
  }
  section.querySelector(".scriptless").hidden = true;
  show();
})();
