"use strict";
// Shows one of several parts at a time, and moves between input, overlay and heatmap. Everything is in the page.
for (const sample of document.querySelectorAll(".sample")) {
  const show = (kind, number) => {
    for (const part of sample.querySelectorAll(`[data-${kind}]`)) {
      part.hidden = part.getAttribute(`data-${kind}`) !== String(number);
    }
  };
  for (const choice of sample.querySelectorAll("input[type=radio]")) {
    choice.addEventListener("change", () => show("panel", choice.value));
  }
  const chosen = sample.querySelector("input[type=radio]:checked");
  if (chosen) show("panel", chosen.value);
  const mix = sample.querySelector("input.mix");
  const blend = () => {
    const at = Number(mix.value);
    for (const stack of sample.querySelectorAll(".stack")) {
      const images = stack.querySelectorAll("img");
      if (images.length < 3) continue;
      images[1].style.opacity = Math.min(1, at / 50);
      images[2].style.opacity = Math.max(0, at / 50 - 1);
    }
    mix.setAttribute("aria-valuetext", at < 25 ? "input" : at < 75 ? "both" : "heatmap");
  };
  if (mix) { mix.addEventListener("input", blend); blend(); }
  const step = sample.querySelector("input.step");
  const walk = () => {
    show("layer", step.value);
    const part = sample.querySelector(`[data-layer="${step.value}"]`);
    step.setAttribute("aria-valuetext", part.getAttribute("data-name"));
  };
  if (step) { step.addEventListener("input", walk); walk(); }
}
