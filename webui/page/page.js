// The live flow table, captures, and what stands behind the figures. Outside text is only ever set as text.
"use strict";

const POLL_MS = 1000;
const LIMIT = 200;
const RESENT = ["retransmissions", "fast_retransmissions", "spurious_retransmissions", "out_of_order"];
const STATES = ["NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",
  "SYN_SENT2", "UNREPLIED", "REPLIED"];
const PROTOCOLS = ["tcp", "udp", "icmp", "icmpv6", "sctp", "gre", "esp", "igmp", "ipip", "ipv6", "ospf"];

const view = { sort: "-bytes", frozen: false, cursor: "", pages: [] };
const $ = (id) => document.getElementById(id);

/** An element with text and children; `attributes` are set as properties. */
function make(tag, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
}

function say(id, text) {
  $(id).textContent = text;
  $(id).hidden = text === "";
}

// ---- units -------------------------------------------------------------------------------------------------------

function span(ns) {
  if (ns < 1e3) return `${ns} ns`;
  if (ns < 1e6) return `${(ns / 1e3).toFixed(1)} µs`;
  if (ns < 1e9) return `${(ns / 1e6).toFixed(2)} ms`;
  return `${(ns / 1e9).toFixed(2)} s`;
}

function si(value, unit) {
  for (const [scale, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= scale) return `${(value / scale).toFixed(1)} ${prefix}${unit}`;
  }
  return `${Math.round(value)} ${unit}`;
}

const count = (number) => number.toLocaleString("en");

function age(time) {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (seconds < 60) return `${seconds.toFixed(0)} s ago`;
  if (seconds < 3600) return `${(seconds / 60).toFixed(0)} min ago`;
  return `${(seconds / 3600).toFixed(1)} h ago`;
}

// ---- the API -----------------------------------------------------------------------------------------------------

/** Asks the API; a problem becomes an Error with its detail and status. */
async function ask(path, options = {}) {
  const response = await fetch(path, options);
  if (response.status === 204) return null;
  const body = await response.json().catch(() => ({ detail: response.statusText }));
  if (!response.ok) throw Object.assign(new Error(body.detail), { status: response.status });
  return body;
}

