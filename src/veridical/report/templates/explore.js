// Filter and order the rows of each explorable gallery, and lay its maps over their images. The page is complete
// without this: what it needs stands in data attributes, and the controls are hidden until it runs.
"use strict";
for (const gallery of document.querySelectorAll(".explorable")) {
  const control = (name) => gallery.querySelector(`[data-control="${name}"]`);
  const [label, order, overlay, count] = ["label", "order", "overlay", "count"].map(control);
  const list = gallery.querySelector(".gallery");
  const examined = [...list.children];
  const worst = [...examined].sort((one, other) => one.dataset.rank - other.dataset.rank);

  const arrange = () => {
    const rows = order?.value === "worst" ? worst : examined;
    const wanted = label?.value ?? "";
    if (rows.some((row, place) => row !== list.children[place])) list.append(...rows);
    for (const row of rows) row.hidden = wanted !== "" ? row.dataset.label !== wanted : false;
    const words = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
    if (count.textContent !== words) count.textContent = words;
  };

  const layUnder = (row) => {
    const image = row.querySelector("img");
    for (const map of row.querySelectorAll("img.map")) {
      const under = image.cloneNode();
      under.alt = "";
      under.classList.add("under");
      map.before(under);
    }
  };
  const blend = () => {
    if (!gallery.querySelector(".under")) examined.forEach(layUnder);
    gallery.style.setProperty("--map", overlay.value / 100);
    overlay.setAttribute("aria-valuetext", `${overlay.value}% map, ${100 - overlay.value}% image`);
  };

  label?.addEventListener("change", arrange);
  order?.addEventListener("change", arrange);
  overlay?.addEventListener("input", blend);
  arrange();
  gallery.querySelector(".controls").hidden = false;
}
