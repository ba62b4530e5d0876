"use strict";
// Filters: all samples are in the page, and are hidden and shown. Without this, all of them are shown.
(() => {
  const form = document.getElementById("filters");
  const [ofClass, strategy, name, wrong] = ["class", "strategy", "name", "wrong"].map((n) => form.elements.namedItem(n));
  const all = (selector) => [...document.querySelectorAll(selector)];
  const samples = all("[data-key]");
  const every = all("circle[data-key]"); // each sample once; lists and tables may show only some of them
  const place = (element) => `${element.dataset.class}.${element.dataset.group}`;

  const fitting = () => {
    const part = name.value.trim().toLowerCase();
    return ({ dataset }) =>
      (ofClass.value === "" || dataset.class === ofClass.value) &&
      (strategy.value === "" || `${dataset.class}.${dataset.group}` === strategy.value) &&
      (wrong === null || !wrong.checked || dataset.wrong === "1") &&
      dataset.key.toLowerCase().includes(part);
  };

  // Strategies of other classes than the chosen one cannot be chosen.
  const narrow = () => {
    for (const group of strategy.querySelectorAll("optgroup")) {
      const other = ofClass.value !== "" && group.dataset.class !== ofClass.value;
      group.hidden = group.disabled = other;
      if (other && group.contains(strategy.selectedOptions[0] ?? null)) strategy.value = "";
    }
  };

  const apply = () => {
    narrow();
    const fits = fitting();
    for (const sample of samples) {
      if (sample.matches("circle")) sample.classList.toggle("off", !fits(sample));
      else sample.hidden = !fits(sample);
    }
    const left = every.filter(fits);
    const [classes, places] = [new Set(left.map((e) => e.dataset.class)), new Set(left.map(place))];
    for (const section of all("section[data-class]")) section.hidden = !classes.has(section.dataset.class);
    for (const box of all(".strategy")) box.hidden = !places.has(place(box));
    for (const list of all("[data-list]")) {
      const none = list.querySelector(".none");
      if (none) none.hidden = list.querySelector("[data-key]:not([hidden])") !== null;
    }
    document.getElementById("count").textContent =
      left.length === every.length ? `${every.length} samples` : `${left.length} of ${every.length} samples`;
  };

  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input[type=search], select");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      name.focus();
    }
    if (event.key === "Escape" && form.contains(event.target)) form.reset();
  });
  form.hidden = false;
  apply();
})();