function send(path, body) {
  const headers = { "content-type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body ?? {}) });
}

/** Exchanges the login of the address, which works once, and takes it out of the address. */
async function logInFromAddress() {
  const login = new URLSearchParams(location.hash.slice(1)).get("login");
  if (!login) return;
  history.replaceState(null, "", location.pathname);
  try {
    await send("/api/v1/sessions", { login });
  } catch (error) {
    say("problem", `The login in the address was not accepted: ${error.message}`);
  }
}

// ---- the filter --------------------------------------------------------------------------------------------------

/** Words to query parameters; a word that means nothing here is an Error. */
function filterParameters() {
  const parameters = new URLSearchParams();
  for (const word of $("filter").value.trim().split(/\s+/).filter((word) => word !== "" && word !== "port")) {
    const state = STATES.find((state) => state === word.toUpperCase());
    if (state) parameters.set("state", state);
    else if (PROTOCOLS.includes(word.toLowerCase())) parameters.set("protocol", word.toLowerCase());
    else if (/^\d{1,5}$/.test(word)) parameters.set("port", word);
    else if (/^[\d.]+$/.test(word) || word.includes(":")) parameters.set("address", word);
    else throw new Error(`“${word}” is no address, port, protocol or state; try for example: 10.0.0.1 443 tcp established`);
  }
  if ($("interface").value) parameters.set("interface", $("interface").value);
  if (!$("ended").checked) parameters.set("live", "true");
  return parameters;
}

// ---- the table ---------------------------------------------------------------------------------------------------

const resent = (half) => RESENT.reduce((sum, name) => sum + (half.tcp?.[name] ?? 0), 0);
const host = (end, bare) => (bare ? end.address : end.address.includes(":") ? `[${end.address}]:${end.port}` : `${end.address}:${end.port}`);

/** Two lines: what the originator sent, and what the responder sent. */
function both(flow, render) {
  const line = (half, arrow, className) => {
    const element = make("div", { className });
    element.append(render(half, arrow));
    return element;
  };
  return [line(flow.from_originator, "→", ""), line(flow.from_responder, "←", "back")];
}

function roundTrip(half) {
  if (half.rtt.samples === 0) return "–";
  const text = `${span(half.rtt.p50_ns)} / ${span(half.rtt.p99_ns)}`;
  const title = `${count(half.rtt.samples)} samples, min ${span(half.rtt.min_ns)}, max ${span(half.rtt.max_ns)}; percentiles within a factor of ${half.rtt.error_factor}`;
  return make("span", { title }, text);
}

const COLUMNS = [
  { title: "Protocol", text: true, cell: (f) => [f.protocol + (f.vlan === null ? "" : ` vlan ${f.vlan}`)] },
  { title: "Originator → responder", text: true, cell: (f) => f.icmp
    ? [`${host(f.originator, true)} → ${host(f.responder, true)} type ${f.icmp.type}` + (f.icmp.identifier === null ? "" : ` id ${f.icmp.identifier}`)]
    : [`${host(f.originator)} → ${host(f.responder)}`] },
  { title: "Interface", text: true, cell: (f) => [f.interface ?? ""] },
  { title: "State", text: true, cell: (f) => [f.state + (f.ended ? ` (${f.ended})` : "")] },
  { title: "Packets", sort: "packets", cell: (f) => both(f, (h, arrow) => `${count(h.packets)} ${arrow}`) },
  { title: "Bytes", sort: "bytes", cell: (f) => both(f, (h) => si(h.bytes, "B")) },
  { title: "Rate", sort: "rate", cell: (f) => both(f, (h) => si(h.rate.bits_per_second, "bit/s")) },
  { title: "RTT p50 / p99", sort: "rtt.p50_ns", cell: (f) => both(f, roundTrip) },
  { title: "Handshake", sort: "handshake_rtt_ns", cell: (f) => [f.handshake_rtt_ns === null ? "–" : span(f.handshake_rtt_ns)] },
  { title: "Sent again", sort: "retransmissions", cell: (f) => both(f, (h) => {
    const again = resent(h);
    return again === 0 ? "0" : make("span", { className: "resent", title: RESENT.map((n) => `${n} ${h.tcp[n]}`).join(", ") }, `▲ ${count(again)}`);
  }) },
  { title: "Last seen", sort: "last_seen", cell: (f) => [make("span", { title: f.last_seen }, age(f.last_seen))] },
  { title: "", cell: (f) => [make("button", { onclick: () => captureFlow(f) }, "Capture")] },
];

function drawHead() {
  const cells = COLUMNS.map((column) => {
    const cell = make("th", { scope: "col", className: column.text ? "text" : "" });
    if (!column.sort) return (cell.append(column.title), cell);
    const chosen = view.sort.replace("-", "") === column.sort;
    const order = view.sort.startsWith("-") ? "descending" : "ascending";
    cell.ariaSort = chosen ? order : "none";
    const mark = chosen ? (order === "descending" ? " ▼" : " ▲") : "";
    const onclick = () => {
      view.sort = chosen && order === "descending" ? column.sort : `-${column.sort}`;
      drawHead();
      refresh();
    };
    cell.append(make("button", { onclick }, column.title + mark));
    return cell;
  });
  $("flows").tHead.rows[0].replaceChildren(...cells);
}

function drawFlows(page) {
  const rows = page.flows.map((flow) => {
    const cells = COLUMNS.map((column) => make("td", { className: column.text ? "text" : "" }, ...column.cell(flow)));
    return make("tr", { className: flow.ended ? "over" : "" }, ...cells);
  });
  $("flows").tBodies[0].replaceChildren(...rows);
  const shown = page.flows.length < page.total ? `the first ${count(page.flows.length)} of ` : "";
  const none = $("filter").value.trim() ? "No flow matches the filter." : "No traffic has been seen yet.";
  $("summary").textContent = page.total === 0 ? none : `${shown}${count(page.total)} flows`;
}

function drawLoss(loss, balanced) {
  const counted = Object.entries(loss.ledger).filter(([, number]) => number > 0);
  const terms = counted.map(([key, number]) => `${key} ${count(number)}`).join(" + ") || "0";
  const words = balanced ? make("strong", {}, "balanced") : make("span", { className: "bad" }, "NOT BALANCED");
  const evicted = `${loss.approximate ? "≤ " : ""}${count(loss.evicted)}`;
  const lost = make("span", { className: loss.rings.lost > 0 ? "bad" : "" }, `lost in the capture ring ${count(loss.rings.lost)}`);
  $("loss").replaceChildren(make("strong", {}, `seen ${count(loss.seen)}`), ` = ${terms} · `, words,
    ` · not analyzed (contended) ${count(loss.contended)} · flows evicted ${evicted} · `, lost);
}

// ---- captures ----------------------------------------------------------------------------------------------------

/** A tcpdump filter for exactly this flow. */
function flowFilter(flow) {
  const [a, b] = [flow.originator, flow.responder];
  let filter = `host ${a.address} and host ${b.address}`;
  if (flow.icmp) filter = `${flow.protocol === "icmpv6" ? "icmp6" : "icmp"} and ${filter}`;
  else if (["tcp", "udp", "sctp"].includes(flow.protocol)) {
    const way = (from, to) => `(src host ${from.address} and src port ${from.port} and dst host ${to.address} and dst port ${to.port})`;
    filter = `${flow.protocol} and (${way(a, b)} or ${way(b, a)})`;
  }
  return flow.vlan === null ? filter : `vlan ${flow.vlan} and (${filter})`;
}

async function startCapture(body) {
  say("capture-problem", "");
  try {
    await send("/api/v1/captures", body);
    drawCaptures((await ask("/api/v1/captures")).captures);
    $("captures").scrollIntoView({ block: "nearest" });
  } catch (error) {
    say("capture-problem", `The capture was not started: ${error.message}`);
    $("capture-problem").scrollIntoView({ block: "nearest" });
  }
}

const captureFlow = (flow) => startCapture({ filter: flowFilter(flow), interface: flow.interface, limits: { seconds: 60 } });

function act(work) {
  return async () => {
    try {
      await work();
      drawCaptures((await ask("/api/v1/captures")).captures);
    } catch (error) {
      say("capture-problem", error.message);
    }
  };
}

function drawCaptures(captures) {
  const articles = captures.map((capture) => {
    const base = `/api/v1/captures/${capture.id}`;
    const running = capture.state === "running";
    const lost = capture.lost.ring + capture.lost.disk;
    const facts = `${running ? "running" : `finished (${capture.stop_reason})`}: ${count(capture.written)} packets, ${si(capture.bytes, "B")}, lost ${count(lost)}`
      + ` · ${capture.filter || "every packet"} · ${capture.interface ?? "all interfaces"}`;
    const actions = make("div", { className: "actions" }, make("a", { href: `${base}/file`, download: "" }, "Download pcapng"));
    if (running) actions.append(make("button", { onclick: act(() => send(`${base}/stop`)) }, "Stop"));
    else actions.append(make("button", { onclick: act(() => ask(base, { method: "DELETE" })) }, "Delete"));
    const live = `curl -sN -H "Authorization: Bearer $(sudo cat /run/linnet/token)" ${location.origin}${base}/live | wireshark -k -i -`;
    return make("article", {}, make("div", {}, facts), actions, ...(running ? [make("code", {}, live)] : []));
  });
  $("captures").replaceChildren(...(articles.length ? articles : [make("p", {}, "None yet. “Capture” in a row takes the packets of that flow.")]));
}

// ---- the loop ----------------------------------------------------------------------------------------------------

function drawInterfaces(interfaces) {
  const names = ["", ...interfaces.map((item) => item.name)];
  const select = $("interface");
  if (select.options.length === names.length) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => make("option", { value: name }, name || "all")));
  select.value = chosen;
}

