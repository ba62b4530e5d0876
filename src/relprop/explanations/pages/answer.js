(() => {
  "use strict";
  const { answers, colours } = JSON.parse(document.getElementById("answers").textContent);
  const MOST = 5;

  // The colours of colours.py: from the ground at zero to red or blue at the limit, with black or white on them.
  const mix = (ground, r, limit) => {
    const share = limit > 0 ? Math.min(1, Math.abs(r) / limit) : 0;
    const full = r > 0 ? colours.red : colours.blue;
    return ground.map((g, i) => Math.round(g + share * (full[i] - g)));
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const readable = (colour) => (luminance(colour) + 0.05 > Math.sqrt(1.05 * 0.05) ? "#000000" : "#ffffff");
  const css = (colour) => `rgb(${colour.join(",")})`;
  const paint = (span, r, limit) => {
    const light = mix(colours.white, r, limit);
    const dark = mix(colours.night, r, limit);
    const set = { "--l": css(light), "--f": readable(light), "--d": css(dark), "--g": readable(dark) };
    for (const [name, value] of Object.entries(set)) span.style.setProperty(name, value);
  };
  const short = (r) => (r > 0 ? "+" : "") + Number(r.toPrecision(3));

  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

  // The matrix of units: columns and rows of their tokens added up.
  const grouped = (each, name) => {
    const units = name === "tokens" ? each.pieces.map((_, i) => [i, i + 1]) : new Map(each.units).get(name);
    const P = units.filter(([, stop]) => stop <= each.prompt).length;
    const parts = units.map(([a, b]) => each.pieces.slice(a, b));
    const of = (rows) => units.map(([a, b]) => sum(rows.flatMap((row) => row.slice(a, b))));
    const own = units.slice(P).map(([a, b]) => [a - each.prompt, b - each.prompt]);
    const steps = own.map(([a, b]) => each.steps.slice(a, b));
    return {
      P,
      before: parts.map((several) => several[0][0]),
      label: parts.map((several) => several.map((p, i) => (i ? p[0] : "") + p[1]).join("")),
      special: parts.map((several) => several.length === 1 && several[0][3] === 1),
      rows: own.map(([a, b]) => of(each.relevance.slice(a, b))),
      explained: steps.map((several) => sum(several.map((s) => s[0]))),
      probability: steps.map((several) => product(several.map((s) => s[1]))),
      entropy: steps.map((several) => sum(several.map((s) => s[2]))),
      against: own.map(([a, b]) => each.against.slice(a, b).filter((o) => o !== null).join("")),
    };
  };

  const start = (section) => {
    const each = answers[Number(section.dataset.number)];
    const find = (name) => section.querySelector(name);
    const [prompt, answer, said, most] = [".text.prompt", ".text.answer", ".said", ".most"].map(find);
    const shared = find(".shared");
    let view, spans, held, over, anchor, column;

    const limitOf = (numbers) => Math.max(0, ...numbers.map(Math.abs).filter((_, i) => !view.special[i]));
    const list = (row, limit, from) => {
      const order = row.map((r, i) => [r, i]).filter(([r, i]) => r !== 0 && !view.special[from + i]);
      order.sort((a, b) => Math.abs(b[0]) - Math.abs(a[0]));
      most.replaceChildren(...order.slice(0, MOST).map(([r, i]) => {
        const [item, name, bar] = ["li", "b", "i"].map((tag) => document.createElement(tag));
        name.textContent = (view.before[from + i] + view.label[from + i]).replaceAll("\n", "");
        bar.style.width = `${(12 * Math.abs(r)) / (limit || 1)}rem`;
        bar.style.background = css(r > 0 ? colours.red : colours.blue);
        item.append(name, bar, short(r));
        return item;
      }));
    };
    const say = (name, text) => {
      const bold = document.createElement("b");
      bold.textContent = name;
      said.replaceChildren(bold, text);
    };
    const legend = (limit) => {
      find(".low").textContent = `${short(-limit)} against`;
      find(".high").textContent = `for ${short(limit)}`;
    };

    const answered = ([a, b]) => {  // rows a to b - 1: what speaks for this part of the answer
      const rows = view.rows.slice(a, b);
      const row = view.label.map((_, i) => sum(rows.map((r) => r[i])));
      const limit = shared.checked ? Math.max(...view.rows.map(limitOf)) : limitOf(row);
      spans.forEach((span, i) => {
        const asked = i >= view.P + a && i < view.P + b;
        paint(span, row[i], limit);
        span.classList.toggle("asked", asked && !(a === 0 && b === view.rows.length));
        span.dataset.tip = `${view.label[i]}  ${short(row[i])}`;
      });
      const amount = sum(view.explained.slice(a, b));
      const parts = [sum(row.slice(0, view.P)), sum(row.slice(view.P))];
      const others = b - a === 1 ? view.against[a].trim() : "";
      const words = view.label.slice(view.P + a, view.P + b).map((l, i) => (i ? view.before[view.P + a + i] : "") + l);
      const chance = product(view.probability.slice(a, b));
      const sure = b - a === 1 ? `, entropy ${Number(view.entropy[a].toPrecision(3))}` : "";
      say(words.join(""), `${others ? ` and not ${others}` : ""}: probability ${Number(chance.toPrecision(3))}${sure}. `
        + `${short(amount)} = prompt ${short(parts[0])}, answer ${short(parts[1])}, kept ${short(amount - sum(parts))}`);
      list(row, limitOf(row), 0);
      legend(limit);
    };
    const spoken = (i) => {  // a column: what this token speaks for
      const row = view.rows.map((r) => r[i]);
      const limit = Math.max(0, ...row.map(Math.abs));
      spans.forEach((span, k) => {
        paint(span, k >= view.P ? row[k - view.P] : 0, limit);
        span.classList.toggle("asked", k === i);
        span.dataset.tip = k >= view.P ? `${view.label[k]}  ${short(row[k - view.P])}` : view.label[k];
      });
      say(view.label[i], " speaks for these tokens of the answer:");
      list(row, limit, view.P);
      legend(limit);
    };
    const draw = () => {
      const whole = [0, view.rows.length];
      if (over !== null) answered(over);
      else if (held !== null) answered(held);
      else if (column !== null) spoken(column);
      else answered(whole);
    };

    const moved = (span, key) => {
      const among = [...span.parentNode.querySelectorAll("span")];
      const at = among.indexOf(span);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: among.length - 1 }[key];
      return to === undefined ? null : among[Math.max(0, Math.min(among.length - 1, to))];
    };
    const hold = (i, several) => {
      const from = several && anchor !== null ? anchor : i;
      anchor = from;
      held = [Math.min(from, i), Math.max(from, i) + 1];
      over = column = null;
    };
    const listen = (span, k) => {
      const i = k - view.P;
      const reach = () => {
        if (i >= 0) over = [i, i + 1];
        else if (held === null) column = k;
        draw();
      };
      const leave = () => { over = column = null; draw(); };
      span.addEventListener("mouseenter", reach);
      span.addEventListener("mouseleave", leave);
      span.addEventListener("focus", () => {
        for (const other of span.parentNode.querySelectorAll("span")) other.tabIndex = other === span ? 0 : -1;
        if (span.matches(":focus-visible")) reach();
      });
      span.addEventListener("blur", leave);
      span.addEventListener("click", (event) => {
        if (i < 0) return;
        const again = held !== null && held[0] === i && held[1] === i + 1;
        if (again && !event.shiftKey) { held = anchor = null; } else hold(i, event.shiftKey);
        draw();
      });
      span.addEventListener("keydown", (event) => {
        const next = moved(span, event.key);
        if (next !== null) {
          next.focus();
          if (event.shiftKey && i >= 0) { if (anchor === null) anchor = i; hold(spans.indexOf(next) - view.P, true); draw(); }
        } else if (i >= 0 && (event.key === "Enter" || event.key === " ")) { hold(i, event.shiftKey); draw(); }
        else if (event.key === "Escape") { held = over = column = anchor = null; draw(); }
        else return;
        event.preventDefault();
      });
    };
    const build = (name) => {
      view = grouped(each, name);
      held = over = anchor = column = null;
      spans = view.label.map((text, i) => {
        const span = document.createElement("span");
        span.textContent = text;
        span.className = view.special[i] ? "special" : "";
        span.tabIndex = i === 0 || i === view.P ? 0 : -1;
        span.setAttribute("role", "button");
        return span;
      });
      prompt.replaceChildren(...spans.slice(0, view.P).flatMap((span, i) => [view.before[i], span]));
      answer.replaceChildren(...spans.slice(view.P).flatMap((span, i) => [view.before[view.P + i], span]));
      spans.forEach(listen);
      draw();
    };

    const choose = (name, i) => {
      const [label, input] = ["label", "input"].map((tag) => document.createElement(tag));
      Object.assign(input, { type: "radio", name: `units-${section.dataset.number}`, checked: i === 0, value: name });
      input.addEventListener("change", () => build(name));
      label.append(input, ` ${name}`);
      return label;
    };
    find(".units").append(...["tokens", ...each.units.map(([name]) => name)].map(choose));
    find(".choices").hidden = false;
    shared.addEventListener("change", draw);
    build("tokens");
  };
  document.querySelectorAll(".answer-section").forEach(start);
  document.querySelector(".keys").hidden = false;
})();
