// The page of the live map: state first, then the events behind it.

const $ = id => document.getElementById(id);
const airports = new Map();                     // ident -> {country, x, y}
const counts = new Map();                       // country -> number
const flashing = [];                            // {x, y, since}
const names = new Intl.DisplayNames(["en"], {type: "region"});
const map = $("map").getContext("2d"), flashes = $("flashes").getContext("2d");
const LOG = 60, FLASH = 1600, calm = matchMedia("(prefers-reduced-motion: reduce)");
let land = [], scale = 1, left = 0, top_ = 0, chosen = null, source = null, ranked = false;

// Equal Earth projection (Savric, Patterson and Jenny, 2018): areas are true. Gives x in +-2.71, y in +-1.32, upwards.
function project(longitude, latitude) {
  const l = longitude * Math.PI / 180, t = Math.asin(Math.sqrt(3) / 2 * Math.sin(latitude * Math.PI / 180));
  const s = t * t, s6 = s * s * s;
  const x = 2 * Math.sqrt(3) * l * Math.cos(t) / (3 * (1.340264 - 0.243318 * s + s6 * (0.006251 + 0.034164 * s)));
  return [x, t * (1.340264 - 0.081106 * s + s6 * (0.000893 + 0.003796 * s))];
}

// Drawing

function resize() {
  const box = $("map").getBoundingClientRect(), ratio = devicePixelRatio || 1;
  for (const canvas of [map.canvas, flashes.canvas]) {
    canvas.width = box.width * ratio;
    canvas.height = box.height * ratio;
  }
  scale = Math.min(box.width / 5.5, box.height / 2.6) * ratio;
  left = box.width * ratio / 2;
  top_ = box.height * ratio / 2 + .08 * scale;  // without the Antarctic
  draw();
}

const place = ({x, y}) => [left + x * scale, top_ - y * scale];
const size = () => Math.max(1.5, scale / 170);

function draw() {
  map.clearRect(0, 0, map.canvas.width, map.canvas.height);
  map.fillStyle = "#24405f";
  map.beginPath();
  for (const ring of land) {
    for (let i = 0; i < ring.length; i += 2) {
      const [x, y] = project(ring[i], ring[i + 1]);
      map[i ? "lineTo" : "moveTo"](left + x * scale, top_ - y * scale);
    }
    map.closePath();
  }
  map.fill("evenodd");
  for (const airport of airports.values()) if (airport.country !== chosen) dot(airport);
  if (chosen) for (const airport of airports.values()) if (airport.country === chosen) dot(airport);
}

function dot(airport) {
  const [x, y] = place(airport), side = size() * (airport.country === chosen ? 1.6 : 1);
  map.fillStyle = !chosen ? "rgb(255 200 87 / .8)" : airport.country === chosen ? "#7cf5c4" : "rgb(255 200 87 / .25)";
  map.fillRect(x - side / 2, y - side / 2, side, side);
}

function animate(now) {
  flashes.clearRect(0, 0, flashes.canvas.width, flashes.canvas.height);
  while (flashing.length && now - flashing[0].since > FLASH) flashing.shift();
  for (const flash of flashing) {
    const part = (now - flash.since) / FLASH, [x, y] = place(flash);
    flashes.strokeStyle = `rgb(124 245 196 / ${1 - part})`;
    flashes.lineWidth = size();
    flashes.beginPath();
    flashes.arc(x, y, size() * (1 + 7 * part), 0, 7);
    flashes.stroke();
  }
  if (flashing.length) requestAnimationFrame(animate);
}

// What is known

function put(ident, country, latitude, longitude) {
  if (airports.has(ident)) take(ident);
  const [x, y] = project(longitude, latitude), airport = {country, x, y};
  airports.set(ident, airport);
  counts.set(country, (counts.get(country) || 0) + 1);
  return airport;
}

function take(ident) {
  const airport = airports.get(ident);
  if (!airport) return;
  airports.delete(ident);
  const left = counts.get(airport.country) - 1;
  left ? counts.set(airport.country, left) : counts.delete(airport.country);
}