async function refresh() {
  try {
    const parameters = filterParameters();
    parameters.set("sort", view.sort);
    parameters.set("limit", LIMIT);
    const [page, status, captures, interfaces] = await Promise.all([ask(`/api/v1/flows?${parameters}`), ask("/api/v1/status"),
      ask("/api/v1/captures"), ask("/api/v1/interfaces")]);
    drawFlows(page);
    drawLoss(status.loss, status.status.balanced);
    drawCaptures(captures.captures);
    drawInterfaces(interfaces.interfaces);
    say("notice", status.status.notices.join(" "));
    say("problem", "");
    $("login").hidden = true;
    $("state").textContent = view.frozen ? "frozen" : status.status.mode;
    $("state").className = "live";
    view.updated = new Date();
  } catch (error) {
    $("login").hidden = error.status !== 401;
    $("state").className = "lost";
    const when = view.updated ? `data as of ${view.updated.toLocaleTimeString()}` : "no data yet";
    const gone = error instanceof TypeError;
    $("state").textContent = error.status === 401 ? "not logged in" : gone ? `disconnected, ${when}, retrying` : "problem";
    say("problem", error.status === 401 || gone ? "" : error.message);
  }
}

function freeze() {
  view.frozen = !view.frozen;
  $("freeze").ariaPressed = String(view.frozen);
  $("freeze").textContent = view.frozen ? "Go on" : "Freeze";
  refresh();
}

function wire() {
  for (const id of ["filter", "interface", "ended"]) $(id).addEventListener("input", refresh);
  $("freeze").addEventListener("click", freeze);
  $("login").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await send("/api/v1/sessions", { token: $("token").value.trim() });
      $("token").value = "";
      refresh();
    } catch (error) {
      say("problem", error.message);
    }
  });
  $("capture").addEventListener("submit", (event) => {
    event.preventDefault();
    startCapture({ filter: $("capture-filter").value, interface: $("interface").value || null,
      snaplen: Number($("capture-snaplen").value), limits: { seconds: Number($("capture-seconds").value) } });
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, button, a")) return;
    if (event.key === "/") { event.preventDefault(); $("filter").focus(); }
    if (event.key === " ") { event.preventDefault(); freeze(); }
  });
}

async function main() {
  drawHead();
  wire();
  await logInFromAddress();
  await refresh();
  setInterval(() => { if (!view.frozen && !document.hidden) refresh(); }, POLL_MS);
}

main();
