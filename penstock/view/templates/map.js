// Draws map.json into the page and leads from a point to its row. Bundled with Vega, which is why there is no import.
const place = document.getElementById("map");
const spec = await (await fetch("map.json" + location.search)).json();
// ast: no eval. Styles are the page's own, as its policy allows no others.
const tooltip = { disableDefaultStyle: true };
const { view } = await vegaEmbed(place, spec, { actions: false, ast: true, defaultStyle: false, renderer: "svg", tooltip });
view.addEventListener("click", (_, item) => {
  if (item && item.datum && item.datum.id) location.assign("row?id=" + encodeURIComponent(item.datum.id));
});