function nameOf(country) {
  try { return names.of(country) || country; } catch { return country; }
}

function rank() {  // once for many events
  ranked = false;
  $("total").textContent = airports.size.toLocaleString("en");
  $("countries").textContent = counts.size;
  map.canvas.setAttribute("aria-label", `World map with ${airports.size} airports in ${counts.size} countries`);
  const sorted = [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])), list = $("ranking");
  while (list.children.length > sorted.length) list.lastChild.remove();
  sorted.forEach(([country, number], index) => {
    const row = list.children[index] || list.appendChild(makeRow());
    const button = row.firstChild;
    if (button.dataset.country !== country) {
      button.dataset.country = country;
      button.firstChild.textContent = nameOf(country);
      button.setAttribute("aria-pressed", country === chosen);
    }
    button.lastChild.textContent = number;
    button.style.setProperty("--share", `${100 * number / sorted[0][1]}%`);
  });
}

function makeRow() {
  const row = document.createElement("li");
  row.innerHTML = '<button type="button"><span></span><b></b></button>';
  row.firstChild.addEventListener("click", () => choose(row.firstChild.dataset.country));
  return row;
}

function choose(country) {
  chosen = country === chosen ? null : country;
  for (const button of $("ranking").querySelectorAll("button")) button.setAttribute("aria-pressed", button.dataset.country === chosen);
  draw();
}

function changed() {
  if (!ranked) { ranked = true; setTimeout(rank, 100); }
}

function log(what, text, seconds, kind = "") {
  const row = document.createElement("li"), parts = ["code", "span", "time"].map(tag => document.createElement(tag));
  parts[0].textContent = what;
  parts[1].textContent = text;
  parts[2].textContent = new Date(seconds * 1000).toLocaleTimeString("en", {hour12: false});
  row.className = kind;
  row.append(...parts);
  $("log").prepend(row);
  while ($("log").children.length > LOG) $("log").lastChild.remove();
}

// Hearing

function hear(message) {
  const event = JSON.parse(message.data), row = event.payload;
  if (event.type === "airport.deleted") {
    take(event.id);
    draw();
    log(event.id, `${row.name} is gone`, event.time);
  } else {
    const airport = put(event.id, row.country, row.latitude, row.longitude);
    dot(airport);
    if (!calm.matches) {
      if (!flashing.length) requestAnimationFrame(animate);
      flashing.push({...airport, since: performance.now()});
    }
    log(event.id, `${row.name}, ${nameOf(row.country)}`, event.time);
  }
  const lag = (event.sent - event.time) * 1000;
  $("lag").textContent = lag < 1000 ? `${lag.toFixed(1)} ms` : `${(lag / 1000).toFixed(1)} s`;
  changed();
}

function show(state, text) {
  $("status").dataset.state = state;
  $("status").textContent = text;
}

async function load() {
  source?.close();
  try {
    const answer = await fetch("/state", {cache: "no-store"});
    const {position, airports: rows} = await answer.json();
    airports.clear();
    counts.clear();
    for (const [ident, , country, latitude, longitude] of rows) put(ident, country, latitude, longitude);
    draw();
    changed();
    listen(position);
  } catch {
    show("lost", "no answer");
    setTimeout(load, 2000);
  }
}

function listen(position) {
  source = new EventSource(`/events?after=${position}`);
  source.onopen = () => show("open", "live");
  source.onmessage = hear;
  source.addEventListener("gap", message => {
    log("gap", JSON.parse(message.data).reason, Date.now() / 1000, "gap");
    load();
  });
  source.onerror = () => {
    const given_up = source.readyState === EventSource.CLOSED;  // the feed is full
    show("lost", given_up ? "full" : "reconnecting");
    if (given_up) setTimeout(load, 5000);
  };
}

addEventListener("keydown", event => { if (event.key === "Escape" && chosen) choose(chosen); });
new ResizeObserver(resize).observe($("map"));
land = await (await fetch(new URL("land.json", import.meta.url))).json();
resize();
load();
