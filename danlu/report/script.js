"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, inside = document) => Array.from(inside.querySelectorAll(selector));

  // Language: what the run asked for, else the reader's; the switch wins over both.
  function speak(language) {
    root.dataset.lang = language;
    root.lang = language === "zh" ? "zh-Hans" : "en";
    for (const button of all(".languages button")) {
      button.setAttribute("aria-pressed", String(button.dataset.set === language));
    }
    for (const element of all("[data-label-en]")) {
      element.setAttribute("aria-label", language === "zh" ? element.dataset.labelZh : element.dataset.labelEn);
    }
    hide();
  }

  // One tip serves every chart and the confusion matrix. Text only, never markup.
  const tip = document.querySelector(".tip");
  function hide() {
    tip.hidden = true;
    for (const cursor of all(".cursor")) cursor.setAttribute("visibility", "hidden");
  }
  function place(x, y) {
    tip.hidden = false;
    const wide = document.documentElement.clientWidth;
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > wide - 8 ? x - 14 - box.width : x + 14;
    tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
    tip.style.top = `${Math.max(8, y - box.height - 10) + window.scrollY}px`;
  }

  function make(tag, text, style) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (style) element.className = style;
    return element;
  }

  function chart(svg) {
    const data = JSON.parse(svg.dataset.chart);
    const cursor = svg.querySelector(".cursor");
    const line = cursor.querySelector("line");
    const dots = data.rows.map((row) => {
      const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      dot.setAttribute("r", "4");
      dot.setAttribute("class", `dot ${row.style}`);
      cursor.append(dot);
      return dot;
    });
    const legend = svg.parentElement.querySelector(".legend");
    const epoch = svg.querySelector("text.epoch");
    let at = data.x.length - 1;

    function show(index) {
      at = Math.min(Math.max(index, 0), data.x.length - 1);
      cursor.setAttribute("visibility", "visible");
      line.setAttribute("x1", data.x[at]);
      line.setAttribute("x2", data.x[at]);
      tip.replaceChildren();
      const head = make("small", undefined, "head");
      for (const part of epoch.childNodes) head.append(make("span", part.textContent, part.getAttribute?.("class")));
      head.append(` ${data.head[at]}`);
      tip.append(head);
      data.rows.forEach((row, i) => {
        const known = row.y[at] !== null;
        dots[i].setAttribute("visibility", known ? "inherit" : "hidden");
        if (!known) return;
        dots[i].setAttribute("cx", data.x[at]);
        dots[i].setAttribute("cy", row.y[at]);
        const entry = make("div");
        const named = legend?.querySelector(`[data-key="${row.key}"]`);
        if (named) entry.append(...Array.from(named.childNodes, (node) => node.cloneNode(true)));
        entry.append(make("b", row.text[at]));
        tip.append(entry);
      });
      const box = svg.getBoundingClientRect();
      const scale = box.width / svg.viewBox.baseVal.width;
      const heights = data.rows.map((row) => row.y[at]).filter((value) => value !== null);
      place(box.left + data.x[at] * scale, box.top + Math.min(...heights) * scale);
    }
    function nearest(event) {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      let best = 0;
      data.x.forEach((value, i) => {
        if (Math.abs(value - x) < Math.abs(data.x[best] - x)) best = i;
      });
      return best;
    }
    svg.addEventListener("pointermove", (event) => { hide(); show(nearest(event)); });
    svg.addEventListener("pointerdown", (event) => { hide(); show(nearest(event)); });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(at); });
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: data.x.length - 1 };
      if (event.key === "Escape") hide();
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(moves[event.key]);
    });
  }

  function matrix(svg) {
    svg.addEventListener("pointermove", (event) => {
      const text = event.target.dataset?.tip;
      if (!text) return hide();
      tip.replaceChildren(make("span", text));
      place(event.clientX, event.clientY);
    });
    svg.addEventListener("pointerleave", hide);
  }

  // Sorting: numbers by value, names by the reader's alphabet; cells without a value stay last.
  function sortable(table) {
    const body = table.tBodies[0];
    const heads = all("thead th", table);
    const number = (text) => {
      const value = Number.parseFloat(text.replace(/[,\s]/g, "").replace("−", "-"));
      return Number.isNaN(value) ? null : value;
    };
    heads.forEach((head, column) => {
      head.querySelector("button")?.addEventListener("click", () => {
        const numeric = head.classList.contains("n");
        const before = head.getAttribute("aria-sort");
        const down = before ? before === "ascending" : numeric;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = Array.from(body.rows, (row) => {
          const text = row.cells[column].textContent.trim();
          return { row, key: numeric ? number(text) : text };
        });
        rows.sort((a, b) => {
          if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
          const order = numeric ? a.key - b.key : a.key.localeCompare(b.key, undefined, { numeric: true });
          return down ? -order : order;
        });
        body.append(...rows.map((entry) => entry.row));
      });
    });
  }

  function copying(button) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        window.getSelection().selectAllChildren(code);
        return;
      }
      button.classList.add("copied");
      window.setTimeout(() => button.classList.remove("copied"), 1500);
    });
  }

  // A region that scrolls is a stop of the tab key; one that shows all is not.
  function scrollers() {
    for (const region of all(".scroll, .balance")) {
      const cut = region.scrollWidth > region.clientWidth + 1 || region.scrollHeight > region.clientHeight + 1;
      if (cut) region.tabIndex = 0;
      else region.removeAttribute("tabindex");
    }
  }

  function contents() {
    const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
    const strip = document.querySelector("nav");
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        links.forEach((link) => link.removeAttribute("aria-current"));
        const link = links.get(entry.target.id);
        if (!link) continue;
        link.setAttribute("aria-current", "true");
        if (strip.scrollWidth > strip.clientWidth) strip.scrollLeft = link.offsetLeft - strip.clientWidth / 3;
      }
    }, { rootMargin: "-15% 0px -75% 0px" });
    for (const section of all("section[id]")) seen.observe(section);
  }

  for (const button of all(".languages button")) button.addEventListener("click", () => speak(button.dataset.set));
  all("[data-chart]").forEach(chart);
  all(".matrix").forEach(matrix);
  all("table.sortable").forEach(sortable);
  all(".copy").forEach(copying);
  contents();
  scrollers();
  window.addEventListener("resize", scrollers, { passive: true });
  window.addEventListener("scroll", hide, { passive: true });
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    opened.forEach((details) => { details.open = true; });
  });
  window.addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
  const fixed = "fixed" in root.dataset;
  speak(fixed ? root.dataset.lang : (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en");
})();
