// Unfolds Plotly, draws the charts, and where the page is served asks for it again. No text of a run is ever read as markup.
(() => {
  "use strict";
  const root = document.documentElement;
  const drawn = new Map(); // chart -> what it was drawn from, as text
  const coarse = matchMedia("(pointer: coarse)").matches;
  const still = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" };

  async function unfold() {
    const folded = document.getElementById("plotly").textContent.trim();
    const bytes = Uint8Array.from(atob(folded), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    return globalThis.Plotly;
  }

  function axis(own) {
    const fixed = { fixedrange: coarse, automargin: true, zeroline: false, ticklabelstandoff: 4 };
    const title = own && own.title ? { title: { standoff: 10, ...own.title, font: { size: 12 } } } : {};
    return { ...fixed, ...own, ...title };
  }

  function legendRows(data, width) { // at most, of names that are as long as the longest
    const names = data.filter((each) => each.showlegend !== false).map((each) => (each.name || "").length);
    return Math.ceil(names.length / Math.max(1, Math.floor((width - 56) / (Math.max(...names) * 6.6 + 56))));
  }

  function whole(layout, data, box) {
    return {
      ...layout,
      height: layout.height + 29 * Math.max(0, legendRows(data, box.clientWidth) - 2), // names take nothing from curves
      width: box.clientWidth,
      autosize: false,
      margin: { l: 44, r: 12, t: 10, b: 34, ...layout.margin },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hovermode: layout.hovermode || "closest",
      hoverlabel: { bgcolor: "#1b1f24", bordercolor: "#1b1f24", font: { color: "#ffffff", size: 12 } },
      legend: { orientation: "h", maxheight: 1, x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)", itemclick: coarse ? false : "toggle" },
      dragmode: coarse ? false : "zoom",
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
    };
  }

  async function draw(box, chart) {
    await Plotly.react(box, structuredClone(chart.data), whole(structuredClone(chart.layout), chart.data, box), still);
    for (const svg of box.querySelectorAll("svg.main-svg")) {
      const [width, height] = [svg.getAttribute("width"), svg.getAttribute("height")];
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`); // so that print scales it
      box.style.setProperty("--shape", `${width} / ${height}`);
    }
  }

  async function drawAll() {
    const charts = JSON.parse(document.getElementById("charts").textContent);
    for (const box of document.querySelectorAll("[data-chart]")) {
      const chart = charts[box.dataset.chart];
      const text = JSON.stringify(chart) + box.clientWidth;
      if (!chart || drawn.get(box) === text) continue;
      drawn.set(box, text);
      try {
        await draw(box, chart);
      } catch (error) {
        console.error(`chart ${box.dataset.chart}: ${error}`);
      }
      await new Promise((next) => setTimeout(next));
    }
    root.dataset.charts = "drawn";
  }

  function replace(text) {
    const content = document.getElementById("content");
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const open = new Set([...content.querySelectorAll("details[open]")].map((each) => each.id));
    const focused = document.activeElement && document.activeElement.id;
    const before = new Map([...content.querySelectorAll("[data-chart]")].map((box) => [box.dataset.chart, box]));
    for (const each of fresh.querySelectorAll("details")) each.open = open.has(each.id);
    for (const box of fresh.querySelectorAll("[data-chart]")) {
      const old = before.get(box.dataset.chart);
      if (!old) continue;
      old.setAttribute("aria-label", box.getAttribute("aria-label"));
      box.replaceWith(old); // what is drawn stays until it is drawn anew
    }
    content.replaceChildren(...fresh.body.childNodes);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    return drawAll();
  }

  async function follow(every) {
    const status = document.getElementById("status");
    let mark = "";
    for (;;) {
      await new Promise((next) => setTimeout(next, every));
      if (document.hidden) continue;
      try {
        const answer = await fetch("/main", { headers: mark ? { "If-None-Match": mark } : {}, cache: "no-store" });
        if (answer.status === 200) {
          mark = answer.headers.get("ETag") || "";
          await replace(await answer.text());
        }
        const said = answer.ok || answer.status === 304 ? "Up to date." : "The run cannot be read at the moment.";
        if (status.textContent !== said) status.textContent = said;
      } catch {
        status.textContent = "The server has ended; what is shown is what it said last.";
      }
    }
  }

  async function begin() {
    if (!("DecompressionStream" in globalThis)) {
      const told = document.createElement("p");
      told.className = "told";
      told.textContent = "This browser is too old to draw the charts; all their numbers stand in the tables below them.";
      document.querySelector("header").append(told);
      return;
    }
    await unfold();
    await drawAll();
    let waits = 0;
    addEventListener("resize", () => {
      clearTimeout(waits);
      waits = setTimeout(drawAll, 150);
    });
    const live = Number(document.body.dataset.live || 0);
    if (live) follow(live);
  }

  begin();
})();
